"""A count says how many labels are right, and nothing else is counted."""

from typing import Any

import numpy as np
import pytest

from moiety_shared.crypto.sealing import PrivateKey
from moiety_shared.plan.layers import Mul, Open
from moiety_shared.plan.local import Combine, Pad, Sum
from moiety_shared.plan.lookups import OneHot, TopK, Truncate
from moiety_shared.plan.plan import AnyLayer, Input, Output, Plan
from tests.protocols.running import integers, plan_of, run_of


def test_a_private_evaluation_counts_what_is_right() -> None:
    plan = plan_of(
        TopK(name="winner", input="input", shape=(5,), shift=0, opened_bits=16, range_bits=9, result="share"),
        Open(name="w", input="winner", shape=(5,)),
        OneHot(name="row", input="labels", opened_bits=3, classes=5),
        Open(name="l", input="row", shape=(5,)),
        Mul(name="both", left="w", right="l", left_shape=(5,), right_shape=(5,)),
        Sum(name="right", input="both", shape=(5,), axes=(0,)),
        shape=(5,),
        classes=5,
    )
    logits, labels = integers((6, 5)), np.arange(6) % 5
    x = np.concatenate((logits, labels[:, None].astype(np.int32)), axis=1)
    got = run_of(plan).assert_bit_exact(x)
    assert np.array_equal(got[:, 0], logits.argmax(axis=1) == labels)


def test_any_label_is_one_label() -> None:
    """Whatever ring element is shared as a label, a row counts 0 or 1, and it counts 1 for one class alone."""
    run = run_of(counting(*of_both("g", "r")))
    labels = np.array([0, 1, 2, 3, 4, 5, -1, -2, 10, 100, 1000, 1 << 16, -(1 << 31), (1 << 31) - 1], dtype=np.int32)
    got = []
    for winner in range(3):
        logits = np.zeros((len(labels), 3), dtype=np.int32)
        logits[:, winner] = 7
        got.append(run.assert_bit_exact(np.concatenate((logits, labels[:, None]), axis=1))[:, 0])
    meant = np.where(labels % 4 < 3, labels % 4, 0)
    assert np.array_equal(np.stack(got, axis=1), meant[:, None] == np.arange(3))


ROW = OneHot(name="row", input="labels", opened_bits=2, classes=3)
OPEN_ROW = Open(name="r", input="row", shape=(3,))


@pytest.mark.parametrize(
    "layers",
    [
        (Open(name="bad", input="labels", shape=(1,)),),
        (Truncate(name="bad", input="labels", shape=(1,), shift=0, opened_bits=16),),
        (OneHot(name="bad", input="labels", opened_bits=2, classes=4),),
        (ROW, OPEN_ROW, Pad(name="bad", input="labels", shape=(1,), before=(0,), after=(2,))),
    ],
    ids=["opened", "truncated", "of other classes", "moved"],
)
def test_labels_are_an_index_and_nothing_else(layers: tuple[AnyLayer, ...]) -> None:
    with pytest.raises(ValueError, match="'bad' reads labels, which are an index"):
        plan_of(*layers, shape=(3,), classes=3)


def counting(*layers: AnyLayer, wire: str = "count", **more: Any) -> Plan:
    top = TopK(name="top", input="input", shape=(3,), shift=0, opened_bits=16, range_bits=8, result="share")
    guess = Open(name="g", input="top", shape=(3,))
    return Plan(
        ring_bits=32,
        input=Input(shape=(3,), frac_bits=0, low=-128, high=128, classes=more.pop("classes", 3)),
        layers=(top, guess, ROW, OPEN_ROW, *layers) if more.pop("labels", True) else (top, guess, *layers),
        output=Output(wire=wire, shape=more.pop("shape", (1,)), kind="count", **more),
    )


def of_both(left: str, right: str) -> tuple[AnyLayer, ...]:
    both = Mul(name="m", left=left, right=right, left_shape=(3,), right_shape=(3,))
    return both, Sum(name="count", input="m", shape=(3,), axes=(0,))


def test_a_count_is_of_right_labels_and_of_nothing_else() -> None:
    key = PrivateKey.generate().public.text()
    counting(*of_both("g", "r"))
    counting(*of_both("r", "g"), owner_key=key)
    more = Open(name="i", input="input", shape=(3,))
    weighted = (
        Combine(name="w", inputs=("top",), shapes=((3,),), factors=(1000,)),
        Open(name="x", input="w", shape=(3,)),
    )
    wrong: list[tuple[tuple[AnyLayer, ...], dict[str, Any]]] = [
        ((), {"wire": "input", "shape": (3,)}),
        ((), {"wire": "row", "shape": (3,)}),
        ((), {"wire": "input", "shape": (3,), "classes": None, "labels": False, "owner_key": key}),
        ((more, *of_both("i", "r")), {}),
        (of_both("r", "r"), {}),
        (of_both("g", "g"), {}),
        ((*weighted, *of_both("x", "r")), {}),
    ]
    for layers, how in wrong:
        with pytest.raises(ValueError, match="not a count of right labels"):
            counting(*layers, **how)
