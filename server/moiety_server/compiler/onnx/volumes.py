"""The operators of ONNX that have a 3-d form: convolutions and pools over (C, D, H, W)."""

from collections.abc import Callable, Sequence
from typing import Any

from moiety_server.compiler import ir, layers, volumes
from moiety_server.compiler import operations as ops
from moiety_server.compiler.builder import Builder
from moiety_server.compiler.onnx.operators import OnnxNode
from moiety_server.compiler.volumes import Triple, triple


def _sides(node: OnnxNode, kernel: Sequence[int], stride: Triple, dilation: Triple) -> tuple[Triple, Triple]:
    """Return the padding before and behind each axis."""
    auto = node.get("auto_pad", "NOTSET")
    pads = [0] * 6 if auto == "VALID" else node.get("pads", [0] * 6)
    if auto.startswith("SAME"):
        reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
        total = [max(0, (-(-n // s) - 1) * s + r - n) for n, s, r in zip(node.x.shape[1:], stride, reach, strict=True)]
        less, more = [n // 2 for n in total], [n - n // 2 for n in total]
        pads = less + more if auto == "SAME_UPPER" else more + less
    return triple(pads[:3]), triple(pads[3:])


def _conv(b: Builder, node: OnnxNode) -> ir.Node:
    weight, bias = ops.secret(b, node[1], "a kernel"), ops.optional(b, node[2], "a bias")
    stride, dilation = triple(node.get("strides", 1)), triple(node.get("dilations", 1))
    before, after = _sides(node, weight.shape[2:], stride, dilation)
    return volumes.conv(b, node.x, weight, bias, stride, before, after, dilation, node.get("group", 1))


def _max_pool(b: Builder, node: OnnxNode) -> list[ir.Node]:
    kernel, stride = triple(node.get("kernel_shape")), triple(node.get("strides", 1))
    dilation = triple(node.get("dilations", 1))
    before, after = _sides(node, kernel, stride, dilation)
    return [volumes.max_pool(b, node.x, kernel, stride, before, dilation, bool(node.get("ceil_mode", 0)), after)]


def _average_pool(b: Builder, node: OnnxNode) -> ir.Node:
    kernel, stride = triple(node.get("kernel_shape")), triple(node.get("strides", 1))
    b.require(max(node.get("dilations", [1])) == 1, "a dilated average pool")
    before, after = _sides(node, kernel, stride, (1, 1, 1))
    ceil, count = bool(node.get("ceil_mode", 0)), bool(node.get("count_include_pad", 0))
    return volumes.avg_pool(b, node.x, kernel, stride, before, ceil, count, after=after)


VOLUMES: dict[str, Callable[[Builder, OnnxNode], Any]] = {
    "Conv": _conv,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": lambda b, node: volumes.adaptive(b, node.x, (1, 1, 1), layers.adaptive_avg_pool),
    "GlobalMaxPool": lambda b, node: volumes.adaptive(b, node.x, (1, 1, 1), layers.adaptive_max_pool),
}
