"""The version of every format that crosses a boundary, in one place. docs/operations.md says what a new version means.

A reader refuses another version before it believes anything of the content. It neither guesses nor negotiates.
"""

from typing import Any, ClassVar, Self

from pydantic import ModelWrapValidatorHandler, model_validator

from moiety_shared.plan.layers import Public
from moiety_shared.problems import Problem, ProblemType

REQUEST, HANDSHAKE, SECRET, RESULT, COUNT, UPLOAD = b"MRQ2", b"MHS1", b"MSH3", b"MRS1", b"MCO2", b"MUP3"
"""The first bytes of a prediction's body, of the two parts that its envelopes seal, of its answer, of a count for
owners, and of an upload."""

PEER = 6
"""The protocol between alice and bob. They begin only if both speak this version."""

MODEL = 3
"""The format in which a party stores a model."""


def check_magic(found: bytes, known: bytes, what: str) -> None:
    """Raises Problem UNSUPPORTED_VERSION for another version of the format, MALFORMED for anything else."""
    if found == known:
        return
    if found[:-1] == known[:-1] and found[-1:].isdigit():
        raise unsupported(what, int(found[-1:]), int(known[-1:]))
    raise Problem(ProblemType.MALFORMED, f"this is not {what}")


def unsupported(what: str, found: object, known: int) -> Problem:
    """The refusal. It tells the caller which of the two versions is older. It does not repeat a version that is no
    number."""
    found = found if isinstance(found, int) else "unknown"
    return Problem(
        ProblemType.UNSUPPORTED_VERSION, f"{what} of version {found}, but this release reads version {known}"
    )


class Document(Public):
    """A public model that says the version of its own format, in its member `format`."""

    FORMAT: ClassVar[int]
    WHAT: ClassVar[str]
    OLDER: ClassVar[tuple[int, ...]] = ()
    """Older formats that are still read."""

    @model_validator(mode="wrap")
    @classmethod
    def _of_a_known_format(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Raises Problem UNSUPPORTED_VERSION before it looks at anything else in the document."""
        found = data.get("format", cls.FORMAT) if isinstance(data, dict) else cls.FORMAT
        if isinstance(found, int) and found not in (cls.FORMAT, *cls.OLDER):
            raise unsupported(cls.WHAT, found, cls.FORMAT)
        return handler(data)
