"""The operations that the dialect computes, by their ATen names, and what it suggests instead of the others."""

from moiety_server.compiler.aten import OPS, RESHAPES
from moiety_server.compiler.hints import hint_for
from moiety_syft.errors import Unsupported
from moiety_syft.handlers import HANDLERS

# These only move values. If this program knows the values, the dialect moves them at once.
MOVES = (RESHAPES - {"_to_copy", "to.dtype", "type_as"}) | {
    *("permute", "transpose.int", "t", "expand", "repeat", "cat", "stack", "slice.Tensor", "select.int", "narrow"),
    *("split.Tensor", "split_with_sizes", "unbind.int", "index.Tensor", "index_select", "flip"),
}
_INSTEAD = {
    "index.Tensor": "an index that is a tensor works on what you share yourself; on results take slices",
    "_softmax": "the largest output is the likeliest class: argmax; or get() the outputs and take the softmax then",
    "_log_softmax": "the largest output is the likeliest class: argmax; or get() the outputs and take it then",
    "native_dropout": "it drops values at random: call the model's eval method first",
    "empty_like": "dropout draws random numbers: call the model's eval method first",
    "bernoulli": "it draws random numbers: call the model's eval method first",
    "_local_scalar_dense": "get() it first if it may be known",
    "equal": "x.eq(y) compares element by element; get() what may be known",
    "sort": "argmax and max are served",
    "topk": "argmax and max are served",
    "div": "divide by numbers and plain tensors",
}


def check(name: str, place: str) -> None:
    """Raise Unsupported for an operation that the dialect does not compute. The text says what to do instead."""
    if name in HANDLERS or name in OPS or name in MOVES or name in RESHAPES:
        return
    hint = _INSTEAD.get(name) or _INSTEAD.get(name.partition(".")[0]) or hint_for("", name)
    raise Unsupported(f"{place}{name} is not computed on secrets. Instead: {hint}")
