"""Tags that tell whether two roles hold the same data: the openings, as each party saw them.

The crypto provider sends the keys on links of its own. So an attacker who changes bytes between alice and bob cannot
adjust a tag to match. A plain hash of the openings could be adjusted, because the attacker sees them.
"""

import hmac
from hashlib import sha256

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from moiety_shared.arrays import Array

TAG_BYTES = 32
_KEY_BYTES = 16


def joined(parts: tuple[bytes, ...]) -> bytes:
    """Encode a sequence of parts so that no two sequences encode alike."""
    return b"".join(len(part).to_bytes(8, "little") + part for part in parts)


def _derive(key: bytes, what: str, *context: bytes) -> bytes:
    return hmac.digest(key, b"moiety/v1 " + what.encode() + b"\0" + joined(context), sha256)


class Tag:
    """A tag over bytes that come piece by piece: GMAC, hidden behind HMAC-SHA256, so that more than one tag may be
    sent.

    It is twenty times faster than SHA-256 here: 0.024 ms a MiB. Every key and context is for one content only.
    """

    def __init__(self, key: bytes, what: str, *context: bytes) -> None:
        self._key = _derive(key, what, *context)
        cipher = Cipher(algorithms.AES128(_derive(self._key, "pieces")[:_KEY_BYTES]), modes.GCM(bytes(12)))
        self._pieces = cipher.encryptor()
        self._sum = b""

    def add(self, piece: bytes | bytearray | memoryview) -> None:
        self._pieces.authenticate_additional_data(piece)

    def of(self, *more: bytes | memoryview) -> bytes:
        """Return the tag over all pieces and over `more`. After the first tag no piece can be added."""
        if not self._sum:
            self._pieces.finalize()
            self._sum = self._pieces.tag
        return _derive(self._key, "tag", self._sum, *map(bytes, more))

    def verify(self, tag: bytes | bytearray | memoryview, *more: bytes | memoryview) -> bool:
        """Whether `tag` is the tag of this content. Takes constant time."""
        return hmac.compare_digest(self.of(*more), bytes(tag))


class Transcript:
    """All that a party opened in one session, in the order in which both parties go through it. Of a verified session
    nothing is added: the coins of its check come from what was opened.

    `check` is the key that the provider gave to alice and bob for the lease. `context` is what began the session: a
    party that began another session, or one with other rows, gets another tag.
    """

    def __init__(self, check: bytes, context: bytes) -> None:
        self._tag = Tag(check, "transcript", context)

    def add(self, opened: Array) -> None:
        self._tag.add(np.ascontiguousarray(opened).reshape(-1).view(np.uint8).data)

    def of(self, party: int, result: bytes | memoryview = b"") -> bytes:
        """Party p's tag at the end: it states that p opened all this, and that p sends this result."""
        return self._tag.of(bytes([party]), result)

    def agrees(self, party: int, said: bytes | memoryview, result: bytes | memoryview = b"") -> bool:
        """Whether party p's tag is the expected one. Takes constant time."""
        return self._tag.verify(said, bytes([party]), result)


def check_key(seeds: tuple[bytes, bytes], what: str) -> bytes:
    """Derive the key that the provider gives to both parties beside their seeds of a lease. Neither party can derive it
    from its own seed."""
    return _derive(b"".join(seeds), f"check {what}")
