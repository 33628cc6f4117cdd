"""Every error that crosses a process boundary, once: its URN, HTTP status, title and what to do next.

Problems travel as RFC 9457 documents (`application/problem+json`) with two members more: `error`, a sentence, which
Triton's clients read, and `hint`. A detail says what is wrong with the shape of a thing, never what was in it.
"""

from enum import Enum
from typing import Any

PROBLEM_JSON = "application/problem+json"
_URN = "urn:moiety:error:"


class ProblemType(Enum):
    """name = (URN suffix, HTTP status, title, hint)."""

    MALFORMED = (
        "malformed",
        400,
        "The message is not well formed",
        "Send it with the moiety client of the same version; a proxy may have cut or changed it.",
    )
    UNSUPPORTED_VERSION = (
        "unsupported-version",
        400,
        "The message or file is of another version",
        "One of both sides runs an older moiety: upgrade it (docs/upgrading.md).",
    )
    INVALID_INPUT = (
        "invalid-input",
        422,
        "The input does not fit the model",
        "Compare it with the shape, type and range in the model's catalogue entry.",
    )
    SEALED_FOR_ANOTHER = (
        "sealed-for-another",
        400,
        "The envelope cannot be opened here",
        "It was sealed for another party, model or request, or was changed on the way. Read the catalogue again.",
    )
    KEY_RETIRED = (
        "key-retired",
        400,
        "The envelope was sealed to a key that is not accepted any more",
        "Read the model's catalogue entry again: it names the current keys.",
    )
    PROVIDER_KEY_RETIRED = (
        "provider-key-retired",
        400,
        "The upload was sealed to a key that the crypto provider does not have any more",
        "Take sealing.pub from the provider's folder of secrets to the owner's, as provider.pub; then publish again.",
    )
    UNAUTHORIZED = (
        "unauthorized",
        401,
        "The credential or token is missing, not known, or has expired",
        "Clients: ask the model owner for a new token. Operators: each link has a credential of its own.",
    )
    FORBIDDEN = (
        "forbidden",
        403,
        "The credential or token does not allow that",
        "Clients: ask the model owner what your token is for. Operators: check which link's credential is used.",
    )
    QUOTA_EXCEEDED = (
        "quota-exceeded",
        429,
        "The token's quota is used up",
        "Wait for the time that Retry-After says, or ask the model owner for a larger quota.",
    )
    NOT_FOUND = ("not-found", 404, "There is nothing at this address", "Check the path.")
    METHOD_NOT_ALLOWED = ("method-not-allowed", 405, "This address does not take that method", "See /docs.")
    UNKNOWN_MODEL = (
        "unknown-model",
        404,
        "The model is not served here",
        "Ask the catalogue which models there are; the owner may have published a new version.",
    )
    UNKNOWN_LEASE = (
        "unknown-lease",
        404,
        "The lease is not known, or its model was deleted",
        "Open a new lease.",
    )
    REQUEST_CONFLICT = (
        "request-conflict",
        409,
        "This request id was used with other content",
        "Use a fresh request id for every prediction.",
    )
    REQUEST_EXPIRED = (
        "request-expired",
        409,
        "The request is not from now, or its answer is not kept any more",
        "Make a new request. If that is refused too, one of both clocks is wrong: set it, by NTP for example.",
    )
    UPLOAD_CONFLICT = (
        "upload-conflict",
        409,
        "This upload id was used before",
        "Publish again: every upload gets a new id.",
    )
    ALREADY_ISSUED = (
        "already-issued",
        409,
        "This randomness was issued before and will never be issued again",
        "Ask for the next bundle.",
    )
    ROW_USED = (
        "row-used",
        409,
        "A row of randomness was named that is used up or was never there",
        "Nothing was opened. Send the request again.",
    )
    TOO_LARGE = (
        "too-large",
        413,
        "The body is larger than this address takes",
        "Send fewer inputs at a time; the catalogue entry says how many.",
    )
    REQUEST_TIMEOUT = (
        "request-timeout",
        408,
        "The request took too long to arrive",
        "Send it again over a quicker link; the connection was closed.",
    )
    HEADERS_TOO_LARGE = (
        "headers-too-large",
        431,
        "The request's headers are too long or too many",
        "Send fewer of them; a proxy may have added some.",
    )
    LENGTH_REQUIRED = (
        "length-required",
        411,
        "The body's length is not announced",
        "Send a Content-Length; chunked bodies are not taken.",
    )
    ENCODING_REFUSED = (
        "encoding-refused",
        415,
        "Compressed bodies are not taken",
        "Send the body without Content-Encoding: sealed data does not compress.",
    )
    WRONG_HOST = (
        "wrong-host",
        421,
        "The sidecar is not known under that name",
        "Ask it as localhost, or list the name in MOIETY_CLIENT_HOSTS.",
    )
    CROSS_ORIGIN = (
        "cross-origin",
        403,
        "Pages of other sites may not use the sidecar",
        "Ask from its own page, or from a program that sends no Origin.",
    )
    UNTRUSTED = (
        "untrusted",
        502,
        "The catalogue entry or the answer cannot be trusted",
        "Ask the model owner for their key, and who changed the catalogue or the answer.",
    )
    CATALOGUE_UNAVAILABLE = (
        "catalogue-unavailable",
        503,
        "The model owner's catalogue cannot be reached",
        "Start the model owner's server, or ask its owner for a new access file.",
    )
    PARTY_UNAVAILABLE = (
        "party-unavailable",
        503,
        "The computing parties cannot be reached",
        "Try again shortly; if it stays so, ask the model owner whether alice and bob are running.",
    )
    PEER_UNAVAILABLE = (
        "peer-unavailable",
        503,
        "The other party cannot be reached or broke off",
        "The randomness of this run was thrown away. Try again shortly.",
    )
    PEER_VERSION = (
        "peer-version",
        503,
        "The computing parties run different versions",
        "Their operators bring alice and bob to the same release (docs/upgrading.md). Send the request again after.",
    )
    OPENINGS_DIFFER = (
        "openings-differ",
        503,
        "The parties did not open the same values",
        "Nothing was given out, and the randomness was thrown away. Try again; if it comes again, something changes "
        "what travels between alice and bob.",
    )
    PROVIDER_UNAVAILABLE = (
        "provider-unavailable",
        503,
        "The crypto provider cannot be reached",
        "Start the crypto provider, or check its address in the party's settings.",
    )
    RANDOMNESS_EXHAUSTED = (
        "randomness-exhausted",
        503,
        "No prepared randomness is left for this model",
        "Try again shortly: the pool refills from the crypto provider.",
    )
    STATE_UNAVAILABLE = (
        "state-unavailable",
        503,
        "The service's database or store does not answer",
        "Try again shortly; its operator should look whether the database and the store are running.",
    )
    DISK_FULL = (
        "disk-full",
        507,
        "The disk is full",
        "Make room there, or have its operator do it; then try again.",
    )
    OVERLOADED = ("overloaded", 503, "Too many requests are under way", "Try again shortly.")
    STOPPING = (
        "stopping",
        503,
        "The service is stopping and begins nothing new",
        "Try again shortly: another one takes its place, or the same one after a restart.",
    )
    INTERNAL = (
        "internal",
        500,
        "Something went wrong inside",
        "Look for the request id in the logs of the service.",
    )

    def __init__(self, suffix: str, status: int, title: str, hint: str) -> None:
        self.urn = _URN + suffix
        self.status = status
        self.title = title
        self.hint = hint

    @classmethod
    def from_urn(cls, urn: str) -> "ProblemType":
        """The type of that name; INTERNAL for one this version does not know."""
        return next((kind for kind in cls if kind.urn == urn), cls.INTERNAL)


_LONGEST_WAIT = 10**9
# Problems that are gone by themselves after a moment: they carry Retry-After.
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
        """Seconds after which a repetition makes sense, if it does."""
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
        """Read a document of a peer. Anything that is not one becomes INTERNAL."""
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
    """How something ended: "ok", the name of a problem, or "cancelled" where whoever asked for it gave up: a task that
    is cancelled, a stop, Ctrl-C. INTERNAL is a fault, and that is none."""
    if error is None:
        return "ok"
    if not isinstance(error, Exception):
        return "cancelled"
    return (error.kind if isinstance(error, Problem) else ProblemType.INTERNAL).name
