"""Compiles the float graph to a public plan and its encoded weights.

It finds ranges first (`ranges`), then scales (`scales`). One pass then writes each node as layers of the plan
(`lowering`). Last comes a check: the plan runs in plain fixed point on the calibration data, and its outputs are
compared with the model's.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from moiety_server.compiler import attribution, ir, parts, ranges, scales
from moiety_server.compiler.attention import MatMulNode
from moiety_server.compiler.embedding import EmbeddingNode
from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.lowering import decisions
from moiety_server.compiler.lowering.emitter import Emitter
from moiety_server.compiler.lowering.inputs import Declared
from moiety_server.compiler.lowering.wires import ScaledWire
from moiety_server.compiler.meaning import Meaning, Reveal, of_two
from moiety_server.compiler.origin import shown
from moiety_server.compiler.parts import Limit
from moiety_server.compiler.scales import Precision
from moiety_server.compiler.softmax import SoftmaxNode
from moiety_server.compiler.threads import one_thread
from moiety_server.compiler.trace import trace
from moiety_shared import reference
from moiety_shared.parts import spans
from moiety_shared.plan.plan import Output, Plan
from moiety_shared.protocols.verified import layout
from moiety_shared.ring import Array, Ring

# The attempts, best first. Each has the bits of the ring, how much wider than measured a proved range may be, and the
# error that is good enough, as a part of the outputs' spread.
_NARROWEST = 16.0
_ATTEMPTS = ((32, 2.0**12, 0.003), (32, _NARROWEST, 0.01), (64, 2.0**24, 0.003), (64, _NARROWEST, math.inf))
_WITH_WAVES = 0.02  # an error that is good enough for waves: where theirs is larger, the same attempt has parabolas
_BESIDE_ATTENTION = 0.005  # the same, at least, of waves in words of 32 bits: those of 64 bits are twice the bytes
_HOPELESS = 1.0
"""An error, as a part of the outputs' spread, that comes from ranges: they are so wide that values have no bits left.
With ranges that wide neither another form of functions nor the few bits more of another ring bring it down to what is
tolerated, a twentieth of this. Measured on maxvit_t: 4.0 with words of 32 bits, 4.0 with 64, 4.7 with parabolas."""
_ROWS_AT_ONCE = 64
_LEAST = 1e-12  # stands in for a spread of 0
_WEIGHTED = (ir.LinearNode, ir.ConvNode, ir.LookupNode, EmbeddingNode)
_LOOKING_UP = (
    ir.ClampNode, ir.MaxPoolNode, ir.SmoothNode, ir.DecideNode, ir.ArgmaxNode, ir.MulNode, ir.LookupNode, SoftmaxNode,
    EmbeddingNode,
)  # fmt: skip
TOLERATED = 0.05
"""The largest error of an output, as a part of the outputs' spread, with which a model is published unasked."""


@dataclass(frozen=True)
class Compiled:
    """A plan and the ring elements that belong to it, by "layer.weight".

    `error` is the largest difference of an output from float inference on the calibration data, in real units. `spread`
    is the outputs' standard deviation there. Of several outputs, both are of the least exact one. `agreement` is the
    share of inputs whose label is the same, or None where the outputs are values. `origins` names the user's layer for
    each layer of the plan. `measured` holds the layers whose range rests on calibration data, and how many
    times as far from 0 as there a value may go. `wires` has the wire of the plan that each node of the graph became.
    `costliest` names the user's layer that costs most, where the error is more than is tolerated. `wire_spread` is the
    least standard deviation of an output as it leaves the plan, before the client scales it. `logits` is the plan up to
    the model's outputs, whatever of them is revealed. `graph` is the float model. `clamp` names the layers that clamp
    what clients share, where the owner asked for that.
    """

    plan: Plan
    logits: Plan
    graph: ir.Graph = field(repr=False)
    weights: Mapping[str, Array] = field(repr=False)
    error: float
    spread: float
    agreement: float | None
    origins: Mapping[str, str]
    measured: Mapping[str, float]
    wires: Mapping[str, ScaledWire] = field(default_factory=dict, repr=False)
    costliest: str = ""
    wire_spread: float = 0.0
    clamp: tuple[str, ...] = ()

    def verified(self) -> "Compiled":
        """Return the same with a plan for verified runs. Raises NotServable, naming the layer, where there is none."""
        try:
            return replace(self, plan=layout.verified(self.plan))
        except ValueError as error:
            instead = "publish the model without --verified, where parties are trusted to compute"
            raise NotServable(f"the plan: {error}. Instead: {instead}") from None

    @property
    def relative_error(self) -> float:
        """The error as a part of the outputs' spread."""
        return self.error / max(self.spread, _LEAST)

    @property
    def is_accurate(self) -> bool:
        return self.relative_error <= TOLERATED

    @property
    def inaccuracy(self) -> str:
        """What is wrong with a plan that is not accurate, and what its owner can do."""
        return (
            f"the plan's answers differ from the model's by up to {self.relative_error:.2%} of their spread on the "
            f"calibration data, more than {TOLERATED:.0%}. The layer that costs most: {self.costliest}. "
            "Instead: declare a smaller input range, normalise what this layer reads, give more calibration inputs, "
            "or take the error with --accept-error"
        )


