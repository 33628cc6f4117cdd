"""Encryption inside of TLS, for what alice, bob and the crypto provider send one another. It keeps the content secret
from anybody who records it today and breaks TLS's X25519 later, and from a machine that terminates TLS on the way.

TLS and the link's credential authenticate the other end. Whoever opens a lane or a lease then sends the public half of
a fresh key pair (MLKEM768-X25519, see `sealing.py`), and gets 32 fresh bytes sealed to it. Both ends derive all keys
from these bytes and from everything that was said before. If a word of that was changed, the keys differ and nothing
opens.

A lease works in the same way with a single answer: the crypto provider seals a party's seed to the key that came with
the request, bound to the lease. It then seals bundles under keys that it derives from bob's seed.

Fresh bytes from one side are enough. If an end's memory was copied and its randomness comes twice, its keys still
differ: the other end's half of the conversation is fresh and goes into them. A second secret would not help against an
end whose randomness can be guessed, because that end opens both.
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
_KEY_MESSAGES = 1 << 10  # messages under one key: of 8 MiB each, a 32nd of what AES-GCM can take under one


class Channel:
    """One party's end of a lane. It seals what it sends and opens what it receives; each direction has its own key and
    order.

    Nonces count messages and are not sent. A message that was changed, repeated, left out or moved does not open, and
    no later message opens either. A hash of each key replaces it every `_KEY_MESSAGES`, and `close` wipes it.
    """

    def __init__(self, secret: bytes, party: int, *transcript: bytes) -> None:
        """`secret` is what was sealed to the fresh key. `transcript` is all that both ends said before, in order."""
        keys = derive(secret, "lane", *transcript, length=2 * _KEY_BYTES)
        directions = _Direction(keys[:_KEY_BYTES]), _Direction(keys[_KEY_BYTES:])
        self._out, self._in = directions[party], directions[1 - party]

    def seal(self, *parts: bytes | memoryview) -> bytes:
        """Seal the next message, whose content is the concatenated parts. It is `TAG_BYTES` longer than they are."""
        return self._out.seal(parts)

    def open(self, message: bytes) -> bytes:
        """Return the content of the peer's next message. Raises MALFORMED when it is anything else, and at every call
        after that."""
        try:
            return self._in.open(message)
        except (InvalidTag, ValueError):
            self.close()
            raise Problem(ProblemType.MALFORMED, "a message was changed, repeated or lost on its way") from None

    def close(self) -> None:
        """Wipe the keys. Nothing more can be sealed or opened."""
        self._out.close()
        self._in.close()


class _Direction:
    """The messages in one direction. Raises ValueError once it is closed."""

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
        """Return the cipher and nonce of the next message."""
        if self._cipher is None:
            raise ValueError("the channel is closed")
        if self._count and self._count % _KEY_MESSAGES == 0:
            self._key[:] = HKDFExpand(SHA256(), _KEY_BYTES, b"moiety/v1 next key").derive(self._key)
            self._cipher = AESGCM(self._key)
        nonce = self._count.to_bytes(_NONCE_BYTES, "little")
        self._count += 1
        return self._cipher, nonce


def lease_context(party: int, lease_id: str, upload_id: str, rows: int, ticket: bytes, key_id: str = "") -> bytes:
    """The context to which the provider binds party p's seed of a lease when it sends the seed. `key_id` names the
    upload's key, where runs are verified."""
    parts = lease_id.encode(), upload_id.encode(), rows.to_bytes(4, "little"), ticket, key_id.encode()
    return _encoded(f"lease {party}", *parts)


def bundle_cipher(seed: bytes, lease_id: str, number: int) -> "Cipher[modes.GCM]":
    """The cipher that seals a bundle's content: one message, in pieces of any size, with a tag of `TAG_BYTES` at its
    end.

    `seed` is bob's seed of the lease. The provider issues a bundle once, so its key is used once.
    """
    key = derive(seed, "bundle", lease_id.encode(), number.to_bytes(8, "little"))
    return Cipher(algorithms.AES256(key), modes.GCM(bytes(_NONCE_BYTES)))


def tags_cipher(seed: bytes, lease_id: str) -> "Cipher[modes.GCM]":
    """The cipher that seals the tags of an upload's weights for bob: as `bundle_cipher`. Under one lease they are
    always the same, so its key is for one content."""
    return Cipher(algorithms.AES256(derive(seed, "tags", lease_id.encode())), modes.GCM(bytes(_NONCE_BYTES)))


def seal_words(
    owner: bytes, party: int, lease_id: str, first_row: int, rows: int, challenge: bytes, words: bytes
) -> bytes:
    """Seal party p's words of some rows of a lease to an upload's owner. `owner` is a key that the provider and the
    owner alone have. The owner drew `challenge`, so what was sealed before that does not open. The words of the same
    rows are always the same, so each key is for one content."""
    key = _words_key(owner, party, lease_id, first_row, rows, challenge)
    return AESGCM(key).encrypt(bytes(_NONCE_BYTES), words, None)


def open_words(
    owner: bytes, party: int, lease_id: str, first_row: int, rows: int, challenge: bytes, sealed: bytes
) -> bytes:
    """Return what `seal_words` sealed. Raises Problem SEALED_FOR_ANOTHER for anything else."""
    key = _words_key(owner, party, lease_id, first_row, rows, challenge)
    try:
        return AESGCM(key).decrypt(bytes(_NONCE_BYTES), sealed, None)
    except (InvalidTag, ValueError):
        raise Problem(ProblemType.SEALED_FOR_ANOTHER, "the words of a run") from None


def _words_key(owner: bytes, party: int, lease_id: str, first_row: int, rows: int, challenge: bytes) -> bytes:
    place = lease_id.encode(), first_row.to_bytes(8, "little"), rows.to_bytes(4, "little")
    return derive(owner, f"words {party}", *place, challenge)


def derive(secret: bytes, what: str, *context: bytes, length: int = _KEY_BYTES) -> bytes:
    """Derive a key for this use and this context alone."""
    return HKDF(SHA256(), length, None, _encoded(what, *context)).derive(secret)


def _encoded(what: str, *context: bytes) -> bytes:
    """Encode a use and a sequence of parts so that no two of them encode alike."""
    parts = (what.encode(), *context)
    return b"moiety/v1 channel" + b"".join(len(part).to_bytes(8, "little") + part for part in parts)
