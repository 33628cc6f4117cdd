"""A disk that is full, told from all else that may go wrong with a file."""

import errno

_FULL = (errno.ENOSPC, errno.EDQUOT)


def is_full(error: BaseException) -> bool:
    """Whether there was no room left to write, or no quota of it."""
    return isinstance(error, OSError) and error.errno in _FULL


def sentence(error: OSError) -> str:
    """What a command says of it. `write` does not know the file's name, `open` and the like do."""
    where = f" that holds {error.filename}" if error.filename else ""
    return f"the disk{where} is full: make room (`df -h` shows where), and give the command again"
