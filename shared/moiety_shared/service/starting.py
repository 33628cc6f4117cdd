"""How a role's command refuses to start: one sentence that says what to do, and exit code 2."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from pydantic import ValidationError

EXIT_CODE = 2


class StartRefused(ValueError):
    """The role cannot start like this; the text says what to do, and never quotes a secret."""


@contextmanager
def refusing() -> Iterator[None]:
    """Around all that a role does before it serves."""
    try:
        yield
    except StartRefused as error:
        print(error, file=sys.stderr)
    except ValidationError as error:
        for one in error.errors(include_input=False, include_url=False):
            place = ".".join(map(str, one["loc"])).upper()
            print(f"{error.title}: {place}: {one['msg']}" if place else one["msg"], file=sys.stderr)
    else:
        return
    raise typer.Exit(EXIT_CODE)
