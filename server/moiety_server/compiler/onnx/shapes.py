"""ONNX's operators that put values into public places, and its products with constants on either side."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from moiety_server.compiler import arithmetic, ir, layers, placements
from moiety_server.compiler import operations as ops
from moiety_server.compiler.builder import Builder
from moiety_server.compiler.onnx.operators import OnnxNode, Result, by_item
from moiety_server.compiler.onnx.resizing import Resizing

_MATRIX = 1 << 22  # numbers of the matrix of one axis: from 2,048 to 2,048

Translate = Callable[[Builder, OnnxNode], Result]


def _places(b: Builder, node: OnnxNode, index: int) -> Tensor:
    value = node[index]
    b.require(
        isinstance(value, Tensor) and not value.is_floating_point(),
        "takes places that are computed from the input",
        "an index would be a secret: publish what comes behind this look-up, and let the client send the vectors",
    )
    return value.long()  # type: ignore[no-any-return]


def _gather(b: Builder, node: OnnxNode) -> ir.Node:
    places = _places(b, node, 1)
    return placements.gather(b, node.x, ops.axis(b, node.x, node.get("axis", 0), "picks from"), places)


def _moved(b: Builder, node: OnnxNode, move: Callable[[Tensor], Tensor]) -> ir.Node:
    """Move values as `move` moves the places of a file without a batch, or of one input with a batch of one."""
    numbers = placements.numbered(node.x.shape)
    moved = move(numbers[(None,) * b.lead])
    b.require(not b.lead or len(moved) == 1, "mixes the inputs of a batch", "compute each input of a batch by itself")
    return placements.place(b, node.x, moved[0] if b.lead else moved)


def _gather_elements(b: Builder, node: OnnxNode) -> ir.Node:
    places, axis = _places(b, node, 1), node.get("axis", 0)
    if b.lead:
        along = ops.axis(b, node.x, axis, "picks from")
        b.require(bool((places == places[:1]).all()), "picks other places for each input of a batch")
        places, axis = places[0], along
    places = torch.where(places < 0, places + node.x.shape[axis], places)
    return placements.place(b, node.x, placements.numbered(node.x.shape).gather(axis, places))


def _gather_nd(b: Builder, node: OnnxNode) -> ir.Node:
    places, kept = _places(b, node, 1), node.get("batch_dims", 0)
    b.require(b.lead == 0, "picks places across the batch", "pick along one axis")
    numbers = placements.numbered(node.x.shape)
    if kept:
        flat = numbers.reshape(-1, *numbers.shape[kept:])
        index = places.reshape(len(flat), *places.shape[kept:])
        picked = torch.stack([one[tuple(at.movedim(-1, 0))] for one, at in zip(flat, index, strict=True)])
        return placements.place(b, node.x, picked.reshape(*numbers.shape[:kept], *picked.shape[1:]))
    return placements.place(b, node.x, numbers[tuple(places.movedim(-1, 0))])


def _scattered(b: Builder, x: Any, updates: Any, move: Callable[[Tensor, Tensor], Tensor]) -> ir.Node:
    """Put `updates` into places of x. Either may be a constant. `move` does it with numbers of places."""
    size = math.prod(x.shape)
    moved = move(placements.numbered(x.shape), placements.numbered(updates.shape) + size)
    flat = [b.reshape(v, (math.prod(v.shape),)) if isinstance(v, ir.Node) else v.reshape(-1) for v in (x, updates)]
    return placements.place(b, placements.with_constants(b, flat, 0), moved)


def _scatter_nd(b: Builder, node: OnnxNode) -> ir.Node:
    places = _places(b, node, 1)
    _check_scatter(b, node)

    def move(into: Tensor, updates: Tensor) -> Tensor:
        into[tuple(places.movedim(-1, 0))] = updates
        return into

    return _scattered(b, node.x, node[2], move)


def _scatter_elements(b: Builder, node: OnnxNode) -> ir.Node:
    places, axis = _places(b, node, 1), node.get("axis", 0)
    _check_scatter(b, node)
    places = torch.where(places < 0, places + node.x.shape[axis], places)
    return _scattered(b, node.x, node[2], lambda into, updates: into.scatter(axis, places, updates))


def _check_scatter(b: Builder, node: OnnxNode) -> None:
    kind = node.get("reduction", "none")
    b.require(kind in ("none", b"none"), f"scatters with the reduction {kind}", "put values in places without one")
    b.require(b.lead == 0, "puts values in places across the batch", "put the parts together with Concat")


def _pad(b: Builder, node: OnnxNode) -> ir.Node:
    mode, value = node.get("mode", "constant"), node.constants(2, "value") or [0.0]
    pads, rank = node.constants(1, "pads") or [], len(node.x.shape) + b.lead
    axes = [int(axis) % rank for axis in node.constants(3, "axes") or range(rank)]
    before, after = [0] * rank, [0] * rank
    for axis, low, high in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        before[axis], after[axis] = int(low), int(high)
    b.require(not b.lead or before[0] == after[0] == 0, "pads the batch", "pad the other axes")
    before, after = before[b.lead :], after[b.lead :]
    if mode != "constant":
        return placements.pad_with_values(b, node.x, before, after, mode)
    number = float(value[0] if isinstance(value, list) else value)
    return b.shift(b.pad(b.shift(node.x, -number), before, after), number)


def _resize(b: Builder, node: OnnxNode) -> ir.Node:
    """Translate Resize, and Upsample, whose scales are its second input."""
    x = node.x
    rank = len(x.shape) + b.lead
    scales = node.constants(2 if len(node.inputs) > 2 or node.opset >= 11 else 1, "scales") or []
    sizes = [] if scales else node.constants(3, "sizes") or []
    listed = [int(axis) % rank for axis in node.get("axes") or range(rank)]
    rule = Resizing(
        mode=node.get("mode", "nearest").replace("bilinear", "linear"),
        coordinates=node.get("coordinate_transformation_mode", "half_pixel" if node.opset >= 11 else "asymmetric"),
        nearest=node.get("nearest_mode", "round_prefer_floor" if node.opset >= 11 else "floor"),
        cubic=node.get("cubic_coeff_a", -0.75),
        antialias=bool(node.get("antialias", 0)),
        exclude_outside=bool(node.get("exclude_outside", 0)),
    )
    ratios = _ratios(node, [x.shape[axis - b.lead] if axis >= b.lead else 1 for axis in listed], scales, sizes)
    b.require(len(ratios) == len(listed), "resizes to a computed size", "state the size or the scales")
    new = list(x.shape)
    for axis, (ratio, wanted) in zip(listed, ratios, strict=True):
        if axis >= b.lead:
            new[axis - b.lead] = wanted or math.floor(new[axis - b.lead] * ratio)
    b.check_size(new)
    for axis, (ratio, wanted) in zip(listed, ratios, strict=True):
        if axis < b.lead:
            b.require(ratio == 1 or not scales, "resizes the batch", "resize the other axes")
            continue
        along = axis - b.lead
        n = x.shape[along]
        out = wanted or math.floor(n * ratio)
        if out == n and ratio == 1:
            continue
        b.require(out * n <= _MATRIX, f"resizes {n} to {out} values", "resize less at once")
        matrix = rule.matrix(n, out, ratio)
        if matrix is None:
            b.refuse(f"resizes by the rule {rule.coordinates}", "use half_pixel, align_corners or asymmetric")
        x = placements.weigh(b, x, along, matrix)
    return x  # type: ignore[no-any-return]


def _ratios(node: OnnxNode, given: list[int], scales: Sequence[Any], sizes: Sequence[Any]) -> list[tuple[float, int]]:
    """Return for each axis the scale, and the size where the file states it."""
    if scales:
        return [(float(scale), 0) for scale in scales]
    if (policy := node.get("keep_aspect_ratio_policy", "stretch")) == "stretch":
        return [(size / n, int(size)) for size, n in zip(sizes, given, strict=True)]
    pick = min if policy == "not_larger" else max
    ratio = pick(size / n for size, n in zip(sizes, given, strict=True))
    return [(ratio, math.floor(n * ratio + 0.5)) for n in given]


def _tile(b: Builder, node: OnnxNode) -> ir.Node:
    times = node.constants(1, "repeats")
    b.require(times is not None, "repeats a computed number of times", "state how often")
    return ops.repeat(b, node.x, [int(n) for n in times or []])


def _concat(b: Builder, node: OnnxNode) -> ir.Node:
    parts = [part for part in node.inputs if part is not None]
    first = next(part for part in parts if isinstance(part, ir.Node))
    axis = ops.axis(b, first, node.get("axis", 1), "concatenates along")
    own = [part if isinstance(part, ir.Node) else ops.aligned(b, part, first) for part in parts]
    return placements.with_constants(b, own, axis)


def _split(b: Builder, node: OnnxNode) -> list[ir.Node]:
    sizes, axis = node.constants(1, "split"), ops.axis(b, node.x, node.get("axis", 0), "splits")
    n = node.x.shape[axis]
    if not sizes:
        size = -(-n // node.outputs)
        sizes = [size] * (node.outputs - 1) + [n - size * (node.outputs - 1)]
    return layers.split(b, node.x, [int(size) for size in sizes], axis)


def _depth_to_space(b: Builder, node: OnnxNode) -> ir.Node:
    b.planes(node.x, "DepthToSpace")
    n, (c, h, w) = node.get("blocksize"), node.x.shape
    if node.get("mode", "DCR") == "DCR":
        split = b.permute(b.reshape(node.x, (n, n, c // n // n, h, w)), (2, 3, 0, 4, 1))
    else:
        split = b.permute(b.reshape(node.x, (c // n // n, n, n, h, w)), (0, 3, 1, 4, 2))
    return b.reshape(split, (c // n // n, h * n, w * n))


def _space_to_depth(b: Builder, node: OnnxNode) -> ir.Node:
    b.planes(node.x, "SpaceToDepth")
    n, (c, h, w) = node.get("blocksize"), node.x.shape
    order = (2, 4, 0, 1, 3) if node.get("mode", "DCR") == "DCR" else (0, 2, 4, 1, 3)
    split = b.permute(b.reshape(node.x, (c, h // n, n, w // n, n)), order)
    return b.reshape(split, (c * n * n, h // n, w // n))


def _cumulated(b: Builder, node: OnnxNode) -> ir.Node:
    x = node.x
    axis = ops.axis(b, x, int(_places(b, node, 1)), "adds up along")
    x = placements.flip(b, x, [axis]) if node.get("reverse", 0) else x
    if node.get("exclusive", 0):
        moved = [1 if a == axis else 0 for a in range(len(x.shape))]
        x = b.pad(x, moved, [-n for n in moved])
    x = arithmetic.cumulated(b, x, axis)
    return placements.flip(b, x, [axis]) if node.get("reverse", 0) else x


def _triangle(b: Builder, node: OnnxNode) -> ir.Node:
    shift = int(node[1]) if isinstance(node[1], Tensor) else 0
    b.require(len(node.x.shape) >= 2, "cuts a triangle out of a vector")
    cut = torch.triu if node.get("upper", 1) else torch.tril
    kept = cut(torch.ones(node.x.shape[-2:]), shift).bool()
    return placements.place(b, node.x, torch.where(kept, placements.numbered(node.x.shape), -1))


def _matmul(b: Builder, node: OnnxNode) -> ir.Node:
    x, y = node.operand(0), node.inputs[1]
    if isinstance(x, Tensor) and isinstance(y, ir.Node):
        turned = [*range(len(y.shape) - 2), len(y.shape) - 1, len(y.shape) - 2]
        if x.dim() == 2 and len(y.shape) >= 2:
            return b.permute(b.linear(b.permute(y, turned), x), turned)
        b.require(x.dim() <= 2, "multiplies stacks of matrices", "multiply by one matrix")
        b.require(len(y.shape) == 1 and not b.lead, "multiplies from the left, across the batch", "turn the product")
        return ops.matmul(b, y, x.T if x.dim() == 2 else x)
    return ops.matmul(b, x, y if y is not None else b.refuse("lacks a factor"))


def _gemm(b: Builder, node: OnnxNode) -> ir.Node:
    x, y = node.x, node[1]
    if isinstance(x, Tensor):
        b.require(len(y.shape) == 2, "multiplies from the left", "keep the batch in the first dimension")
        y = b.permute(y, (1, 0)) if not node.get("transB", 0) else y
        made = b.permute(b.linear(y, x.T if node.get("transA", 0) else x), (1, 0))
    else:
        if node.get("transA", 0):
            b.require(b.lead == 0, "transposes its input", "keep the batch in the first dimension")
            x = b.permute(x, (1, 0))
        matrix = ops.secret(b, y, "a matrix")
        made = ops.linear(b, x, matrix if node.get("transB", 0) else matrix.T)
    made = b.scale(made, node.get("alpha", 1.0))
    bias = ops.optional(b, node[2], "a bias")
    return made if bias is None else ops.add(b, made, bias, node.get("beta", 1.0))


OPS: dict[str, Translate] = {
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "ScatterND": _scatter_nd,
    "ScatterElements": _scatter_elements,
    "Pad": _pad,
    "Resize": _resize,
    "Upsample": _resize,
    "Tile": _tile,
    "Concat": _concat,
    "Split": _split,
    "DepthToSpace": by_item(_depth_to_space),
    "SpaceToDepth": by_item(_space_to_depth),
    "CumSum": _cumulated,
    "Trilu": _triangle,
    "MatMul": _matmul,
    "Einsum": lambda b, node: ops.einsum(b, node.get("equation"), [node.operand(i) for i in range(len(node.inputs))]),
    "Gemm": _gemm,
}
