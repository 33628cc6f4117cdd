"""Bugs to plant in dealer and parties, each named for what it leaves out."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from moiety_shared.plan.lookups import MaxPool
from moiety_shared.protocols import max_pool, select, sign
from moiety_shared.protocols.dealing import Dealer, Holder
from moiety_shared.ring import Array, Ring

Patch = pytest.MonkeyPatch


def change_masks(patch: Patch, name: str, change: Callable[[Array], Array]) -> None:
    """Of dealer and parties alike, so that results stay right: `change` is linear."""
    one, both = Holder.mask, Dealer.halves

    def mask(self: Any, n: str, *rest: Any) -> Array:
        found = one(self, n, *rest)
        return change(found) if n == name else found

    def halves(self: Any, n: str, *rest: Any) -> tuple[Array, Array]:
        found = both(self, n, *rest)
        return (change(found[0]), change(found[1])) if n == name else found

    patch.setattr(Holder, "mask", mask)
    patch.setattr(Dealer, "halves", halves)


def no_mask(name: str) -> Callable[[Patch], None]:
    return lambda patch: change_masks(patch, name, np.zeros_like)


def one_mask(name: str) -> Callable[[Patch], None]:
    """The first value's mask for all of them."""
    return lambda patch: change_masks(patch, name, lambda r: np.repeat(r[:, :1], r.shape[1], 1))


def half_a_mask(patch: Patch) -> None:
    """alice's halves alone, which she knows."""
    original, both = Holder.mask, Dealer.halves

    def halves(self: Any, *given: Any) -> tuple[Array, Array]:
        one, other = both(self, *given)
        return one, other * 0

    patch.setattr(Dealer, "halves", halves)
    patch.setattr(Holder, "mask", lambda self, *given: original(self, *given) * (1 - self.party))


def _place(digits: int, bit: str) -> int:
    """Where a comparison's mask a_i, e_j or c lies in its byte."""
    letter, _, index = bit.partition("_")
    return {"a": lambda: 2 * int(index), "e": lambda: 2 * int(index) - 1, "c": lambda: 2 * digits - 1}[letter]()


def no_bit(digits: int, *bits: str) -> Callable[[Patch], None]:
    """Comparisons without some of their mask bits."""
    gone = sum(1 << _place(digits, bit) for bit in bits)
    return changed_bytes(lambda drawn: drawn & np.uint8(255 - gone))


def one_bit_twice(digits: int, bit: str, again: str) -> Callable[[Patch], None]:
    """One mask for two bits that are looked up."""
    first, second = _place(digits, bit), _place(digits, again)
    return changed_bytes(lambda drawn: drawn & np.uint8(255 - (1 << second)) | (drawn >> first & 1) << second)


def one_for_all(drawn: Array) -> Array:
    """The first comparison's bits, or the first output mask, for all."""
    return np.repeat(drawn[:, :1], drawn.shape[1], 1)


def half_the_bits(patch: Patch) -> None:
    """alice's halves of the mask bits alone, which she knows."""
    original = Holder.mask_words
    patch.setattr(Dealer, "mask_words", lambda self, n, shape: self._alice.words(n, (self.rows, *shape), np.uint8))
    patch.setattr(Holder, "mask_words", lambda self, *given: original(self, *given) * np.uint8(1 - self.party))


def changed_bytes(change: Callable[[Array], Array]) -> Callable[[Patch], None]:
    """Of dealer and parties alike: the mask bits of comparisons, and the output masks of tables."""

    def plant(patch: Patch) -> None:
        for side in (Dealer, Holder):
            original = side.mask_words
            patch.setattr(side, "mask_words", lambda *given, original=original: change(original(*given)))

    return plant


def value_masks_again(patch: Patch) -> None:
    """A pool's later differences under masks of its inputs."""
    original = max_pool._differences

    def differences(layer: MaxPool, source: Any, r: Array) -> Array:
        found = original(layer, source, r)
        fresh = layer.comparisons - layer.levels[0]
        return np.concatenate((found[:, : layer.levels[0]], r[:, :fresh]), axis=1)

    patch.setattr(max_pool, "_differences", differences)


def wrong(name: str, change: Callable[[Array], Array]) -> Callable[[Patch], None]:
    """The dealer fixes another value."""

    def plant(patch: Patch) -> None:
        for method in ("fix", "fix_words"):
            original = getattr(Dealer, method)

            def fix(self: Any, n: str, value: Array, *rest: Any, original: Any = original) -> None:
                original(self, n, change(value.copy()) if n == name else value, *rest)

            patch.setattr(Dealer, method, fix)

    return plant


def bare(name: str) -> Callable[[Patch], None]:
    """bob is sent the value itself, and alice's share of it is nothing."""

    def plant(patch: Patch) -> None:
        fixed, fixed_words = Holder.fixed, Holder.fixed_words
        fix, fix_words = Dealer.fix, Dealer.fix_words

        def send(self: Any, n: str, value: Array, ring: Ring | None = None) -> None:
            fix(self, n, value, ring)
            if n == name:
                self.corrections[n] = (ring or self.ring).wrap(value)

        def send_words(self: Any, n: str, value: Array) -> None:
            fix_words(self, n, value)
            if n == name:
                self.corrections[n] = value

        def zero(original: Any) -> Any:
            return lambda self, n, *rest: original(self, n, *rest) * (0 if n == name and self.party == 0 else 1)

        patch.setattr(Dealer, "fix", send)
        patch.setattr(Dealer, "fix_words", send_words)
        patch.setattr(Holder, "fixed", zero(fixed))
        patch.setattr(Holder, "fixed_words", zero(fixed_words))

    return plant


def no_beta_in_select(patch: Patch) -> None:
    original = select.deal
    patch.setattr(select, "deal", lambda dealer, beta, *rest: original(dealer, beta * 0, *rest))


def wrong_beta(patch: Patch) -> None:
    original = sign.deal
    patch.setattr(sign, "deal", lambda *given: original(*given) ^ 1)


def no_monomial(bit: int) -> Callable[[Patch], None]:
    original = sign.monomial_words
    return lambda patch: patch.setattr(sign, "monomial_words", lambda *given: original(*given) & ~np.uint8(1 << bit))


def no_coefficient(bit: int) -> Callable[[Patch], None]:
    original = sign.coefficients

    def coefficients(*given: Any) -> Array:
        words = original(*given)
        return words & ~words.dtype.type(1 << bit)

    return lambda patch: patch.setattr(sign, "coefficients", coefficients)


def without_row(row: int) -> Callable[[Array], Array]:
    def change(value: Array) -> Array:
        value[:, row] = 0
        return value

    return change
