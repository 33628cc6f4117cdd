"""Compiles the float graph to a public plan and its encoded weights.

It finds ranges first (`ranges`), then scales (`scales`). One pass then writes each node as layers of the plan
(`lowering`). Last comes a check: the plan runs in plain fixed point on the calibration data, and its outputs are
compared with the model's.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from moiety_server.compiler import ir, ranges, scales
from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.lowering.emitter import Emitter
from moiety_server.compiler.scales import Precision
from moiety_server.compiler.trace import trace
from moiety_shared import reference
from moiety_shared.plan.layers import Conv, Linear
from moiety_shared.plan.plan import Plan
from moiety_shared.ring import Array, Ring

Reveal = Literal["logits", "labels", "count"]
# The attempts, best first. Each has the bits of the ring, how much wider than measured a proved range may be, and the
# error that is good enough, as a part of the outputs' spread.
_ATTEMPTS = ((32, 2.0**12, 0.003), (32, 16.0, 0.01), (64, 2.0**24, 0.003), (64, 16.0, math.inf))
_ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class Compiled:
    """A plan and the ring elements that belong to it, by "layer.weight".

    `error` is the largest difference of an output from float inference on the calibration data, in real units. `spread`
    is the outputs' standard deviation there, and `agreement` the share of inputs whose largest output is the same.
    `origins` names the user's layer for each layer of the plan. `measured` holds the layers whose range rests on
    calibration data. `logits` is the plan up to the model's outputs, whatever of them is revealed. `graph` is the float
    model.
    """

    plan: Plan
    logits: Plan
    graph: ir.Graph = field(repr=False)
    weights: Mapping[str, Array] = field(repr=False)
    error: float
    spread: float
    agreement: float
    origins: Mapping[str, str]
    measured: frozenset[str]


def compile_model(
    model: nn.Module | ir.Graph,
    calibration: Tensor,
    *,
    low: float,
    high: float,
    reveal: Reveal = "logits",
    top: int = 1,
    ring_bits: int | None = None,
    headroom: float = 4.0,
) -> Compiled:
    """Compile a model as it stands, in its inference mode.

    `calibration` is real input, float32 (n, ...). `low` and `high` bound the values that inputs may have. `reveal` says
    what a client gets: all outputs, the `top` labels, or how many of its own labels are right. The ring has 32 bits
    unless these are too coarse. `headroom` is how far beyond the calibration data a wire may go where no bound is
    proved.

    Raises NotServable for what cannot be served exactly, before anything is shared.
    """
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise NotServable(f"the input range {low:g} to {high:g} is none: state one with --low and --high")
    graph = model if isinstance(model, ir.Graph) else trace(model, calibration[:2])
    analysis, exact = ranges.analyse(graph, calibration, low=low, high=high), run_float(graph, calibration)
    last: Compiled | NotServable = NotServable(f"a ring has 32 or 64 bits, not {ring_bits}")
    for bits, affordable, tolerated in _ATTEMPTS:
        if ring_bits not in (None, bits):
            continue
        known = analysis.ranges(graph, affordable=affordable, headroom=headroom)
        try:
            compiled = _compile(graph, known, calibration, exact, (low, high), bits, reveal, top)
        except NotServable as error:
            last = error if isinstance(last, NotServable) else last
            continue
        if compiled.error <= tolerated * compiled.spread:
            return compiled
        last = compiled if isinstance(last, NotServable) or compiled.error < last.error else last
    if isinstance(last, NotServable):
        raise last
    return last


def _compile(
    graph: ir.Graph,
    known: Mapping[str, ranges.Range],
    calibration: Tensor,
    exact: Array,
    limits: tuple[float, float],
    bits: int,
    reveal: Reveal,
    top: int,
) -> Compiled:
    precision = Precision.of(bits)
    try:
        emitter = Emitter(graph, known, scales.choose(graph, known, precision), precision, limits)
        logits = emitter.logits()
        plan = logits if reveal == "logits" else emitter.revealing(reveal, top)
    except ValidationError as error:  # more layers, axes or parts than a plan may have
        where = ".".join(map(str, error.errors(include_input=False)[0]["loc"]))
        raise NotServable(f"the model has no plan: {where}: {error.errors(include_input=False)[0]['msg']}") from None
    if not any(isinstance(layer, Linear | Conv) for layer in logits.layers):
        raise NotServable("the model has no weights to hide: there is nothing to serve privately")
    got = _run(logits, emitter.weights, encode_rows(logits, calibration))
    flat = exact.reshape(len(exact), -1)
    return Compiled(
        plan,
        logits,
        graph,
        dict(emitter.weights),
        error=float(np.abs(exact - got).max()),
        spread=float(exact.std()),
        agreement=float((flat.argmax(axis=1) == got.reshape(flat.shape).argmax(axis=1)).mean()),
        origins=emitter.origins,
        measured=frozenset(emitter.measured),
    )


def encode_rows(plan: Plan, rows: Tensor) -> Array:
    """Encode real inputs (n, ...) as ring elements (n, input size)."""
    return np.rint(rows.flatten(1).double().numpy() * 2.0**plan.input.frac_bits).astype(Ring(plan.ring_bits).dtype)


def _run(plan: Plan, weights: Mapping[str, Array], x: Array) -> Array:
    step = max(1, min(_ROWS_AT_ONCE, plan.slice_rows))
    parts = [reference.run(plan, x[at : at + step], weights) for at in range(0, len(x), step)]
    return np.concatenate(parts).astype(np.float64) * plan.output.scale


@torch.inference_mode()
def run_float(graph: ir.Graph, inputs: Tensor) -> Array:
    """Compute the float model's outputs on real inputs (n, ...)."""
    parts = [_output(graph, part) for part in torch.split(inputs, ranges.rows_at_once(graph))]
    return torch.cat(parts).double().numpy()


def _output(graph: ir.Graph, inputs: Tensor) -> Tensor:
    return next(wire for name, wire in graph.wires(inputs) if name == graph.output)


def load_onnx(path: Path) -> ir.Graph:
    """Read the graph of an ONNX file. Needs the extra `onnx`."""
    from moiety_server.compiler.onnx.graph import read_onnx

    return read_onnx(path)
