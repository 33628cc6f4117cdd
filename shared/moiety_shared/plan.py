"""The plan: the public description of what the parties compute. Shapes and scales, never a weight.

Everybody who takes part names a plan by its digest, so nobody can be talked into another computation. The plan also
states what a run costs; the formulas are held against the bytes that really crossed the wire. No torch here.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]
Size = Annotated[int, Field(gt=0, le=2**31)]
FracBits = Annotated[int, Field(ge=0, le=60)]


class Public(BaseModel):
    """Base of every public model: immutable, and unknown members are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True)
class Correction:
    """One array that the dealer sends to party 1: `shape` words of numpy type `dtype` for each row."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Cost:
    """What a layer or plan costs for some number of rows.

    `online_bytes` is what each party sends; `offline_bytes` is what the dealer sends (to party 1 only);
    `multiply_adds` are the ring multiplications of one online matrix product.
    """

    rounds: int = 0
    online_bytes: int = 0
    offline_bytes: int = 0
    multiply_adds: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.rounds + other.rounds,
            self.online_bytes + other.online_bytes,
            self.offline_bytes + other.offline_bytes,
            self.multiply_adds + other.multiply_adds,
        )


def ring_dtype(ring_bits: int) -> str:
    """The numpy type of a ring element, in memory and on the wire."""
    return "<i4" if ring_bits <= 32 else "<i8"


def ring_bytes(ring_bits: int) -> int:
    """Bytes of one ring element."""
    return np.dtype(ring_dtype(ring_bits)).itemsize


def _packed(bits: int) -> int:
    return (bits + 7) // 8


class Linear(Public):
    """y = x W^T + b. Opens its input (1 round); the scale of y is that of x plus `weight_frac_bits`."""

    op: Literal["linear"] = "linear"
    name: Name
    input: Name
    in_features: Size
    out_features: Size
    weight_frac_bits: FracBits
    bias: bool = True

    @property
    def input_size(self) -> int:
        return self.in_features

    @property
    def output_size(self) -> int:
        return self.out_features

    def weights(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the secret tensors: the weight as torch lays it out, (out, in), and the bias."""
        shapes: dict[str, tuple[int, ...]] = {"weight": (self.out_features, self.in_features)}
        return shapes | {"bias": (self.out_features,)} if self.bias else shapes

    def corrections(self, ring_bits: int) -> tuple[Correction, ...]:
        return (Correction("product", (self.out_features,), ring_dtype(ring_bits)),)

    def cost(self, ring_bits: int, rows: int) -> Cost:
        return Cost(
            rounds=1,
            online_bytes=rows * self.in_features * ring_bytes(ring_bits),
            offline_bytes=rows * sum(c.row_bytes for c in self.corrections(ring_bits)),
            multiply_adds=rows * self.in_features * self.out_features,
        )


class Truncate(Public):
    """floor((y + dither) / 2^frac_bits), the dither public. Needs |y| < 2^(k-2). 1 round."""

    op: Literal["truncate"] = "truncate"
    name: Name
    input: Name
    size: Size
    frac_bits: FracBits

    @property
    def input_size(self) -> int:
        return self.size

    @property
    def output_size(self) -> int:
        return self.size

    def weights(self) -> dict[str, tuple[int, ...]]:
        return {}

    def corrections(self, ring_bits: int) -> tuple[Correction, ...]:
        return (Correction("trunc", (2, self.size), ring_dtype(ring_bits)),)

    def cost(self, ring_bits: int, rows: int) -> Cost:
        offline = rows * sum(c.row_bytes for c in self.corrections(ring_bits))
        return Cost(rounds=1, online_bytes=rows * self.size * ring_bytes(ring_bits), offline_bytes=offline)


