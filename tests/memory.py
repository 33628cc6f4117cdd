"""How much memory a piece of work takes, whatever the process took before it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def growth_below(limit: int) -> Iterator[None]:
    """The process's resident memory grows by less than `limit` bytes while the block runs.

    "5" makes Linux forget the largest size that the process had. `ru_maxrss` alone is the largest of the whole session,
    and whatever ran before and took more would hide what the block takes.
    """
    Path("/proc/self/clear_refs").write_text("5")
    before = _largest()
    yield
    grown = _largest() - before
    assert grown < limit, f"memory grew by {grown} bytes"


def _largest() -> int:
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) << 10