@one_thread()
def compile_model(
    model: nn.Module | ir.Graph,
    calibration: Tensor | Mapping[str, Tensor],
    *,
    low: Limit,
    high: Limit,
    reveal: Reveal | None = None,
    top: int = 1,
    ring_bits: int | None = None,
    headroom: float = 4.0,
    meaning: Meaning = Meaning(),  # noqa: B008  frozen
    output: str = "",
    clamp_inputs: bool = False,
) -> Compiled:
    """Compile a model as it stands, in its inference mode.

    `calibration` is real input, float32 (n, ...), of a model of several inputs one for each, by name. `low` and `high`
    bound the values that inputs may have. `output` chooses one of a module's several outputs. `reveal` says
    what a client gets: all outputs, the `top` labels, which of two classes, or how many of its own labels are right. By
    default these are the outputs, or the labels if the model itself ends in an argmax. The ring has 32 bits unless
    these are too coarse, and 64 where the plan looks nothing up. `headroom` is how far beyond the calibration data a
    wire may go where no bound is proved. `clamp_inputs` has the parties clamp what clients share to `low` and `high`.
    `meaning` says what the outputs are for, where the graph does not show it.

    Raises NotServable for what cannot be served exactly, before anything is shared.
    """
    if isinstance(model, ir.Graph):
        graph = model
    else:
        few = calibration[:2] if isinstance(calibration, Tensor) else {k: v[:2] for k, v in calibration.items()}
        graph = trace(model, few, output)
    reveal = reveal or ("labels" if graph.labels else "logits")
    if graph.outputs and reveal != "logits":
        names = shown(", ".join(part.name for part in graph.outputs))
        raise NotServable(f"the model: has several outputs, {names}. Instead: choose one with --output")
    graph, calibration, (low, high) = parts.shared(graph, calibration, low, high)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise NotServable(f"{low:g} to {high:g} is not an input range: give one with --low and --high")
    analysis = ranges.analyse(graph, calibration, low=low, high=high)
    if graph.outputs:
        analysis = ranges.analyse(parts.levelled(analysis.graph, analysis.measured), calibration, low=low, high=high)
    graph = analysis.graph
    exact = analysis.exact
    meaning = meaning.settled(graph, reveal, exact)
    if reveal == "decision" and meaning.task == "classes":
        graph, meaning = of_two(graph, meaning)
        analysis = ranges.analyse(graph, calibration, low=low, high=high)
        exact = analysis.exact
    if not any(isinstance(node, _WEIGHTED) for node in graph.nodes):
        raise NotServable("the model has no weights to hide: there is nothing to serve privately")
    # What is looked up is an id, whatever a client shares.
    clamp_inputs = clamp_inputs and not any(isinstance(node, EmbeddingNode) for node in graph.nodes)
    declared = Declared(low, high, clamp_inputs)
    tried: dict[Precision, tuple[Mapping[str, ranges.Range], Trial]] = {}
    nearest: Trial | None = None  # of those whose error is larger than tolerated
    refused: NotServable = NotServable(f"a ring has 32 or 64 bits, not {ring_bits}")
    widest = 0  # the bits of the ring that was refused last: the wider, the more it says of the model
    wide: list[tuple[float, Trial]] = []  # whose ranges may be hopelessly wide
    for precision, affordable, tolerated in _attempts(graph, reveal, clamp_inputs):
        if ring_bits not in (None, precision.ring_bits):
            continue
        if any(affordable >= proved and trial.shows(_HOPELESS) for proved, trial in wide):
            continue
        known = analysis.ranges(affordable=affordable, headroom=headroom)
        try:
            if precision not in tried or tried[precision][0] != known:  # other ranges are another plan
                tried[precision] = (
                    known,
                    _lowered(graph, known, calibration, exact, declared, precision, reveal, top, meaning),
                )
        except NotServable as error:
            if precision.ring_bits >= widest:
                refused, widest = error, precision.ring_bits
            continue
        trial = tried[precision][1]
        if not trial.exceeds(tolerated):
            return trial.compiled()
        if affordable > _NARROWEST:
            wide.append((affordable, trial))
        nearest = trial if nearest is None or trial.is_nearer(nearest) else nearest
    if nearest is None:
        raise refused
    last = nearest.compiled()
    if last.is_accurate:
        return last
    return replace(last, costliest=attribution.costliest(graph, last.logits, last.weights, last.wires, calibration))


