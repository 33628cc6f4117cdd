"""A secret table that is looked up by ids. The client shares each id as one digit, or two, and the parties turn each
digit into a one-hot row.

One digit of a vocabulary of V ids costs V opened words for each id. With two, the id is high * 2^low_bits + low: the
low digit's row picks one entry of each of the table's blocks, and the high digit's row picks one of the blocks.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from moiety_server.compiler import ir
from moiety_server.compiler.ir import NotServable
from moiety_shared.messages.tokens import MOST_DIGIT

_FEWEST = 2  # rows of a one-hot wire
_WORTH_A_ROUND = 2  # two digits take one more round, so they have to save half of the words at least


@dataclass(frozen=True)
class Digits:
    """How ids become digits: `low` values of the last one and, where there are two, `high` values of the first."""

    low: int
    high: int = 1

    @classmethod
    def of(cls, vocabulary: int, width: int) -> "Digits":
        """Choose the digits for which parties and provider send least. Raises NotServable for too many ids."""
        bits = range(2, MOST_DIGIT.bit_length())
        pairs = [cls(1 << b, -(-vocabulary >> b)) for b in bits]
        pairs = [pair for pair in pairs if _FEWEST <= pair.high <= MOST_DIGIT]
        whole = [cls(max(vocabulary, _FEWEST))] if vocabulary <= MOST_DIGIT else []
        if not pairs and not whole:
            raise NotServable(f"the model: a secret embedding has {MOST_DIGIT**2:,} ids at most, not {vocabulary:,}")
        best = min(pairs, key=lambda pair: pair._words(width), default=None)
        if best is None or (whole and whole[0]._words(width) <= _WORTH_A_ROUND * best._words(width)):
            return whole[0]
        return best

    @property
    def values(self) -> tuple[int, ...]:
        """How many values each digit has, the last one's last."""
        return (self.low,) if self.high == 1 else (self.high, self.low)

    @property
    def count(self) -> int:
        """How many digits an id has."""
        return len(self.values)

    @property
    def largest(self) -> int:
        """The largest digit."""
        return max(self.low, self.high) - 1

    def _words(self, width: int) -> int:
        """What one id costs: words that a party opens, and words that the provider sends."""
        dealt = 1 << (self.low - 1).bit_length()
        if self.count == 1:
            return self.low + dealt + width
        blocks = self.high * width
        return self.low + self.high + blocks + dealt + (1 << (self.high - 1).bit_length()) + blocks + width


@dataclass(frozen=True, kw_only=True)
class EmbeddingNode(ir.Node):
    """Rows of a secret table, (places, width), of the digits of ids, (places, digits).

    `table` is (high * low, width), and its first row stands in for ids beyond the vocabulary. A digit that is too
    large counts as OneHot counts it, so whatever a client shares is an id.
    """

    table: Tensor
    digits: Digits

    @classmethod
    def padded(cls, table: Tensor, digits: Digits) -> Tensor:
        """Return the table (vocabulary, width) with a row for every value that the digits may have."""
        return torch.cat([table, table[:1].expand(digits.high * digits.low - len(table), -1)])

    def forward(self, *x: Tensor) -> Tensor:
        whole = x[0].round().long()
        index = self._read(whole[..., -1], self.digits.low)
        if self.digits.count == 2:
            index = index + self.digits.low * self._read(whole[..., 0], self.digits.high)
        return self.table[index]

    @staticmethod
    def _read(digit: Tensor, values: int) -> Tensor:
        found = digit % (1 << max(math.ceil(math.log2(values)), 2))
        return torch.where(found < values, found, 0)
