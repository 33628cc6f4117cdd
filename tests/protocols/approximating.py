"""Random plans: the layers whose last bits depend on what is opened, each with what drops those bits."""

from typing import Any

from hypothesis import assume
from hypothesis import strategies as st

from moiety_shared.plan.exp2 import Exp2
from moiety_shared.plan.local import Sum
from moiety_shared.plan.lookups import ReLU, Truncate
from moiety_shared.plan.normalise import Normalise
from moiety_shared.plan.pieces import Pieces
from moiety_shared.plan.waves import Wave, Waves
from tests.protocols.grown import Grown


class Approximating(Grown):
    """A plan under construction: what adds approximate layers to it."""

    def waves(self) -> None:
        """Of any values, for it takes all; and a cut of what rounding shows in."""
        if name := self.share(lambda wire: wire.bits >= 16):
            name, shape = self.to_reduce(name), self.wires[name].shape
            q, word_bits = self.number(3, 16), self.number(20, 60 if self.ring_bits == 64 else 32)
            shift = 0 if name in self.shared else self.number(0, self.wires[name].bits - q)
            waves = tuple(
                Wave(cosine=self.number(-99, 99), sine=self.number(-99, 99), table_bits=self.number(1, 8))
                for _ in range(self.number(1, 4))
            )
            try:
                layer = Waves(
                    name=self.name(), input=name, shape=shape, shift=shift, opened_bits=q, word_bits=word_bits,
                    constant=self.number(-1000, 1000), waves=waves,
                )  # fmt: skip
            except ValueError:
                return  # the words are too short for so high waves
            assume(layer.hidden_bits <= word_bits - 2)
            self.add(layer, 1 << (word_bits - 2))
            cut = self.number(layer.hidden_bits, word_bits - 2)
            head: dict[str, Any] = {"input": layer.name, "shape": shape, "shift": cut}
            made = Truncate(name=self.name(), **head, opened_bits=word_bits - cut)
            self.add(made, max((1 << (word_bits - 2)) >> cut, 1))
            del self.wires[layer.name]  # nothing else may read it

    def exp2(self) -> None:
        """Of values in its domain or of any; and a comparison, which takes all, of a sum of the upper bits."""
        if name := self.share(lambda wire: wire.bits >= 16):
            name, shape = self.to_reduce(name), self.wires[name].shape
            octave, more, spans = self.number(0, 6), self.number(1, 3), self.number(1, 4)
            q = octave + more + spans
            height, table = self.number(1 << more, 12), self.number(1, 8)
            layer = Exp2(
                name=self.name(), input=name, shape=shape, opened_bits=q, octave_bits=octave, span_bits=octave + more,
                shift=0 if name in self.shared else self.number(0, self.wires[name].bits - q), top=self.number(-9, 99),
                word_bits=self.number(height + table + 3, 60 if self.ring_bits == 64 else 32),
                height_bits=height, table_bits=table,
            )  # fmt: skip
            largest = 2 << (height + table)
            self.add(layer, largest)
            wide = self.add(Sum(name=self.name(), input=layer.name, shape=shape, axes=(0,)), shape[0] * largest)
            made, most = self.wires[wide], (self.bounds[wide] - 1).bit_length()
            cut = layer.hidden_bits + (shape[0] - 1).bit_length()
            assume(cut + 2 <= min(most, layer.word_bits - 2))
            compared = min(most - cut, 20, layer.word_bits - cut - 1)
            head: dict[str, Any] = {"input": wide, "shape": made.shape, "shift": cut, "digit_bits": 5}
            read = ReLU(name=self.name(), **head, opened_bits=layer.word_bits - cut, range_bits=compared)
            self.add(read, 1 << compared)
            del self.wires[layer.name], self.wires[wide]  # nothing else may read them

    def pieces(self) -> None:
        """Of any values, those below the lowest among them."""
        if name := self.share(lambda wire: wire.bits >= 16):
            name, shape = self.to_reduce(name), self.wires[name].shape
            q, m = self.number(4, 16), self.number(1, 3)
            shift = 0 if name in self.shared else self.number(0, self.wires[name].bits - q)
            try:
                layer = Pieces(
                    name=self.name(), input=name, shape=shape, shift=shift, opened_bits=q, piece_bits=m,
                    word_bits=60 if self.ring_bits == 64 else 32, degree=self.number(1, 3), frac_bits=self.number(0, q),
                    function=self.draw(st.sampled_from(["log2", "rsqrt", "reciprocal"])),
                    lowest=self.number(1 << (q - m), (1 << q) - 1),
                    value_bits=self.number(1, 12), table_bits=self.number(1, 6),
                )  # fmt: skip
            except ValueError:
                return  # the words are too short for what is steep near 0
            assume(layer.hidden_bits <= layer.word_bits - 2)
            bound, cut = 1 << (layer.word_bits - 2), self.number(layer.hidden_bits, layer.word_bits - 2)
            self.add(layer, bound)
            head: dict[str, Any] = {"input": layer.name, "shape": shape, "shift": cut}
            self.add(Truncate(name=self.name(), **head, opened_bits=layer.word_bits - cut), max(bound >> cut, 1))
            del self.wires[layer.name]  # nothing else may read it

    def normalise(self) -> None:
        """Of any values: hinges are reached or not whatever they are."""
        if name := self.share(whole=True):
            name = self.to_reduce(name)
            shift, range_bits = 0 if name in self.shared else self.number(0, 10), self.number(5, 20)
            first = self.number(1, (1 << range_bits) - 1)
            hinges = [first << 4 * place for place in range(4) if first << 4 * place < 1 << range_bits]
            layer = Normalise(
                name=self.name(), input=name, shape=self.wires[name].shape, shift=shift,
                opened_bits=self.ring_bits - shift, range_bits=range_bits, digit_bits=5, hinges=tuple(hinges),
            )  # fmt: skip
            self.add(layer, self.bounds[name] << 4 * len(hinges))
