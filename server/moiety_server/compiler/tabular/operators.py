"""The operators that prepare a table's columns. Each is affine, so all of them together go into one matrix."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from onnx import TensorProto
from torch import Tensor

from moiety_server.compiler import ir
from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.tabular.categories import binarizer, imputer, label_encoder, one_hot
from moiety_server.compiler.tabular.features import Affine, Features, Mixed, Raw, Step, cast
from moiety_server.compiler.tabular.operator import Operator, mixed, spread
from moiety_server.compiler.tabular.sheet import Array, Sheet

_FLOATS = {TensorProto.FLOAT: np.float32, TensorProto.DOUBLE: np.float64}
_WHOLE = {TensorProto.INT32: np.int32, TensorProto.INT64: np.int64}


def _each(
    x: Affine, sheet: Sheet, steps: Callable[[Any], Step], factors: Array, constants: Array, own: Array
) -> Affine:
    """Apply to every feature i the step of own[i]; it is times factors[i] plus constants[i]."""
    x = x.features(sheet) if isinstance(x, Raw) else x
    if isinstance(x, Mixed):
        factor = factors.astype(np.float64)
        return Mixed(x.matrix * factor[:, None], x.constant * factor + constants)
    changed = [
        feature.after(steps(c), float(a), float(b))
        for feature, c, a, b in zip(x.each, own, factors, constants, strict=True)
    ]
    return replace(x, each=tuple(changed))


# Arithmetic with constants.


def arithmetic(kind: str) -> Callable[[Operator], Affine | None]:
    """Translate Add, Sub, Mul or Div. The function returns None for what is not affine."""

    def translate(node: Operator) -> Affine | None:
        left, right = node.inputs[:2]
        if isinstance(left, Affine) and isinstance(right, Affine):
            if kind not in ("Add", "Sub") or len(left) != len(right):
                return None
            return mixed(left, node.sheet).plus(mixed(right, node.sheet), 1.0 if kind == "Add" else -1.0)
        x, constant = (left, right) if isinstance(left, Affine) else (right, left)
        if not isinstance(x, Affine) or not isinstance(constant, Tensor) or (kind == "Div" and x is right):
            return None
        own = spread(constant.numpy(), len(x))
        ones, zeros, values = np.ones(len(x)), np.zeros(len(x)), own.astype(np.float64)
        steps, factors, constants = {
            "Add": (lambda c: lambda v: v + c, ones, values),
            "Mul": (lambda c: lambda v: v * c, values, zeros),
            "Div": (lambda c: lambda v: v / c, 1 / np.where(values == 0, np.nan, values), zeros),
            "Sub": (lambda c: lambda v: v - c, ones, -values),
            "from": (lambda c: lambda v: c - v, -ones, values),
        }["from" if kind == "Sub" and x is right else kind]
        if not np.isfinite(factors).all():
            raise NotServable("divides by zero")
        return _each(x, node.sheet, steps, factors, constants, own)

    return translate


def negative(node: Operator) -> Affine:
    ones = np.ones(len(node.x))
    return _each(node.x, node.sheet, lambda _: lambda v: -v, -ones, 0 * ones, ones)


def scaler(node: Operator) -> Affine:
    count = len(node.x)
    both = np.column_stack([node.numbers("offset", count, 0.0), node.numbers("scale", count, 1.0)])
    offset, scale = both.astype(np.float64).T

    def steps(c: Array) -> Step:
        return lambda v: (v.astype(np.float32) - c[0]) * c[1]

    return _each(node.x, node.sheet, steps, scale, -offset * scale, both)


# Matrices.


def matmul(node: Operator) -> Affine | ir.Node | None:
    weight = node.inputs[1]
    if not isinstance(node.inputs[0], Affine) or not isinstance(weight, Tensor) or weight.dim() not in (1, 2):
        return None
    if len(weight) != len(node.x):
        raise NotServable(f"multiplies {len(node.x)} features by a matrix of {len(weight)} rows")
    return node.through(weight.double().numpy().reshape(len(weight), -1).T)


def gemm(node: Operator) -> Affine | ir.Node | None:
    weight, *bias = node.inputs[1:]
    if not isinstance(weight, Tensor) or node.get("transA", 0) or not isinstance(node.inputs[0], Affine):
        return None
    matrix = weight.double().numpy() if node.get("transB", 0) else weight.double().numpy().T
    if matrix.ndim != 2 or matrix.shape[1] != len(node.x):
        raise NotServable(f"multiplies {len(node.x)} features by a matrix of shape {matrix.shape}")
    added: Array | float = 0.0
    if bias and bias[0] is not None:
        if not isinstance(bias[0], Tensor):
            return None
        added = spread(bias[0].double().numpy(), len(matrix)) * node.get("beta", 1.0)
    return node.through(matrix * node.get("alpha", 1.0), added)


# Columns.


def concat(node: Operator) -> Affine | None:
    parts = node.inputs
    if not all(isinstance(part, Affine) for part in parts):
        return None
    nested = {part.nested if isinstance(part, Features) else 0 for part in parts}
    axis, rank = node.get("axis", 1), 3 if nested != {0} else 2
    if len(nested) > 1 or max(nested) > 1 or axis not in (rank - 1, -1):
        raise NotServable("joins tensors along another axis than that of features")
    if all(isinstance(part, Raw) and not part.whole for part in parts):
        return Raw(tuple(c for p in parts for c in p.columns), tuple(d for p in parts for d in p.dtypes))
    whole = [part.features(node.sheet) if isinstance(part, Raw) else part for part in parts]
    if any(isinstance(part, Mixed) for part in whole):
        matrices = [mixed(part, node.sheet) for part in whole]
        atoms = len(node.sheet.atoms)
        return Mixed(np.concatenate([m.over(atoms) for m in matrices]), np.concatenate([m.constant for m in matrices]))
    return Features(tuple(one for part in whole for one in part.each), max(nested))


def vectorizer(node: Operator) -> Affine | None:
    floats = [_to_float(node, part) for part in node.inputs]
    return concat(replace(node, inputs=floats, attributes={"axis": 1}))


def _to_float(node: Operator, x: Any) -> Affine:
    return casted(replace(node, inputs=[x], attributes={"to": TensorProto.FLOAT}))


def extractor(node: Operator) -> Affine:
    """Translate ArrayFeatureExtractor, and Gather along the features."""
    if node.get("axis", 1) not in (1, 2, -1):
        raise NotServable("picks rows of the table")
    indices = node.inputs[1]
    if not isinstance(indices, Tensor) or not indices.numel():
        raise NotServable("picks columns by a computed index")
    return picked(node.x, [int(i) for i in indices.reshape(-1)])


def picked(x: Affine, places: Sequence[int]) -> Affine:
    """Return some features, in this order."""
    if isinstance(x, Features) and x.nested > 1:
        raise NotServable("picks from the categories of several columns at once")
    if not all(-len(x) <= place < len(x) for place in places):
        raise NotServable(f"picks a column that is none of the {len(x)}")
    return x.picked([place % len(x) for place in places])


def slice_(node: Operator) -> Affine:
    starts, ends, axes, steps = (
        None if i >= len(node.inputs) or node.inputs[i] is None else node.inputs[i].reshape(-1).tolist()
        for i in range(1, 5)
    )
    if not starts or not ends or axes not in ([1], [-1]) or len(starts) != 1 or steps not in (None, [1]):
        raise NotServable("takes a slice of the table that is no range of columns")
    return picked(node.x, range(*slice(int(starts[0]), int(ends[0])).indices(len(node.x))))


def split(node: Operator) -> list[Affine]:
    sizes = node.inputs[1] if len(node.inputs) > 1 else None
    if not isinstance(sizes, Tensor) or node.get("axis", 0) not in (1, -1) or int(sizes.sum()) != len(node.x):
        raise NotServable("splits the table otherwise than by columns")
    ends = [int(n) for n in sizes.cumsum(0)]
    return [picked(node.x, range(start, end)) for start, end in zip([0, *ends], ends, strict=False)]


def reshape(node: Operator) -> Affine:
    """Translate a Reshape that leaves one row of features for each row of the table."""
    flat, target = len(node.x), node.inputs[1]
    wanted = target.reshape(-1).tolist() if isinstance(target, Tensor) else []
    if wanted not in ([-1, flat], [0, flat], [0, -1]) and not (wanted == [-1] and flat == 1):
        raise NotServable(
            f"reshapes the {flat} features of a row to {wanted}. "
            "Instead: a linear model, trees, or a small network (MLP)"
        )
    return replace(node.x, nested=0) if isinstance(node.x, Features) else node.x


def flatten(node: Operator) -> Affine:
    if node.get("axis", 1) != 1:
        raise NotServable("flattens the rows of the table")
    return replace(node.x, nested=0) if isinstance(node.x, Features) else node.x


def casted(node: Operator) -> Affine:
    to = node.get("to")
    if to in _WHOLE:
        return _to_whole(node.x, _WHOLE[to])
    if to not in _FLOATS:
        raise NotServable("casts a column to what is no number")
    dtype = _FLOATS[to]
    if isinstance(node.x, Mixed):
        return node.x
    if isinstance(node.x, Raw) and all(known is not None and known != np.float32 for known in node.x.dtypes):
        return replace(node.x, dtypes=(dtype,) * len(node.x))  # of numbers that are sent as precisely as that
    if isinstance(node.x, Raw) and set(node.x.dtypes) == {dtype}:
        return node.x
    ones = np.ones(len(node.x))
    return _each(node.x, node.sheet, lambda _: cast(dtype), ones, 0 * ones, ones)


def _to_whole(x: Affine, dtype: Any) -> Affine:
    if isinstance(x, Raw):
        return replace(x, whole=True)
    if isinstance(x, Features) and all(
        np.issubdtype(one.points.dtype, np.integer) for one in x.each if len(one.points)
    ):
        return x
    raise NotServable("cuts numbers to whole ones")


OPERATORS: dict[str, Callable[[Operator], Any]] = {
    **{kind: arithmetic(kind) for kind in ("Add", "Sub", "Mul", "Div")},
    "Neg": negative,
    "Scaler": scaler,
    "Imputer": imputer,
    "Binarizer": binarizer,
    "MatMul": matmul,
    "Gemm": gemm,
    "Concat": concat,
    "FeatureVectorizer": vectorizer,
    "ArrayFeatureExtractor": extractor,
    "Gather": extractor,
    "Slice": slice_,
    "Split": split,
    "Cast": casted,
    "Reshape": reshape,
    "Flatten": flatten,
    "OneHotEncoder": one_hot,
    "LabelEncoder": label_encoder,
    "CategoryMapper": label_encoder,
    "Identity": lambda node: node.x,
    "Dropout": lambda node: node.x,
}