def _attempts(graph: ir.Graph, reveal: Reveal, clamp_inputs: bool) -> Iterator[tuple[Precision, float, float]]:
    """Yield the attempts in their order. A plan that looks nothing up sends its input and its outputs, and no more, so
    it has 64 bits first: a few bytes, and 35 times the precision. So has attention, of which sums
    of products would leave 32 bits an error of 1 to 3 % of the outputs' spread. Waves come before parabolas. Beside
    attention their words are half of what the dealer sends, so words of 32 bits come before those of 40."""
    looks_up = reveal != "logits" or clamp_inputs or any(isinstance(node, _LOOKING_UP) for node in graph.nodes)
    attends = any(isinstance(node, MatMulNode) for node in graph.nodes)
    bends = any(isinstance(node, ir.SmoothNode) for node in graph.nodes)
    for bits, affordable, tolerated in _ATTEMPTS if looks_up and not attends else (*_ATTEMPTS[2:], *_ATTEMPTS[:2]):
        with_waves = min(tolerated, _WITH_WAVES)
        if bends and attends and bits == 64:
            yield Precision.of(bits, waves=32), affordable, max(with_waves, _BESIDE_ATTENTION)
        if bends:
            yield Precision.of(bits, waves=min(bits, 40)), affordable, with_waves
        yield Precision.of(bits, waves=0), affordable, tolerated


def _lowered(
    graph: ir.Graph,
    known: Mapping[str, ranges.Range],
    calibration: Tensor,
    exact: Array,
    declared: Declared,
    precision: Precision,
    reveal: Reveal,
    top: int,
    meaning: Meaning,
) -> "Trial":
    try:
        compared = reveal != "logits" and meaning.task == "binary"
        chosen = scales.choose(graph, known, precision, spare=decisions.SPARE_BITS if compared else 1)
        emitter = Emitter(graph, known, chosen, precision, declared, meaning)
        logits = emitter.logits()
        plan = logits if reveal == "logits" else emitter.revealing(reveal, top)
    except ValidationError as error:  # more layers, axes or parts than a plan may have
        where = ".".join(map(str, error.errors(include_input=False)[0]["loc"]))
        raise NotServable(
            f"the model does not fit into a plan: {where}: {error.errors(include_input=False)[0]['msg']}"
        ) from None
    return Trial(graph, emitter, plan, logits, calibration, exact)


