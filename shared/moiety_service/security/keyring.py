"""A role's HPKE key pairs on disk. Others seal to the newest; older ones still open envelopes until they expire."""

import asyncio
import base64
import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from moiety_service.observability.logs import log, where
from moiety_shared.crypto.sealing import KEY_ID_BYTES, PrivateKey, PublicKey
from moiety_shared.problems import Problem, ProblemType

WIPE_SECONDS = 60.0
"""A running service wipes a pair at most this long after the pair expires."""

T = TypeVar("T")

_GOING = ".wiping"
_KEPT = 4096  # opened messages that a pair keeps, those used last: a few megabytes of handshakes


@dataclass(frozen=True, repr=False)
class _Pair:
    private: PrivateKey
    created: datetime
    accepted_until: datetime | None

    @cached_property
    def opened(self) -> Callable[[bytes, bytes, Callable[[bytes], Any]], Any]:
        """`private.open` and a reader, with a cache, which is forgotten together with the pair."""

        def opened(envelope: bytes, context: bytes, read: Callable[[bytes], Any]) -> Any:
            return read(self.private.open(envelope, context))

        return lru_cache(maxsize=_KEPT)(opened)

    def accepted(self, now: datetime) -> bool:
        return self.accepted_until is None or now < self.accepted_until


class Keyring:
    """A folder of key pairs. It is read at the first use, and again when an envelope names an unknown key."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pairs: dict[str, _Pair] = {}
        self._read_at: int | None = None

    @property
    def public(self) -> PublicKey:
        """The key to seal to, as it is on disk now. Raises LookupError when there is none."""
        self._refresh()
        current = [pair for pair in self._pairs.values() if pair.accepted_until is None]
        if not current:
            raise LookupError(f"{self._folder} has no current sealing key: `moiety keys rotate` makes one")
        return max(current, key=lambda pair: pair.created).private.public

    def open(self, envelope: bytes | memoryview, context: bytes) -> bytes:
        """Open an envelope. Raises Problem KEY_RETIRED, or SEALED_FOR_ANOTHER when key, context or any bit differs."""
        return self._pair(envelope).private.open(envelope, context)

    def open_kept(self, envelope: bytes, context: bytes, read: Callable[[bytes], T]) -> T:
        """What `read` makes of the message in an envelope that comes again and again. It stays in memory until its key
        is wiped, at most.

        Raises Problem KEY_RETIRED, or SEALED_FOR_ANOTHER when key, context or any bit differs; and what `read` raises.
        """
        found: T = self._pair(envelope).opened(envelope, context, read)
        return found

    def _pair(self, envelope: bytes | memoryview) -> _Pair:
        key_id = bytes(envelope[:KEY_ID_BYTES]).hex()
        if key_id not in self._pairs:
            self._refresh()
        pair = self._pairs.get(key_id)
        if pair is None or not pair.accepted(datetime.now(UTC)):
            raise Problem(ProblemType.KEY_RETIRED)
        return pair

    def rotate(self, keep: timedelta) -> PublicKey:
        """Make a new pair. Earlier pairs still open envelopes for `keep`. Expired pairs are wiped."""
        self.wipe()
        now = datetime.now(UTC)
        for pair in self._pairs.values():
            if pair.accepted_until is None:
                self._write(_Pair(pair.private, pair.created, now + keep))
        fresh = _Pair(PrivateKey.generate(), now, None)
        self._write(fresh)
        return fresh.private.public

    def wipe(self) -> None:
        """Forget the expired pairs, and overwrite and remove their files.

        This also finishes a wipe that another process began before it ended. Raises OSError when it cannot write to
        the folder: the pairs are then forgotten in memory all the same, and open nothing.
        """
        self._refresh()
        now = datetime.now(UTC)
        over = [key_id for key_id, pair in self._pairs.items() if not pair.accepted(now)]
        self._pairs = {key_id: pair for key_id, pair in self._pairs.items() if key_id not in over}
        for key_id in over:
            with contextlib.suppress(FileNotFoundError):  # another process of this role was first
                path = self._folder / f"{key_id}.json"
                path.replace(path.with_suffix(_GOING))  # so that nobody reads a half-wiped key
        for path in self._folder.glob(f"*{_GOING}"):
            with contextlib.suppress(FileNotFoundError), path.open("r+b") as file:
                _overwrite(file)
                path.unlink()

    @contextlib.asynccontextmanager
    async def wiping(self) -> AsyncIterator[None]:
        """While the block runs, wipe pairs soon after they expire, see `WIPE_SECONDS`."""
        task = asyncio.create_task(self._keep_wiping())
        try:
            yield
        finally:
            task.cancel()

    async def _keep_wiping(self) -> None:
        while True:
            try:
                self.wipe()
            except Exception as error:  # logged once for each pair, which is forgotten now
                log().warning("a retired sealing key stays on the disk", where=where(error))
            await asyncio.sleep(WIPE_SECONDS)

    def _write(self, pair: _Pair) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        path = self._folder / f"{pair.private.public.key_id}.json"
        until = pair.accepted_until
        content = {
            "created": pair.created.isoformat(),
            "accepted_until": until.isoformat() if until else None,
            "private": base64.b64encode(pair.private.raw).decode(),
        }
        partial = path.with_suffix(".partial")
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(content, file)
        with path.open("r+b") if path.exists() else contextlib.nullcontext() as before:
            partial.replace(path)
            if before is not None:  # the replaced file holds the private key as well
                _overwrite(before)

    def _refresh(self) -> None:
        if not self._folder.is_dir():
            return
        changed = self._folder.stat().st_mtime_ns
        if changed == self._read_at:
            return
        pairs = {}
        for path in self._folder.glob("*.json"):
            try:
                content = json.loads(path.read_bytes())
            except FileNotFoundError:  # another process of this role has just wiped it
                continue
            until = content["accepted_until"]
            pairs[path.stem] = _Pair(
                PrivateKey(base64.b64decode(content["private"])),
                datetime.fromisoformat(content["created"]),
                datetime.fromisoformat(until) if until else None,
            )
        self._pairs, self._read_at = pairs, changed


def _overwrite(file: BinaryIO) -> None:
    """Overwrite a file with zeros, which are on the disk before this returns."""
    file.write(bytes(os.fstat(file.fileno()).st_size))
    file.flush()
    os.fsync(file.fileno())
