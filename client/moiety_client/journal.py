"""The files of a run, so that it can go on after an interruption: `stream(..., resume="run.jsonl")`.

    run.jsonl           The first line says which model was asked. Then each batch has a line with a digest of its
                        inputs, and its answers.
    run.jsonl.pending   The random numbers of the request that is under way. With them the client sends the same
                        request again: the parties give the answer that they have, and count it once. The client
                        deletes this file when the answer is in run.jsonl.

Both files are as secret as the answers, so their mode is 0600. Neither contains an input.
"""

import hashlib
import json
import os
from collections import deque
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from pydantic import Field, ValidationError

from moiety_client.answers import Prediction
from moiety_client.errors import ResumeRefused
from moiety_client.exchange import Drawn
from moiety_shared.fixed_point import RingArray
from moiety_shared.messages.catalogue import Entry, Hex16, Hex32
from moiety_shared.plan.layers import Public


class JournalHead(Public):
    """The first line of a journal: which run it belongs to."""

    format: Literal[1] = 1
    model: str
    version: int
    upload_id: Hex16
    batch: int


class Kept(Public):
    """A finished batch: a digest of its inputs, and its answers."""

    inputs: Hex32 = Field(description="SHA-256 of the encoded inputs")
    values: list[Any]
    rounds: int
    online_bytes: int
    seconds: float


class Pending(Public):
    """The random numbers of the request for the next batch."""

    inputs: Hex32
    upload_id: Hex16
    request_id: Hex16
    seed: Hex32
    result_keys: tuple[Hex32, Hex32]
    time: int = Field(0, description="seconds since 1970; release 0.1 wrote none, and what it drew is too old")


class RunJournal:
    """The file of a run that can be resumed: its finished batches, and the random numbers for the next one.

    Only one run at a time may have the file open. The run first reads the batches in it, in order, and then adds to
    them. Raises ResumeRefused.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pending = path.with_name(path.name + ".pending")
        with ExitStack() as opened:
            try:
                self._file = opened.enter_context(open(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b"))
                lock(self._file)
            except BlockingIOError:
                raise ResumeRefused(f"another run is writing {path}: wait for it, or name another file") from None
            except OSError as error:
                raise ResumeRefused(f"{path} cannot be written ({error.strerror}): name another file") from None
            self._head, self._kept = self._read()
            opened.pop_all()
        self._read_so_far = 0

    def close(self) -> None:
        """Close the file, so that another run may open it."""
        self._file.close()

    def known(self, entry: Entry, batch: int, elements: RingArray) -> Prediction | None:
        """Return the answers to the next batch if the file holds them, else None.

        Raises ResumeRefused unless the model, the batch size and the inputs are the same as before.
        """
        self._check(JournalHead(model=entry.name, version=entry.version, upload_id=entry.upload_id, batch=batch))
        if not self._kept:
            return None
        kept = self._kept.popleft()
        self._read_so_far += 1
        if kept.inputs != _digest(elements):
            raise ResumeRefused(
                f"{self._path} holds answers to other inputs from batch {self._read_so_far} on: pass the same inputs "
                "in the same order, or name another file"
            )
        return _prediction(entry, kept, len(elements), self._path)

    def check_end(self) -> None:
        """Raise ResumeRefused if the file holds more batches than the run has."""
        if self._kept:
            raise ResumeRefused(
                f"{self._path} holds answers to more inputs than you passed: pass the same inputs, or name another file"
            )

    def drawn(self, entry: Entry, elements: RingArray) -> Drawn:
        """Return the random numbers of a request for these elements, and keep them on the disk.

        They are the same as before if that request was under way already.
        """
        digest = _digest(elements)
        if self._head is not None and entry.upload_id != self._head.upload_id:
            raise ResumeRefused(
                f"{entry.name} was published again during the run, as version {entry.version}, but {self._path} "
                f"holds answers of version {self._head.version}: start again with another file"
            )
        before = self._read_pending()
        if before is not None and (before.inputs, before.upload_id) == (digest, entry.upload_id):
            one, other = map(bytes.fromhex, before.result_keys)
            return Drawn(bytes.fromhex(before.request_id), bytes.fromhex(before.seed), (one, other), before.time)
        drawn = Drawn.new()
        pending = Pending(
            inputs=digest,
            upload_id=entry.upload_id,
            request_id=drawn.request_id.hex(),
            seed=drawn.seed.hex(),
            result_keys=(drawn.result_keys[0].hex(), drawn.result_keys[1].hex()),
            time=drawn.time,
        )
        partial = self._pending.with_name(self._pending.name + ".partial")
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            _write(file, pending)
        partial.replace(self._pending)
        return drawn

    def redrawn(self, entry: Entry, elements: RingArray) -> Drawn:
        """Return new random numbers for a batch whose old request the parties no longer accept."""
        self._pending.unlink(missing_ok=True)
        return self.drawn(entry, elements)

    def keep(self, elements: RingArray, answer: Prediction) -> None:
        """Write a batch's answers. They are on the disk when this returns."""
        kept = Kept(
            inputs=_digest(elements),
            values=answer.given.tolist(),
            rounds=answer.rounds,
            online_bytes=answer.online_bytes,
            seconds=answer.seconds,
        )
        _write(self._file, kept)
        self._pending.unlink(missing_ok=True)

    def _check(self, head: JournalHead) -> None:
        if self._head is None:
            _write(self._file, head)
            self._head = head
        if self._head == head:
            return
        was, now = (f"model {h.model} {h.version} in batches of {h.batch}" for h in (self._head, head))
        anew = "" if was != now else ", whose weights the owner uploaded again"
        raise ResumeRefused(
            f"{self._path} belongs to a run of {was}, but this is a run of {now}{anew}: name another file"
        )

    def _read(self) -> tuple[JournalHead | None, deque[Kept]]:
        """Read the file, and remove a last line that was cut short: the client never gave out its batch."""
        content = self._file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._file.seek(len(whole))
        self._file.truncate()
        lines = whole.splitlines()
        try:
            head = JournalHead.model_validate_json(lines[0]) if lines else None
            return head, deque(Kept.model_validate_json(line) for line in lines[1:])
        except ValidationError:
            raise ResumeRefused(f"{self._path} is not the file of a run: name another file") from None

    def _read_pending(self) -> Pending | None:
        try:
            return Pending.model_validate_json(self._pending.read_bytes())
        except (FileNotFoundError, ValidationError):
            return None


def lock(file: BinaryIO) -> None:
    """Lock the file for one run until it is closed. Raises BlockingIOError. On Windows this locks nothing."""
    if os.name == "posix":
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _write(file: BinaryIO, line: Public) -> None:
    file.write(json.dumps(line.model_dump(), separators=(",", ":")).encode() + b"\n")
    file.flush()
    os.fsync(file.fileno())


def _digest(elements: RingArray) -> str:
    shape = repr((elements.shape, elements.dtype.str)).encode()
    return hashlib.sha256(shape + np.ascontiguousarray(elements).data).hexdigest()


def _prediction(entry: Entry, kept: Kept, count: int, path: Path) -> Prediction:
    output = entry.plan.output
    try:
        values = np.array(kept.values, dtype=np.uint8 if output.kind == "labels" else np.float64)
    except (ValueError, TypeError, OverflowError):
        values = np.empty(0)
    if values.shape != (count, *output.shape):
        raise ResumeRefused(f"{path} was changed: name another file")
    return Prediction(output, values, entry.classes, kept.rounds, kept.online_bytes, kept.seconds)
