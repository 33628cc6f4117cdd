"""The layers of a plan: what each computes, on which shapes, and what it opens. They hold shapes and scales, never a
weight.

A wire is a tensor whose first axis is the row (one input of a batch). Shapes here leave the rows out. There are three
kinds of wire:

    share    [x]_p mod 2^bits, in the plan's ring or, behind a pool, in the smaller one it was opened in
    opened   x^ = x + r: both parties know x^, and only the dealer knows the mask r; secret products read it
    words    <v>_p, bytes shared by XOR, for the client alone
"""

import json
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, FailFast, Field, model_validator

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]
Size = Annotated[int, Field(gt=0, le=2**31)]
Count = Annotated[int, Field(ge=0, le=2**16)]
Shape = Annotated[tuple[Size, ...], Field(min_length=1, max_length=8), FailFast()]
"""FailFast, here and elsewhere, reports a list of a million wrong numbers as one error instead of a million."""
Image = tuple[Size, Size, Size]
"""Channels, height, width."""
Pair = tuple[Size, Size]
Pads = tuple[Count, Count]

MAX_ELEMENTS = 1 << 31


class Public(BaseModel):
    """Base of every public model: immutable, and unknown members are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def canonical_json(value: object) -> bytes:
    """Serialise with sorted keys, no spaces and no NaN. This text is what is hashed and signed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


@dataclass(frozen=True)
class Wire:
    shape: tuple[int, ...]
    bits: int
    kind: Literal["share", "opened", "words"] = "share"


