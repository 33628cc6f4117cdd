"""Random plans, with values that stay inside of what their layers state."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from moiety_shared.crypto.prg import Stream
from moiety_shared.plan.layers import Bias, Conv, Linear, MatMul, Mul, Open, Wire, ring_dtype
from moiety_shared.plan.local import Combine, Concat, Keep, Pad, Permute, Reshape, Slice, Sum, SumPool, Take, Upsample
from moiety_shared.plan.lookups import Decide, MaxPool, OneHot, ReLU, Table, TopK, Truncate
from moiety_shared.plan.plan import LABELS, Input, Output, Plan
from moiety_shared.plan.reduced import Reduce
from moiety_shared.ring import Array
from tests.protocols.approximating import Approximating

INPUT_BOUND = 128
TABLE_BITS = next(int(bound.le) for bound in Table.model_fields["opened_bits"].metadata if hasattr(bound, "le"))
OPENED_BITS = (4, 8, 12, 15, 16, 17, 20, 24, 31, 32, 33, 48, 63, 64)


@dataclass(frozen=True)
class Case:
    plan: Plan
    weights: dict[str, Array]
    x: Array


class Growing(Approximating):
    """A plan under construction. Every method adds a layer, or none where it finds no wire to read."""

    def opened(self, fits: Callable[[Wire], bool] = lambda _: True) -> str | None:
        """An opened wire that fits, perhaps one that others read already."""
        names = [name for name, wire in self.wires.items() if wire.kind == "opened" and fits(wire)]
        return self.draw(st.sampled_from(names)) if names and self.draw(st.booleans()) else self.open(fits)

    # Products.

    def open(self, fits: Callable[[Wire], bool] = lambda _: True) -> str | None:
        if (name := self.share(fits, whole=True)) is None:
            return None
        return self.add(Open(name=self.name(), input=name, shape=self.wires[name].shape), self.bounds[name])

    def linear(self) -> None:
        if name := self.opened():
            shape = self.wires[name].shape
            out, bias = self.number(1, 5), self.draw(st.booleans())
            layer = Linear(name=self.name(), input=name, shape=shape, out_features=out, bias=bias)
            self.add(layer, self.bounds[name] * shape[-1] * 8 + 2048)

    def conv(self) -> None:
        if (name := self.image(whole=True)) is None:
            return
        if self.draw(st.booleans()):
            name = self.opened(lambda wire: len(wire.shape) == 3)
        else:
            name = self.add(Open(name=self.name(), input=name, shape=self.wires[name].shape), self.bounds[name])
        if name is None:
            return
        channels, height, width = self.wires[name].shape
        groups = self.draw(st.sampled_from([g for g in range(1, channels + 1) if channels % g == 0]))
        kernel, stride = self.pair(1, 3), self.pair(1, 3)
        transposed = self.draw(st.booleans())
        dilation = self.pair(1, 2)
        ends = [max(s, d) - 1 for s, d in zip(stride, dilation, strict=True)]
        padding = self.pair(0, 2)
        sides = list(zip((height, width), kernel, stride, padding, dilation, strict=True))
        if transposed:
            assume(all((n - 1) * s - 2 * p + d * (k - 1) + 1 > 0 for n, k, s, p, d in sides))
        else:
            assume(all(n + 2 * p - d * (k - 1) > 0 for n, k, s, p, d in sides))
        layer = Conv(
            name=self.name(),
            input=name,
            shape=(channels, height, width),
            out_channels=groups * self.number(1, 2),
            kernel=kernel,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            transposed=transposed,
            output_padding=(self.number(0, ends[0]), self.number(0, ends[1])) if transposed else (0, 0),
            bias=self.draw(st.booleans()),
        )
        self.add(layer, self.bounds[name] * math.prod(kernel) * channels * 8 + 2048)

    def mul(self) -> None:
        if (left := self.opened()) is None:
            return
        shape = self.wires[left].shape
        match self.number(0, 2):
            case 0:
                right: str | None = left
            case 1:
                right = self.opened(lambda wire: broadcast(wire.shape, shape))
            case _:
                right = self.thinned(whole=True)
                right = right and self.add(
                    Open(name=self.name(), input=right, shape=self.wires[right].shape), self.bounds[right]
                )
        if right is None or not broadcast(self.wires[right].shape, shape):
            right = left
        if self.draw(st.booleans()):
            left, right = right, left
        shapes = self.wires[left].shape, self.wires[right].shape
        layer = Mul(name=self.name(), left=left, right=right, left_shape=shapes[0], right_shape=shapes[1])
        self.add(layer, self.bounds[left] * self.bounds[right])

    def matmul(self) -> None:
        """Of a wire with itself, or with another of which only the last axis but one differs."""
        if (left := self.opened(lambda wire: len(wire.shape) > 1)) is None:
            return

        def fits(wire: Wire) -> bool:
            shape = self.wires[left].shape
            return len(wire.shape) == len(shape) and (wire.shape[:-2], wire.shape[-1]) == (shape[:-2], shape[-1])

        right = self.opened(fits) or left
        shapes = self.wires[left].shape, self.wires[right].shape
        layer = MatMul(name=self.name(), left=left, right=right, left_shape=shapes[0], right_shape=shapes[1])
        self.add(layer, self.bounds[left] * self.bounds[right] * shapes[0][-1])

    def thinned(self, whole: bool = False) -> str | None:
        """A share with some axes cut to 1, which broadcasts against where it comes from."""
        name = self.share(whole=whole)
        if name is None:
            return None
        for axis, size in enumerate(self.wires[name].shape):
            if size > 1 and self.draw(st.booleans()):
                at = self.number(0, size - 1)
                shape = self.wires[name].shape
                layer = Slice(name=self.name(), input=name, shape=shape, axis=axis, start=at, stop=at + 1)
                name = self.add(layer, self.bounds[name])
        return name

    def bias(self) -> None:
        if name := self.share():
            shape = self.wires[name].shape
            bias = tuple(self.draw(st.sampled_from([1, n])) for n in shape)[self.number(0, len(shape) - 1) :]
            self.add(Bias(name=self.name(), input=name, shape=shape, bias_shape=bias), self.bounds[name] + 2048)

    # What opens the upper bits.

    def read(self, name: str, most: int) -> tuple[int, int]:
        """A shift, so that |t| <= 2^most, and that bound of |t|."""
        least = max((self.bounds[name] - 1).bit_length() - most, 0)
        assume(not least or name not in self.shared)
        shift = 0 if name in self.shared else self.number(least, least + 4)
        assume(shift + 2 <= self.wires[name].bits)
        return shift, -(-self.bounds[name] // (1 << shift))

    def bits(self, name: str, shift: int, least: int) -> int:
        """A number of opened bits, at least `least`."""
        most = self.wires[name].bits - shift
        bits = [q for q in (least, most, *OPENED_BITS) if least <= q <= most]
        assume(bits)
        return self.draw(st.sampled_from(bits))

    def truncate(self, name: str | None = None) -> None:
        if name := name or self.share():
            name = self.to_reduce(name)
            shift, t = self.read(name, self.number(10, 40))
            if shift == 0 and self.wires[name].bits == self.ring_bits and self.draw(st.booleans()):
                q = self.ring_bits  # nothing is lifted, so there is no range
            else:
                q = self.bits(name, shift, max((t - 1).bit_length() + 2, 2))
            shape = self.wires[name].shape
            self.add(Truncate(name=self.name(), input=name, shape=shape, shift=shift, opened_bits=q), t)

    def reduce(self) -> None:
        """A share in a smaller ring. What a client shared is still what it chose there."""
        if name := self.share(lambda wire: wire.bits >= 8):
            name = self.to_reduce(name)
            shift, t = self.read(name, 40)
            q, shape = self.number(4, self.wires[name].bits - shift), self.wires[name].shape
            self.add(Reduce(name=self.name(), input=name, shape=shape, shift=shift, opened_bits=q), t)

    def comparison(self, name: str, shift: int, largest: int) -> dict[str, int]:
        """The attributes of what compares values |v| <= largest."""
        least = max(largest.bit_length(), 1)
        assume(least <= 20)
        q = self.bits(name, shift, least + 1)
        range_bits = self.number(least, min(q - 1, 20))
        digit = self.number(-(-range_bits // 4), 5)
        return {"shift": shift, "opened_bits": q, "range_bits": range_bits, "digit_bits": digit}

    def relu(self, name: str | None = None) -> None:
        if name := name or self.share():
            name = self.to_reduce(name)
            shift, t = self.read(name, 12)
            hinges = (
                [0]
                if self.draw(st.booleans())
                else self.draw(st.lists(st.integers(-t - 2, t + 2), min_size=1, max_size=4))
            )
            compared = self.comparison(name, shift, t + max(map(abs, hinges)))
            shape = self.wires[name].shape
            layer = ReLU(name=self.name(), input=name, shape=shape, hinges=tuple(hinges), **compared)
            self.add(layer, sum(t + abs(h) for h in hinges))

    def decide(self) -> None:
        if name := self.share():
            name = self.to_reduce(name)
            shift, t = self.read(name, 12)
            hinges = self.draw(st.lists(st.integers(-t - 2, t + 2), min_size=1, max_size=4))
            compared = self.comparison(name, shift, t + max(map(abs, hinges)))
            shape = self.wires[name].shape
            self.add(Decide(name=self.name(), input=name, shape=shape, hinges=tuple(hinges), **compared), 1)

    def max_pool(self) -> None:
        if (name := self.image()) is None:
            return
        name = self.to_reduce(name)
        shape = self.wires[name].shape
        kernel, stride, dilation = self.pair(1, 4), self.pair(1, 3), self.pair(1, 2)
        assume(kernel != (1, 1))
        padding = self.number(0, kernel[0] // 2), self.number(0, kernel[1] // 2)
        sizes = []
        for n, k, s, p, d in zip(shape[1:], kernel, stride, padding, dilation, strict=True):
            starts = range(-p, n, s)
            inside = [any(0 <= start + j * d < n for j in range(k)) for start in starts]
            most = inside.index(False) if False in inside else len(inside)  # no window without a place inside
            assume(most and p <= d * (k - 1))
            sizes.append(self.number(1, most))
        assume(kernel[0] > 1 or sizes[0] == shape[1])
        shift, t = self.read(name, 12)
        layer = MaxPool(
            name=self.name(),
            input=name,
            shape=shape,
            kernel=kernel,
            stride=stride,
            padding=padding,
            dilation=dilation,
            output_size=(sizes[0], sizes[1]),
            **self.comparison(name, shift, 2 * t),
        )
        made = self.add(layer, t)
        if self.draw(st.booleans()):
            self.relu(made)

    def top_k(self, result: str = "share") -> None:
        name = self.share(lambda wire: 2 <= math.prod(wire.shape) <= 20)
        if name is not None:
            name = self.to_reduce(self.reshaped(name, (math.prod(self.wires[name].shape),)))
            shift, t = self.read(name, self.number(2, 12))
            layer = TopK(
                name=self.name(),
                input=name,
                shape=self.wires[name].shape,
                k=self.number(1, 5) if result == "words" else 1,
                result=result,  # type: ignore[arg-type]
                **self.comparison(name, shift, 2 * t),
            )
            self.add(layer, 1)

    def table(self) -> None:
        if name := self.share():
            m = self.number(2, TABLE_BITS)
            name = self.to_reduce(name)
            most = min(self.wires[name].bits - m, 10)
            shift = 0 if most < 0 or name in self.shared else self.number(0, most)
            assume(shift + m <= self.wires[name].bits)
            values = []
            for index in range(self.number(1, 3)):
                words = Stream(bytes(32), self.number(0, 99), index).words("values", (1 << m,), np.int32)
                values.append(tuple((words >> self.number(9, 31)).tolist()))
            shape, bound = self.wires[name].shape, max(abs(v) for row in values for v in row)
            layer = Table(name=self.name(), input=name, shape=shape, shift=shift, opened_bits=m, values=tuple(values))
            self.add(layer, bound)

    def one_hot(self) -> None:
        if self.classes:
            bits = max((self.classes - 1).bit_length(), 2)
            self.add(OneHot(name=self.name(), input=LABELS, opened_bits=bits, classes=self.classes), 1)

    # What each party computes alone.

    def reshape(self) -> None:
        if name := self.share():
            size = math.prod(self.wires[name].shape)
            first = self.draw(st.sampled_from([n for n in range(1, size + 1) if size % n == 0]))
            to = self.draw(st.sampled_from([(size,), (first, size // first), (1, first, size // first)]))
            self.add(Reshape(name=self.name(), input=name, shape=self.wires[name].shape, to=to), self.bounds[name])

    def permute(self) -> None:
        if name := self.share():
            shape = self.wires[name].shape
            order = tuple(self.draw(st.permutations(range(len(shape)))))
            self.add(Permute(name=self.name(), input=name, shape=shape, order=order), self.bounds[name])

    def slice(self) -> None:
        if name := self.share():
            shape = self.wires[name].shape
            axis = self.number(0, len(shape) - 1)
            start = self.number(0, shape[axis] - 1)
            stop, step = self.number(start + 1, shape[axis]), self.number(1, 3)
            layer = Slice(name=self.name(), input=name, shape=shape, axis=axis, start=start, stop=stop, step=step)
            self.add(layer, self.bounds[name])

    def pad(self) -> None:
        if name := self.share():
            shape = self.wires[name].shape
            before, after = ([self.number(0, 2) for _ in shape] for _ in range(2))
            self.add(
                Pad(name=self.name(), input=name, shape=shape, before=tuple(before), after=tuple(after)),
                self.bounds[name],
            )

    def upsample(self) -> None:
        if name := self.image():
            layer = Upsample(name=self.name(), input=name, shape=self.wires[name].shape, factors=self.pair(1, 3))
            self.add(layer, self.bounds[name])

    def keep(self) -> None:
        if name := self.share():
            shape = self.wires[name].shape
            places = tuple(self.draw(st.sampled_from([1, n])) for n in shape)
            size = (math.prod(places) + 7) // 8
            keys = self.draw(st.binary(min_size=size, max_size=size)).hex()
            self.add(Keep(name=self.name(), input=name, shape=shape, keys=keys, keys_shape=places), self.bounds[name])

    def take(self) -> None:
        if name := self.share():
            shape = self.wires[name].shape
            axis, count, taps = self.number(0, len(shape) - 1), self.number(1, 5), self.number(1, 3)
            places = tuple(tuple(self.number(0, shape[axis] - 1) for _ in range(count)) for _ in range(taps))
            factors = tuple(tuple(self.number(-2, 2) for _ in range(count)) for _ in range(taps))
            factors = factors if taps > 1 or self.draw(st.booleans()) else ()
            layer = Take(name=self.name(), input=name, shape=shape, axis=axis, places=places, factors=factors)
            self.add(layer, self.bounds[name] * (2 * taps if factors else 1))

    def sum(self) -> None:
        if name := self.share():
            shape = self.wires[name].shape
            axes = tuple(axis for axis in self.draw(st.permutations(range(len(shape)))) if self.draw(st.booleans()))
            layer = Sum(name=self.name(), input=name, shape=shape, axes=axes)
            self.add(layer, self.bounds[name] * math.prod(shape[axis] for axis in axes))

    def sum_pool(self) -> None:
        if name := self.image():
            kernel, shape, padding = self.pair(1, 3), self.wires[name].shape, self.pair(0, 1)
            assume(all(n + 2 * p >= k for n, p, k in zip(shape[1:], padding, kernel, strict=True)))
            layer = SumPool(
                name=self.name(), input=name, shape=shape, kernel=kernel, stride=self.pair(1, 3), padding=padding
            )
            self.add(layer, self.bounds[name] * math.prod(kernel))

    def concat(self) -> None:
        if name := self.share():
            one = self.wires[name]
            axis = self.number(0, len(one.shape) - 1)

            def rest(shape: tuple[int, ...]) -> tuple[int, ...]:
                return (len(shape), *shape[:axis], *shape[axis + 1 :])

            def fits(wire: Wire) -> bool:
                return wire.bits == one.bits and rest(wire.shape) == rest(one.shape)

            names = [name, *(n for n in [self.share(fits) for _ in range(self.number(0, 2))] if n)]
            shapes = tuple(self.wires[n].shape for n in names)
            layer = Concat(name=self.name(), inputs=tuple(names), shapes=shapes, axis=axis)
            self.add(layer, max(self.bounds[n] for n in names))

    def combine(self) -> None:
        if self.draw(st.booleans()):
            self.thinned()
        if name := self.share():
            one = self.wires[name]

            def fits(wire: Wire) -> bool:
                return wire.bits == one.bits and broadcast(wire.shape, one.shape)

            names = [name]
            for _ in range(self.number(0, 2)):
                other = self.share(fits)
                shapes = tuple(self.wires[n].shape for n in (*names, other) if n)
                if other and all(broadcast(a, b) for a in shapes for b in shapes):
                    names.append(other)
            shapes = tuple(self.wires[n].shape for n in names)
            factors = tuple(self.number(-3, 3) for _ in names)
            layer = Combine(name=self.name(), inputs=tuple(names), shapes=shapes, factors=factors)
            self.add(layer, sum(abs(f) * self.bounds[n] for f, n in zip(factors, names, strict=True)))

    # The end.

    def finish(self) -> str:
        """Makes the output of all wires that nobody reads yet, so that a wrong one shows."""
        read = {name for layer in self.layers for name in layer.reads}
        for name in [n for n in self.wires if n not in read]:
            wire = self.wires[name]
            if wire.kind == "opened":
                layer = Mul(name=self.name(), left=name, right=name, left_shape=wire.shape, right_shape=wire.shape)
                self.add(layer, self.bounds[name] ** 2)
            elif wire.bits != self.ring_bits:
                t = self.bounds[name]
                q = max((t - 1).bit_length() + 2, 2)
                assume(q <= wire.bits)
                self.add(Truncate(name=self.name(), input=name, shape=wire.shape, shift=0, opened_bits=wire.bits), t)
        read = {name for layer in self.layers for name in layer.reads}
        leaves = [n for n, wire in self.wires.items() if n not in read and n != LABELS]
        flat = [self.reshaped(n, (math.prod(self.wires[n].shape),)) for n in leaves]
        if len(flat) == 1:
            return flat[0]
        shapes = tuple(self.wires[n].shape for n in flat)
        return self.add(
            Concat(name=self.name(), inputs=tuple(flat), shapes=shapes, axis=0), max(self.bounds[n] for n in flat)
        )


def broadcast(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Shapes of as many axes that numpy broadcasts."""
    return len(one) == len(other) and all(a == b or 1 in (a, b) for a, b in zip(one, other, strict=True))


