"""Layers that each party computes alone on its shares. They are linear and public, so they cost time only.

`apply` takes and returns arrays whose first axis is the row, of shares or of plain ring elements.
"""

import math
from functools import cached_property
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import FailFast, Field, model_validator

from moiety_shared.plan.layers import Count, Image, Layer, Name, Pads, Pair, Shape, Unary, Wire, packed

Array = npt.NDArray[Any]
Axis = Annotated[int, Field(ge=0, lt=8)]
Axes = Annotated[tuple[Axis, ...], Field(max_length=8), FailFast()]
Counts = Annotated[tuple[Count, ...], Field(max_length=8), FailFast()]
Names = Annotated[tuple[Name, ...], Field(min_length=1, max_length=256), FailFast()]
Shapes = Annotated[tuple[Shape, ...], Field(min_length=1, max_length=256), FailFast()]
Factor = Annotated[int, Field(ge=-(2**62), le=2**62)]
Place = Annotated[int, Field(ge=0, lt=2**31)]
Places = Annotated[tuple[Place, ...], Field(min_length=1, max_length=1 << 16), FailFast()]
Factors = Annotated[tuple[Factor, ...], Field(min_length=1, max_length=1 << 16), FailFast()]


class Local(Layer):
    """Base of the layers that turn shares into shares of the same ring."""

    @property
    def gains(self) -> tuple[int, ...]:
        """For each wire that the layer reads, the most of its values that one value of the layer adds up."""
        return (1,) * len(self.reads)

    def apply(self, *x: Array) -> Array:
        raise NotImplementedError


class Reshape(Local, Unary):
    op: Literal["reshape"] = "reshape"
    to: Shape

    @model_validator(mode="after")
    def _check(self) -> Self:
        if math.prod(self.to) != self.size:
            raise ValueError("a reshape must keep the number of values")
        return self

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.to

    def apply(self, *x: Array) -> Array:
        return x[0].reshape(len(x[0]), *self.to)


class Permute(Local, Unary):
    """Puts the axes into `order`, as numpy's transpose does."""

    op: Literal["permute"] = "permute"
    order: Axes

    @model_validator(mode="after")
    def _check(self) -> Self:
        if sorted(self.order) != list(range(len(self.shape))):
            raise ValueError("the order must name each axis once")
        return self

    @property
    def output_shape(self) -> tuple[int, ...]:
        return tuple(self.shape[axis] for axis in self.order)

    def apply(self, *x: Array) -> Array:
        return np.ascontiguousarray(x[0].transpose(0, *(axis + 1 for axis in self.order)))


class Slice(Local, Unary):
    """Takes start : stop : step along one axis."""

    op: Literal["slice"] = "slice"
    axis: Axis
    start: Count
    stop: Annotated[int, Field(gt=0)]
    step: Annotated[int, Field(gt=0)] = 1

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.axis >= len(self.shape) or not self.start < self.stop <= self.shape[self.axis]:
            raise ValueError("the slice lies outside of its input")
        return self

    @property
    def output_shape(self) -> tuple[int, ...]:
        count = len(range(self.start, self.stop, self.step))
        return (*self.shape[: self.axis], count, *self.shape[self.axis + 1 :])

    def apply(self, *x: Array) -> Array:
        index = (slice(None),) * (self.axis + 1) + (slice(self.start, self.stop, self.step),)
        return np.ascontiguousarray(x[0][index])


class Pad(Local, Unary):
    """Puts zeros before and after each axis."""

    op: Literal["pad"] = "pad"
    before: Counts
    after: Counts

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not len(self.before) == len(self.after) == len(self.shape):
            raise ValueError("padding must be given for every axis")
        return self

    @property
    def output_shape(self) -> tuple[int, ...]:
        return tuple(b + n + a for b, n, a in zip(self.before, self.shape, self.after, strict=True))

    def apply(self, *x: Array) -> Array:
        return np.pad(x[0], ((0, 0), *zip(self.before, self.after, strict=True)))


