"""What torch's operations do to tensors whose batch is not their first axis alone."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from moiety_server.compiler.batched import HINT, Batched, Wire, aligned, expanded, located, permuted, unplaced
from moiety_server.compiler.builder import Builder

# These work on each number alone. Constants and other wires broadcast against the first.
_EACH = {
    *("relu", "relu6", "sigmoid", "tanh", "silu", "gelu", "elu", "selu", "celu", "mish", "softplus", "leaky_relu"),
    *("hardsigmoid", "hardswish", "hardtanh", "clamp", "clamp_min", "clamp_max", "clip", "log_sigmoid", "softsign"),
    *("neg", "negative", "square", "exp", "exp2", "log", "sqrt", "rsqrt", "reciprocal", "abs", "erf", "sin", "cos"),
    *("add", "sub", "subtract", "rsub", "mul", "multiply", "div", "divide", "true_divide", "pow"),
    *("maximum", "minimum", "where", "masked_fill", "gt", "lt", "ge", "le"),
}
# These work along axes that one argument names: which one it is.
_DIMS = {
    **dict.fromkeys(("select", "unbind", "mean", "sum", "amax", "amin", "max", "min", "slice", "narrow", "cat"), 1),
    **dict.fromkeys(("concat", "concatenate", "softmax", "_softmax", "log_softmax", "_log_softmax", "cumsum"), 1),
    **dict.fromkeys(("logsumexp", "index_select", "flip"), 1),
    **dict.fromkeys(("split", "split_with_sizes", "unsafe_split", "chunk", "roll"), 2),
}
_DROPS = {"select": True, "unbind": True}  # the axis, always
_KEEPS = {"mean": 2, "sum": 2, "amax": 2, "amin": 2, "max": 2, "min": 2, "logsumexp": 2}  # unless this is set
# These work on matrices, the last two axes, or on the last one with a constant.
_PRODUCTS = {"matmul", "mm", "bmm", "scaled_dot_product_attention"}
# These may put the batch elsewhere.
MOVING = {"permute", "transpose.int", "t", "expand"}


def moved(b: Builder, name: str, arguments: Sequence[Any]) -> Wire:
    """Translate what may move the batch."""
    x = arguments[0]
    if name == "expand":
        return expanded(b, x, arguments[1])
    rank = located(x).rank
    order = list(range(rank))
    if name == "permute":
        order = list(arguments[1])
    else:
        one, other = (0, rank - 1) if name == "t" else arguments[1:3]
        order[one], order[other] = order[other], order[one]
    return permuted(b, x, order)


def along(b: Builder, name: str, arguments: Sequence[Any]) -> tuple[list[Any], Batched]:
    """Return the arguments for wires that have the batch first, and where the batch of the result is.

    Refuses an operation that could mix it up.
    """
    kind = name.partition(".")[0]
    if kind in _EACH:
        return aligned(b, arguments)
    if kind in _PRODUCTS:
        return _product(b, kind, arguments)
    if kind in _LAST:
        place = located(arguments[0])
        _check_last(b, place, _LAST[kind](arguments))
        return list(unplaced(arguments)), place
    b.require(kind in _DIMS and arguments[_DIMS[kind]] is not None, "computes across the batch", HINT)
    return _axes(b, kind, list(arguments), _DIMS[kind])


# These work on the last axes: how many.
_LAST: dict[str, Callable[[Sequence[Any]], int]] = {
    "linear": lambda arguments: 1,
    "layer_norm": lambda arguments: len(arguments[1]),
    "rms_norm": lambda arguments: len(arguments[1]),
}


def _check_last(b: Builder, place: Batched, count: int) -> None:
    b.require(place.axis < place.rank - count, "computes across the batch", HINT)


def _product(b: Builder, kind: str, arguments: Sequence[Any]) -> tuple[list[Any], Batched]:
    """Leave a matrix that is constant as it is. Other factors have as many axes as one another."""
    if isinstance(arguments[1], Tensor) and arguments[1].dim() <= 2:
        place = located(arguments[0])
        _check_last(b, place, 1)
        return list(unplaced(arguments)), place
    made, place = aligned(b, arguments)
    _check_last(b, place, 2)
    return made, place


def _axes(b: Builder, kind: str, arguments: list[Any], at: int) -> tuple[list[Any], Batched]:
    if isinstance(arguments[0], list | tuple):
        arguments[0], place = aligned(b, arguments[0])
    else:
        place = located(arguments[0])
    dims = arguments[at]
    listed = [dims] if isinstance(dims, int) else list(dims)
    own = [place.own(b, dim) for dim in listed]
    arguments[at] = own[0] if isinstance(dims, int) else own
    drops = kind in _DROPS or (kind in _KEEPS and not arguments[_KEEPS[kind]])
    result = place.without([dim % place.rank for dim in listed]) if drops else place
    return list(unplaced(arguments)), result