KINDS = (
    *("open", "linear", "conv", "mul", "bias", "truncate", "relu", "max_pool", "top_k", "table", "reshape", "permute"),
    *("reshare", "reduce", "decide", "one_hot", "waves", "exp2", "matmul", "pieces", "normalise"),
    *("slice", "pad", "upsample", "take", "keep", "sum", "sum_pool", "concat", "combine"),
)


@st.composite
def plans(draw: st.DrawFn, kind: str = "", most: int = 6) -> Case:
    """A plan, weights and inputs. With `kind` there is a layer of that kind."""
    ring_bits = draw(st.sampled_from([32, 64]))
    shape = draw(
        st.one_of(
            st.tuples(st.integers(1, 12)),
            st.tuples(st.integers(1, 4), st.integers(1, 5)),
            st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 6)),
        )
    )
    classes = draw(st.integers(2, 9) if kind == "one_hot" else st.sampled_from([None, None, 3]))
    growing = Growing(draw, ring_bits, classes=classes)
    growing.wires["input"], growing.bounds["input"] = Wire(shape, ring_bits), INPUT_BOUND
    if classes:
        growing.wires[LABELS], growing.bounds[LABELS] = Wire((1,), ring_bits), INPUT_BOUND
    steps = draw(st.lists(st.sampled_from(KINDS), max_size=most))
    if kind in KINDS:
        steps.insert(draw(st.integers(0, len(steps))), kind)
    for step in steps:
        getattr(growing, step)()
    assume(not kind or any(layer.op == kind for layer in growing.layers) or kind == "words")
    wire = growing.finish()
    words = kind == "words" or (not kind and draw(st.booleans()))
    if words:
        growing.top_k("words")
        if growing.layers and growing.wires[growing.layers[-1].name].kind == "words":
            wire = growing.layers[-1].name
        assume(kind != "words" or growing.wires[wire].kind == "words")
    assume(growing.layers)
    plan = Plan(
        ring_bits=ring_bits,  # type: ignore[arg-type]
        input=Input(shape=shape, frac_bits=4, low=-8, high=8, classes=classes),
        layers=tuple(growing.layers),
        output=Output(
            wire=wire,
            shape=growing.wires[wire].shape,
            kind="labels" if growing.wires[wire].kind == "words" else "logits",
        ),
    )
    rng = Stream(draw(st.binary(min_size=32, max_size=32)))
    dtype = ring_dtype(ring_bits)
    weights = {
        name: (rng.words(name, size, np.int16) >> (4 if name.endswith("bias") else 12)).astype(dtype)
        for name, size in plan.weights()
    }
    rows, small = draw(st.integers(1, 5)), draw(st.sampled_from([0, 0, 3, 6]))
    x = (rng.words("x", (rows, plan.input.shared_size), np.int8) >> small).astype(dtype)
    return Case(plan, weights, x)
