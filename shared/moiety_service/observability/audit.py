"""The audit log: who asked what of whom, when, how much, and how it ended. It never holds a value or a token.

It is a file of JSON lines, one object a line, which only this role can read.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from moiety_shared.problems import outcome


class Audit:
    """One role's audit log."""

    def __init__(self, path: Path) -> None:
        # One write appends one whole line, so several processes may share the file.
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def close(self) -> None:
        os.close(self._file)

    def record(
        self,
        event: str,
        outcome: str,
        *,
        subject: str,
        model: str = "",
        upload: str = "",
        rows: int = 0,
        milliseconds: float = 0.0,
    ) -> None:
        """Append one line. `outcome` is "ok", the name of a problem type, or "cancelled"."""
        members = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "event": event,
            "subject": subject,
            "model": model,
            "upload": upload,
            "rows": rows,
            "outcome": outcome,
            "milliseconds": round(milliseconds, 2),
        }
        os.write(self._file, json.dumps({name: value for name, value in members.items() if value}).encode() + b"\n")

    @contextmanager
    def event(self, event: str, *, subject: str, model: str = "", upload: str = "", rows: int = 0) -> Iterator[None]:
        """Record the event when the block ends, with its outcome and its time."""
        started, ended = time.perf_counter(), outcome(None)
        try:
            yield
        except BaseException as error:
            ended = outcome(error)
            raise
        finally:
            self.record(
                event,
                ended,
                subject=subject,
                model=model,
                upload=upload,
                rows=rows,
                milliseconds=(time.perf_counter() - started) * 1e3,
            )
