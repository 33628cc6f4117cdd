"""How a role's command refuses to start: one sentence that says what to do, and the exit code for wrong use."""

from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import ValidationError

from moiety_service import disk
from moiety_service.cli.terminal import Exit, ended, say


class StartRefused(ValueError):
    """The role cannot start as it is set up. The text says what to do, and never quotes a secret."""


@contextmanager
def refusing() -> Iterator[None]:
    """Wraps all that a role does before it serves. The command line, cli/main.py, reports a full disk."""
    try:
        yield
    except StartRefused as error:
        say(error)
    except ValidationError as error:
        for one in error.errors(include_input=False, include_url=False):
            place = ".".join(map(str, one["loc"])).upper()
            say(f"{error.title}: {place}: {one['msg']}" if place else one["msg"])
    except OSError as error:
        if disk.is_full(error) or error.filename is None:
            raise
        say(f"{error.filename} cannot be used: {error.strerror}")
    else:
        return
    raise ended(Exit.USAGE)