class Upsample(Local, Unary):
    """Repeats the nearest neighbour, by whole factors."""

    op: Literal["upsample"] = "upsample"
    shape: Image
    factors: Pair

    @property
    def output_shape(self) -> tuple[int, ...]:
        return (self.shape[0], self.shape[1] * self.factors[0], self.shape[2] * self.factors[1])

    def apply(self, *x: Array) -> Array:
        return np.ascontiguousarray(x[0].repeat(self.factors[0], axis=2).repeat(self.factors[1], axis=3))


class Keep(Local, Unary):
    """Keeps the values at public places and makes the others 0. `keys` has a bit for each of `keys_shape`, which
    broadcasts against the input's: 1 for a value that is kept, most significant bit of a byte first, in hexadecimal."""

    op: Literal["keep"] = "keep"
    keys: Annotated[str, Field(pattern=r"^([0-9a-f]{2})+$", max_length=1 << 18)]
    keys_shape: Shape

    @model_validator(mode="after")
    def _check(self) -> Self:
        if np.broadcast_shapes(self.shape, self.keys_shape) != self.shape:
            raise ValueError("the places do not broadcast against the input")
        if len(self.keys) != 2 * packed(math.prod(self.keys_shape)):
            raise ValueError("has a bit for each place, and no more")
        return self

    @cached_property
    def kept(self) -> Array:
        """1 or 0 for each of `keys_shape`."""
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(self.keys), dtype=np.uint8))
        return bits[: math.prod(self.keys_shape)].reshape(self.keys_shape)

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.shape

    def apply(self, *x: Array) -> Array:
        kept: Array = x[0] * self.kept.astype(x[0].dtype)
        return kept


class Take(Local, Unary):
    """Takes public places along one axis, in any order and any number of times.

    With several tuples of places, each value of the output is the sum of what each of them takes, times its whole
    factor.
    """

    op: Literal["take"] = "take"
    axis: Axis
    places: Annotated[tuple[Places, ...], Field(min_length=1, max_length=256), FailFast()]
    factors: Annotated[tuple[Factors, ...], Field(max_length=256), FailFast()] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.axis >= len(self.shape) or any(max(one) >= self.shape[self.axis] for one in self.places):
            raise ValueError("takes a place that its input does not have")
        if len({len(one) for one in self.places}) != 1 or (len(self.places) > 1 and not self.factors):
            raise ValueError("sums as many places each time, with a factor for each")
        if self.factors and [len(one) for one in self.factors] != [len(one) for one in self.places]:
            raise ValueError("a factor is stated for every place")
        return self

    def output(self, inputs: tuple[Wire, ...], ring_bits: int) -> Wire:
        wire = super().output(inputs, ring_bits)
        if any(abs(factor) >> (wire.bits - 1) for one in self.factors for factor in one):
            raise ValueError("multiplies by more than the ring holds")
        return wire

    @property
    def output_shape(self) -> tuple[int, ...]:
        return (*self.shape[: self.axis], len(self.places[0]), *self.shape[self.axis + 1 :])

    @property
    def gains(self) -> tuple[int, ...]:
        return (max(map(sum, zip(*(map(abs, one) for one in self.factors), strict=True)), default=1),)

    def apply(self, *x: Array) -> Array:
        if not self.factors:
            return x[0].take(self.places[0], axis=self.axis + 1)
        behind = (1,) * (len(self.shape) - self.axis - 1)
        return _total(
            x[0].take(places, axis=self.axis + 1) * np.array(factors, dtype=x[0].dtype).reshape(-1, *behind)
            for places, factors in zip(self.places, self.factors, strict=True)
        )


class Sum(Local, Unary):
    """Sums over some axes, which are dropped. One axis of size 1 remains if none is left."""

    op: Literal["sum"] = "sum"
    axes: Axes

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(set(self.axes)) != len(self.axes) or any(axis >= len(self.shape) for axis in self.axes):
            raise ValueError("the axes must be different axes of the input")
        return self

    @property
    def output_shape(self) -> tuple[int, ...]:
        return tuple(n for axis, n in enumerate(self.shape) if axis not in self.axes) or (1,)

    @property
    def gains(self) -> tuple[int, ...]:
        return (math.prod(self.shape[axis] for axis in self.axes),)

    def apply(self, *x: Array) -> Array:
        total = x[0].sum(axis=tuple(axis + 1 for axis in self.axes), dtype=x[0].dtype)
        return np.ascontiguousarray(total).reshape(len(x[0]), *self.output_shape)


