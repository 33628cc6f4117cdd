"""Logs: one JSON object a line on stderr. Fields are allow-listed, so that no value slips in by accident.

The request id is the id of the trace under way, see tracing.py.

`reason` is the text of a StartRefused, which moiety itself wrote: it says what to do, and never quotes a secret.
"""

import json
import logging
import sys
import traceback
from collections.abc import MutableMapping
from datetime import UTC, datetime
from functools import cache
from typing import Any

import structlog
from opentelemetry import trace

ALLOWED = frozenset(
    [
        "event",
        "level",
        "timestamp",
        "role",
        "request_id",
        "method",
        "route",
        "status",
        "milliseconds",
        "rows",
        "bytes",
        "rounds",
        "upload",
        "lease",
        "bundle",
        "stock",
        "problem",
        "detail",  # of a problem that this role itself found
        "where",
        "reason",
        "signed",  # what the other party signed of a run whose check failed: names, places and hashes
        "attempt",
        "peer",
        "url",
        "version",
    ]
)


_ENCODER = json.JSONEncoder(default=repr)


def _json(fields: MutableMapping[str, Any], **_options: Any) -> str:
    """One line. json.dumps would make an encoder for each."""
    return _ENCODER.encode(fields)


class _Foreign(logging.Handler):
    """Logs that a library wrote a message: where, and at most the type and place of its exception.

    The message itself is dropped, because it could quote anything. When a service cannot start, moiety logs
    the reason in its own words.
    """

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        log().warning("library", where=f"{record.name}:{record.lineno}" + (f" {where(error)}" if error else ""))


def configure(role: str, log_format: str, level: str = "info") -> None:
    """Set up logging for this process. The process's command calls this once."""
    renderer: Any = (
        structlog.dev.ConsoleRenderer() if log_format == "text" else structlog.processors.JSONRenderer(_json)
    )

    def complete(_logger: Any, method: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        allowed = {name: value for name, value in fields.items() if name in ALLOWED}
        now = datetime.now(UTC).replace(tzinfo=None).isoformat()
        work = trace.get_current_span().get_span_context()
        request = {"request_id": f"{work.trace_id:032x}"} if work.is_valid else {}
        return request | allowed | {"role": role, "level": method, "timestamp": f"{now}Z"}

    structlog.configure(
        processors=[complete, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    log.cache_clear()  # of what was configured before
    logging.basicConfig(handlers=[_Foreign()], level=logging.WARNING, force=True)


@cache
def log() -> Any:
    """The logger: `log().info("event", rows=3)`. structlog's loggers are untyped by design."""
    return structlog.get_logger()


def where(error: BaseException) -> str:
    """The type and place of an exception. Its message is left out, because it could quote a value."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].filename.rsplit('/', 1)[-1]}:{frames[-1].lineno}" if frames else "?"
    return f"{type(error).__name__} at {place}"
