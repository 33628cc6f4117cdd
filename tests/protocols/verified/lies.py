"""One lie of one party: in a message, in what it stores, or in what it tells the client."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from moiety_shared.crypto.prg import Stream, new_seed
from moiety_shared.plan.layers import Linear, Open
from moiety_shared.plan.lookups import ReLU
from moiety_shared.plan.plan import Plan
from moiety_shared.protocols.verified.answers import PartyAnswer
from moiety_shared.protocols.verified.product import PreparedVerified
from moiety_shared.protocols.verified.relu import VerifiedReLU
from moiety_shared.ring import Array
from tests.protocols.running import integers, plan_of
from tests.protocols.verified.running import Bundle, Outcome, Tamper, Upload, accepted, drive

OPENED: dict[str, Any] = {"shift": 2, "opened_bits": 16, "range_bits": 13}
PLAN: Plan = plan_of(
    Open(name="open", input="input", shape=(6,)),
    Linear(name="first", input="open", shape=(6,), out_features=9),
    ReLU(name="relu", input="first", shape=(9,), **OPENED),
    Open(name="again", input="relu", shape=(9,)),
    Linear(name="last", input="again", shape=(9,), out_features=3),
    shape=(6,),
)
ROWS = 2

MESSAGES: dict[str, tuple[int, int]] = {
    "x^": (0, 0), "coin promise": (0, 1), "y^": (1, 0), "looked-up bits": (2, 0), "signs": (3, 0), "h^": (4, 0),
    "y^ of the output": (5, 0), "coin nonce": (6, 0), "e": (7, 0), "proof": (7, 1), "verdict promise": (8, 0),
    "verdict": (9, 0),
}  # fmt: skip
"""(round, opening in it) of each kind of message."""
WORDS = {"y^": ROWS * 9, "h^": ROWS * 9, "y^ of the output": ROWS * 3}
"""How many words of 72 bits a message holds."""


def upload() -> Upload:
    return Upload(PLAN, {name: integers(shape, 4) for name, shape in PLAN.weights()})


def number(below: int) -> int:
    return int(Stream(new_seed()).words("number", (), np.uint32)) % below


def lie(kind: str) -> Tamper:
    """Flip one bit of a message, of a value's 32 bits if it holds words."""
    where = MESSAGES[kind]

    def tamper(round_: int, place: int, raw: bytes) -> bytes:
        if (round_, place) != where:
            return raw
        bits = ROWS * 9 if kind == "signs" else 8 * len(raw)
        at = 64 * number(WORDS[kind]) + number(32) if kind in WORDS else number(bits)
        changed = bytearray(raw)
        changed[at // 8] ^= 1 << at % 8
        return bytes(changed)

    return tamper


def _add(array: Array) -> None:
    """Add a power of two below 2^32 to one element."""
    array[tuple(map(number, array.shape))] += 1 << number(32)


def _everywhere(array: Array) -> None:
    """Add a power of two to every element: some wire reads what is added to it."""
    array += 1 << number(32)


def _flip(array: Array) -> None:
    """Another value of every bit of one word."""
    array[..., number(array.shape[-1])] ^= array.dtype.type(np.iinfo(array.dtype).max)


def _scramble(array: Array) -> None:
    array ^= Stream(new_seed()).words("bytes", array.shape, np.uint8)


def _relu(bundle: Bundle, party: int) -> VerifiedReLU:
    found = bundle.ready[party].layers["relu"]
    assert isinstance(found, VerifiedReLU)
    return found


def _product(bundle: Bundle, party: int, name: str) -> PreparedVerified:
    found = bundle.ready[party].layers[name]
    assert isinstance(found, PreparedVerified)
    return found


Stored = tuple[Callable[[Upload, Bundle, int], Array], Callable[[Array], object]]

STORED: dict[str, Stored] = {
    "share of w": (lambda u, b, p: u.models[p]["first"].local, lambda a: np.add(a, 1, out=a)),
    "tag of w": (lambda u, b, p: u.models[p]["last"].tags[0], lambda a: np.add(a, 1, out=a)),
    "masked weight": (lambda u, b, p: u.models[p]["last"].masked, lambda a: np.add(a, 1, out=a)),
    "tag of r": (lambda u, b, p: _product(b, p, "first").read[0], _add),
    "z": (lambda u, b, p: _product(b, p, "first").offset[0], _add),
    "tag of z": (lambda u, b, p: _product(b, p, "first").tag[0], _add),
    "z of the output": (lambda u, b, p: _product(b, p, "last").offset[0], _add),
    "tag of z of the output": (lambda u, b, p: _product(b, p, "last").tag[0], _add),
    "lift": (lambda u, b, p: _relu(b, p).lift.value[0, :, 0], _everywhere),
    "tag of the lift": (lambda u, b, p: _relu(b, p).lift.tag[0, :, 0], _everywhere),
    "select": (lambda u, b, p: _relu(b, p).select.value[0, :, 1], _add),
    "tag of select": (lambda u, b, p: _relu(b, p).select.tag[0, :, 1], _add),
    "mask of h": (lambda u, b, p: _relu(b, p).mask.value[0], _add),
    "tag of the mask of h": (lambda u, b, p: _relu(b, p).mask.tag[0], _add),
    "tables": (lambda u, b, p: _relu(b, p).signs.tables, _flip),
    "masks and monomials": (lambda u, b, p: _relu(b, p).signs.words, lambda a: np.bitwise_xor(a, 1, out=a)),
    "proof of the bits": (lambda u, b, p: _relu(b, p).signs.provable.further, _scramble),
    "mask of the proof": (lambda u, b, p: b.ready[p].masks[0].further, _scramble),
}


@contextmanager
def stored(kind: str, up: Upload, bundle: Bundle, party: int) -> Iterator[None]:
    """Change what a party stores, for the time of a run."""
    where, change = STORED[kind]
    array = where(up, bundle, party)
    before = array.copy()
    change(array)
    assert not np.array_equal(array, before)
    try:
        yield
    finally:
        array[...] = before


@dataclass
class Caught:
    """Who noticed a lie."""

    party: bool
    client: bool

    def __bool__(self) -> bool:
        return self.party or self.client


def judged(up: Upload, bundle: Bundle, x: Array, outcome: Outcome, liar: int) -> Caught:
    """Whether the honest party refused, and whether the client would, given both answers."""
    honest = outcome.answers[1 - liar]
    if honest is None:
        return Caught(True, True)
    said = honest._replace(keys=bundle.ready[liar].keys.rows)  # the liar says what agrees with the other answer
    return Caught(False, accepted(up, bundle, x, replace(outcome, answers=both(liar, said, honest))) is None)


def both(liar: int, said: PartyAnswer, honest: PartyAnswer) -> list[PartyAnswer | None]:
    return [said, honest] if liar == 0 else [honest, said]


def in_message(up: Upload, bundle: Bundle, x: Array, kind: str, liar: int) -> Caught:
    return judged(up, bundle, x, drive(up.sessions(bundle, x), liar, lie(kind)), liar)


def in_storage(up: Upload, bundle: Bundle, x: Array, kind: str, liar: int) -> Caught:
    with stored(kind, up, bundle, liar):
        return judged(up, bundle, x, drive(up.sessions(bundle, x)), liar)
