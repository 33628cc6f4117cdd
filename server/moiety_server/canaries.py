"""Chooses canaries for a model: inputs on which float inference and the plan give the same answer, however the plan
rounds.

moiety_shared/messages/canary.py says what a canary is, and what it is for.
"""

from collections.abc import Callable

import numpy as np
import torch

from moiety_server.compiler.compilation import Compiled, run_float
from moiety_shared import reference
from moiety_shared.crypto.prg import Stream, new_seed
from moiety_shared.fixed_point import decode, finish
from moiety_shared.messages.canary import MOST, Canary, expand
from moiety_shared.plan.lookups import Lookup
from moiety_shared.ring import Array

_CANDIDATES = 48
_DRAWS = 4  # draws of the dithers of a whole run
_SAFETY = 4.0  # tolerated deviation, in multiples of the largest one among the draws
_WORK = 60_000_000_000  # multiply-adds that choosing may take: some twenty seconds
_COMPARISON = 100  # one comparison costs about as much as that many multiply-adds


def choose(compiled: Compiled) -> tuple[Canary, ...]:
    """Choose up to 16 canaries, of as many classes as turn up.

    Chooses none for a model that only counts, or whose answers to noise are not firm.
    """
    plan = compiled.logits
    if compiled.plan.output.kind == "count":
        return ()
    cost = plan.cost(1)
    work = (cost.multiply_adds + _COMPARISON * cost.comparisons) * (_DRAWS + 2)
    found = [c for _ in range(min(_CANDIDATES, _WORK // max(work, 1))) if (c := _try(compiled, new_seed())) is not None]
    chosen: list[Canary] = []
    while found and len(chosen) < MOST:  # next is the class that is rarest so far
        next_one = min(found, key=lambda c: sum(c.label == other.label for other in chosen))
        found.remove(next_one)
        chosen.append(next_one)
    return tuple(chosen)


def _try(compiled: Compiled, seed: bytes) -> Canary | None:
    """Return the canary of that seed, if the seed makes one."""
    plan = compiled.logits
    x = expand(seed, plan)
    real = torch.from_numpy(x / 2.0**plan.input.frac_bits).float().reshape(1, *plan.input.shape)
    exact = run_float(compiled.graph, real)
    rounded = _outputs(compiled, x, None)
    draws = [_outputs(compiled, x, _dithers(compiled)) for _ in range(_DRAWS)]
    if not all(np.isfinite(values).all() for values in (exact, rounded)):
        return None
    tolerance = _SAFETY * max(float(np.abs(draw - rounded).max()) for draw in draws) + plan.output.scale
    labels = {int(values.argmax()) for values in (exact, rounded, *draws)}
    if len(labels) > 1 or min(_margin(exact), _margin(rounded)) <= 2 * tolerance:
        return None
    if compiled.plan.output.kind == "labels":
        return Canary(seed=seed.hex(), label=labels.pop())  # a canary holds no score, because clients may not learn it
    shown = [finish(plan.output.final, v.reshape(1, *plan.output.shape)).ravel() for v in (rounded, *draws)]
    (label,) = labels
    deviation = max(abs(float(draw[label] - shown[0][label])) for draw in shown)
    # The model's last function may widen a difference: a softmax or a logarithm at most twofold.
    return Canary(seed=seed.hex(), label=label, top=float(shown[0][label]), tolerance=2 * tolerance + deviation)


def _margin(values: Array) -> float:
    ordered = np.sort(values.ravel())
    return float(ordered[-1] - ordered[-2]) if len(ordered) > 1 else 0.0


def _outputs(compiled: Compiled, x: Array, dither: reference.Dither | None) -> Array:
    return decode(reference.run(compiled.logits, x[None], compiled.weights, dither), scale=compiled.logits.output.scale)


def _dithers(compiled: Compiled) -> Callable[[str, Array], Array]:
    """Draw fresh dithers, distributed as those of a run."""
    shifts = {layer.name: layer.shift for layer in compiled.logits.layers if isinstance(layer, Lookup)}
    stream = Stream(new_seed(), "dithers")

    def dither(name: str, x: Array) -> Array:
        return stream.words(name, x.shape, np.int64) & ((1 << shifts[name]) - 1)

    return dither
