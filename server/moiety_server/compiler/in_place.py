"""In-place operations of an exported graph as new values, without a second trace of it.

torch's own way (`run_decompositions`) runs the whole graph again, which takes longer than to export it. Most networks
of pictures have no more than activations and residuals in place, of values that nothing else holds. For those, an
operation that gives a new value does the same, once all that reads the old value later reads the new one.
"""

from typing import Any

import torch
from torch import fx

# Operations that the compiler reads as export writes them, each with a tensor of its own as its result.
_FRESH = {
    *("conv2d", "linear", "batch_norm", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "mean.dim", "cat"),
    *("add.Tensor", "mul.Tensor", "relu", "hardtanh", "silu", "sigmoid", "hardswish", "hardsigmoid", "gelu"),
}
_IN_PLACE = {
    *("relu_", "hardtanh_", "silu_", "sigmoid_", "hardswish_", "hardsigmoid_", "add_.Tensor", "mul_.Tensor"),
}
_SAME = {"dropout", "dropout_"}
_ALIASES = {"flatten.using_ints", *_SAME}  # may have the memory of what they read
_TRAINING = {"batch_norm": 5, "dropout": 2, "dropout_": 2}  # the place of the argument that says so


def replaced(graph: fx.Graph) -> bool:
    """Write the graph's in-place operations as new values. Returns False, and changes nothing, where the graph has
    anything but the operations above, or where a value that is changed has other names."""
    calls = [node for node in graph.nodes if node.op not in ("placeholder", "output")]
    if not all(_is_known(node) for node in calls):
        return False
    changing = [node for node in calls if _name(node) in _IN_PLACE]
    if not all(_is_alone(node.args[0]) and _keeps_type(node) for node in changing):
        return False
    order = {node: at for at, node in enumerate(graph.nodes)}
    for node in (one for one in calls if _name(one) in _ALIASES):
        flat = _name(node) not in _SAME
        node.target = torch.ops.aten.view.default if flat else torch.ops.aten.dropout.default
        node.args = (node.args[0], list(node.meta["val"].shape)) if flat else node.args
    for node in changing:
        operation, _, overload = _name(node).partition(".")
        node.target = getattr(getattr(torch.ops.aten, operation.removesuffix("_")), overload or "default")
        for reader in [one for one in node.args[0].users if order[one] > order[node]]:
            reader.replace_input_with(node.args[0], node)
    return True


def _is_known(node: fx.Node) -> bool:
    name = _name(node)
    if name in _TRAINING and node.args[_TRAINING[name] :][:1] != (False,):
        return False
    return name in _FRESH or name in _IN_PLACE or name in _ALIASES


def _is_alone(value: Any) -> bool:
    """Whether a value is a tensor of its own, and no reader has another name for it."""
    made = isinstance(value, fx.Node) and _name(value) in _FRESH | _IN_PLACE
    return made and all(_name(reader) not in _ALIASES for reader in value.users)


def _keeps_type(node: fx.Node) -> bool:
    """Whether the new value would have the type of the old one, which an operation in place never changes."""
    return len({one.meta["val"].dtype for one in (node, *node.all_input_nodes)}) == 1


def _name(node: fx.Node) -> str:
    return str(node.target).removeprefix("aten.").removesuffix(".default")
