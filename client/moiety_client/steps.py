"""What a client does, as generators without I/O: each yields what is to be done next and is sent what came of it.

The loops are said once, in such generators (`core.py`); two drivers run them (`client.py`), one that blocks and one
that awaits, as httpx does with its authentication flows.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Fetch:
    """An HTTP request, sent `after` so many seconds. Its response is sent back in; an httpx.HTTPError is thrown in."""

    method: str
    url: str
    timeout: float
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    content: bytes | None = field(default=None, repr=False)
    after: float = 0.0

    @property
    def request(self) -> dict[str, Any]:
        """The arguments of httpx's `request`."""
        return {
            "method": self.method,
            "url": self.url,
            "headers": self.headers,
            "content": self.content,
            "timeout": self.timeout,
        }


@dataclass(frozen=True)
class Work:
    """A call that may take a while, such as reading files: an event loop must not wait for it. What it returns is sent
    back in, what it raises is thrown in."""

    call: Callable[[], Any]


Steps = Generator[Fetch | Work, Any, T]
