"""Predicts what a model will cost before anybody runs it: `moiety inspect`.

Rounds and bytes come from the plan's own formulas, so they are exact. Time is a prediction: it measures this machine's
speed for a moment, and adds a run's steps up, with each party's work on a core of its own.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from moiety_server.compiler.compilation import Compiled
from moiety_shared.crypto.prg import Stream, new_seed
from moiety_shared.messages.wire import request_bytes, result_bytes
from moiety_shared.plan.cost import Cost
from moiety_shared.plan.layers import Conv
from moiety_shared.plan.local import Local
from moiety_shared.plan.lookups import ReLU
from moiety_shared.plan.plan import Input, Output, Plan
from moiety_shared.protocols import graph
from moiety_shared.protocols.opening import lockstep
from moiety_shared.protocols.preparation import Preparation
from moiety_shared.ring import Ring
from moiety_shared.text import printable


@dataclass(frozen=True)
class LinkProfile:
    """The link that every connection of a deployment is taken to be: seconds of round trip, bytes per second."""

    name: str
    round_trip: float
    bandwidth: float


LINKS = (
    LinkProfile("loopback", 0.00015, 2e9),
    LinkProfile("LAN, 1 Gbit/s, 0.5 ms", 0.0005, 125e6),
    LinkProfile("WAN, 100 Mbit/s, 50 ms", 0.05, 12.5e6),
)
_CALL = 0.002  # seconds: a client's call and its answer, sealed and opened, with nothing in between
_FRAME = 0.00015  # seconds: to send a frame, wake up, and take the frame apart
_BYTE = 1.2e-9  # seconds: to open, add and copy one byte


@dataclass(frozen=True)
class Machine:
    """The seconds that one party on one core takes for one multiply-add of a product and for one comparison."""

    multiply_add: float
    comparison: float

    @classmethod
    def measure(cls, ring_bits: int) -> "Machine":
        """Measure this machine. Takes about a quarter of a second."""
        ring = Ring(ring_bits)
        layer = Conv(name="c", input="x", shape=(64, 28, 28), out_channels=64, kernel=(3, 3), padding=(1, 1))
        stream = Stream(new_seed())
        x = stream.words("x", (1, 64, 28, 28), ring.dtype)
        w = stream.words("w", (64, 64, 3, 3), ring.dtype)
        product = _fastest(lambda: ring.conv(layer, x, w))
        size = 1 << 15
        relu = ReLU(name="r", input="input", shape=(size,), shift=0, opened_bits=16, range_bits=15)
        plan = Plan(
            ring_bits=32 if ring_bits == 32 else 64,
            input=Input(shape=(size,), frac_bits=0, low=-1, high=1),
            layers=(relu,),
            output=Output(wire="r", shape=(size,)),
        )
        seeds = [new_seed() for _ in range(2)]
        corrections = {c.name: a for c, a in graph.deal(plan, 1, {}, *(Stream(seed) for seed in seeds))}
        raw = b"".join(corrections[c.name].tobytes() for c in relu.corrections(ring_bits))
        share = np.zeros((1, size), dtype=ring.dtype)

        def compare() -> None:
            sessions = []
            for party in (0, 1):
                preparation = Preparation(plan, party, 1, Stream(seeds[party]), {})
                preparation.add(relu, raw)
                sessions.append(graph.evaluate(plan, party, share, preparation.ready, {}))
            lockstep(sessions[0], sessions[1])

        return cls(product / layer.multiply_adds, _fastest(compare) / 2 / size)


def _fastest(run: Callable[[], object]) -> float:
    best = math.inf
    until = time.perf_counter() + 0.1
    while time.perf_counter() < until:
        started = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - started)
    return best


def predicted_seconds(plan: Plan, rows: int, link: LinkProfile, machine: Machine) -> float:
    """Predict the seconds from the client's call to its result, with a warm pool."""
    cost, slices = plan.cost(rows), len(plan.slices(rows))
    work = cost.multiply_adds * machine.multiply_add + cost.comparisons * machine.comparison
    values = sum(math.prod(wire.shape) for wire in plan.wires.values()) * rows
    work += cost.online_bytes * _BYTE + values * _BYTE
    frames = _CALL + cost.rounds * slices * _FRAME
    # Both parties send at once, so a round is one way. The call goes there and back; start and result go one way each.
    latency = link.round_trip * (1 + (cost.rounds + 2) / 2)
    traffic = (2 * request_bytes(plan, rows) + 3 * result_bytes(plan, rows) + cost.online_bytes) / link.bandwidth
    return frames + work + latency + traffic


