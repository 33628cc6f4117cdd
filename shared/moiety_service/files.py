"""Reads files that others made: regular files only, and never more memory than the file really holds."""

import errno
import math
import os
import stat
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_KINDS = "biufcU"  # numpy's kinds of numbers, and text for class names; no objects, no records
_MAX_HEADER = 10_000  # bytes, numpy's own limit: a header takes about a hundred
_MOST_TOGETHER = 1 << 32  # bytes: what four gigabytes of memory hold


class TooLarge(ValueError):
    """The file is larger than the limit; the text states both sizes."""


def regular(path: Path, *, own: bool = False) -> BinaryIO:
    """Open a regular file. Raises OSError for a folder, a device or a pipe: reading one might never end.

    `own` also refuses a symbolic link, and a file that has a second name (a hard link).
    """
    flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    if own:
        if path.is_symlink():  # O_NOFOLLOW also stops a link made after this check, where the system has it
            raise OSError(errno.ELOOP, "it is a link", str(path))
        flags |= getattr(os, "O_NOFOLLOW", 0)
    file = open(os.open(path, flags), "rb")  # noqa: SIM115  the caller closes it
    try:
        found = os.fstat(file.fileno())
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        if own and found.st_nlink > 1:
            raise OSError(errno.EMLINK, "it is a hard link", str(path))
    except OSError:
        file.close()
        raise
    return file


def content(path: Path, most: int) -> bytes:
    """The content of a file of at most `most` bytes. Raises OSError; or TooLarge, before it reads anything."""
    with regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise TooLarge(f"has {size:,} bytes, more than the limit of {most:,}")
        return file.read(size)  # a file that grows meanwhile is not read further; `read` allocates this much at once


def array(path: Path) -> "npt.NDArray[Any]":
    """The array of a .npy file. Raises OSError; or ValueError for a bad file, before it allocates the array."""
    import numpy as np

    with regular(path) as file:
        shape, by_columns, dtype = _header(file, os.fstat(file.fileno()).st_size)
        flat = np.fromfile(file, dtype=dtype, count=math.prod(shape))
    return flat.reshape(shape, order="F" if by_columns else "C")


def arrays(path: Path) -> "dict[str, npt.NDArray[Any]]":
    """The arrays of a .npz file, by name. Raises OSError; or ValueError for a bad file.

    A file that numpy compressed may be a thousand times smaller than its arrays, so together they may have 4 GiB.
    """
    import zipfile
    import zlib

    import numpy as np

    found: dict[str, npt.NDArray[Any]] = {}
    try:
        with regular(path) as file, zipfile.ZipFile(file) as members:
            if sum(member.file_size for member in members.infolist()) > _MOST_TOGETHER:
                raise ValueError(f"its arrays have more than {_MOST_TOGETHER:,} bytes")
            for member in members.infolist():
                with members.open(member) as inside:
                    shape, by_columns, dtype = _header(inside, member.file_size)
                    values = np.frombuffer(inside.read(), dtype=dtype).reshape(shape, order="F" if by_columns else "C")
                found[member.filename.removesuffix(".npy")] = values
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError("it is no .npz file, or a broken one") from error
    return found


def _header(file: IO[bytes], size: int) -> "tuple[tuple[int, ...], bool, np.dtype[Any]]":
    """Read the header of a .npy file of `size` bytes: the shape, whether columns come first, the type. Raises
    ValueError."""
    from numpy.lib import format as npy

    try:
        version = npy.read_magic(file)
        header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        if version not in ((1, 0), (2, 0)):
            raise ValueError("its version is unknown")
        shape, by_columns, dtype = header(file, max_header_size=_MAX_HEADER)
    except Exception as error:  # a header is Python syntax: a bad one can raise almost anything
        raise ValueError("its header is not that of a .npy file") from error
    if dtype.kind not in _KINDS or not dtype.itemsize:
        raise ValueError("it holds no numbers")
    stated, held = math.prod(shape) * dtype.itemsize, size - file.tell()
    if min(shape, default=0) < 0 or stated != held:
        raise ValueError(f"its header states {stated:,} bytes of numbers, and it holds {held:,}")
    return shape, by_columns, dtype
