"""The plan: the public description of what the parties compute. It holds shapes and scales, never a weight.

Every participant names a plan by its digest, so nobody can talk another into a different computation. A plan also says
what a run of it costs. Nothing here imports torch.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import FailFast, Field, model_validator

from moiety_shared.crypto.sealing import PublicKey
from moiety_shared.fixed_point import grid
from moiety_shared.formats import Document
from moiety_shared.plan.approximate import check_cuts
from moiety_shared.plan.cost import Cost, layer_cost, schedule
from moiety_shared.plan.exp2 import Exp2
from moiety_shared.plan.flow import Flow
from moiety_shared.plan.layers import (
    MAX_ELEMENTS,
    Bias,
    Conv,
    Linear,
    MatMul,
    Mul,
    Name,
    Open,
    Public,
    Reshare,
    Shape,
    Size,
    Wire,
    canonical_json,
    ring_bytes,
)
from moiety_shared.plan.local import (
    Combine,
    Concat,
    Keep,
    Local,
    Pad,
    Permute,
    Reshape,
    Slice,
    Sum,
    SumPool,
    Take,
    Upsample,
)
from moiety_shared.plan.lookups import Decide, Lookup, MaxPool, OneHot, ReLU, Table, TopK, Truncate
from moiety_shared.plan.normalise import Normalise
from moiety_shared.plan.pieces import Pieces
from moiety_shared.plan.reduced import Reduce
from moiety_shared.plan.verified import Verified
from moiety_shared.plan.waves import Waves

LABELS = "labels"  # the wire of the client's label, an index, in a private evaluation
_SLICE_VALUES, _MAX_SLICE_ROWS = 1 << 17, 64

AnyLayer = Annotated[
    Open | Linear | Conv | Mul | MatMul | Bias | Reshare | Truncate | ReLU | Decide | MaxPool | TopK | Table | Waves
    | Reduce | OneHot | Exp2 | Pieces | Normalise | Keep | Reshape | Permute | Slice | Pad | Upsample | Take | Sum
    | SumPool | Concat | Combine,
    Field(discriminator="op"),
]  # fmt: skip

Task = Literal["classes", "binary", "values"]
Final = Literal["none", "softmax", "log_softmax", "sigmoid", "ovr", "exp"]
"""The function that the client applies to the outputs. "ovr" is a sigmoid of each class, divided by their sum."""
Unit = Literal["logits", "scores", "probabilities"]

PartName = Annotated[str, Field(min_length=1, max_length=200)]
"""A name as the model's author chose it."""
PartShape = Annotated[tuple[Size, ...], Field(max_length=8), FailFast()]
"""() is one number for each input."""


class InputPart(Public):
    """One of several inputs that a model takes: a name for the client, a shape, and the range of its values."""

    name: PartName
    shape: PartShape
    low: float
    high: float

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.low < self.high:
            raise ValueError("the input range is empty")
        return self


class Input(Public):
    """What the client shares: `shape` values between `low` and `high`, at `frac_bits` fractional bits. In a private
    evaluation the client also shares each input's label, an index below `classes`.

    A model of several inputs has `parts`. Their ranges may differ by orders of magnitude, so the client maps each
    part's range to -1..1, flattens the part, and joins the parts in this order. `low` and `high` are then -1 and 1.
    """

    name: Name = "input"
    shape: Shape
    frac_bits: Annotated[int, Field(ge=0, le=60)]
    low: float
    high: float
    classes: Annotated[int, Field(ge=2, le=2048)] | None = None
    parts: Annotated[tuple[InputPart, ...], Field(max_length=64)] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.low < self.high:
            raise ValueError("the input range is empty")
        if self.parts:
            _check_parts(self.parts, self.shape)
            if (self.low, self.high) != (-1, 1):
                raise ValueError("several inputs have the range -1 to 1 together")
        if max(-self.low, self.high) * 2.0**self.frac_bits >= 1 << 63:
            raise ValueError("the input range has more than 64 bits")
        grid(self.low, self.high, self.frac_bits)
        if self.name == LABELS:
            raise ValueError(f"{LABELS!r} is already the name of another wire")
        return self

    @property
    def size(self) -> int:
        """The number of values of one input, without its label."""
        return math.prod(self.shape)

    @property
    def shared_size(self) -> int:
        """The number of ring elements of one input, with its label."""
        return self.size + bool(self.classes)


class OutputPart(Public):
    """One of several outputs that a model gives, and the function that the client applies to it.

    Outputs may differ by orders of magnitude, so the plan levels them: the client multiplies this one by `scale` first.
    """

    name: PartName
    shape: PartShape
    scale: float = Field(1.0, gt=0)
    final: Final = "none"


