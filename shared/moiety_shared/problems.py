"""Every error that crosses a process boundary, defined once: its URN, HTTP status, title and what to do next.

Problems travel as RFC 9457 documents (`application/problem+json`) with two extra members. `error` is a sentence, which
Triton's clients read, and `hint` says what to do. A detail says what is wrong with the shape of a thing, never what was
in it.
"""

from enum import Enum
from typing import Any

PROBLEM_JSON = "application/problem+json"
_URN = "urn:moiety:error:"
_LONGEST_WAIT = 10**9


class ProblemType(Enum):
    """name = (HTTP status, title). The name is also in the URN, so whoever renames one changes the protocol."""

    MALFORMED = 400, "The message is not well formed"
    UNSUPPORTED_VERSION = 400, "The message or file has another version"
    INVALID_INPUT = 422, "The input does not fit the model"
    SEALED_FOR_ANOTHER = 400, "The envelope cannot be opened here"
    KEY_RETIRED = 400, "The envelope was sealed to a key that is no longer accepted"
    PROVIDER_KEY_RETIRED = 400, "The upload was sealed to a key that the crypto provider no longer has"
    UNAUTHORIZED = 401, "The credential or token is missing, unknown or expired"
    FORBIDDEN = 403, "The credential or token does not allow that"
    QUOTA_EXCEEDED = 429, "The token's quota is used up"
    NOT_FOUND = 404, "There is nothing at this address"
    METHOD_NOT_ALLOWED = 405, "This address does not support that method"
    UNKNOWN_MODEL = 404, "The model is not served here"
    UNKNOWN_LEASE = 404, "The lease is unknown, or its model was deleted"
    REQUEST_CONFLICT = 409, "This request id was already used with other content"
    REQUEST_EXPIRED = 409, "The request's time is too far from now, or its answer is no longer kept"
    UPLOAD_CONFLICT = 409, "This upload id was used before"
    ALREADY_ISSUED = 409, "This randomness was issued before and will never be issued again"
    ROW_USED = 409, "The request names a row of randomness that is used up or never existed"
    TOO_LARGE = 413, "The body is larger than this address accepts"
    REQUEST_TIMEOUT = 408, "The request took too long to arrive"
    HEADERS_TOO_LARGE = 431, "The request's headers are too long or too many"
    LENGTH_REQUIRED = 411, "The request does not state its body's length"
    ENCODING_REFUSED = 415, "Compressed bodies are not accepted"
    WRONG_HOST = 421, "The sidecar does not answer to that host name"
    CROSS_ORIGIN = 403, "Pages of that site may not use this service"
    UNTRUSTED = 502, "The catalogue entry or the answer cannot be trusted"
    CATALOGUE_UNAVAILABLE = 503, "The model owner's catalogue cannot be reached"
    PARTY_UNAVAILABLE = 503, "The computing parties cannot be reached"
    PEER_UNAVAILABLE = 503, "The other party cannot be reached, or the connection broke off"
    PEER_VERSION = 503, "The computing parties run different versions"
    CHEATING_DETECTED = 502, "A party computed otherwise than the protocol says, or a check has no verdict"
    OPENINGS_DIFFER = 503, "The parties did not open the same values"
    PROVIDER_UNAVAILABLE = 503, "The crypto provider cannot be reached"
    RANDOMNESS_EXHAUSTED = 503, "No prepared randomness is left for this model"
    STATE_UNAVAILABLE = 503, "The service's database or store does not answer"
    DISK_FULL = 507, "The disk is full"
    OVERLOADED = 503, "Too many requests are under way"
    STOPPING = 503, "The service is stopping and accepts nothing new"
    INTERNAL = 500, "Something went wrong inside the service"

    def __init__(self, status: int, title: str) -> None:
        self.urn = _URN + self.name.lower().replace("_", "-")
        self.status = status
        self.title = title

    @property
    def hint(self) -> str:
        """What the reader of the problem can do next."""
        return _HINTS[self]

    @classmethod
    def from_urn(cls, urn: str) -> "ProblemType":
        """Return the type of that name, or INTERNAL for a name that this version does not know."""
        return next((kind for kind in cls if kind.urn == urn), cls.INTERNAL)


