"""Operators of ONNX whose attributes and types change what they compute: each is right, or refused by name."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.onnx.graph import read_onnx
from tests.compiler.onnx_files import node

INT64, FLOAT, BOOL = TensorProto.INT64, TensorProto.FLOAT, TensorProto.BOOL
Array = np.ndarray[Any, Any]


def saved(
    path: Path, nodes: Sequence[NodeProto], shape: Sequence[int | str], held: dict[str, Any], opset: int = 17
) -> onnx.ModelProto:
    """A file of one input `x` of this shape and one output `y` of as many axes as the reference gives it."""
    secrets = [numpy_helper.from_array(np.asarray(v, None if np.asarray(v).dtype.kind in "ib" else "f4"), k)
               for k, v in held.items()]  # fmt: skip
    inputs = [helper.make_tensor_value_info("x", FLOAT, shape)]
    outputs = [helper.make_tensor_value_info("y", FLOAT, ["A", "B"])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, secrets)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, path / "m.onnx")
    return model


def computed(path: Path, x: Array) -> Array:
    graph = read_onnx(path / "m.onnx")
    alone = graph.nodes[0].shape == x.shape
    rows = torch.from_numpy(x)
    y = graph.run(rows[None] if alone else rows)[graph.output]
    y = torch.softmax(y, 1) if graph.final == "softmax" else y
    values: Array = (y[0] if alone else y).numpy()
    return values


DECIDED = [node("Greater", "x c", "b"), node("Cast", "b", "k", to=INT64)]
REFUSED: dict[str, tuple[str, list[NodeProto], tuple[int | str, ...], dict[str, Any]]] = {
    "whole numbers divided": (
        "whole numbers", [*DECIDED, node("Div", "k two", "d"), node("Cast", "d", to=FLOAT)], ("N", 5),
        {"c": [0.0], "two": [2]},
    ),
    "the mean of whole numbers": (
        "whole numbers", [*DECIDED, node("ReduceMean", "k", "d", axes=[1]), node("Cast", "d", to=FLOAT)], ("N", 5),
        {"c": [0.0]},
    ),
    "whether a sum is not 0": (
        "no.* float", [*DECIDED, node("ReduceSum", "k a", "s"), node("Cast", "s", "d", to=BOOL),
                       node("Cast", "d", to=FLOAT)], ("N", 5), {"c": [0.0], "a": [1]},
    ),
    "whole numbers that wrap": (
        "no.* float", [*DECIDED, node("Mul", "k big", "s"), node("Cast", "s", "d", to=TensorProto.INT8),
                       node("Cast", "d", to=FLOAT)], ("N", 5), {"c": [0.0], "big": [300]},
    ),
    "floats like decisions": (
        "no.* float", [node("Greater", "x c", "b"), node("CastLike", "x b", "k"), node("Cast", "k", to=FLOAT)],
        ("N", 5), {"c": [0.0]},
    ),
    "a shrink that widens": ("shrinks by -0.5", [node("Shrink", "x", lambd=-0.5)], ("N", 3), {}),
    "a CELU that turns": ("alpha -1.5", [node("Celu", "x", alpha=-1.5)], ("N", 3), {}),
    "places for some of the batch": (
        "another batch", [node("GatherElements", "x k", axis=1)], ("N", 3), {"k": np.array([[0, 1]])},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_misread_is_refused(tmp_path: Path, name: str) -> None:
    reason, nodes, shape, held = REFUSED[name]
    saved(tmp_path, nodes, shape, held)
    with pytest.raises(NotServable, match=rf"{reason}.*Instead: "):
        computed(tmp_path, np.zeros([3 if n == "N" else int(n) for n in shape], dtype=np.float32))


@pytest.mark.parametrize("kind", ["ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum"])
def test_a_reduction_of_no_axis_is_what_is_left_of_it(tmp_path: Path, kind: str) -> None:
    saved(tmp_path, [node(kind, "x a", noop_with_empty_axes=1)], ("N", 3), {"a": np.zeros(0, dtype=np.int64)}, 18)
    with pytest.raises(NotServable, match="reduces no axis"):
        read_onnx(tmp_path / "m.onnx")


def test_padding_with_a_computed_number_is_refused(tmp_path: Path) -> None:
    """The file is one for a single input, so that the largest of all values is one number."""
    nodes = [node("ReduceMax", "x", "v", keepdims=0), node("Pad", "x p v")]
    saved(tmp_path, nodes, (2, 3), {"p": np.array([0, 1, 0, 1])})
    with pytest.raises(NotServable):
        read_onnx(tmp_path / "m.onnx")


@pytest.mark.parametrize("nodes", [[node("Add", "x k", broadcast=1, axis=1)], [node("PRelu", "x k")]])
def test_operators_of_old_sets_are_refused(tmp_path: Path, nodes: list[NodeProto]) -> None:
    """Before set 7 constants lay along the axis that the operator named."""
    saved(tmp_path, nodes, ("N", 3, 3, 3), {"k": [1.0, 2.0, 3.0]}, opset=6)
    with pytest.raises(NotServable, match=r"operator set 6\. Instead: convert"):
        read_onnx(tmp_path / "m.onnx")


def test_an_old_softmax_is_over_all_axes_from_its_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 2, 3, 4).numpy()
    expected = torch.from_numpy(x).flatten(1).softmax(1).reshape(x.shape)
    for attributes in ({}, {"axis": 1}, {"axis": -3}):
        saved(tmp_path, [node("Softmax", "x", **attributes)], ("N", 2, 3, 4), {}, opset=11)
        np.testing.assert_allclose(computed(tmp_path, x), expected, rtol=1e-5)
    saved(tmp_path, [node("Softmax", "x", axis=1)], ("N", 2, 3, 4), {}, opset=13)
    np.testing.assert_allclose(computed(tmp_path, x), torch.from_numpy(x).softmax(1), rtol=1e-5)


RIGHT: dict[str, tuple[list[NodeProto], tuple[int | str, ...], dict[str, Any]]] = {
    "a matrix times the whole input": ([node("MatMul", "w x")], (3, 3), {"w": np.arange(9.0).reshape(3, 3)}),
    "a matrix times time by batch": (
        [node("Transpose", "x", "t", perm=[1, 0, 2]), node("MatMul", "w t", "u"),
         node("Transpose", "u", perm=[1, 0, 2])], (3, 3, 4), {"w": np.arange(9.0).reshape(3, 3)},
    ),
    "a matrix of steps": (
        [node("Transpose", "x", "t", perm=[1, 0, 2]), node("Gather", "t k", axis=0)], (3, 3, 4),
        {"k": np.array([[0, 1, 2], [1, 0, 1]])},
    ),
    "constant steps of each sequence": (
        [node("Transpose", "x", "t", perm=[1, 0, 2]), node("Concat", "t k", "c", axis=0),
         node("Transpose", "c", perm=[1, 0, 2])], (2, 3, 4),
        {"k": np.broadcast_to(np.array([[1.0], [2.0]]), (2, 2, 4)).copy()},
    ),
    "rows of a constant": ([node("Add", "x k")], (1, 3), {"k": np.ones((5, 3))}),
    "one decision or another": (
        [node("Greater", "x c", "b"), node("Less", "x d", "e"), node("Or", "b e", "k"), node("Cast", "k", to=FLOAT)],
        ("N", 5), {"c": [0.5], "d": [-0.5]},
    ),
    "a decision and a constant": (
        [node("Greater", "x c", "b"), node("And", "b k", "e"), node("Cast", "e", to=FLOAT)], ("N", 3),
        {"c": [0.1], "k": np.array([True, False, True])},
    ),
    "a sum of decisions": (
        [*DECIDED, node("ReduceSum", "k a", "s"), node("Cast", "s", to=FLOAT)], ("N", 5), {"c": [0.0], "a": [1]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_read_is_right(tmp_path: Path, name: str) -> None:
    nodes, shape, held = RIGHT[name]
    model = saved(tmp_path, nodes, shape, held)
    torch.manual_seed(0)
    x = torch.randn([4 if n == "N" else int(n) for n in shape]).numpy()
    (expected,) = ReferenceEvaluator(model).run(None, {"x": x})
    np.testing.assert_allclose(computed(tmp_path, x), expected, rtol=1e-4, atol=1e-5)


examples = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def compare(path: Path, nodes: Sequence[NodeProto], shape: Sequence[int], held: dict[str, Any], opset: int) -> None:
    """Compare with the reference, on an open batch of which there are three."""
    model = saved(path, nodes, ("N", *shape), held, opset)
    x = torch.randn(3, *shape).numpy()
    (expected,) = ReferenceEvaluator(model).run(None, {"x": x})
    np.testing.assert_allclose(computed(path, x), expected, rtol=1e-4, atol=1e-5)


@examples
@given(
    kind=st.sampled_from(["Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSumExp"]),
    axes=st.lists(st.sampled_from([1, 2, 3]), min_size=1, max_size=3, unique=True),
    negative=st.booleans(),
    keep=st.booleans(),
    opset=st.sampled_from([13, 18]),
)
def test_reductions(tmp_path: Path, kind: str, axes: list[int], negative: bool, keep: bool, opset: int) -> None:
    """Axes are an attribute or, of sums from set 13 and of the others from 18, an input."""
    stated, beside = [axis - 4 if negative else axis for axis in axes], opset == 18 or kind == "Sum"
    given_axes: dict[str, Any] = {} if beside else {"axes": stated}
    made = node(f"Reduce{kind}", "x a" if beside else "x", keepdims=int(keep), **given_axes)
    compare(tmp_path, [made], (2, 3, 4), {"a": np.array(stated)} if beside else {}, opset)


@examples
@given(axis=st.sampled_from([1, 2, -1, -2]), exclusive=st.booleans(), reverse=st.booleans(), step=st.integers(-3, 3))
def test_sums_along_an_axis_and_slices(tmp_path: Path, axis: int, exclusive: bool, reverse: bool, step: int) -> None:
    summed = node("CumSum", "x k", "s", exclusive=int(exclusive), reverse=int(reverse))
    ends = (4, -(1 << 40)) if step < 0 else (-4, 1 << 40)
    held = {name: np.array([value]) for name, value in (("b", ends[0]), ("e", ends[1]), ("a", axis), ("t", step or 1))}
    compare(tmp_path, [summed, node("Slice", "s b e a t")], (5, 4), held | {"k": np.array(axis)}, 14)


@examples
@given(
    mode=st.sampled_from(["constant", "reflect", "edge", "wrap"]),
    pads=st.tuples(*[st.integers(0, 2)] * 4),
    turned=st.booleans(),
    value=st.sampled_from([0.0, -1.5]),
)
def test_paddings(tmp_path: Path, mode: str, pads: tuple[int, ...], turned: bool, value: float) -> None:
    """Axes may be stated in any order, and from the end."""
    axes = [-1, 1] if turned else [1, 2]
    held = {"p": np.array(pads), "v": np.float32(value), "a": np.array(axes)}
    compare(tmp_path, [node("Pad", "x p v a", mode=mode)], (4, 3), held, 19)
