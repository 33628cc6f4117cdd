"""Everything the client raises.

MoietyError
├── InvalidInput             the arrays do not fit the model; nothing was sent   (also a ValueError)
├── AccessFileError          there is no access file, or it is not one
├── StateFileError           the file that remembers what was seen of catalogues cannot be used; nothing was sent
├── ResumeRefused            the file of an interrupted run is of another one; nothing was sent
├── InsecureAddress          plain HTTP to another machine; nothing was sent
├── CatalogueError           the owner's catalogue
│   ├── CatalogueUnavailable it does not answer, or not now; safe to try again
│   ├── UnknownModel         it has no such model
│   └── UntrustedEntry       the entry is not of the owner you pinned, not the one asked for, or older than one seen
│       └── ExpiredEntry     its time is over: the owner did not renew it, or somebody shows an old one
├── ServiceUnavailable       no answer, or one that asks to come back later; safe to try again
├── RequestRefused           a party will not do this; `problem` says which rule
│   ├── NotAllowed           no token, or one that is not for this
│   ├── WrongClock           the time of a request just made is not the party's: one of both clocks is wrong
│   └── QuotaExceeded        the token's quota is used up; `retry_after` seconds until it is not
├── LabelsOnly               the model gives no outputs, by its owner's choice
└── ResultRejected           an answer came back that is not ours, or was changed on the way
    └── CanaryFailed         an input whose answer is known got another one: so may have yours
"""

from moiety_shared.problems import Problem, ProblemType


class MoietyError(Exception):
    """Base of all. The text says what to do next."""


class InvalidInput(MoietyError, ValueError):
    """The arrays do not fit the model; nothing was sent."""


class AccessFileError(MoietyError):
    """The access file cannot be read."""


class StateFileError(MoietyError):
    """The file that MOIETY_CLIENT_STATE names is of something else, or cannot be written."""


class ResumeRefused(MoietyError):
    """The file to go on with is of other inputs, another model or another batch, or is no such file."""


class InsecureAddress(MoietyError):
    """An address without TLS on another machine."""


class CatalogueError(MoietyError):
    """The catalogue could not be read."""


class CatalogueUnavailable(CatalogueError):
    """The catalogue gives no answer."""


class UnknownModel(CatalogueError):
    """The catalogue has no such model."""


class UntrustedEntry(CatalogueError):
    """The catalogue entry is not signed by the pinned owner key, not the one asked for, or older than one seen."""


class ExpiredEntry(UntrustedEntry):
    """The catalogue entry's time is over."""


class ResultRejected(MoietyError):
    """The answer is not one to this request."""


class CanaryFailed(ResultRejected):
    """Inputs whose answers are known came back with others; what came with them is not handed out."""


class LabelsOnly(MoietyError):
    """The model tells which classes are likeliest, and no more."""


class FromProblem(MoietyError):
    """Made from a problem document; `problem` is it."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"{problem}. {problem.kind.hint}")
        self.problem = problem


class ServiceUnavailable(FromProblem):
    """No answer, or not now."""


class RequestRefused(FromProblem):
    """The service refuses this request."""


class NotAllowed(RequestRefused):
    """The token is missing, revoked, over, or not for this model."""


class WrongClock(RequestRefused):
    """A request was refused for its time, and so was one that was made anew."""


class QuotaExceeded(RequestRefused):
    """Too many inputs for this token's quota."""

    @property
    def retry_after(self) -> int:
        """Seconds until there is room again."""
        return self.problem.retry_after or 0


def from_problem(problem: Problem) -> MoietyError:
    """The exception for a problem document."""
    if problem.kind in (ProblemType.UNAUTHORIZED, ProblemType.FORBIDDEN):
        return NotAllowed(problem)
    if problem.kind is ProblemType.QUOTA_EXCEEDED:
        return QuotaExceeded(problem)
    if problem.kind is ProblemType.REQUEST_EXPIRED:
        return WrongClock(problem)
    if problem.retry_after is not None:
        return ServiceUnavailable(problem)
    if problem.kind is ProblemType.UNKNOWN_MODEL:
        return UnknownModel(f"{problem}. {problem.kind.hint}")
    return RequestRefused(problem)