@dataclass(frozen=True)
class LayerCost:
    """One line of the table, for one input. `range` is "proved", "data" (measured on it), or "" for local layers.

    With `headroom`, a value may go so many times as far from 0 as on the calibration data. A layer that reads a
    measured one, and is proved for what that may hold, has the head-room of that.
    """

    name: str
    op: str
    origin: str
    shape: tuple[int, ...]
    ring_bits: int
    shift: int | None
    opened_bits: int | None
    rounds: int
    online_bytes: int
    provider_bytes: int
    multiply_adds: int
    comparisons: int
    range: str
    headroom: float | None


@dataclass(frozen=True)
class Inspection:
    """All that `moiety inspect` says about a model. Bytes are those of one party and one input. `clamping` is what it
    costs to clamp the input, where the parties do, as in a run without checks."""

    model: str
    plan_digest: str
    ring_bits: int
    expected_error: float
    output_spread: float
    agreement: float | None
    accurate: bool
    costliest: str
    layers: tuple[LayerCost, ...]
    total: Cost
    clamping: Cost | None
    weights: int
    seconds: dict[str, dict[str, float]]

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def inspect(name: str, compiled: Compiled, batches: tuple[int, ...] = (1, 32)) -> Inspection:
    plan = compiled.plan
    machine = Machine.measure(plan.ring_bits)
    lines = []
    for layer, cost in zip(plan.layers, plan.costs(1).values(), strict=True):
        headroom = None if isinstance(layer, Local) else compiled.measured.get(layer.name)
        lines.append(
            LayerCost(
                name=layer.name,
                op=layer.op,
                origin=compiled.origins.get(layer.name, ""),
                shape=layer.output_shape,
                ring_bits=plan.wires[layer.name].bits,
                shift=getattr(layer, "shift", None),
                opened_bits=getattr(layer, "opened_bits", None),
                rounds=cost.rounds,
                online_bytes=cost.online_bytes,
                provider_bytes=cost.offline_bytes,
                multiply_adds=cost.multiply_adds,
                comparisons=cost.comparisons,
                range="" if isinstance(layer, Local) else "proved" if headroom is None else "data",
                headroom=headroom,
            )
        )
    seconds = {
        link.name: {str(rows): predicted_seconds(plan, rows, link, machine) for rows in batches} for link in LINKS
    }
    weights = sum(math.prod(shape) for _, shape in plan.weights())
    costs = plan.costs(1)
    clamping = sum((costs[name] for name in compiled.clamp), Cost()) if compiled.clamp else None
    return Inspection(
        name,
        plan.digest.hex(),
        plan.ring_bits,
        compiled.error,
        compiled.spread,
        compiled.agreement,
        compiled.is_accurate,
        compiled.costliest,
        tuple(lines),
        plan.cost(1),
        clamping,
        weights,
        seconds,
    )


