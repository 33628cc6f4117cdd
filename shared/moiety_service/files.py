"""Files that others made: regular ones only, and no more of them is taken into memory than they really hold."""

import errno
import math
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    import numpy.typing as npt

_KINDS = "biufcU"  # of numbers, and of the names of classes; no objects, no records
_MAX_HEADER = 10_000  # bytes, as numpy has it: what a header says takes a hundred


class TooLarge(ValueError):
    """The file has more bytes than are read of one; the text says how many."""


def regular(path: Path, *, own: bool = False) -> BinaryIO:
    """The file, opened. Raises OSError where it is a folder, a device or a pipe, which could be read without end.

    `own` refuses what has its content from elsewhere as well: a symbolic link, or another name of the same file.
    """
    flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    if own:
        if path.is_symlink():  # where O_NOFOLLOW is missing; where it is there, it holds against who is quick
            raise OSError(errno.ELOOP, "it is a link", str(path))
        flags |= getattr(os, "O_NOFOLLOW", 0)
    file = open(os.open(path, flags), "rb")  # noqa: SIM115  the caller closes it
    try:
        found = os.fstat(file.fileno())
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        if own and found.st_nlink > 1:
            raise OSError(errno.EMLINK, "it is a hard link", str(path))
    except OSError:
        file.close()
        raise
    return file


def content(path: Path, most: int) -> bytes:
    """All of a file of at most that many bytes. Raises OSError; TooLarge before anything is read."""
    with regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise TooLarge(f"has {size:,} bytes, more than the {most:,} that are read")
        return file.read(size)  # no more, should it grow: so many bytes are taken beforehand


def array(path: Path) -> "npt.NDArray[Any]":
    """The array of a .npy file. Raises OSError; ValueError for what is none, before memory is taken for it."""
    import numpy as np
    from numpy.lib import format as npy

    with regular(path) as file:
        try:
            version = npy.read_magic(file)
            header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            if version not in ((1, 0), (2, 0)):
                raise ValueError("it is of a version that is not known")
            shape, by_columns, dtype = header(file, max_header_size=_MAX_HEADER)
        except Exception as error:  # a header is Python's syntax, and each of its parts trips in its own way
            raise ValueError("its header is not that of a .npy file") from error
        if dtype.kind not in _KINDS or not dtype.itemsize:
            raise ValueError("it holds no numbers")
        stated, held = math.prod(shape) * dtype.itemsize, os.fstat(file.fileno()).st_size - file.tell()
        if min(shape, default=0) < 0 or stated != held:
            raise ValueError(f"its header states {stated:,} bytes of numbers, and it holds {held:,}")
        flat = np.fromfile(file, dtype=dtype, count=math.prod(shape))
    return flat.reshape(shape, order="F" if by_columns else "C")
