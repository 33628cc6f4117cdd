"""What the owner keeps of an upload whose runs are signed, to compute again what the parties had to send.

A file for each upload, in the owner's own folder: the seeds of the weights' masks, the parties' keys, and the masked
weights. The first two are sealed under the owner's storage key, and the rest under a key that is sealed with them.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from moiety_shared.crypto.prg import SEED_BYTES
from moiety_shared.crypto.sealing import CHUNK_KEY_BYTES, Chunks
from moiety_shared.crypto.signing import key_from_text
from moiety_shared.plan.plan import Plan
from moiety_shared.problems import Problem, ProblemType

if TYPE_CHECKING:  # it needs PyTorch, for which no other command of the owner waits
    from moiety_shared.messages.upload import MaskedModel

_NONCE, _TAG, _KEY = 12, 16, 32
_HEAD = _NONCE + 2 * SEED_BYTES + CHUNK_KEY_BYTES + 2 * _KEY + _TAG


@dataclass(frozen=True, repr=False)
class KeptUpload:
    """What an upload's file holds: the seeds of the weights' masks, the keys with which alice and bob sign what they
    send, and the masked weights, whose chunks are read one behind the other."""

    seeds: tuple[bytes, bytes]
    keys: tuple[Ed25519PublicKey, Ed25519PublicKey]
    chunks: Chunks
    file: BinaryIO


class AuditableUploads:
    """The owner's files of auditable uploads."""

    def __init__(self, folder: Path, storage_key: bytes) -> None:
        self._folder, self._cipher = folder, AESGCM(storage_key)

    def keep(self, masked: "MaskedModel", keys: tuple[str, str]) -> None:
        """Write the file of an upload that is about to be sent. `keys` are the parties', as its manifest names them."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        nonce, chunk_key = secrets.token_bytes(_NONCE), secrets.token_bytes(CHUNK_KEY_BYTES)
        raw = b"".join(key_from_text(key).public_bytes_raw() for key in keys)
        head = b"".join((*masked.draws.seeds, chunk_key, raw))
        chunks, context = Chunks(chunk_key), _context(masked.upload_id, masked.plan)
        with open(os.open(self._path(masked.upload_id), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(nonce + self._cipher.encrypt(nonce, head, context))
            for piece in masked.pieces():
                file.write(chunks.seal(piece))

    @contextmanager
    def opened(self, upload_id: str, plan: Plan) -> Iterator[KeptUpload]:
        """Open the file of an upload. Raises Problem INVALID_INPUT where there is none, or it was changed, which
        whoever reads its chunks may notice."""
        try:
            with self._path(upload_id).open("rb") as file:
                head = file.read(_HEAD)
                raw = self._cipher.decrypt(head[:_NONCE], head[_NONCE:], _context(upload_id, plan))
                seeds, rest = (raw[:SEED_BYTES], raw[SEED_BYTES : 2 * SEED_BYTES]), raw[2 * SEED_BYTES :]
                keys = rest[CHUNK_KEY_BYTES:]
                one, other = (Ed25519PublicKey.from_public_bytes(key) for key in (keys[:_KEY], keys[_KEY:]))
                yield KeptUpload(seeds, (one, other), Chunks(rest[:CHUNK_KEY_BYTES]), file)
        except FileNotFoundError:
            instead = "its runs are not signed: publish it with `moiety publish --auditable`"
            raise Problem(ProblemType.INVALID_INPUT, instead) from None
        except (InvalidTag, ValueError, Problem):
            text = "the owner's own file of it was changed, or belongs to another storage.key: publish it again"
            raise Problem(ProblemType.INVALID_INPUT, text) from None

    def forget(self, upload_id: str) -> None:
        """Remove the file of an upload, if there is one."""
        self._path(upload_id).unlink(missing_ok=True)

    def _path(self, upload_id: str) -> Path:
        return self._folder / f"{upload_id}.sealed"


def _context(upload_id: str, plan: Plan) -> bytes:
    return b"moiety/v1 auditable upload\0" + bytes.fromhex(upload_id) + plan.digest
