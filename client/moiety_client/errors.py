"""The errors that the client raises. Each text says what to do next.

MoietyError
├── InvalidInput             the inputs do not fit the model; the client sent nothing   (also a ValueError)
├── AccessFileError          the access file is missing, or is not an access file
├── StateFileError           the client cannot use its memory of catalogues, a file; it sent nothing
├── ResumeRefused            the file of an interrupted run belongs to another run; the client sent nothing
├── InsecureAddress          the address is plain HTTP to another machine; the client sent nothing
├── CatalogueError           the client cannot use the owner's catalogue
│   ├── CatalogueUnavailable the catalogue gives no answer now; it is safe to try again
│   ├── UnknownModel         the catalogue has no such model
│   └── UntrustedEntry       the owner you pinned did not sign this entry, or it is the wrong one, or an older one
│       └── ExpiredEntry     the entry has expired: the owner did not renew it, or somebody shows you an old one
├── ServiceUnavailable       the service gives no answer now; it is safe to try again
├── RequestRefused           a party refuses the request; `problem` says by which rule
│   ├── NotAllowed           you have no token, or the token does not allow this
│   ├── WrongClock           a party refuses even a new request for its time: your clock or the party's is wrong
│   └── QuotaExceeded        the token's quota is used up; try again in `retry_after` seconds
├── CheatingDetected         alice or bob computed otherwise than the protocol says; there is no answer
├── NotVerified              you asked for verified models alone, and this one is not; the client sent nothing
├── LabelsOnly               the model's owner chose to give out labels, and no outputs
├── NoLabels                 the model gives values, and tells no classes apart
├── NoProbabilities          the model's outputs are no probabilities, and no function makes them so
└── ResultRejected           the answer belongs to another request, or somebody changed it on the way
    └── CanaryFailed         an input with a known answer came back wrong, so your answers may be wrong too
"""

from collections.abc import Sequence
from typing import Any

from moiety_shared.problems import Problem, ProblemType


class MoietyError(Exception):
    """The base of all errors of the client. The text says what to do next."""


class InvalidInput(MoietyError, ValueError):
    """The inputs do not fit the model. The client sent nothing.

    The text says what is wrong and where, and never contains a value. Where single values are wrong, these say more:

    - `row` is the place of the first input that is wrong, counted from 0 among those you passed, and `rows` of all that
      are wrong in the same way.
    - `column` is the name of the table's column, or the place in the input's array, such as (0, 5, 7).
    - `value` is what is there. `beyond` is how far it is out of the range: below it if negative, above it if positive.
    """

    def __init__(
        self,
        text: str,
        *,
        rows: Sequence[int] = (),
        column: str | tuple[int, ...] | None = None,
        value: Any = None,
        beyond: float | None = None,
    ) -> None:
        super().__init__(text)
        self.rows, self.row = rows, rows[0] if rows else None
        self.column, self.value, self.beyond = column, value, beyond


class AccessFileError(MoietyError):
    """The client cannot read the access file, or the key or CA that goes with it."""


class StateFileError(MoietyError):
    """The file that MOIETY_CLIENT_STATE names holds something else, or the client cannot write it."""


class ResumeRefused(MoietyError):
    """The `resume` file belongs to other inputs, another model or another batch size, or is no such file."""


class InsecureAddress(MoietyError):
    """The address is on another machine and does not use TLS."""


class CatalogueError(MoietyError):
    """The client could not read the owner's catalogue."""


class CatalogueUnavailable(CatalogueError):
    """The catalogue gives no answer now. It is safe to try again."""


class UnknownModel(CatalogueError):
    """The catalogue has no such model."""


class UntrustedEntry(CatalogueError):
    """The catalogue entry is not signed by the pinned owner key, not the one asked for, or older than one seen."""


class ExpiredEntry(UntrustedEntry):
    """The catalogue entry has expired."""


class ResultRejected(MoietyError):
    """The answer does not belong to this request, or somebody changed it on the way."""


class CanaryFailed(ResultRejected):
    """Inputs with known answers came back wrong. The client hands out no answer that came with them."""


class NotVerified(MoietyError):
    """The client was told to ask verified models alone, and this one is not. The client sent nothing."""


class LabelsOnly(MoietyError):
    """The model gives out only which classes are likeliest, so there are no outputs to read."""


class NoLabels(MoietyError):
    """The model gives values and tells no classes apart, so there are no labels to read."""


class NoProbabilities(MoietyError):
    """The model gives values, or scores that no function makes probabilities."""


class FromProblem(MoietyError):
    """An error that a problem document (RFC 9457) describes. `problem` holds the document."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"{problem}. {problem.kind.hint}")
        self.problem = problem


class ServiceUnavailable(FromProblem):
    """The service gives no answer now. It is safe to try again."""


class CheatingDetected(FromProblem):
    """A party computed otherwise than the protocol says, or told you otherwise. There is no answer."""


class RequestRefused(FromProblem):
    """A party refuses this request. `problem` says by which rule."""


class NotAllowed(RequestRefused):
    """The token is missing, revoked or expired, or does not allow this model."""


class WrongClock(RequestRefused):
    """A party refused a request for its time, and then a new request too. One of the two clocks is wrong."""


class QuotaExceeded(RequestRefused):
    """The token's quota does not allow so many inputs now."""

    @property
    def retry_after(self) -> int:
        """The seconds until the quota has room again."""
        return self.problem.retry_after or 0


def from_problem(problem: Problem) -> MoietyError:
    """Return the exception that stands for a problem document."""
    if problem.kind in (ProblemType.UNAUTHORIZED, ProblemType.FORBIDDEN):
        return NotAllowed(problem)
    if problem.kind is ProblemType.QUOTA_EXCEEDED:
        return QuotaExceeded(problem)
    if problem.kind is ProblemType.REQUEST_EXPIRED:
        return WrongClock(problem)
    if problem.kind is ProblemType.CHEATING_DETECTED:
        return CheatingDetected(problem)
    if problem.retry_after is not None:
        return ServiceUnavailable(problem)
    if problem.kind is ProblemType.UNKNOWN_MODEL:
        return UnknownModel(f"{problem}. {problem.kind.hint}")
    return RequestRefused(problem)
