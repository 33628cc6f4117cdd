"""Memory that start-up leaves behind and no request needs."""

import contextlib
import ctypes
import re
import sys
from collections.abc import Iterator
from pathlib import Path

_DONTNEED = 4  # MADV_DONTNEED
_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ \S+ \S+ +(/.*)")


def release_code() -> None:
    """Let go of the library code that loading has touched; what is called again comes back, page by page.

    A CUDA build of torch maps 200 to 300 MB of code of which a party on a CPU runs next to none, in each process.
    The pages stay in the system's cache, and are exactly the files': a mapping of which anything was changed is left
    alone. Does nothing where there is no /proc to ask.
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError):
        madvise = ctypes.CDLL(None).madvise
        madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        for start, end in list(_unchanged_code(Path("/proc/self/smaps").read_text())):
            madvise(start, end - start, _DONTNEED)


def _unchanged_code(smaps: str) -> Iterator[tuple[int, int]]:
    """The address ranges of executable, unwritable mappings of files without a page of their own."""
    where: tuple[int, int] | None = None
    for line in smaps.splitlines():
        if line.startswith("Anonymous:"):
            if where is not None and line.split()[1] == "0":
                yield where
        elif not line.split(" ", 1)[0].endswith(":"):
            found = _MAPPING.fullmatch(line)
            where = (int(found[1], 16), int(found[2], 16)) if found and found[3] == "r-xp" else None