class Trial:
    """A plan whose error on the calibration data is still to be found. It runs on as few inputs as a question takes:
    the first ones often show that a plan errs too much."""

    def __init__(
        self, graph: ir.Graph, emitter: Emitter, plan: Plan, logits: Plan, calibration: Tensor, exact: Array
    ) -> None:
        self._graph, self._emitter, self._plan, self._logits = graph, emitter, plan, logits
        self._exact = exact.reshape(len(exact), -1)  # outputs of one number a row have an axis in the plan, not here
        self._encoded = encode_rows(logits, calibration)
        self._got: list[Array] = []

    def exceeds(self, part: float) -> bool:
        """Whether the error is more than this part of the outputs' spread."""
        while not self._is_complete:
            if self.shows(part):
                return True
            self._run_on()
        error, spread = self._worst()
        return error > part * spread

    def shows(self, part: float) -> bool:
        """Whether the error on the inputs so far is already more than this part of the outputs' spread."""
        return self._part > part

    def is_nearer(self, other: "Trial") -> bool:
        """Whether the error of this one is the smaller part of the spread. They may be of different outputs. The one
        that errs less so far runs on all inputs, the other one only while it may still be the nearer."""
        near, far = sorted((self, other), key=lambda trial: trial._part)
        near._complete()
        while not far._is_complete and far._part <= near._part:
            far._run_on()
        return self._part < other._part

    def compiled(self) -> Compiled:
        """The plan with its error on all of the calibration data."""
        error, spread = self._complete()
        emitter, flat = self._emitter, self._exact
        return Compiled(
            self._plan,
            self._logits,
            self._graph,
            dict(emitter.weights),
            error=error,
            spread=spread,
            agreement=_agreement(self._logits.output, flat, np.concatenate(self._got)),
            origins=emitter.origins,
            measured=_measured(self._plan, emitter.measured),
            wires={node.name: emitter.wire(node.name) for node in self._graph.nodes},
            wire_spread=min((float(flat[:, at].std()) for _, at in spans(self._graph.outputs)), default=spread),
            clamp=emitter.clamp,
        )

    @property
    def _part(self) -> float:
        """The error so far, as a part of the outputs' spread."""
        error, spread = self._worst()
        return error / max(spread, _LEAST)

    @property
    def _is_complete(self) -> bool:
        return self._rows == len(self._exact)

    @property
    def _rows(self) -> int:
        return sum(map(len, self._got))

    def _complete(self) -> tuple[float, float]:
        while not self._is_complete:
            self._run_on()
        return self._worst()

    def _run_on(self) -> None:
        batch = self._encoded[self._rows :][: _rows_at_once(self._logits)]
        self._got.append(_run(self._logits, self._emitter.weights, batch).reshape(len(batch), -1))

    def _worst(self) -> tuple[float, float]:
        """Return the largest difference so far and the spread: of several outputs, those of the one where the
        difference is the largest part of the spread."""
        exact, rows = self._exact, self._rows
        got = np.concatenate(self._got) if rows else exact[:0]
        places = [(part.scale, place) for part, place in spans(self._graph.outputs)] or [(1.0, slice(None))]
        found = [
            (
                scale * float(np.abs(exact[:rows, at] - got[:, at]).max(initial=0.0)),
                scale * float(exact[:, at].std()),
            )
            for scale, at in places
        ]
        return max(found, key=lambda pair: pair[0] / max(pair[1], _LEAST))


def _measured(plan: Plan, nodes: Mapping[str, float]) -> dict[str, float]:
    """Return the head-room of each layer that rests on calibration data: of the nodes, and of what is computed from
    one."""
    rooms = dict(nodes)
    for layer in plan.layers:
        before = [rooms[name] for name in layer.reads if name in rooms]
        if before and layer.name not in rooms:
            rooms[layer.name] = min(before)
    return rooms


def _agreement(output: Output, exact: Array, got: Array) -> float | None:
    """Return the share of inputs of which both outputs (n, all values) give the same label."""
    if output.task == "values":
        return None
    if output.task == "binary":
        return float(((exact > output.threshold) == (got > output.threshold)).mean())
    return float((exact.argmax(axis=1) == got.argmax(axis=1)).mean())


def encode_rows(plan: Plan, rows: Tensor) -> Array:
    """Encode real inputs (n, ...) as ring elements (n, input size)."""
    return np.rint(rows.flatten(1).double().numpy() * 2.0**plan.input.frac_bits).astype(Ring(plan.ring_bits).dtype)


def _rows_at_once(plan: Plan) -> int:
    return max(1, min(_ROWS_AT_ONCE, plan.slice_rows))


def _run(plan: Plan, weights: Mapping[str, Array], x: Array) -> Array:
    step = _rows_at_once(plan)
    batches = [reference.run(plan, x[at : at + step], weights) for at in range(0, len(x), step)]
    return np.concatenate(batches).astype(np.float64) * plan.output.scale


def outputs_of(compiled: Compiled, rows: Tensor) -> Array:
    """Compute the plan's outputs on real inputs (n, ...), in real units, (n, *output's shape)."""
    return _run(compiled.logits, compiled.weights, encode_rows(compiled.logits, rows))


@torch.inference_mode()
def run_float(graph: ir.Graph, inputs: Tensor) -> Array:
    """Compute the float model's outputs on real inputs (n, ...)."""
    batches = [_output(graph, batch) for batch in torch.split(inputs, ranges.rows_at_once(graph))]
    return torch.cat(batches).double().numpy()


def _output(graph: ir.Graph, inputs: Tensor) -> Tensor:
    return next(wire for name, wire in graph.wires(inputs) if name == graph.output)


def load_onnx(path: Path, example: Tensor | Mapping[str, Tensor] | None = None, output: str = "") -> ir.Graph:
    """Read the graph of an ONNX file; see read_onnx. Needs the extra `onnx`."""
    from moiety_server.compiler.onnx.graph import read_onnx

    return read_onnx(path, example, output)