_HINTS = {
    ProblemType.MALFORMED: "Use the moiety client of the same version. A proxy may have cut or changed the message.",
    ProblemType.UNSUPPORTED_VERSION: "One side runs an older release of moiety: upgrade it (docs/operations.md).",
    ProblemType.INVALID_INPUT: "Compare it with the shape, type and range in the model's catalogue entry.",
    ProblemType.SEALED_FOR_ANOTHER: (
        "It was sealed for another party, model or request, or somebody changed it. Read the catalogue again."
    ),
    ProblemType.KEY_RETIRED: "Read the model's catalogue entry again: it names the current keys.",
    ProblemType.PROVIDER_KEY_RETIRED: (
        "Copy sealing.pub from the provider's secrets folder to the owner's, as provider.pub. Then publish again."
    ),
    ProblemType.UNAUTHORIZED: (
        "Clients: ask the model owner for a new token. Operators: check that each link uses its own credential."
    ),
    ProblemType.FORBIDDEN: (
        "Clients: ask the model owner what your token allows. Operators: check which credential the link uses."
    ),
    ProblemType.QUOTA_EXCEEDED: "Wait for the time that Retry-After says, or ask the model owner for a larger quota.",
    ProblemType.NOT_FOUND: "Check the path.",
    ProblemType.METHOD_NOT_ALLOWED: "See /docs.",
    ProblemType.UNKNOWN_MODEL: "Ask the catalogue which models there are; the owner may have published a new version.",
    ProblemType.UNKNOWN_LEASE: "Open a new lease.",
    ProblemType.REQUEST_CONFLICT: "Use a fresh request id for every prediction.",
    ProblemType.REQUEST_EXPIRED: (
        "Make a new request. If it is refused too, one of the two clocks is wrong: set it, for example by NTP."
    ),
    ProblemType.UPLOAD_CONFLICT: "Publish again: every upload gets a new id.",
    ProblemType.ALREADY_ISSUED: "Ask for the next bundle.",
    ProblemType.ROW_USED: "Nothing was opened. Send the request again.",
    ProblemType.TOO_LARGE: "Send fewer inputs at a time. The catalogue entry gives the limit.",
    ProblemType.REQUEST_TIMEOUT: "The service closed the connection. Send the request again over a faster link.",
    ProblemType.HEADERS_TOO_LARGE: "Send fewer or shorter headers. A proxy may have added some.",
    ProblemType.LENGTH_REQUIRED: "Send a Content-Length. The service does not accept chunked bodies.",
    ProblemType.ENCODING_REFUSED: "Send the body without Content-Encoding: sealed data does not compress.",
    ProblemType.WRONG_HOST: "Use localhost, or list the name in MOIETY_CLIENT_HOSTS.",
    ProblemType.CROSS_ORIGIN: (
        "Ask the operator to list the page's origin, or use a program that sends no Origin header. A sidecar serves "
        "its own page alone."
    ),
    ProblemType.UNTRUSTED: (
        "Compare the key with the model owner's, and tell them: somebody may have changed the catalogue or the answer."
    ),
    ProblemType.CATALOGUE_UNAVAILABLE: "Start the model owner's server, or ask its owner for a new access file.",
    ProblemType.PARTY_UNAVAILABLE: (
        "Try again shortly. If that fails, ask the model owner whether alice and bob are running."
    ),
    ProblemType.PEER_UNAVAILABLE: "The parties discarded the randomness of this run. Try again shortly.",
    ProblemType.PEER_VERSION: (
        "Ask the operators to bring alice and bob to the same release (docs/operations.md). Then send it again."
    ),
    ProblemType.CHEATING_DETECTED: (
        "Use no answer of this run. Tell the model's owner, who finds out what happened and then gives the model "
        "another key: moiety rekey MODEL."
    ),
    ProblemType.OPENINGS_DIFFER: (
        "The parties gave nothing out and discarded the randomness. Try again. If it happens again, something "
        "changes the traffic between alice and bob."
    ),
    ProblemType.PROVIDER_UNAVAILABLE: "Start the crypto provider, or check its address in the party's settings.",
    ProblemType.RANDOMNESS_EXHAUSTED: "Try again shortly: the pool refills from the crypto provider.",
    ProblemType.STATE_UNAVAILABLE: (
        "Try again shortly. The operator should check that the database and the store are running."
    ),
    ProblemType.DISK_FULL: "Free some space, or ask the operator to do so. Then try again.",
    ProblemType.OVERLOADED: "Try again shortly.",
    ProblemType.STOPPING: "Try again shortly: another instance takes over, or this one restarts.",
    ProblemType.INTERNAL: "Look for the request id in the logs of the service.",
}
# Problems that pass by themselves after a moment. They carry Retry-After, in seconds.
RETRY_AFTER_SECONDS = {
    ProblemType.ROW_USED: 1,
    ProblemType.CATALOGUE_UNAVAILABLE: 2,
    ProblemType.PARTY_UNAVAILABLE: 2,
    ProblemType.PEER_UNAVAILABLE: 2,
    ProblemType.PEER_VERSION: 10,
    ProblemType.OPENINGS_DIFFER: 1,
    ProblemType.PROVIDER_UNAVAILABLE: 2,
    ProblemType.RANDOMNESS_EXHAUSTED: 1,
    ProblemType.STATE_UNAVAILABLE: 2,
    ProblemType.OVERLOADED: 1,
    ProblemType.STOPPING: 1,
}


