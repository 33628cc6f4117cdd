"""Sealing inside of TLS: what alice, bob and the crypto provider send one another stays secret from whoever records it
today and breaks TLS's X25519 later, and from what ends TLS on the way.

TLS and the link's credential say who is at the other end. Whoever opens a lane or a lease then sends the public half of
a fresh key pair (MLKEM768-X25519, see `sealing.py`), and gets 32 fresh bytes sealed to it. All keys are derived from
these bytes and from everything that was said before: a changed word means other keys, and nothing opens any more.

A lease is the same with one answer: the crypto provider seals a party's seed to the key that came with the request,
bound to the lease. Bundles are then sealed under keys of bob's seed.

One side's bytes are enough. An end whose randomness came twice, because its memory did, still has other keys: the other
end's half of the conversation is fresh, and goes into them. Two secrets would not help against an end whose randomness
can be guessed, either: it opens both.
"""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from moiety_shared.problems import Problem, ProblemType

SECRET_BYTES = 32
TAG_BYTES = 16
_KEY_BYTES, _NONCE_BYTES = 32, 12
_KEY_MESSAGES = 1 << 10  # a key's last: of 8 MiB each, they are a 32nd of what AES-GCM is good for under one key


class Channel:
    """One party's end of a lane: seals what it sends, opens what it receives, each way in order under a key of its own.

    Nonces count messages and are not sent. What is changed, repeated, left out or out of order does not open, and then
    nothing opens any more. Keys are replaced by their own hash every `_KEY_MESSAGES`, and at the end wiped.
    """

    def __init__(self, secret: bytes, party: int, *transcript: bytes) -> None:
        """`secret` is what was sealed to the fresh key; `transcript` all that both said before, in order."""
        keys = derive(secret, "lane", *transcript, length=2 * _KEY_BYTES)
        directions = _Direction(keys[:_KEY_BYTES]), _Direction(keys[_KEY_BYTES:])
        self._out, self._in = directions[party], directions[1 - party]

    def seal(self, *parts: bytes | memoryview) -> bytes:
        """The next message, whose content is the parts after one another; `TAG_BYTES` longer than they."""
        return self._out.seal(parts)

    def open(self, message: bytes) -> bytes:
        """The content of the peer's next message. Raises MALFORMED when it is not that, and from then on."""
        try:
            return self._in.open(message)
        except (InvalidTag, ValueError):
            self.close()
            raise Problem(ProblemType.MALFORMED, "a message was changed, repeated or lost on its way") from None

    def close(self) -> None:
        """Wipe the keys: nothing more is sealed or opened."""
        self._out.close()
        self._in.close()


class _Direction:
    """The messages one way. Raises ValueError once it is closed."""

    def __init__(self, key: bytes) -> None:
        self._key = bytearray(key)
        self._cipher: AESGCM | None = AESGCM(self._key)
        self._count = 0

    def seal(self, parts: tuple[bytes | memoryview, ...]) -> bytes:
        cipher, nonce = self._next()
        return cipher.encrypt(nonce, b"".join(parts), None)

    def open(self, message: bytes) -> bytes:
        cipher, nonce = self._next()
        return cipher.decrypt(nonce, message, None)

    def close(self) -> None:
        self._key[:] = bytes(len(self._key))
        self._cipher = None

    def _next(self) -> tuple[AESGCM, bytes]:
        """The next message's cipher and nonce."""
        if self._cipher is None:
            raise ValueError("the channel is closed")
        if self._count and self._count % _KEY_MESSAGES == 0:
            self._key[:] = HKDFExpand(SHA256(), _KEY_BYTES, b"moiety/v1 next key").derive(self._key)
            self._cipher = AESGCM(self._key)
        nonce = self._count.to_bytes(_NONCE_BYTES, "little")
        self._count += 1
        return self._cipher, nonce


def lease_context(party: int, lease_id: str, upload_id: str, rows: int, ticket: bytes) -> bytes:
    """What party p's seed of a lease is bound to on its way from the provider."""
    return _encoded(f"lease {party}", lease_id.encode(), upload_id.encode(), rows.to_bytes(4, "little"), ticket)


def bundle_cipher(seed: bytes, lease_id: str, number: int) -> "Cipher[modes.GCM]":
    """What seals a bundle's content: one message, in pieces of any size, with a tag of `TAG_BYTES` at its end.

    `seed` is bob's of the lease. A bundle is issued once, and so is its key used once.
    """
    key = derive(seed, "bundle", lease_id.encode(), number.to_bytes(8, "little"))
    return Cipher(algorithms.AES256(key), modes.GCM(bytes(_NONCE_BYTES)))


def derive(secret: bytes, what: str, *context: bytes, length: int = _KEY_BYTES) -> bytes:
    """A key for `what` alone, and for that context."""
    return HKDF(SHA256(), length, None, _encoded(what, *context)).derive(secret)


def _encoded(what: str, *context: bytes) -> bytes:
    """One encoding for each use and sequence of parts."""
    parts = (what.encode(), *context)
    return b"moiety/v1 channel" + b"".join(len(part).to_bytes(8, "little") + part for part in parts)
