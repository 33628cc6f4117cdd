"""The threads in which a party does what would hold up its event loop."""

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

INLINE_BYTES = 1 << 20
"""Bytes that the event loop itself opens or seals at most."""


class Threads:
    """`online` threads serve requests; the one `offline` thread prepares randomness, and yields to them."""

    def __init__(self, lanes: int) -> None:
        """`lanes` runs go on at the same time at most."""
        self.online = ThreadPoolExecutor(lanes, "online")
        self.offline = ThreadPoolExecutor(1, "offline", initializer=_step_back)

    def close(self) -> None:
        self.online.shutdown(wait=False, cancel_futures=True)
        self.offline.shutdown(wait=False, cancel_futures=True)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the function in an online thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.online, lambda: function(*args, **kwargs))

    async def run_if_large(self, size: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the function here if it works on `INLINE_BYTES` at most, and otherwise in an online thread."""
        if size <= INLINE_BYTES:
            return function(*args, **kwargs)
        return await self.run(function, *args, **kwargs)


def _step_back() -> None:
    """On Linux, niceness is a thread's own."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
