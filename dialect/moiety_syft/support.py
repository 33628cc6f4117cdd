"""The operations that the dialect computes, by their ATen names, and what it suggests instead of the others."""

from moiety_server.compiler.aten import LIKE, OPS, RESHAPES
from moiety_server.compiler.aten_batched import MOVING
from moiety_server.compiler.hints import hint_for
from moiety_syft.errors import Unsupported
from moiety_syft.handlers import HANDLERS

# These only move values. If this program knows the values, the dialect moves them at once.
MOVES = (RESHAPES - {"_to_copy", "to.dtype", "type_as"}) | {
    *("permute", "transpose.int", "t", "expand", "repeat", "cat", "stack", "slice.Tensor", "select.int", "narrow"),
    *("split.Tensor", "split_with_sizes", "unbind.int", "index.Tensor", "index_select", "flip"),
}
_INSTEAD = {
    "index.Tensor": "take slices of results: a tensor can index only what this program shares itself",
    "_softmax": "use argmax, as the largest output is the likeliest class, or call get() and then softmax",
    "_log_softmax": "use argmax, as the largest output is the likeliest class, or call get() and then log_softmax",
    "native_dropout": "call the model's eval method first: dropout draws random numbers",
    "empty_like": "call the model's eval method first: dropout draws random numbers",
    "bernoulli": "call the model's eval method first: the operation draws random numbers",
    "_local_scalar_dense": "call get() first, if this program may know the value",
    "equal": "compare elements with x.eq(y), and call get() on the result, if this program may know it",
    "sort": "use argmax or max",
    "topk": "use argmax or max",
    "div": "divide by numbers or plain tensors only",
}


def check(name: str, place: str) -> None:
    """Raise Unsupported for an operation that the dialect does not compute. The text says what to do instead."""
    if name in HANDLERS or name in OPS or name in MOVES | RESHAPES | MOVING | LIKE:
        return
    hint = _INSTEAD.get(name) or _INSTEAD.get(name.partition(".")[0]) or hint_for("", name)
    raise Unsupported(f"{place}{name} is not supported on secrets. Instead: {hint}")