class Output(Public):
    """The wire that goes back to the client, and the meaning of its ring elements.

    logits: additive shares; times `scale` they are what the client applies `final` to, which gives the outputs.

    labels: XOR shares of a byte for each class, the rank from 1 to `top`, or 0.

    decision: one additive share for each input: 1 where the model's one output is above a secret threshold, else 0.

    count: one additive share for the whole request: how many of its inputs were labelled right. `owner_key` is the
    owner's sealing key, for requests that let the owner read the number.

    `task` says what the outputs are for: one for each class, one number that tells two classes apart (the second where
    it is above `threshold`), or values as such. `unit` says what the outputs are where `final` is "none": logits of a
    softmax or sigmoid, scores that no function makes probabilities, or probabilities. A model of several outputs has
    `parts`, flattened and joined in this order.
    """

    wire: Name
    shape: Shape
    kind: Literal["logits", "labels", "decision", "count"] = "logits"
    task: Task = "classes"
    scale: float = Field(1.0, gt=0)
    final: Final = "none"
    unit: Unit = "logits"
    threshold: float = 0.0
    top: Annotated[int, Field(ge=1, le=255)] = 1
    owner_key: str | None = None
    parts: Annotated[tuple[OutputPart, ...], Field(max_length=64)] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.owner_key is not None and self.kind != "count":
            raise ValueError("an owner may read only counts")
        if self.owner_key is not None:
            PublicKey.from_text(self.owner_key)
        if self.task == "binary" and self.kind in ("logits", "decision") and self.size != 1:
            raise ValueError("two classes are told apart by one output")
        if self.kind == "decision" and self.task != "binary":
            raise ValueError("a decision is between two classes")
        if self.task == "values" and self.kind != "logits":
            raise ValueError("values have no labels to give out")
        if self.parts:
            _check_parts(self.parts, self.shape)
            if (self.kind, self.task, self.final) != ("logits", "values", "none"):
                raise ValueError("several outputs are values, each with a function of its own")
        return self

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def classes(self) -> int:
        """The number of classes that labels are of, or 0 where the outputs are values."""
        return {"classes": self.size, "binary": 2, "values": 0}[self.task]

    @property
    def has_probabilities(self) -> bool:
        """Whether the outputs are given out, and are probabilities of classes or become so by a function."""
        are_of_classes = self.kind == "logits" and self.task != "values" and self.final != "exp"
        return are_of_classes and (self.final != "none" or self.unit != "scores")


def _check_parts(parts: Sequence[InputPart | OutputPart], shape: Shape) -> None:
    """Raises ValueError unless the parts have names of their own and fill a flat wire of that shape."""
    if len({part.name for part in parts}) < len(parts):
        raise ValueError("two parts have one name")
    if shape != (sum(math.prod(part.shape) for part in parts),):
        raise ValueError("the parts do not fill the wire")