class ReLU(Public):
    """max(0, floor((y + dither) / 2^frac_bits)): ReLU and truncation in one. 3 rounds.

    `range_bits` is B with -2^B <= y <= 2^B - 2^frac_bits guaranteed (B <= k - 2; the upper end leaves room for the
    dither): the sign is compared on bits frac_bits .. B - 1 only, cut into digits of at most `digit_bits` bits.
    """

    op: Literal["relu"] = "relu"
    name: Name
    input: Name
    size: Size
    frac_bits: FracBits
    range_bits: Annotated[int, Field(ge=1, le=62)]
    digit_bits: Annotated[int, Field(ge=1, le=5)] = 5

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.range_bits <= self.frac_bits:
            raise ValueError("range_bits must exceed frac_bits: nothing would be left to compare")
        if len(self.digits) > 4:
            raise ValueError("more than 4 digits: the opened bits of a wire would not fit one byte")
        return self

    @property
    def input_size(self) -> int:
        return self.size

    @property
    def output_size(self) -> int:
        return self.size

    @property
    def digits(self) -> tuple[tuple[int, int], ...]:
        """(lowest bit, number of bits) of each digit, lowest digit first."""
        starts = range(self.frac_bits, self.range_bits, self.digit_bits)
        return tuple((at, min(self.digit_bits, self.range_bits - at)) for at in starts)

    @property
    def lookups(self) -> int:
        """One-time tables per wire: a less-than table per digit, an equality table per digit but the lowest."""
        return 2 * len(self.digits) - 1

    @property
    def table_dtype(self) -> str:
        """The word that holds one table of 2^digit_bits bits."""
        return f"<u{max(1, 2**self.digit_bits // 8)}"

    @property
    def monomials(self) -> int:
        """Products of the dealer's mask bits that the sign polynomial needs; see protocols.sign."""
        whole, upper = 1 << len(self.digits), 1 << (len(self.digits) - 1)
        return (whole - 1) + (upper - 1)

    @property
    def monomial_dtype(self) -> str:
        """The word that holds the monomials, the constant and the public part's place."""
        return "<u1" if self.monomials + 2 <= 8 else "<u2" if self.monomials + 2 <= 16 else "<u4"

    def weights(self) -> dict[str, tuple[int, ...]]:
        return {}

    def corrections(self, ring_bits: int) -> tuple[Correction, ...]:
        return (
            Correction("tables", (self.lookups, self.size), self.table_dtype),
            Correction("monomials", (self.size,), self.monomial_dtype),
            Correction("trunc", (2, self.size), ring_dtype(ring_bits)),
            Correction("select", (3, self.size), ring_dtype(ring_bits)),
        )

    def cost(self, ring_bits: int, rows: int) -> Cost:
        wires = rows * self.size
        return Cost(
            rounds=3,
            # the masked value, one byte of looked-up bits, one packed bit
            online_bytes=wires * ring_bytes(ring_bits) + wires + _packed(wires),
            offline_bytes=rows * sum(c.row_bytes for c in self.corrections(ring_bits)),
        )


Layer = Annotated[Linear | Truncate | ReLU, Field(discriminator="op")]


class Input(Public):
    """What the client shares: `shape` values between `low` and `high`, at `frac_bits` fractional bits."""

    name: Name = "input"
    shape: tuple[Size, ...] = Field(min_length=1, max_length=8)
    frac_bits: FracBits
    low: float
    high: float

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.low < self.high:
            raise ValueError("the input range is empty")
        return self

    @property
    def size(self) -> int:
        size: int = math.prod(self.shape)
        return size


class Output(Public):
    """Which wire goes back to the client, its shape, and the scale to decode it at."""

    wire: Name
    shape: tuple[Size, ...] = Field(min_length=1, max_length=8)
    frac_bits: FracBits
    kind: Literal["logits"] = "logits"


class Plan(Public):
    """A graph of layers in the order they run. Each layer reads a wire that is named before it."""

    format: Literal[1] = 1
    ring_bits: Literal[32, 64]
    input: Input
    layers: tuple[Layer, ...] = Field(min_length=1, max_length=10_000)
    output: Output

    @model_validator(mode="after")
    def _check(self) -> Self:
        limit = 2.0 ** (self.ring_bits - 1)
        if max(abs(self.input.low), abs(self.input.high)) * 2.0**self.input.frac_bits >= limit:
            raise ValueError("the input range does not fit the ring")
        sizes = {self.input.name: self.input.size}
        for layer in self.layers:
            if layer.name in sizes:
                raise ValueError(f"two wires are called {layer.name!r}")
            if layer.input not in sizes:
                raise ValueError(f"layer {layer.name!r} reads {layer.input!r}, which is not made before it")
            if layer.input_size != sizes[layer.input]:
                raise ValueError(
                    f"layer {layer.name!r} reads {layer.input_size} values, {layer.input!r} has {sizes[layer.input]}"
                )
            if isinstance(layer, ReLU) and layer.range_bits > self.ring_bits - 2:
                raise ValueError(f"layer {layer.name!r}: range_bits is at most {self.ring_bits - 2}")
            if isinstance(layer, Truncate) and layer.frac_bits >= self.ring_bits - 2:
                raise ValueError(f"layer {layer.name!r}: frac_bits is below {self.ring_bits - 2}")
            sizes[layer.name] = layer.output_size
        if sizes.get(self.output.wire) != math.prod(self.output.shape):
            raise ValueError("the output's wire does not exist or has another size than its shape")
        return self

    def canonical(self) -> bytes:
        """The one JSON text of this plan: sorted keys, no spaces, UTF-8."""
        return canonical_json(self.model_dump(mode="json"))

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the canonical JSON, 32 bytes."""
        return hashlib.sha256(self.canonical()).digest()

    def weights(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names ("layer.weight") and shapes of all secret tensors of the model."""
        for layer in self.layers:
            for name, shape in layer.weights().items():
                yield f"{layer.name}.{name}", shape

    def costs(self, rows: int) -> dict[str, Cost]:
        """Cost of each layer for `rows` inputs."""
        return {layer.name: layer.cost(self.ring_bits, rows) for layer in self.layers}

    def cost(self, rows: int) -> Cost:
        """Cost of one run over `rows` inputs: what each party sends, what the dealer sent before."""
        return sum(self.costs(rows).values(), Cost())


def canonical_json(value: object) -> bytes:
    """Sorted keys, no spaces, no NaN; what is hashed and signed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
