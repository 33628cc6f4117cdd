"""What a client does, as generators without I/O. A generator yields the next step; its driver sends back the result.

`core.py` writes each loop once, as such a generator. `client.py` has two drivers, one that blocks and one that awaits.
httpx does so with its authentication flows.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from moiety_service.http import clients

T = TypeVar("T")


@dataclass(frozen=True)
class Fetch:
    """An HTTP request that the driver sends after `after` seconds. Of its answer it reads `most` bytes at most.

    The driver sends its response back into the generator, or throws an httpx.HTTPError into it.
    """

    method: str
    url: str
    timeout: float
    most: int
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    content: bytes | None = field(default=None, repr=False)
    after: float = 0.0

    @property
    def request(self) -> dict[str, Any]:
        """The keyword arguments for httpx's `request`."""
        return {
            "method": self.method,
            "url": self.url,
            "headers": self.headers,
            "content": self.content,
            "timeout": self.timeout,
            "extensions": clients.at_most(self.most),
        }


@dataclass(frozen=True)
class Work:
    """A call that may take a while, such as reading files, so that an event loop must not wait for it.

    The driver sends what it returns back into the generator, or throws what it raises into it.
    """

    call: Callable[[], Any]


Steps = Generator[Fetch | Work, Any, T]
