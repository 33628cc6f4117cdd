"""Chooses canaries for a model: inputs on which float inference and the plan give the same answer, however the plan
rounds.

moiety_shared/messages/canary.py says what a canary is, and what it is for.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from moiety_server.compiler.compilation import TOLERATED, Compiled, run_float
from moiety_shared import reference
from moiety_shared.crypto.prg import Stream, new_seed
from moiety_shared.fixed_point import decode
from moiety_shared.messages.canary import MOST, Canary, expand, places
from moiety_shared.messages.table import Tabular
from moiety_shared.plan.lookups import Lookup
from moiety_shared.plan.plan import Output
from moiety_shared.ring import Array

_CANDIDATES = 48
_DRAWS = 4  # draws of the dithers of a whole run
_SAFETY = 4.0  # tolerated deviation, in multiples of the largest one among the draws
_WIDEST = 0.1  # tolerated deviation, as a part of the outputs' spread: a canary that fits anything shows nothing
_WORK = 60_000_000_000  # multiply-adds that choosing may take: some twenty seconds
_COMPARISON = 100  # one comparison costs about as much as that many multiply-adds


def choose(compiled: Compiled, table: Tabular | None = None) -> tuple[Canary, ...]:
    """Choose up to 16 canaries, of as many classes as turn up. `table` has the columns of a model of a table.

    Chooses none for a model that only counts, whose answers to noise are not firm, or whose plan is far from the float
    model there.
    """
    plan = compiled.logits
    if compiled.plan.output.kind == "count":
        return ()
    cost = plan.cost(1)
    work = (cost.multiply_adds + _COMPARISON * cost.comparisons) * (_DRAWS + 3)
    count = min(_CANDIDATES, _WORK // max(work, 1))
    tried = [trial for _ in range(count) if (trial := _try(compiled, new_seed(), table)) is not None]
    # The few draws of one input may happen to lie close together, but hardly those of most inputs.
    usual = float(np.median([trial.spread for trial in tried])) if tried else 0.0
    found = [canary for trial in tried if (canary := trial.canary(compiled, usual)) is not None]
    chosen: list[Canary] = []
    while found and len(chosen) < MOST:  # next is the class that is rarest so far
        next_one = min(found, key=lambda c: sum(c.label == other.label for other in chosen))
        found.remove(next_one)
        chosen.append(next_one)
    return tuple(chosen)


@dataclass(frozen=True)
class _Trial:
    """What the float model and runs of the plan make of one input.

    `labels` has the label of each, and `margin` is how far the float model's outputs are from another one. `spread` is
    how far the outputs of runs differ by their rounding, and `off` how far they are from the float model's. `told` has
    the float model's outputs at `places`: so a plan that computes something else is noticed.
    """

    seed: bytes
    labels: frozenset[int | None]
    margin: float
    spread: float
    off: float
    told: tuple[float, ...]

    def canary(self, compiled: Compiled, usual: float) -> Canary | None:
        """Return the canary of this input, unless its answer is not firm. `usual` is the usual spread."""
        tolerance = _SAFETY * max(self.spread, usual) + self.off + _unit(compiled)
        wide = self.off > TOLERATED * compiled.wire_spread or tolerance > _WIDEST * compiled.wire_spread
        if wide or len(self.labels) > 1 or self.margin <= 2 * tolerance:
            return None
        (label,) = self.labels
        if compiled.plan.output.kind != "logits":  # the canary tells no output, because clients may not learn it
            return Canary(seed=self.seed.hex(), label=label)
        return Canary(seed=self.seed.hex(), label=label, outputs=self.told, tolerance=tolerance)


def _try(compiled: Compiled, seed: bytes, table: Tabular | None) -> _Trial | None:
    """Try the input of that seed. Return None where something computed of it is not finite."""
    plan = compiled.logits
    x = expand(seed, plan, table)
    real = torch.from_numpy(x / 2.0**plan.input.frac_bits).float().reshape(1, *plan.input.shape)
    exact, rounded = run_float(compiled.graph, real).ravel(), _outputs(compiled, x, None)
    draws = [_outputs(compiled, x, _dithers(compiled)) for _ in range(_DRAWS)]
    if not all(np.isfinite(values).all() for values in (exact, rounded)):
        return None
    return _Trial(
        seed,
        frozenset({_label(plan.output, values) for values in (exact, rounded, *draws)} | _published(compiled, x)),
        _margin(plan.output, exact),
        max(float(np.abs(draw - rounded).max()) for draw in draws),
        float(np.abs(rounded - exact).max()),
        tuple(exact[places(len(exact))].tolist()),
    )


def _unit(compiled: Compiled) -> float:
    """Return the smallest difference of outputs that a client is told, or that a comparison of them can see."""
    plan = compiled.plan
    last = next(layer for layer in plan.layers if layer.name == plan.output.wire)
    cut = last.shift if isinstance(last, Lookup) and plan.output.kind != "logits" else 0
    return compiled.logits.output.scale * 2.0**cut


def _published(compiled: Compiled, x: Array) -> frozenset[int]:
    """Return the label that the published plan itself gives, if it gives labels or decisions alone: what it does behind
    the outputs may be wrong, too."""
    kind = compiled.plan.output.kind
    if kind == "logits":
        return frozenset()
    given = reference.run(compiled.plan, x[None], compiled.weights).ravel()
    return frozenset({int(given[0]) if kind == "decision" else int((given == 1).argmax())})


def _label(output: Output, values: Array) -> int | None:
    """Return the class of one input's outputs, if they tell classes apart."""
    match output.task:
        case "classes":
            return int(values.argmax())
        case "binary":
            return int(values[0] > output.threshold)
        case _:
            return None


def _margin(output: Output, values: Array) -> float:
    """Return how far one input's outputs are from those of another class."""
    match output.task:
        case "classes":
            ordered = np.sort(values)
            return float(ordered[-1] - ordered[-2]) if len(ordered) > 1 else 0.0
        case "binary":
            return float(abs(values[0] - output.threshold))
        case _:
            return np.inf


def _outputs(compiled: Compiled, x: Array, dither: reference.Dither | None) -> Array:
    elements = reference.run(compiled.logits, x[None], compiled.weights, dither)
    return decode(elements, scale=compiled.logits.output.scale).ravel()


def _dithers(compiled: Compiled) -> Callable[[str, Array], Array]:
    """Draw fresh dithers, distributed as those of a run."""
    shifts = {layer.name: layer.shift for layer in compiled.logits.layers if isinstance(layer, Lookup)}
    stream = Stream(new_seed(), "dithers")

    def dither(name: str, x: Array) -> Array:
        return stream.words(name, x.shape, np.int64) & ((1 << shifts[name]) - 1)

    return dither
