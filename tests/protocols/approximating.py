"""Random plans: the layers whose last bits depend on what is opened, each with what drops those bits."""

from typing import Any

from hypothesis import assume

from moiety_shared.plan.exp2 import Exp2
from moiety_shared.plan.local import Sum
from moiety_shared.plan.lookups import ReLU, Truncate
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
