"""Translates each ATen operation to the IR: a table from its name to a function of the builder and its arguments.

The functions take the arguments in the order of the operation's schema, with defaults filled in. A tensor argument is a
node where it depends on the input. Otherwise it is a constant: a parameter, a buffer, or a value computed from these.
"""

from collections.abc import Callable

from torch import Tensor

from moiety_server.compiler import aten_arithmetic, aten_attention, aten_placements, ir, layers, sequences, volumes
from moiety_server.compiler import operations as ops
from moiety_server.compiler.builder import Builder

Result = ir.Node | Tensor | list[ir.Node]

# These change at most the shape, and the exported graph states the new one.
RESHAPES = {
    *("reshape", "reshape_as", "view", "view_as", "_unsafe_view", "flatten", "flatten.using_ints", "unflatten.int"),
    *("squeeze", "squeeze.dim", "squeeze.dims", "unsqueeze", "contiguous", "clone", "alias", "detach", "detach_"),
    *("lift_fresh_copy", "to.dtype", "_to_copy", "type_as"),
    *("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"),
}
# torch writes these out as short compositions of other operations.
REWRITTEN = {
    *("movedim.int", "movedim.intlist", "moveaxis.int", "swapdims", "swapaxes", "expand_as", "hsplit.int"),
    *("tensor_split.sections", "tensor_split.indices", "unsafe_chunk"),
    *("channel_shuffle", "pixel_shuffle", "pixel_unshuffle", "glu", "addcmul", "addcdiv", "mv"),
    *("lerp.Scalar", "cosine_similarity"),
}
# These make constants, and read nothing of a wire but its shape. Those that are like it are one number everywhere.
SHAPED = {"new_zeros", "new_ones", "new_full"}
LIKE = {"zeros_like", "ones_like", "full_like", "fill.Scalar", "fill.Tensor"}
# These may have a constant on their left.
EITHER_SIDE = {
    *("add", "sub", "subtract", "rsub", "mul", "multiply", "div", "divide", "true_divide"),
    *("linear", "matmul", "mm", "addmm", "maximum", "minimum", "max", "min", "where", "pow", "masked_fill"),
    *("gt", "lt", "ge", "le", "greater", "less", "greater_equal", "less_equal", "logical_and", "logical_or"),
    *("bitwise_and", "bitwise_or", "__and__", "__or__"),
    *("slice_scatter", "select_scatter", "copy", "index_put", "index_put_", "index"),
}

# These read and give 0 and 1, which torch calls False and True.
LOGIC = aten_arithmetic.LOGIC
DECIDING = aten_arithmetic.COMPARISONS | LOGIC | {"slice", "select", "expand", "unsqueeze", "view"}

OPS: dict[str, Callable[..., Result]] = {
    **aten_arithmetic.OPS,
    **aten_placements.OPS,
    "linear": ops.linear,
    "matmul": ops.matmul,
    "mm": ops.matmul,
    "bmm": ops.matmul,
    "baddbmm": ops.addmm,
    "scaled_dot_product_attention": aten_attention.attention,
    "addmm": ops.addmm,
    "einsum": ops.einsum,
    **dict.fromkeys(("conv2d", "conv2d.padding"), ops.conv2d),
    **dict.fromkeys(("conv1d", "conv1d.padding"), ops.conv1d),
    "conv_transpose2d.input": ops.conv_transpose2d,
    "conv_transpose1d": ops.conv_transpose1d,
    "_native_batch_norm_legit_no_training": ops.norm,
    "batch_norm": lambda b, *a: ops.norm(b, *a[:5], *a[6:8])[0],  # its sixth argument is False: nothing is trained
    "max_pool2d": ops.max_pool2d,
    "max_pool1d": ops.max_pool1d,
    "max_pool2d_with_indices": lambda b, *a: [ops.max_pool2d(b, *a)],
    "max_pool1d_with_indices": lambda b, *a: [ops.max_pool1d(b, *a)],
    "avg_pool2d": ops.avg_pool2d,
    "avg_pool1d": ops.avg_pool1d,
    "adaptive_avg_pool2d": lambda b, x, size: layers.adaptive_avg_pool(b, x, ops.pair(size)),
    "adaptive_max_pool2d": lambda b, x, size: [layers.adaptive_max_pool(b, x, ops.pair(size))],
    "adaptive_avg_pool1d": lambda b, x, size: layers.flat(
        b, x, lambda x: layers.adaptive_avg_pool(b, x, ops.across(size, 1))
    ),
    "adaptive_max_pool1d": lambda b, x, size: [
        layers.flat(b, x, lambda x: layers.adaptive_max_pool(b, x, ops.across(size, 1)))
    ],
    **dict.fromkeys(("mean", "mean.dim"), ops.mean),
    **dict.fromkeys(("sum", "sum.dim_IntList"), ops.total),
    "amax": ops.amax,
    "max.dim": lambda b, *a: [ops.amax(b, *a)],
    **dict.fromkeys(("add.Tensor", "add.Scalar"), ops.add),
    **dict.fromkeys(
        ("sub.Tensor", "sub.Scalar", "subtract.Tensor", "subtract.Scalar"),
        lambda b, x, y, alpha: ops.add(b, x, y, -alpha),
    ),
    **dict.fromkeys(("rsub.Tensor", "rsub.Scalar"), lambda b, x, y, alpha: ops.add(b, y, x, -alpha)),
    **dict.fromkeys(("mul.Tensor", "mul.Scalar", "multiply.Tensor", "multiply.Scalar"), ops.mul),
    **dict.fromkeys(("neg", "negative"), lambda b, x: b.scale(x, -1.0)),
    "square": lambda b, x: b.mul(x, x),
    "relu": Builder.relu,
    "relu6": lambda b, x: b.clamp(x, 0.0, 6.0),
    "leaky_relu": layers.leaky_relu,
    "prelu": ops.prelu,
    "hardsigmoid": layers.hardsigmoid,
    "hardswish": layers.hardswish,
    **{name: ops.smooth(name) for name in ("sigmoid", "tanh", "silu", "exp")},
    "gelu": lambda b, x, approximate: b.smooth(x, "gelu" if approximate == "none" else "gelu_tanh"),
    "elu": ops.elu,
    "selu": lambda b, x: ops.elu(b, x, 1.6732632423543772, 1.0507009873554805),
    "celu": layers.celu,
    "mish": layers.mish,
    "softplus": ops.softplus,
    "log_sigmoid": lambda b, x: b.scale(b.smooth(b.scale(x, -1.0), "softplus"), -1.0),
    "repeat": ops.repeat,
    "slice.Tensor": ops.slice_,
    "select.int": ops.select,
    "narrow": ops.narrow,
    **dict.fromkeys(("split.Tensor", "split_with_sizes", "unsafe_split.Tensor"), ops.split),
    "chunk": ops.chunk,
    "unbind.int": ops.unbind,
    "constant_pad_nd": ops.pad,
    **sequences.RECURRENT,
    **volumes.VOLUMES,
}