@dataclass(frozen=True)
class Correction:
    """One array that the dealer sends to party 1: `shape` words of numpy type `dtype` for each row."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def ring_dtype(bits: int) -> str:
    """The numpy type of a ring element, in memory and on the wire."""
    return "<i2" if bits <= 16 else "<i4" if bits <= 32 else "<i8"


def ring_bytes(bits: int) -> int:
    """Bytes of one ring element."""
    return np.dtype(ring_dtype(bits)).itemsize


def word_corrections(name: str, shape: tuple[int, ...], bits: int) -> tuple[Correction, ...]:
    """What the dealer sends of words of so many bits. Where 5 or 6 bytes hold one, its low 32 bits come in one array
    and the others in a second: no machine word has so few."""
    if (above := upper_dtype(bits)) is None:
        return (Correction(name, shape, ring_dtype(bits)),)
    return Correction(name, shape, "<i4"), Correction(upper(name), shape, above)


def lift_bits(opened_bits: int, ring_bits: int) -> int:
    """The bits of a word that says how often 2^opened_bits is added to an element of the ring: what lies above the
    opened bits. A ring has 2 bits at least."""
    return max(ring_bits - opened_bits, 2)


def upper_dtype(bits: int) -> str | None:
    """The numpy type of the second array; None where there is none."""
    return None if not 32 < bits <= 48 else "|u1" if bits <= 40 else "<u2"


def upper(name: str) -> str:
    """The name of the second array."""
    return f"{name} upper"


def packed(bits: int) -> int:
    """The number of bytes that hold that many bits."""
    return (bits + 7) // 8


class Layer(Public):
    """A node of the graph."""

    name: Name

    @property
    def reads(self) -> tuple[str, ...]:
        raise NotImplementedError

    @property
    def input_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of each wire that the layer reads."""
        raise NotImplementedError

    @property
    def output_shape(self) -> tuple[int, ...]:
        raise NotImplementedError

    def output(self, inputs: tuple[Wire, ...], ring_bits: int) -> Wire:
        """The wire that the layer makes. Raises ValueError when an input is of the wrong kind."""
        if any(wire.kind != "share" or wire.bits != inputs[0].bits for wire in inputs):
            raise ValueError("reads shares that are not of one ring")
        return Wire(self.output_shape, inputs[0].bits)

    def weights(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the secret tensors that the owner uploads."""
        return {}

    def corrections(self, ring_bits: int) -> tuple[Correction, ...]:
        return ()

    def openings(self, ring_bits: int, rows: int) -> tuple[int, ...]:
        """Bytes that each party sends, round by round, for `rows` rows that are evaluated together."""
        return ()

    @property
    def multiply_adds(self) -> int:
        """The number of ring multiplications in the online product, for one row."""
        return 0

    @property
    def comparisons(self) -> int:
        """The number of signs that one row looks up."""
        return 0


class Unary(Layer):
    input: Name
    shape: Shape

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.input,)

    @property
    def input_shapes(self) -> tuple[tuple[int, ...], ...]:
        return (self.shape,)

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.shape

    @property
    def size(self) -> int:
        return math.prod(self.shape)


class Open(Unary):
    """Opens x^ = x + r under a mask r of its own: the parties reveal x^ to each other, never x. Any number of secret
    products then read x^. 1 round."""

    op: Literal["open"] = "open"

    def output(self, inputs: tuple[Wire, ...], ring_bits: int) -> Wire:
        if inputs[0] != Wire(self.shape, ring_bits):
            raise ValueError("opens what is not shares in the plan's ring")
        return Wire(self.shape, ring_bits, "opened")

    def openings(self, ring_bits: int, rows: int) -> tuple[int, ...]:
        return (rows * self.size * ring_bytes(ring_bits),)


class Product(Layer):
    """Base of the layers that read opened (masked) wires and yield shares, with one correction of the output's size."""

    def output(self, inputs: tuple[Wire, ...], ring_bits: int) -> Wire:
        if any(wire.kind != "opened" for wire in inputs):
            raise ValueError("reads wires that no layer has opened")
        return Wire(self.output_shape, ring_bits)

    def corrections(self, ring_bits: int) -> tuple[Correction, ...]:
        return (Correction("product", self.output_shape, ring_dtype(ring_bits)),)

    @property
    def multiply_adds(self) -> int:
        return math.prod(self.output_shape)


class Linear(Product, Unary):
    """y = x W^T + b over the last axis."""

    op: Literal["linear"] = "linear"
    out_features: Size
    bias: bool = True

    @property
    def output_shape(self) -> tuple[int, ...]:
        return (*self.shape[:-1], self.out_features)

    @property
    def multiply_adds(self) -> int:
        return self.size * self.out_features

    def weights(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the weight in torch's layout, (out, in), and of the bias."""
        shapes: dict[str, tuple[int, ...]] = {"weight": (self.out_features, self.shape[-1])}
        return shapes | {"bias": (self.out_features,)} if self.bias else shapes


class Conv(Product, Unary):
    """2-d convolution, as torch.nn.Conv2d, or ConvTranspose2d when `transposed`."""

    op: Literal["conv"] = "conv"
    shape: Image
    out_channels: Size
    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pads = (0, 0)
    dilation: Pair = (1, 1)
    groups: Size = 1
    transposed: bool = False
    output_padding: Pads = (0, 0)
    bias: bool = True

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.shape[0] % self.groups or self.out_channels % self.groups:
            raise ValueError("the groups do not divide the channels")
        if min(self.output_shape) < 1:
            raise ValueError("the kernel is larger than the padded input")
        if any(self.output_padding) and not self.transposed:
            raise ValueError("only a transposed convolution has output padding")
        return self

    @cached_property
    def output_shape(self) -> tuple[int, ...]:
        sides = zip(
            self.shape[1:], self.kernel, self.stride, self.padding, self.dilation, self.output_padding, strict=True
        )
        if self.transposed:
            return (self.out_channels, *((n - 1) * s - 2 * p + d * (k - 1) + o + 1 for n, k, s, p, d, o in sides))
        return (self.out_channels, *((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d, _ in sides))

    @property
    def multiply_adds(self) -> int:
        pixels = math.prod(self.shape[1:] if self.transposed else self.output_shape[1:])
        return pixels * math.prod(self.kernel) * self.shape[0] * self.out_channels // self.groups

    def weights(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the weight in torch's layout, and of the bias."""
        ends = (self.shape[0], self.out_channels) if self.transposed else (self.out_channels, self.shape[0])
        shapes: dict[str, tuple[int, ...]] = {"weight": (ends[0], ends[1] // self.groups, *self.kernel)}
        return shapes | {"bias": (self.out_channels,)} if self.bias else shapes


class WireProduct(Product):
    """Base of the products of two wires, neither of which is a weight. Both may be the same wire."""

    left: Name
    right: Name
    left_shape: Shape
    right_shape: Shape

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.left, self.right)

    @property
    def input_shapes(self) -> tuple[tuple[int, ...], ...]:
        return (self.left_shape, self.right_shape)


class Mul(WireProduct):
    """The product of two opened (masked) wires, broadcast as numpy does."""

    op: Literal["mul"] = "mul"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.left_shape) != len(self.right_shape):
            raise ValueError("both wires must have the same number of axes")
        np.broadcast_shapes(self.left_shape, self.right_shape)
        return self

    @cached_property
    def output_shape(self) -> tuple[int, ...]:
        return tuple(np.broadcast_shapes(self.left_shape, self.right_shape))


class MatMul(WireProduct):
    """The matrix product of two opened (masked) wires, left right^T, for each place of the axes before the last two:
    (..., n, d) and (..., m, d) to (..., n, m)."""

    op: Literal["matmul"] = "matmul"

    @model_validator(mode="after")
    def _check(self) -> Self:
        one, other = self.left_shape, self.right_shape
        if min(len(one), len(other)) < 2 or (one[:-2], one[-1]) != (other[:-2], other[-1]):
            raise ValueError("both wires must have the same axes but for the last but one")
        return self

    @cached_property
    def output_shape(self) -> tuple[int, ...]:
        return (*self.left_shape[:-1], self.right_shape[-2])

    @property
    def multiply_adds(self) -> int:
        """Two products, of each wire's opened values with the shares of the other."""
        return 2 * math.prod(self.left_shape) * self.right_shape[-2]


class Bias(Unary):
    """Adds secret constants; `bias_shape` broadcasts against the input's."""

    op: Literal["bias"] = "bias"
    bias_shape: Shape

    @model_validator(mode="after")
    def _check(self) -> Self:
        if np.broadcast_shapes(self.shape, self.bias_shape) != self.shape:
            raise ValueError("the constants do not broadcast against the input")
        return self

    def weights(self) -> dict[str, tuple[int, ...]]:
        return {"bias": self.bias_shape}


class Reshare(Unary):
    """Fresh shares of a wire, which no client chose. A client that chose the shares would choose the dither of what
    reads them. No round."""

    op: Literal["reshare"] = "reshare"

    def output(self, inputs: tuple[Wire, ...], ring_bits: int) -> Wire:
        if inputs[0] != Wire(self.shape, ring_bits):
            raise ValueError("reads what is not shares in the plan's ring")
        return inputs[0]

    def corrections(self, ring_bits: int) -> tuple[Correction, ...]:
        return (Correction("zero", self.shape, ring_dtype(ring_bits)),)