def show(found: Inspection, console: Console) -> None:
    """Print the table on a terminal. It leaves out layers that only move values."""
    table = Table(
        title=f"{escape(printable(found.model))}: what one input costs",
        title_style="bold",
        box=SIMPLE,
        collapse_padding=True,
    )
    for column in ("layer", "what", "shape"):
        table.add_column(column, no_wrap=True)
    for column in ("bits", "rounds", "online", "provider", "mul-adds", "range"):
        table.add_column(column, justify="right", no_wrap=True)
    for line in found.layers:
        if line.rounds or line.multiply_adds:
            table.add_row(
                line.name,
                line.op,
                "x".join(map(str, line.shape)),
                str(line.opened_bits or line.ring_bits),
                str(line.rounds or ""),
                size(line.online_bytes) if line.online_bytes else "",
                size(line.provider_bytes) if line.provider_bytes else "",
                count(line.multiply_adds),
                line.range if line.headroom is None else f"{line.headroom:.1f} x data",
            )
    total = found.total
    table.add_section()
    table.add_row(
        "all", "", "", "", str(total.rounds), size(total.online_bytes), size(total.offline_bytes),
        count(total.multiply_adds), "", style="bold",
    )  # fmt: skip
    console.print(table)
    error = (
        f"largest error of an output is {found.expected_error:.2g} "
        f"({found.expected_error / max(found.output_spread, 1e-12):.2%} of the outputs' spread)"
    )
    error = error if found.accurate else f"[bold red]{error}[/]"
    same = "" if found.agreement is None else f", and {found.agreement:.2%} of the labels are those of float inference"
    console.print(
        f"{found.weights:,} secret weights in a ring of {found.ring_bits} bits. On the calibration data, the {error}"
        f"{same}. The column `bits` counts opened bits. The compiler proves a range from the declared input range, or "
        "measures it: with `4.0 x data`, a value may go 4 times as far from 0 as on the calibration data. An input that"
        " drives it further may get a wrong answer."
    )
    if found.clamping is not None:
        console.print(
            f"The parties clamp inputs to the declared range. Without checks, that takes {found.clamping.rounds} "
            f"rounds, {size(found.clamping.online_bytes)} online and {size(found.clamping.offline_bytes)} from the "
            "provider."
        )
    if not found.accurate:
        console.print(f"[bold red]The layer that costs most: {escape(printable(found.costliest))}[/]")
    times = Table("inputs in a call", *(str(link) for link in found.seconds), title="predicted time of a call")
    for rows in next(iter(found.seconds.values())):
        times.add_row(rows, *(duration(by_rows[rows]) for by_rows in found.seconds.values()))
    console.print(times)


def draw(found: Inspection, path: Path) -> None:
    """Draw a chart of the layers' costs as PNG."""
    from matplotlib.figure import Figure

    lines = [line for line in found.layers if line.rounds or line.multiply_adds]
    figure = Figure(figsize=(11, 1.6 + 0.22 * len(lines)), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    kinds = (
        ("online, each party, KB", [line.online_bytes / 1e3 for line in lines], "#3b6ea5"),
        ("from the provider, KB", [line.provider_bytes / 1e3 for line in lines], "#c47f2c"),
        ("multiply-adds, millions", [line.multiply_adds / 1e6 for line in lines], "#4f8a5b"),
    )
    for panel, (title, values, colour) in zip(panels, kinds, strict=True):
        panel.barh(range(len(lines)), values, color=colour)
        panel.set_title(title, fontsize=10)
        panel.tick_params(labelsize=8)
        panel.grid(axis="x", alpha=0.3)
        panel.margins(y=0.01)
    panels[0].set_yticks(range(len(lines)), [line.name for line in lines])
    panels[0].invert_yaxis()
    total = found.total
    figure.suptitle(
        f"{found.model}, one input: {total.rounds} rounds, {size(total.online_bytes)} online, "
        f"{size(total.offline_bytes)} from the provider",
        fontsize=11,
    )
    figure.savefig(path, dpi=130)


def size(number: float) -> str:
    """Format a number of bytes for people."""
    for unit in ("B", "KB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" or number >= 100 else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.2f} GB"


def count(number: float) -> str:
    """Format a number of multiply-adds for people."""
    for unit in ("", " k", " M"):
        if number < 1000:
            return f"{number:.0f}{unit}" if number else ""
        number /= 1000
    return f"{number:.2f} G"


def duration(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
