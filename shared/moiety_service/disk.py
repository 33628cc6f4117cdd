"""Tells a full disk from every other error of a file."""

import errno

_FULL = (errno.ENOSPC, errno.EDQUOT)


def is_full(error: BaseException) -> bool:
    """Whether the disk, or the user's quota of it, was full."""
    return isinstance(error, OSError) and error.errno in _FULL


def sentence(error: OSError) -> str:
    """A command's message about a full disk. It names the file if the error does: `open` names one, `write` none."""
    where = f" that holds {error.filename}" if error.filename else ""
    return f"the disk{where} is full: make room (`df -h` shows where), and run the command again"
