"""Polynomials through bits, which one party knows and the other knows at one secret point.

k bits, and 8 pads, are the values at k + 8 points of K = GF(2^8) of a polynomial X of degree k + 7. The verifier holds
tau = X(zeta) for its secret zeta in L = GF(2^64). The pads make tau uniform, whatever the bits are: pads -> X(zeta) is
a bijection if zeta is of degree 8 over K. The product of two such polynomials has degree 2k + 14, so it is given by its
values at the k + 8 points and k + 7 further ones.
"""

from functools import cached_property, reduce

import numpy as np

from moiety_shared.protocols.dealing import Source
from moiety_shared.protocols.verified import fields
from moiety_shared.ring import Array

PADS = 8
MAX_SLOTS = 120  # 2k + 15 points fit K
_CACHED = 1 << 12  # elements whose products are added up at a time, so that all of it stays in the cache


class Points:
    """The points of polynomials of k slots, and how values at the first k + 8 extend to the k + 7 others."""

    def __init__(self, slots: int) -> None:
        if not 1 <= slots <= MAX_SLOTS:
            raise ValueError(f"a polynomial has 1 to {MAX_SLOTS} slots")
        self.slots, self.further = slots, slots + PADS - 1
        self.all = np.arange(2 * slots + 2 * PADS - 1, dtype=np.uint8)
        self.given, self.others = np.split(self.all, [slots + PADS])

    @cached_property
    def _tables(self) -> tuple[Array, Array]:
        """What a byte of eight bits, and each pad, adds to the values at the further points, as uint64 of eight."""
        apart = self.given[:, None] ^ self.given[None, :]
        np.fill_diagonal(apart, 1)
        scale = fields.byte_inverse(fields.byte_fold(apart))
        distance = self.others[None, :] ^ self.given[:, None]
        basis = fields.byte_product(fields.byte_fold(distance)[None], fields.byte_inverse(distance))
        basis = fields.byte_product(basis, scale[:, None])
        wide = np.zeros((len(basis), -(-self.further // 8) * 8), np.uint8)
        wide[:, : self.further] = basis
        every = np.arange(256, dtype=np.uint8)
        pads = fields.byte_product(every[None, :, None], wide[self.slots :, None])
        return xor_table(wide[: self.slots]), pads.view(np.uint64)

    def extended(self, packed: Array, pads: Array | None = None) -> Array:
        """The values at the further points, (..., k + 7) bytes, of polynomials through packed bits (..., ceil(k / 8))
        and pads (..., 8), zeros if there are none."""
        bits, of_pads = self._tables
        out: Array = bits[0].take(packed[..., 0], axis=0)
        for chunk, table in enumerate(bits[1:], 1):
            out ^= table.take(packed[..., chunk], axis=0)
        if pads is not None:
            for place, table in enumerate(of_pads):
                out ^= table.take(pads[..., place], axis=0)
        return out.view(np.uint8)[..., : self.further]

    def grouped(self, values: Array, beyond: int = 0) -> Array:
        """Cut uint8 values (..., n) into groups of k: (..., groups, k rounded up to whole bytes of bits), with `beyond`
        where there is no value."""
        groups, n = -(-values.shape[-1] // self.slots), values.shape[-1]
        out: Array = np.full((*values.shape[:-1], groups, -(-self.slots // 8) * 8), beyond, np.uint8)
        whole, rest = divmod(n, self.slots)
        apart = values[..., : whole * self.slots]
        out[..., :whole, : self.slots] = apart.reshape(*values.shape[:-1], whole, self.slots)
        if rest:
            out[..., whole, :rest] = values[..., n - rest :]
        return out

    def packed(self, bits: Array) -> Array:
        """Pack bits (..., n), 0 or 1, into groups of k: (..., groups, ceil(k / 8))."""
        return packed_groups(self.grouped(bits))


class SecretPoint:
    """A verifier's zeta, and the values there of what is given at the points."""

    def __init__(self, points: Points, zeta: Array) -> None:
        """`zeta` has 8 bytes. Raises ValueError when pads would not hide the bits from who knows X(zeta)."""
        self.points = points
        self._low = low = self._basis(points.given, zeta)
        self.whole = self._basis(points.all, zeta)
        """(2k + 15, 8): the polynomials that are 1 at one point and 0 at all others, at zeta."""
        unpad = fields.solved(low[points.slots :].T.copy())
        if unpad is None:
            raise ValueError("the point is not of degree 8")
        every = np.arange(256, dtype=np.uint8)
        self._bits = xor_table(low[: points.slots])[:, :, 0]
        self._pads = fields.words(fields.byte_product(every[None, :, None], low[points.slots :, None]))
        self._unpad = fields.words(fields.byte_product(every[None, :, None], unpad.T.copy()[:, None]))

    @classmethod
    def draw(cls, points: Points, source: Source) -> "SecretPoint":
        """Draw zeta until it is of degree 8, which all but one in 2^32 are."""
        attempt = 0
        while True:
            try:
                return cls(points, source.words(f"zeta/{attempt}", (fields.L_BYTES,), np.uint8))
            except ValueError:
                attempt += 1

    @cached_property
    def last_inverse(self) -> Array:
        """1 / the last polynomial of the basis at zeta, (8,)."""
        return fields.inverse(self.whole[-1])

    @staticmethod
    def _basis(points: Array, zeta: Array) -> Array:
        apart = points[:, None] ^ points[None, :]
        np.fill_diagonal(apart, 1)
        distance = zeta[None] ^ fields.embedded(points)
        whole = reduce(fields.product, distance)
        scale = fields.byte_inverse(fields.byte_fold(apart))
        return fields.scaled(scale, fields.product(whole[None], fields.inverse(distance)))

    def of_bits(self, packed: Array) -> Array:
        """X(zeta) of packed bits (..., ceil(k / 8)) without pads, as uint64."""
        out = np.zeros(packed.shape[:-1], np.uint64)
        for chunk, table in enumerate(self._bits):
            out ^= table.take(packed[..., chunk])
        return out

    @cached_property
    def _slots(self) -> Array:
        """(k, 8, 256): what each byte of an element adds, where it is multiplied with each slot's polynomial."""
        powers, every = np.eye(fields.L_BYTES, dtype=np.uint8), np.arange(256, dtype=np.uint8)
        each = fields.product(self._low[: self.points.slots, None], powers)
        return fields.words(fields.byte_product(every[:, None], each[:, :, None]))

    def of_slots(self, values: Array) -> Array:
        """X(zeta) of polynomials that have these values of L at the slots (rows, groups, k), and are 0 at the pads. All
        are uint64."""
        by_slot, tables = values.reshape(-1, self.points.slots).T, self._slots
        out, step = np.zeros(by_slot.shape[1], np.uint64), max(_CACHED // by_slot.shape[1], 1)
        for at in range(0, len(by_slot), step):
            table = tables[at : at + step].reshape(-1)
            each = np.swapaxes(fields.unwords(by_slot[at : at + step]), 1, 2).reshape(-1, len(out))
            places = 256 * np.arange(len(each))[:, None]
            out ^= np.bitwise_xor.reduce(table.take(each + places), axis=0)
        return out.reshape(values.shape[:-1])

    def of_pads(self, pads: Array) -> Array:
        """What pads (..., 8) add to X(zeta), as uint64."""
        out = np.zeros(pads.shape[:-1], np.uint64)
        for place, table in enumerate(self._pads):
            out ^= table.take(pads[..., place])
        return out

    def pads_of(self, value: Array) -> Array:
        """The pads (..., 8) that add this uint64 to X(zeta)."""
        out, given = np.zeros(value.shape, np.uint64), fields.unwords(value)
        for place, table in enumerate(self._unpad):
            out ^= table.take(given[..., place])
        return fields.unwords(out)


def packed_groups(bits: Array) -> Array:
    """Pack the bits of groups that are whole bytes: (..., 8 m) to (..., m)."""
    return np.packbits(bits.reshape(-1), bitorder="little").reshape(*bits.shape[:-1], -1)


def xor_table(rows: Array) -> Array:
    """What a byte says, bit by bit, of which rows to add up: (k, bytes) to (ceil(k / 8), 256, bytes / 8), uint64."""
    chunks = -(-len(rows) // 8)
    whole: Array = np.zeros((chunks * 8, rows.shape[1]), np.uint8)
    whole[: len(rows)] = rows
    whole = whole.reshape(chunks, 8, -1)
    table, every = np.zeros((chunks, 256, rows.shape[1]), np.uint8), np.arange(256)
    for bit in range(8):
        table[:, every >> bit & 1 == 1] ^= whole[:, bit, None]
    return table.view(np.uint64)
