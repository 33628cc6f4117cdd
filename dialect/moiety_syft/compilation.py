"""Compiles an expression into a plan.

The compiler proves the range of each value, and never measures it. It checks what the plan computes before the program
sends anything. The ring has 64 bits, as PySyft's has.

Of all secrets, the compiler looks only at the weights. It does not look at the inputs: the plan depends on their public
bounds alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from moiety_server.compiler import ir, ranges, scales
from moiety_server.compiler.compilation import Compiled, encode_rows
from moiety_server.compiler.lowering.emitter import Emitter
from moiety_server.compiler.lowering.inputs import Declared
from moiety_server.compiler.meaning import Meaning
from moiety_server.compiler.scales import Precision
from moiety_shared import reference
from moiety_shared.crypto.prg import Stream
from moiety_shared.plan.plan import Plan
from moiety_shared.ring import Array
from moiety_syft.translation import Expression, Translated

_RING_BITS = 64
_CALIBRATION_VALUES = 1 << 16
_TOLERATED = 0.02  # how far a wire may be off, as a part of the spread of its values
_MOST_ROW_BYTES = 1 << 28


@dataclass(frozen=True)
class Program:
    """A plan with its weights. `reach` is the largest magnitude of an output, in units of the plan's output scale."""

    compiled: Compiled = field(repr=False)
    reach: float

    def most_rows(self) -> int:
        """Return how many rows one sum may have, so that it still fits the ring."""
        return int(2.0 ** (_RING_BITS - 2) / max(self.reach, 1.0))


def compile_expression(expression: Expression, *, total: bool) -> Program:
    """Compile a plan that gives out each row's result or, with `total`, only their sum.

    Raises NotServable before anything is shared.
    """
    translated = expression.translate()
    graph = translated.graph
    calibration = expression.calibration(_uniform(expression.size))
    known = ranges.analyse(graph, calibration, low=-1.0, high=1.0).sure()
    precision = Precision.of(_RING_BITS)
    emitter = Emitter(
        graph,
        known,
        scales.choose(graph, known, precision),
        precision,
        Declared(-1.0, 1.0),
        Meaning().settled(graph, "logits"),
    )
    if not emitter.layers:
        raise ir.NotServable("the expression computes nothing")
    plan = emitter.total() if total else emitter.logits()
    if plan.bundle_row_bytes > _MOST_ROW_BYTES:
        raise ir.NotServable(
            f"one run needs too much randomness, {plan.bundle_row_bytes >> 20} MiB. Instead: share smaller tensors, or "
            "keep the rows apart from the first operation to the last"
        )
    _check_whole(emitter, translated)
    exact = graph.run(calibration)
    got = _fixed_point(plan, emitter.weights, encode_rows(plan, calibration))
    for name in _checked(graph):
        wire = emitter.wire(name)
        expected, found = exact[name].double().numpy(), got[wire.name] * wire.unit
        error = float(np.abs(found - expected.reshape(found.shape)).max())
        if error > _TOLERATED * float(expected.std()) + 2.0**-8:
            raise ir.NotServable(
                f"{emitter.node.origin}: the error is {error:.3g}, but the values spread by only {expected.std():.3g}. "
                "Instead: share smaller numbers, or serve the model with calibration data (moiety publish)"
            )
    origins = dict.fromkeys((layer.name for layer in plan.layers), "expression")
    compiled = Compiled(plan, plan, graph, dict(emitter.weights), 0.0, 1.0, 1.0, origins, {})
    output = emitter.wire(graph.output)
    return Program(compiled, output.reach * 2.0**output.frac)


def _uniform(size: int) -> Array:
    """Return numbers from 0 to 1, which are alike every time: a plan must depend on its expression alone."""
    rows = max(8, min(64, _CALIBRATION_VALUES // size))
    words = Stream(bytes(32), "calibration").words("uniform", (rows, size), np.uint32)
    return words.astype(np.float64) / 2.0**32


def _check_whole(emitter: Emitter, translated: Translated) -> None:
    """Raise NotServable if whole numbers would become too large to be exact."""
    for node in translated.graph.nodes:
        if node.name in translated.whole and emitter.coarsest(emitter.wire(node.name)) > 1:
            raise ir.NotServable(
                f"{node.origin}: whole numbers become too large to be exact. Instead: share smaller numbers, or floats"
            )


def _checked(graph: ir.Graph) -> list[str]:
    """Return the values to check: the output, and what comparisons and argmax read.

    Values that come after such a decision are left out.
    """
    decided: set[str] = set()
    wanted = {graph.output}
    for node in graph.nodes:
        if isinstance(node, ir.DecideNode | ir.ArgmaxNode):
            wanted.update(node.inputs)
            decided.add(node.name)
        elif decided.intersection(node.inputs):
            decided.add(node.name)
    return [node.name for node in graph.nodes if node.name in wanted - decided]


def _fixed_point(plan: Plan, weights: Mapping[str, Array], x: Array) -> dict[str, Array]:
    """Run the plan in plain fixed point. Returns the value of every wire, as signed numbers."""
    wires: dict[str, Array] = {plan.input.name: x.reshape(-1, *plan.input.shape)}
    reference.run(plan, x, weights, watch=lambda name, value: wires.update({name: value}))
    return {name: value.astype(np.float64) for name, value in wires.items()}
