"""ATen's operations that put values into public places: gathers, windows, paddings, resizing, assignment."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from moiety_server.compiler import ir, placements
from moiety_server.compiler import operations as ops
from moiety_server.compiler.builder import Builder
from moiety_server.compiler.operations import Value

_LOOKUP = "publish what comes behind the look-up, and let the client send vectors: an index would be a secret"


def _public(b: Builder, places: Value) -> Tensor:
    if not isinstance(places, Tensor):
        b.refuse("takes places that are computed from the input", _LOOKUP)
    return places if places.dtype == torch.bool else places.long()


def _flip(b: Builder, x: ir.Node, dims: Sequence[int]) -> ir.Node:
    return placements.flip(b, x, [ops.axis(b, x, dim, "turns") for dim in dims])


def _roll(b: Builder, x: ir.Node, shifts: Any, dims: Any) -> ir.Node:
    listed = [dims] if isinstance(dims, int) else dims
    b.require(bool(listed), "rolls the batch", "name the dimensions to roll")
    for shift, dim in zip([shifts] if isinstance(shifts, int) else shifts, listed, strict=True):
        x = placements.roll(b, x, ops.axis(b, x, dim, "rolls"), shift)
    return x


def _index_select(b: Builder, x: ir.Node, dim: int, places: Value) -> ir.Node:
    return placements.gather(b, x, ops.axis(b, x, dim, "picks from"), _public(b, places))


def _index(b: Builder, x: Value, places: Sequence[Value | None]) -> ir.Node:
    """x[:, i, :, j] with constant places, or with constant masks."""
    if not isinstance(x, ir.Node):
        b.refuse("takes places that are computed from the input", _LOOKUP)
    b.require(not places or places[0] is None, "picks from the batch", "compute each input of a batch by itself")
    return placements.place(b, x, placements.numbered(x.shape)[_behind(b, places)])


def _behind(b: Builder, places: Sequence[Value | None]) -> tuple[Any, ...]:
    """Return the places behind the batch. Of lists that lie apart, torch puts the axes before the batch."""
    listed = [at for at, one in enumerate(places) if one is not None]
    b.require(
        not listed or listed[-1] - listed[0] < len(listed), "picks by lists with a whole dimension between them",
        "pick from one dimension after the other",
    )  # fmt: skip
    return tuple(slice(None) if one is None else _public(b, one) for one in places[1:])


def _gather(b: Builder, x: ir.Node, dim: int, places: Value, *_: Any) -> ir.Node:
    axis, found = ops.axis(b, x, dim, "picks from"), ops.aligned(b, _public(b, places), x)
    return placements.place(b, x, placements.numbered(x.shape).gather(axis, found))


def _windows(b: Builder, x: ir.Node, dim: int, size: int, step: int) -> ir.Node:
    axis = ops.axis(b, x, dim, "takes windows of")
    made = placements.windows(b, x, axis, size, step)
    return b.permute(made, [i for i in range(len(made.shape)) if i != axis + 1] + [axis + 1])


def _columns(b: Builder, x: ir.Node, kernel: Any, dilation: Any, padding: Any, stride: Any) -> ir.Node:
    return placements.columns(b, x, ops.pair(kernel), ops.pair(dilation), ops.pair(padding), ops.pair(stride))


def _triangle(cut: Callable[..., Tensor]) -> Callable[..., ir.Node]:
    def cut_out(b: Builder, x: ir.Node, diagonal: int = 0) -> ir.Node:
        b.require(len(x.shape) >= 2, "cuts a triangle out of the batch", "compute each input of a batch by itself")
        kept = cut(torch.ones(x.shape[-2:]), diagonal).bool()
        return placements.place(b, x, torch.where(kept, placements.numbered(x.shape), -1))

    return cut_out


# Padding. Sizes are in torch's order: before and after, for the last axis first.


def _padded(mode: str) -> Callable[..., ir.Node]:
    return lambda b, x, sizes, *_: pad(b, x, sizes, mode)


def pad(b: Builder, x: ir.Node, sizes: Sequence[int], mode: str, value: float | None = None) -> ir.Node:
    if mode == "constant":
        return ops.pad(b, x, sizes, value)
    axes = len(x.shape)
    b.require(len(sizes) <= 2 * axes, "pads the batch", "pad the other dimensions")
    before, after = ([0] * axes + list(reversed(sizes[i::2])) for i in (0, 1))
    return placements.pad_with_values(b, x, before[-axes:], after[-axes:], mode)


# Resizing. torch itself says how much each value weighs: a unit matrix is resized along one axis.


def _resized(operation: Any, axes: int, *, sized: bool, smoothed: bool = False) -> Callable[..., ir.Node]:
    """Translate an operation of torch, given as (x, size, ..., a scale for each axis)."""

    def resized(b: Builder, x: ir.Node, size: Sequence[int] | None, *rest: Any) -> ir.Node:
        b.require(len(x.shape) == axes + 1, f"resizes {len(x.shape) - 1} dimensions", f"resize {axes}")
        flags, scales = (rest[:-axes], rest[-axes:]) if sized else (rest[:-1], rest[-1] or (None,) * axes)
        wanted = size or [math.floor(n * s) for n, s in zip(x.shape[1:], scales, strict=True)]
        b.check_size(wanted)
        b.require(
            not (smoothed and wanted[-1] == 1 < wanted[0]),
            "resizes to a width of 1 with antialias, where PyTorch 2.13 mixes up rows and channels",
            "resize without antialias, or use a pool",
        )
        for along, (m, scale) in enumerate(zip(wanted, scales, strict=True)):
            n = x.shape[along + 1]
            # Two alike in the other axis: torch takes one for another order of the axes.
            unit = torch.eye(n, dtype=torch.float64).reshape(1, n, *(n if i == along else 1 for i in range(axes)))
            unit = unit.expand(1, n, *(n if i == along else 2 for i in range(axes))).contiguous()
            one = [m if i == along else 2 for i in range(axes)]
            ratios = [scale if i == along else None for i in range(axes)]
            made = operation(unit, one, *flags, *ratios)[0]
            matrix = made.select(2 - along, 0).T if axes == 2 else made.T
            x = placements.weigh(b, x, along + 1, matrix)
        return x

    return resized


def _resizing() -> dict[str, Callable[..., ir.Node]]:
    found: dict[str, Callable[..., ir.Node]] = {}
    names = ("upsample_linear1d", "upsample_bilinear2d", "upsample_bicubic2d", "_upsample_bilinear2d_aa")
    nearest = ("upsample_nearest1d", "upsample_nearest2d", "_upsample_nearest_exact1d", "_upsample_nearest_exact2d")
    for name in (*names, "_upsample_bicubic2d_aa", *nearest):
        operation = getattr(torch.ops.aten, name).default
        axes = 1 if "1d" in name else 2
        found[name] = _resized(operation, axes, sized=True, smoothed=name.endswith("_aa"))
        found[f"{name}.vec"] = _resized(operation, axes, sized=False, smoothed=name.endswith("_aa"))
    return found


# Assignment


def _slice_scatter(
    b: Builder, x: Value, source: Value, dim: int, start: int | None, stop: int | None, step: int
) -> ir.Node:
    def move(into: Tensor, values: Tensor, along: int) -> None:
        place = [slice(None)] * along + [slice(start, stop, step)]
        into[tuple(place)] = values

    return _assigned(b, x, source, dim, move)


def _select_scatter(b: Builder, x: Value, source: Value, dim: int, index: int) -> ir.Node:
    def move(into: Tensor, values: Tensor, along: int) -> None:
        into.select(along, index).copy_(values)

    return _assigned(b, x, source, dim, move)


def _assigned(b: Builder, x: Value, source: Value, dim: int, move: Callable[[Tensor, Tensor, int], None]) -> ir.Node:
    """Assign into a wire or a constant. `dim` counts the batch; along the batch everything is assigned."""
    rank = len(x.shape) + (1 if isinstance(x, ir.Node) else 0)
    if dim % rank == 0:
        b.require(isinstance(source, ir.Node), "assigns along the batch", "compute each input of a batch by itself")
        return source  # type: ignore[return-value]
    return put(b, x, source, lambda into, values: move(into, values, dim % rank - 1))


def put(b: Builder, x: Value, source: Value, move: Callable[[Tensor, Tensor], None]) -> ir.Node:
    """Put `source` into x, either of which may be a constant, as `move` does with numbers of places."""
    own = [v if isinstance(v, ir.Node) else _row(b, v) for v in (x, source)]
    into = placements.numbered(tuple(own[0].shape))
    move(into, placements.numbered(tuple(own[1].shape)) + into.numel())
    flat = [b.reshape(v, (math.prod(v.shape),)) if isinstance(v, ir.Node) else v.reshape(-1) for v in own]
    return placements.place(b, placements.with_constants(b, flat, 0), into)


def _copy(b: Builder, x: Value, source: Value, *_: bool) -> ir.Node:
    """Assign to all places."""

    def move(into: Tensor, values: Tensor) -> None:
        into.copy_(values)

    return put(b, x, source, move)


def _row(b: Builder, constant: Tensor) -> Tensor:
    """The row that a constant holds for every input of a batch."""
    b.require(
        constant.dim() > 0 and bool((constant == constant[:1]).all()),
        "assigns other constants to each input of a batch",
        "compute each input of a batch by itself",
    )
    return constant[0]


def _index_put(b: Builder, x: Value, places: Sequence[Value | None], source: Value, add: bool = False) -> ir.Node:
    b.require(not add, "adds into places", "multiply by a parameter, or put the parts together with torch.cat")
    b.require(places[0] is None, "assigns into the batch", "compute each input of a batch by itself")
    index = _behind(b, places)
    shape = tuple(x.shape) if isinstance(x, ir.Node) else tuple(x.shape[1:])
    target = placements.numbered(shape)[index].shape
    if isinstance(source, Tensor):
        source = source.expand(1, *target) if source.dim() <= len(target) else source

    def move(into: Tensor, values: Tensor) -> None:
        into[index] = values

    return put(b, x, source, move)


def cat(b: Builder, parts: Sequence[Value], dim: int) -> ir.Node:
    first = next(part for part in parts if isinstance(part, ir.Node))
    axis = ops.axis(b, first, dim, "concatenates along")
    own = [part if isinstance(part, ir.Node) else ops.aligned(b, part, first) for part in parts]
    return placements.with_constants(b, own, axis)


def stack(b: Builder, parts: Sequence[Value], dim: int) -> ir.Node:
    first = next(part for part in parts if isinstance(part, ir.Node))
    axis = ops.axis(b, first, dim, "stacks along", extra=1)
    shape = [*first.shape[:axis], 1, *first.shape[axis:]]
    own = [part if isinstance(part, ir.Node) else ops.aligned(b, part, first) for part in parts]
    return placements.with_constants(
        b, [b.reshape(p, shape) if isinstance(p, ir.Node) else p.reshape(shape) for p in own], axis
    )


OPS: dict[str, Callable[..., ir.Node]] = {
    "flip": _flip,
    "roll": _roll,
    "index_select": _index_select,
    "index.Tensor": _index,
    "gather": _gather,
    "unfold": _windows,
    "im2col": _columns,
    "triu": _triangle(torch.triu),
    "tril": _triangle(torch.tril),
    "pad": pad,
    **dict.fromkeys(("reflection_pad1d", "reflection_pad2d"), _padded("reflect")),
    **dict.fromkeys(("replication_pad1d", "replication_pad2d"), _padded("replicate")),
    "_pad_circular": _padded("circular"),
    **_resizing(),
    "slice_scatter": _slice_scatter,
    "select_scatter": _select_scatter,
    "copy": _copy,
    **dict.fromkeys(("index_put", "index_put_"), _index_put),
    **dict.fromkeys(("cat", "concat", "concatenate"), cat),
    "stack": stack,
}
