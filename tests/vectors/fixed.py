"""Fixed randomness in place of the system's: the vectors come out alike each time, and say what was drawn.

HPKE draws inside its library. So a seal of before is used again while it still opens to the same message, and a new one
is made only if the format of seals has changed.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from moiety_shared.crypto.prg import Stream
from moiety_shared.crypto.sealing import PrivateKey, PublicKey
from moiety_shared.problems import Problem

SEEDS = tuple(hashlib.sha256(f"the sealing key of {name}".encode()).digest() for name in ("alice", "bob"))
"""X-Wing's private keys of alice and of bob, 32 bytes each: SHAKE-256 expands one to ML-KEM's seed and X25519's key."""
KEYS = tuple(PrivateKey(hashlib.shake_256(seed).digest(96)) for seed in SEEDS)


def drawn(what: str, count: int) -> bytes:
    """Bytes that stand for random ones. `what` names them: the same name gives the same bytes."""
    raw: bytes = Stream(hashlib.sha256(what.encode()).digest(), "vectors").words("bytes", (count,), "u1").tobytes()
    return raw


class Seals:
    """All that was sealed to alice or bob, in order. `kept` is a file of earlier seals."""

    def __init__(self, kept: Path) -> None:
        cases = json.loads(kept.read_text())["cases"] if kept.is_file() else []
        self._old = [bytes.fromhex(case["sealed"]) for case in cases]
        self.cases: list[dict[str, Any]] = []

    @classmethod
    def none(cls) -> "Seals":
        """For what seals nothing to a party."""
        return cls(Path())

    def seal(self, public: PublicKey, message: bytes | bytearray, info: bytes) -> bytes:
        """Seal, or find an old seal of the same message, and write it down."""
        party = [key.public.raw for key in KEYS].index(public.raw)
        sealed = next((old for old in self._old if _opens(KEYS[party], old, info) == message), None)
        sealed = sealed or _seal(public, message, info)
        case = {
            "private_seed": SEEDS[party].hex(),
            "public_key": public.text(),
            "info": info.hex(),
            "message": bytes(message).hex(),
            "sealed": sealed.hex(),
        }
        if message and case not in self.cases:  # an empty one only tries the key
            self.cases.append(case)
        return sealed


_seal = PublicKey.seal


def _opens(key: PrivateKey, sealed: bytes, info: bytes) -> bytes | None:
    try:
        return key.open(sealed, info)
    except Problem:
        return None


@contextmanager
def randomness(what: str, seals: Seals) -> Iterator[list[bytes]]:
    """Replace what handshakes, nonces and seals draw. The list has what was drawn, in order."""
    given: list[bytes] = []

    def token_bytes(count: int) -> bytes:
        given.append(drawn(f"{what} {len(given)}", count))
        return given[-1]

    with mock.patch("secrets.token_bytes", token_bytes), mock.patch.object(PublicKey, "seal", _recording(seals)):
        yield given


def _recording(seals: Seals) -> Any:
    def seal(self: PublicKey, message: bytes | bytearray, context: bytes) -> bytes:
        return seals.seal(self, message, context)

    return seal