class Plan(Document):
    """A graph of layers in the order they run. Each layer reads wires that were named before it."""

    FORMAT, WHAT = 4, "a plan"
    format: Literal[4] = 4
    ring_bits: Literal[32, 64]
    input: Input
    layers: Annotated[tuple[AnyLayer, ...], FailFast()] = Field(min_length=1, max_length=10_000)
    output: Output
    verified: Verified | None = Field(None, description="where a party that cheats is caught: what that costs")

    @model_validator(mode="after")
    def _check(self) -> Self:
        limit = 2.0 ** (self.ring_bits - 1)
        if max(abs(self.input.low), abs(self.input.high)) * 2.0**self.input.frac_bits >= limit:
            raise ValueError("the input range does not fit the ring")
        self._check_what_is_shared()
        check_cuts(self.layers, self.output.wire)
        wire = self.wires.get(self.output.wire)
        if wire is None or math.prod(wire.shape) != self.output.size:
            raise ValueError("the output's wire does not exist or has another size than its shape")
        expected = (8, "words") if self.output.kind == "labels" else (self.ring_bits, "share")
        if (wire.bits, wire.kind) != expected:
            raise ValueError(f"the output's wire cannot be given out as {self.output.kind}")
        asked = self.input.classes or self.output.owner_key
        if asked and self.output.kind == "count" and not self._counts:
            raise ValueError(
                "the output's wire is not a count of right labels: it reveals more than a client agrees to"
            )
        decides = {layer.name for layer in self.layers if isinstance(layer, Decide)}
        if self.output.kind == "decision" and self.output.wire not in decides:
            raise ValueError("the output's wire is not a decision: it reveals more than a token for labels allows")
        return self

    def _check_what_is_shared(self) -> None:
        """Raises ValueError where a client would choose a dither, or where a label is anything but the index of a
        class.

        A client chooses both shares of its input, and so it also chooses all that the parties compute of these shares
        alone.
        """
        chosen = {self.input.name, LABELS}
        for layer in self.layers:
            looked_up = isinstance(layer, OneHot) and layer.classes == self.input.classes
            if self.input.classes and LABELS in layer.reads and not looked_up:
                raise ValueError(f"layer {layer.name!r} reads labels, which are an index to be looked up first")
            if not chosen.intersection(layer.reads):
                continue
            if isinstance(layer, Lookup) and layer.shift:
                raise ValueError(f"layer {layer.name!r} drops low bits of what a client shared: reshare it first")
            if isinstance(layer, Local | Bias | Reduce):
                chosen.add(layer.name)

    @property
    def _counts(self) -> bool:
        """Whether each row's output is 1 where its label is the likeliest class, else 0."""
        made = {layer.name: layer for layer in self.layers}
        total = made.get(self.output.wire)
        right = made.get(total.input) if isinstance(total, Sum) else None
        if self.output.size != 1 or not isinstance(right, Mul):
            return False
        opened = [made.get(name) for name in right.reads]
        sides = [made.get(layer.input) for layer in opened if isinstance(layer, Open)]
        winners = [side for side in sides if isinstance(side, TopK) and side.size == self.input.classes]
        labels = [side for side in sides if isinstance(side, OneHot) and side.input == LABELS]
        return len(winners) == len(labels) == 1

    @cached_property
    def wires(self) -> dict[str, Wire]:
        """All wires by name. Raises ValueError at the first layer that does not fit the wires it reads."""
        wires = {self.input.name: Wire(self.input.shape, self.ring_bits)}
        if self.input.classes:
            wires[LABELS] = Wire((1,), self.ring_bits)
        for layer in self.layers:
            if layer.name in wires:
                raise ValueError(f"two wires are called {layer.name!r}")
            missing = [name for name in layer.reads if name not in wires]
            if missing:
                raise ValueError(f"layer {layer.name!r} reads {missing[0]!r}, which no earlier layer makes")
            inputs = tuple(wires[name] for name in layer.reads)
            if tuple(wire.shape for wire in inputs) != layer.input_shapes:
                raise ValueError(f"layer {layer.name!r} reads wires of other shapes than it states")
            try:
                wires[layer.name] = layer.output(inputs, self.ring_bits)
            except ValueError as error:
                raise ValueError(f"layer {layer.name!r} {error}") from None
            if math.prod(layer.output_shape) > MAX_ELEMENTS or min(layer.output_shape) < 1:
                raise ValueError(f"layer {layer.name!r} has a size that cannot be computed")
            if any(math.prod(shape) > MAX_ELEMENTS for shape in layer.weights().values()):
                raise ValueError(f"layer {layer.name!r} has more weights than a party can store")
        return wires

    @cached_property
    def flow(self) -> Flow:
        """What every run begins with."""
        return Flow(self.wires, self.layers, self.output.wire)

    @property
    def readers(self) -> dict[str, tuple[int, ...]]:
        """The layers that read each wire, by wire: their numbers, rising."""
        return self.flow.readers

    @property
    def last_reader(self) -> dict[str, str]:
        """The last layer that reads each wire, by wire. The output has none: it is needed at the end."""
        return self.flow.last_reader

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

    @cached_property
    def slice_rows(self) -> int:
        """The number of rows that are evaluated together: a power of two, so that a layer's temporaries stay near the
        cache."""
        largest = max(max(math.prod(wire.shape) for wire in self.wires.values()), 1)
        return 1 << min(max(_SLICE_VALUES // largest, 1), _MAX_SLICE_ROWS).bit_length() - 1

    def slices(self, rows: int) -> list[tuple[int, int]]:
        """The slices of a batch, which take turns on the link: (first, end) rows. Both parties cut it in the same
        way."""
        return [(at, min(at + self.slice_rows, rows)) for at in range(0, rows, self.slice_rows)]

    @cached_property
    def schedule(self) -> dict[str, range]:
        """The rounds in which each layer opens values, counted from 0, by layer."""
        return schedule((self.input.name, LABELS), self.layers, self.ring_bits)

    @cached_property
    def rounds(self) -> int:
        """The number of openings that follow one another. Layers that do not wait for each other share theirs."""
        return self.verified.rounds if self.verified else max(rounds.stop for rounds in self.schedule.values())

    def costs(self, rows: int) -> dict[str, Cost]:
        """The cost of each layer for `rows` inputs. A layer's rounds count fully, even where other layers share
        them."""
        slices = [end - first for first, end in self.slices(rows)]
        return {
            layer.name: replace(
                sum((layer_cost(layer, self.ring_bits, count) for count in slices), Cost()),
                rounds=len(self.schedule[layer.name]),
            )
            for layer in self.layers
        }

    def cost(self, rows: int) -> Cost:
        """The cost of one run over `rows` inputs: what each party sends in it, and what the dealer sent before."""
        if self.verified:
            return self.verified.cost(rows)
        return replace(sum(self.costs(rows).values(), Cost()), rounds=self.rounds)

    @cached_property
    def bundle_row_bytes(self) -> int:
        """The bytes that the dealer sends for one row."""
        if self.verified:
            return self.verified.row_bytes
        return sum(c.row_bytes for layer in self.layers for c in layer.corrections(self.ring_bits))

    @cached_property
    def input_row_bytes(self) -> int:
        return self.input.shared_size * ring_bytes(self.ring_bits)

    def output_bytes(self, rows: int) -> int:
        """The bytes of one party's share of a request's result."""
        if self.output.kind == "count":
            return self.output.size * ring_bytes(self.ring_bits)
        return rows * self.output.size * (1 if self.output.kind == "labels" else ring_bytes(self.ring_bits))