class SumPool(Local, Unary):
    """Sums over windows, with zeros around the input."""

    op: Literal["sum_pool"] = "sum_pool"
    shape: Image
    kernel: Pair
    stride: Pair
    padding: Pads = (0, 0)

    @cached_property
    def output_shape(self) -> tuple[int, ...]:
        sides = zip(self.shape[1:], self.kernel, self.stride, self.padding, strict=True)
        return (self.shape[0], *((n + 2 * p - k) // s + 1 for n, k, s, p in sides))

    @property
    def gains(self) -> tuple[int, ...]:
        return (math.prod(self.kernel),)

    def apply(self, *x: Array) -> Array:
        (ph, pw), (kh, kw), (sh, sw) = self.padding, self.kernel, self.stride
        padded = np.pad(x[0], ((0, 0), (0, 0), (ph, ph), (pw, pw)))
        _, height, width = self.output_shape
        columns = _total(padded[..., j : j + (width - 1) * sw + 1 : sw] for j in range(kw))
        return _total(columns[:, :, i : i + (height - 1) * sh + 1 : sh] for i in range(kh))


class Concat(Local):
    """Joins wires along one axis."""

    op: Literal["concat"] = "concat"
    inputs: Names
    shapes: Shapes
    axis: Axis

    @model_validator(mode="after")
    def _check(self) -> Self:
        rest = {(*s[: self.axis], *s[self.axis + 1 :]) for s in self.shapes}
        if len(self.shapes) != len(self.inputs) or len(rest) != 1 or any(self.axis >= len(s) for s in self.shapes):
            raise ValueError("the shapes do not fit together")
        return self

    @property
    def reads(self) -> tuple[str, ...]:
        return self.inputs

    @property
    def input_shapes(self) -> tuple[tuple[int, ...], ...]:
        return self.shapes

    @property
    def output_shape(self) -> tuple[int, ...]:
        first = self.shapes[0]
        return (*first[: self.axis], sum(s[self.axis] for s in self.shapes), *first[self.axis + 1 :])

    def apply(self, *x: Array) -> Array:
        return np.concatenate(x, axis=self.axis + 1)


class Combine(Local):
    """Sums wires times public whole factors, broadcast as numpy does."""

    op: Literal["combine"] = "combine"
    inputs: Names
    shapes: Shapes
    factors: Annotated[tuple[Factor, ...], Field(max_length=256), FailFast()]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not len(self.shapes) == len(self.inputs) == len(self.factors):
            raise ValueError("every input needs a factor and a shape")
        if len({len(shape) for shape in self.shapes}) != 1:
            raise ValueError("all wires must have the same number of axes")
        np.broadcast_shapes(*self.shapes)
        return self

    def output(self, inputs: tuple[Wire, ...], ring_bits: int) -> Wire:
        wire = super().output(inputs, ring_bits)
        if any(abs(factor) >> (wire.bits - 1) for factor in self.factors):
            raise ValueError("multiplies by a factor that does not fit in the ring")
        return wire

    @property
    def reads(self) -> tuple[str, ...]:
        return self.inputs

    @property
    def input_shapes(self) -> tuple[tuple[int, ...], ...]:
        return self.shapes

    @cached_property
    def output_shape(self) -> tuple[int, ...]:
        return tuple(np.broadcast_shapes(*self.shapes))

    @property
    def gains(self) -> tuple[int, ...]:
        return tuple(map(abs, self.factors))

    def apply(self, *x: Array) -> Array:
        return _total(v if f == 1 else v * v.dtype.type(f) for v, f in zip(x, self.factors, strict=True))


def _total(parts: Any) -> Array:
    """Add the parts up, in place after the first two, so that the taps of a window need no stack of copies."""
    iterator = iter(parts)
    total = next(iterator).copy()
    for part in iterator:
        total = total + part if part.shape != total.shape else np.add(total, part, out=total)
    return np.ascontiguousarray(total)