class Problem(Exception):
    """One of the registered errors, with a detail that holds no secret."""

    def __init__(self, kind: ProblemType, detail: str = "", *, retry_after: int | None = None) -> None:
        super().__init__(f"{kind.title}: {detail}" if detail else kind.title)
        self.kind = kind
        self.detail = detail
        self._retry_after = retry_after

    @property
    def retry_after(self) -> int | None:
        """The seconds after which to try again, or None where a repetition makes no sense."""
        return RETRY_AFTER_SECONDS.get(self.kind) if self._retry_after is None else self._retry_after

    def document(self, instance: str = "") -> dict[str, Any]:
        """The RFC 9457 document. `instance` is the request id."""
        members = {
            "type": self.kind.urn,
            "title": self.kind.title,
            "status": self.kind.status,
            "detail": self.detail or self.kind.title,
            "hint": self.kind.hint,
            "error": str(self),
            "instance": f"urn:moiety:request:{instance}" if instance else "",
        }
        if self.retry_after is not None:
            members["retry_after"] = self.retry_after
        return {name: value for name, value in members.items() if value != ""}

    @classmethod
    def from_document(cls, document: object) -> "Problem":
        """Read a document from a peer. Anything that is not a problem document becomes INTERNAL."""
        if not isinstance(document, dict) or not isinstance(document.get("type"), str):
            return cls(ProblemType.INTERNAL, "the answer was not a problem document")
        detail, seconds = document.get("detail"), document.get("retry_after")
        kind = ProblemType.from_urn(document["type"])
        return cls(
            kind,
            detail if isinstance(detail, str) and detail != kind.title else "",
            retry_after=seconds if isinstance(seconds, int) and 0 <= seconds <= _LONGEST_WAIT else None,
        )


def outcome(error: BaseException | None) -> str:
    """How something ended: "ok", the name of a problem, or "cancelled".

    "cancelled" means that whoever asked for it gave up: a cancelled task, a stop, or Ctrl-C. INTERNAL means a fault, so
    a cancellation is not INTERNAL.
    """
    if error is None:
        return "ok"
    if not isinstance(error, Exception):
        return "cancelled"
    return (error.kind if isinstance(error, Problem) else ProblemType.INTERNAL).name
