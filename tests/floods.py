"""Answers without an end, from whoever a role asks."""

from collections.abc import AsyncIterator, Iterator

import httpx

PART = 1 << 20


class Flood(httpx.SyncByteStream, httpx.AsyncByteStream):
    """An answer without an end, and how much of it was taken."""

    def __init__(self) -> None:
        self.taken = 0

    def __iter__(self) -> Iterator[bytes]:
        while self.taken < 200 * PART:
            self.taken += PART
            yield bytes(PART)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self:
            yield part
