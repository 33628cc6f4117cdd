"""The layers of a plan at one party, each as soon as the wires that it reads are there. No I/O.

Layers that run side by side share their rounds, as without verification. Both parties start layers in the plan's order.
"""

from collections.abc import Generator, Mapping
from heapq import heappop, heappush
from typing import Any

from moiety_shared.plan.layers import Layer
from moiety_shared.plan.plan import Plan
from moiety_shared.protocols.opening import Opening, Round, Session
from moiety_shared.protocols.verified.layer import RunningParty
from moiety_shared.protocols.verified.registry import protocol_of
from moiety_shared.ring import Array

_Running = list[tuple[Layer, Generator[Opening, Array, Array], Opening]]


def evaluate(
    plan: Plan, party: RunningParty, prepared: Mapping[str, Any], given: Mapping[str, Array]
) -> Session[Array]:
    """Turn the open inputs, by wire, into the open output wire. `prepared` is what the layers' modules prepared."""
    run = _Run(plan, party, prepared)
    for name, value in given.items():
        run.arrived(name, value)
    running: _Running = []
    while True:
        run.start(running)
        if not running:
            return run.wires[plan.output.wire]
        rows = len(next(iter(given.values())))
        openings = tuple(opening for *_, opening in running)
        values = yield Round(openings, rows * sum(plan.flow.work[layer.name] for layer, *_ in running))
        now, running = running, []
        for (layer, step, _), value in zip(now, values, strict=True):
            run.resume(layer, step, value, running)


class _Run:
    """The wires of one run that some layer will still read, and which layers wait for others."""

    def __init__(self, plan: Plan, party: RunningParty, prepared: Mapping[str, Any]) -> None:
        self.wires: dict[str, Array] = {}
        self._plan, self._party, self._prepared = plan, party, prepared
        self._missing, self._unread = list(plan.flow.waits), dict(plan.flow.unread)
        self._ready: list[int] = []  # a heap

    def arrived(self, name: str, value: Array) -> None:
        self.wires[name] = value
        for number in self._plan.readers[name]:
            self._missing[number] -= 1
            if not self._missing[number]:
                heappush(self._ready, number)

    def start(self, running: _Running) -> None:
        """Start every layer whose wires are there, and every layer that becomes ready at once by that."""
        while self._ready:
            layer = self._plan.layers[heappop(self._ready)]
            read = (self.wires[name] for name in layer.reads)
            self.resume(
                layer, protocol_of(layer).evaluate(self._party, layer, self._prepared[layer.name], *read), None, running
            )

    def resume(
        self, layer: Layer, step: Generator[Opening, Array, Array], value: Array | None, running: _Running
    ) -> None:
        """Go on with a layer to its next opening, or to its end."""
        try:
            running.append((layer, step, next(step) if value is None else step.send(value)))
        except StopIteration as stop:
            self.arrived(layer.name, stop.value)
            for name in set(layer.reads):
                self._unread[name] -= 1
                if not self._unread[name]:
                    del self.wires[name]
