"""Computes what an ONNX file computes of its constants alone: shapes, mostly, and weights that are turned or scaled.

`onnx` evaluates a node only if this module knows the size of the result beforehand, because a file of a hundred bytes
may ask for a tensor of any size. All results together may not be much larger than what the file holds.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import NodeProto, TensorProto
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.origin import without_paths

_BESIDES = 1 << 24  # elements, for files that hold little
_TIMES = 2  # results may have as many times what the file holds: a weight is scaled, then turned
_WORK = 256  # multiply-adds that take as long as writing one element
_MOST_AXES = 64  # numpy's own limit
Array = np.ndarray[Any, Any]
Inputs = Sequence[Array | None]
Attributes = Mapping[str, Any]


class Constants:
    """Evaluates the nodes of a file that holds that many elements. Raises NotServable, without saying where."""

    def __init__(self, elements: int, opsets: Mapping[str, int]) -> None:
        self._left = _BESIDES + _TIMES * elements
        self._opsets = dict(opsets)

    def evaluate(self, node: NodeProto, attributes: Attributes, inputs: Sequence[Tensor | None]) -> list[Tensor]:
        if node.op_type == "Constant":
            return [stored(attributes)]
        if node.op_type not in _SIZES:
            raise NotServable(
                f"{node.op_type} of constants is not supported. Instead: store its result in the file as a constant"
            )
        arrays = [None if value is None else value.numpy() for value in inputs]
        try:
            self._left -= _SIZES[node.op_type](arrays, attributes)
            if self._left < 0:
                raise NotServable("makes constants much larger than the file. Instead: store them in the file")
            run = ReferenceEvaluator(node, opsets=self._opsets).run
            values = run(None, {name: a for name, a in zip(node.input, arrays, strict=True) if a is not None})
            return [tensor(np.asarray(value)) for value in values]
        except NotServable:
            raise
        except Exception as error:  # numpy's and the evaluator's errors have no common class
            raise NotServable(f"cannot be computed: {without_paths(str(error))}") from None


def stored(attributes: Attributes) -> Tensor:
    """Return the tensor of a Constant."""
    for name, dtype in (("value_float", "f4"), ("value_floats", "f4"), ("value_int", "i8"), ("value_ints", "i8")):
        if name in attributes:
            return tensor(np.asarray(attributes[name], dtype=dtype))
    if isinstance(attributes.get("value"), TensorProto):
        return unpacked(attributes["value"])
    raise NotServable("is not a tensor of numbers. Instead: store it in the file as a dense tensor")


def unpacked(packed: TensorProto) -> Tensor:
    """Unpack a tensor. Raises NotServable unless it holds real numbers."""
    try:
        return tensor(onnx.numpy_helper.to_array(packed))
    except (TypeError, ValueError, KeyError, NotImplementedError):
        raise NotServable("is not a tensor of numbers. Instead: store it in the file as floats") from None


def tensor(array: Array) -> Tensor:
    """Copy the array. Float formats that numpy lacks become float32."""
    if array.dtype.kind in "OUSc":
        raise ValueError("the tensor does not hold real numbers")
    kind = array.dtype if array.dtype.kind in "iub" or array.dtype in (np.float32, np.float64) else np.float32
    return torch.from_numpy(np.array(array, dtype=kind))


# For each operator, the most elements that its result can have.


def _alike(inputs: Inputs, _: Attributes) -> int:
    return math.prod(np.broadcast_shapes(*(a.shape for a in inputs if a is not None)))


def _no_larger(inputs: Inputs, _: Attributes) -> int:
    return sum(a.size for a in inputs if a is not None)


def _cast(inputs: Inputs, attributes: Attributes) -> int:
    if attributes["to"] in (TensorProto.STRING, TensorProto.COMPLEX64, TensorProto.COMPLEX128):
        raise NotServable("casts to a type that is not a number")
    return _no_larger(inputs, attributes)


def _gather(inputs: Inputs, attributes: Attributes) -> int:
    data, indices = _given(inputs, 2)
    return int(indices.size * (data.size // max(data.shape[attributes.get("axis", 0)], 1)))


def _expand(inputs: Inputs, _: Attributes) -> int:
    data, shape = _given(inputs, 2)
    return math.prod(np.broadcast_shapes(data.shape, _sizes(shape)))


def _tile(inputs: Inputs, _: Attributes) -> int:
    data, times = _given(inputs, 2)
    return data.size * math.prod(_sizes(times))


def _filled(inputs: Inputs, attributes: Attributes) -> int:
    return math.prod(_sizes(_given(inputs, 1)[0]))


def _range(inputs: Inputs, _: Attributes) -> int:
    start, limit, delta = (float(a.item()) for a in _given(inputs, 3))
    return max(0, math.ceil((limit - start) / delta))


def _pad(inputs: Inputs, attributes: Attributes) -> int:
    data = _given(inputs, 1)[0]
    pads = attributes["pads"] if "pads" in attributes else _sizes(_given(inputs, 2)[1], least=-(1 << 63))
    added = [max(0, before) + max(0, after) for before, after in zip(pads, pads[len(pads) // 2 :], strict=False)]
    return math.prod(n + max(added, default=0) for n in data.shape)


def _product(inputs: Inputs, _: Attributes) -> int:
    """Bound the product of two matrices, however they are turned, and a bias. The bound includes the work."""
    left, right, *bias = _given(inputs, 2)
    if not {left.ndim, right.ndim} <= {1, 2}:
        raise NotServable("multiplies stacks of matrices. Instead: store the product in the file")
    widest = max((n for b in bias for n in b.shape), default=1)
    rows, columns = max(*left.shape, widest), max(*right.shape, widest)
    return int(max(rows * columns, left.size * columns // _WORK))


def _scaled(inputs: Inputs, attributes: Attributes) -> int:
    """Bound quantized weights, with one scale, or with one for each place along an axis."""
    data, *scales = _given(inputs, 2)
    most = max(a.size for a in scales)
    if any(a.ndim > 1 for a in scales) or attributes.get("block_size", 0):
        raise NotServable("has a scale for each block. Instead: use one for each channel")
    along = data.shape[attributes.get("axis", 1)] if most > 1 else 1
    return data.size // max(along, 1) * max(along, most)


def _given(inputs: Inputs, count: int) -> list[Array]:
    given = [a for a in inputs if a is not None]
    if len(given) < count:
        raise NotServable(f"has fewer than {count} inputs")
    return given


def _sizes(array: Array, least: int = 0) -> list[int]:
    sizes: list[int] = array.reshape(-1).tolist() if array.size <= _MOST_AXES * 2 else [least - 1]
    if min(sizes, default=0) < least:
        raise NotServable("asks for an impossible shape")
    return sizes


_ELEMENTWISE = (
    "Abs Add And Ceil Clip Cos Div Equal Exp Floor Greater GreaterOrEqual Less LessOrEqual Log Max Mean Min Mod Mul "
    "Neg Not Or Pow Reciprocal Relu Round Sigmoid Sign Sin Softplus Sqrt Sub Sum Tanh Where Xor"
)
_SAME = (
    "ArgMax ArgMin Concat Flatten Identity LogSoftmax ReduceL1 ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd "
    "ReduceSum ReduceSumSquare Reshape ScatterND Shape Size Slice Softmax Squeeze Transpose Trilu "
    "Unsqueeze"
)
_SIZES: dict[str, Callable[[Inputs, Attributes], int]] = {
    **dict.fromkeys(_ELEMENTWISE.split(), _alike),
    **dict.fromkeys(_SAME.split(), _no_larger),
    "Cast": _cast,
    "CastLike": _no_larger,
    "ConstantOfShape": _filled,
    "DequantizeLinear": _scaled,
    "Expand": _expand,
    "Gather": _gather,
    "Gemm": _product,
    "MatMul": _product,
    "Pad": _pad,
    "Range": _range,
    "Tile": _tile,
}
