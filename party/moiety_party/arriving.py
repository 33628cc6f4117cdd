"""Reads an upload as it arrives, a chunk at a time. Memory holds one chunk besides the model that comes of it."""

from collections.abc import AsyncIterator, Awaitable, Callable

from moiety_service.security.keyring import Keyring
from moiety_shared.messages import upload
from moiety_shared.messages.upload import HEADER_BYTES, Arrival, Head, Keys, Upload, context
from moiety_shared.messages.wire import malformed

Away = Callable[..., Awaitable[None]]
"""Calls a function with these arguments in a thread."""


class Body:
    """A request's body of `length` bytes, which its reader takes in parts of any size."""

    def __init__(self, source: AsyncIterator[bytes], length: int) -> None:
        self._source, self._left = source, length
        self._rest = memoryview(b"")

    @property
    def left(self) -> int:
        """How many bytes were announced and not yet taken."""
        return self._left

    async def take(self, size: int) -> bytearray:
        """Take the next `size` bytes. Raises Problem MALFORMED when they do not come."""
        if size > self._left:
            raise malformed("the model upload was cut short")
        part, at = bytearray(size), 0
        while at < size:
            if not self._rest:
                self._rest = memoryview(await anext(self._source, b""))
                if not self._rest:
                    raise malformed("the body is shorter than its Content-Length")
            taken = min(len(self._rest), size - at)
            part[at : at + taken] = self._rest[:taken]
            self._rest, at = self._rest[taken:], at + taken
        self._left -= size
        return part


async def read_head(body: Body, upload_id: str, party: int) -> Head:
    """Read the head. Raises a Problem unless it belongs to this upload and is for this party (0 alice, 1 bob)."""
    header = await body.take(HEADER_BYTES)
    head = Head.unpack(header + await body.take(Head.size(header)))
    if head.manifest.upload_id != upload_id or head.manifest.party != party:
        raise malformed("the manifest belongs to another upload or to the other party")
    return head


async def read_weights(body: Body, head: Head, keyring: Keyring, away: Away) -> Upload:
    """Read the rest of the body. Raises a Problem unless all of it is what the owner signed."""
    if body.left != sum(upload.sealed_sizes(head.plan)):
        raise malformed("the model upload's length does not match its plan")
    upload_id = bytes.fromhex(head.manifest.upload_id)
    opened = keyring.open(head.own_envelope, context(head.plan, upload_id, str(head.manifest.party)))
    arrival = Arrival(head, Keys.unpack(opened))
    for size in upload.sealed_sizes(head.plan):
        await away(arrival.add, await body.take(size))
    return arrival.finish()
