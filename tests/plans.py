"""Small plans by hand, with weights: for tests of what carries a run, not of what it computes."""

import numpy as np

from moiety_shared.fixed_point import RingArray
from moiety_shared.plan.layers import Linear, Mul, Open
from moiety_shared.plan.local import Combine, Sum
from moiety_shared.plan.lookups import Decide, OneHot, ReLU, TopK
from moiety_shared.plan.plan import LABELS, AnyLayer, Input, Output, Plan

TERM = {"revision": 1, "active": True, "issued": 1_700_000_000, "expires": 4_000_000_000}
"""What is signed with an entry that clients believe, and that nobody needs to renew, for these tests' lifetime."""
CLASSES = 5
SIZE = 4
X = Input(name="x", shape=(SIZE,), frac_bits=4, low=-8, high=8)
_SCORES: tuple[AnyLayer, ...] = (
    Open(name="o", input="x", shape=(SIZE,)),
    Linear(name="l", input="o", shape=(SIZE,), out_features=CLASSES),
)


def _top(**how: object) -> TopK:
    common = {"name": "t", "input": "l", "shape": (CLASSES,), "shift": 0, "opened_bits": 18, "range_bits": 14}
    return TopK.model_validate(common | how)


def weights() -> dict[str, RingArray]:
    """Of the linear layer: whole numbers, so that scores come out exactly."""
    weight = np.arange(CLASSES * SIZE, dtype=np.int32).reshape(CLASSES, SIZE)
    return {"l.weight": weight * 7 % 11 - 5, "l.bias": np.arange(CLASSES, dtype=np.int32)}


def scores(x: RingArray) -> RingArray:
    """The linear layer on encoded inputs."""
    w = weights()
    return x[:, :SIZE].astype(np.int64) @ w["l.weight"].T + w["l.bias"]


def logits(final: str = "none") -> Plan:
    output = {"wire": "l", "shape": (CLASSES,), "scale": 2.0**-4, "final": final}
    return Plan(ring_bits=32, input=X, layers=_SCORES, output=Output.model_validate(output))


_SINGLE = Sum(name="s", input="l", shape=(CLASSES,), axes=(0,))


def single(**output: object) -> Plan:
    """One output: the sum of the scores. `output` says what it is for."""
    given = {"wire": "s", "shape": (1,), "scale": 2.0**-4} | output
    return Plan(ring_bits=32, input=X, layers=(*_SCORES, _SINGLE), output=Output.model_validate(given))


def decision() -> Plan:
    """Whether the sum of the scores is above 0."""
    members = {"shape": (1,), "shift": 0, "opened_bits": 18, "range_bits": 15, "digit_bits": 4, "hinges": (1,)}
    decide = Decide.model_validate({"name": "d", "input": "s"} | members)
    output = Output(wire="d", shape=(1,), kind="decision", task="binary")
    return Plan(ring_bits=32, input=X, layers=(*_SCORES, _SINGLE, decide), output=output)


def labels(top: int = 2) -> Plan:
    output = Output(wire="t", shape=(CLASSES,), kind="labels", top=top)
    return Plan(ring_bits=32, input=X, layers=(*_SCORES, _top(k=top)), output=output)


def count() -> Plan:
    layers: tuple[AnyLayer, ...] = (
        *_SCORES,
        _top(result="share"),
        Open(name="guess", input="t", shape=(CLASSES,)),
        OneHot(name="row", input=LABELS, opened_bits=3, classes=CLASSES),
        Open(name="truth", input="row", shape=(CLASSES,)),
        Mul(name="hit", left="guess", right="truth", left_shape=(CLASSES,), right_shape=(CLASSES,)),
        Sum(name="hits", input="hit", shape=(CLASSES,), axes=(0,)),
    )
    asked = X.model_copy(update={"classes": CLASSES})
    return Plan(ring_bits=32, input=asked, layers=layers, output=Output(wire="hits", shape=(1,), kind="count"))


def totals() -> Plan:
    """The scores of all inputs of a request, added up."""
    output = Output(wire="l", shape=(CLASSES,), kind="count", scale=2.0**-4)
    return Plan(ring_bits=32, input=X, layers=_SCORES, output=output)


def branches() -> Plan:
    """Two layers that open side by side: relu(y) - 2 relu(y - 3), with y the scores."""

    def relu(name: str, *hinges: int) -> ReLU:
        return ReLU(
            name=name, input="l", shape=(CLASSES,), shift=0, opened_bits=16, range_bits=12, hinges=hinges, digit_bits=4
        )

    shapes, sides = ((CLASSES,), (CLASSES,)), (relu("a", 0), relu("b", 3))
    joined = Combine(name="sum", inputs=("a", "b"), shapes=shapes, factors=(1, -2))
    return Plan(ring_bits=32, input=X, layers=(*_SCORES, *sides, joined), output=Output(wire="sum", shape=(CLASSES,)))


_HIDDEN = ReLU(name="r", input="l", shape=(CLASSES,), shift=0, opened_bits=16, range_bits=12, digit_bits=4)


def two_layers() -> Plan:
    """relu(y) times a second matrix, with y the scores."""
    layers: tuple[AnyLayer, ...] = (
        *_SCORES,
        _HIDDEN,
        Open(name="p", input="r", shape=(CLASSES,)),
        Linear(name="m", input="p", shape=(CLASSES,), out_features=3),
    )
    return Plan(ring_bits=32, input=X, layers=layers, output=Output(wire="m", shape=(3,)))


def two_weights() -> dict[str, RingArray]:
    """Of both its layers, in whole numbers."""
    second = np.arange(3 * CLASSES, dtype=np.int32).reshape(3, CLASSES)
    return weights() | {"m.weight": second * 5 % 7 - 3, "m.bias": np.arange(3, dtype=np.int32)}


def second_scores(x: RingArray) -> RingArray:
    """What both layers make of encoded inputs."""
    w = two_weights()
    return np.maximum(scores(x), 0) @ w["m.weight"].T.astype(np.int64) + w["m.bias"]


def random_inputs(rows: int, seed: int = 0) -> RingArray:
    """Encoded inputs inside of the range."""
    words = np.arange(rows * SIZE, dtype=np.int64) * 2654435761 + seed * 97
    return (words % 257 - 128).astype(np.int32).reshape(rows, SIZE)
