"""What torch's operations do to tensors whose batch is not their first axis alone."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from string import ascii_letters
from typing import Any

from torch import Tensor

from moiety_server.compiler.batched import HINT, Batched, Wire, aligned, expanded, is_wire, located, permuted, unplaced
from moiety_server.compiler.builder import Builder

# These work on each number alone. Constants and other wires broadcast against the first.
_EACH = {
    *("relu", "relu6", "sigmoid", "tanh", "silu", "gelu", "elu", "selu", "celu", "mish", "softplus", "leaky_relu"),
    *("hardsigmoid", "hardswish", "hardtanh", "clamp", "clamp_min", "clamp_max", "clip", "log_sigmoid", "softsign"),
    *("log1p", "expm1", "tan", "sign"),
    *("neg", "negative", "square", "exp", "exp2", "log", "sqrt", "rsqrt", "reciprocal", "abs", "erf", "sin", "cos"),
    *("add", "sub", "subtract", "rsub", "mul", "multiply", "div", "divide", "true_divide", "pow"),
    *("maximum", "minimum", "where", "masked_fill", "gt", "lt", "ge", "le"),
}
# These work along axes that one argument names: which one it is.
_DIMS = {
    **dict.fromkeys(("select", "unbind", "mean", "sum", "amax", "amin", "max", "min", "slice", "narrow", "cat"), 1),
    **dict.fromkeys(("concat", "concatenate", "softmax", "_softmax", "log_softmax", "_log_softmax", "cumsum"), 1),
    **dict.fromkeys(("logsumexp", "index_select", "flip", "var", "std", "prod"), 1),
    **dict.fromkeys(("split", "split_with_sizes", "unsafe_split", "chunk", "roll", "linalg_vector_norm", "norm"), 2),
}
_DROPS = {"select", "unbind"}  # these drop the axis; and these, unless an argument keeps it: which one
_KEEPS = {
    **dict.fromkeys(("mean", "sum", "amax", "amin", "max", "min", "prod", "logsumexp"), 2),
    **dict.fromkeys(("var", "std", "linalg_vector_norm", "norm"), 3),
}
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
    if kind in _OTHERS:
        return _OTHERS[kind](b, *arguments)
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


def _stack(b: Builder, parts: Sequence[Any], dim: int) -> tuple[list[Any], Batched]:
    made, place = aligned(b, parts)
    at = dim % (place.rank + 1)
    behind = at <= place.axis
    own = at + 1 if behind or not place.is_alone else at
    return [made, own], replace(place, axis=place.axis + behind)


def _pad(b: Builder, x: Wire, sizes: Sequence[int], *rest: Any) -> tuple[list[Any], Batched]:
    """Leave the batch out of the sizes, which are before and after each axis, the last one first."""
    place = located(x)
    at = 2 * (place.rank - 1 - place.axis)
    b.require(not any(sizes[at : at + 2]), "pads the batch", HINT)
    own = [*sizes[:at], *sizes[at + 2 :]] if place.is_alone else sizes
    return [place.node, own, *rest], place


def _index(b: Builder, x: Wire, places: Sequence[Any]) -> tuple[list[Any], Batched]:
    place = located(x)
    listed = [one for one in places if one is not None]
    full = [*places, *[None] * (place.rank - len(places))]
    b.require(len(listed) == 1 and full[place.axis] is None and listed[0].dim() == 1, "picks across the batch", HINT)
    return [place.node, place.first(None, full)], place


def _repeat(b: Builder, x: Wire, times: Sequence[int]) -> tuple[list[Any], Batched]:
    place = located(x).raised(b, len(times))
    b.require(times[place.axis] == 1, "repeats the batch", HINT)
    return [place.node, place.first(1, times)], place


def _einsum(b: Builder, equation: str, parts: Sequence[Any], *rest: Any) -> tuple[list[Any], Batched]:
    """Put the batch's letter before all others, or a new one where others are merged into the batch."""
    given, out = (*equation.replace(" ", "").split("->"), "")[:2]
    letters = given.split(",")
    wires = [(located(part), own) for part, own in zip(parts, letters, strict=True) if is_wire(part)]
    place, letter = wires[0][0], wires[0][1][wires[0][0].axis]
    fits = all((one.before, one.after, own[one.axis]) == (place.before, place.after, letter) for one, own in wires)
    held = all(is_wire(part) or letter not in own for part, own in zip(parts, letters, strict=True))
    b.require(fits and held and letter in out and "." not in equation, f"the einsum {equation} is not supported", HINT)
    free = next(one for one in ascii_letters if one not in equation)

    def first(own: str) -> str:
        return letter + own.replace(letter, "") if place.is_alone else free + own

    own = [first(one) if is_wire(part) else one for part, one in zip(parts, letters, strict=True)]
    result = replace(place, axis=out.index(letter))
    return [f"{','.join(own)}->{first(out)}", unplaced(parts), *rest], result


_OTHERS: dict[str, Callable[..., tuple[list[Any], Batched]]] = {
    "stack": _stack,
    "pad": _pad,
    "constant_pad_nd": _pad,
    "index": _index,
    "repeat": _repeat,
    "einsum": _einsum,
}
