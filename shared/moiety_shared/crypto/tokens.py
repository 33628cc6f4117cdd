"""Clients' tokens: JWTs that the model owner signs (EdDSA) and parties verify offline. Nothing here reads a clock.

Claims: `sub` says who, `jti` which token, `exp` until when, `models` and `outputs` what for, `quota` how much. `cnf`
(RFC 7800) is the thumbprint of the key that the client holds. Tokens of release 0.1 have no `cnf`: anybody who sees
such a token can use it.
"""

from typing import Annotated, Any, Literal

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import Field, ValidationError

from moiety_shared.crypto.signing import key_from_text, key_text
from moiety_shared.plan.layers import Name, Public
from moiety_shared.problems import Problem, ProblemType

AUDIENCE = "moiety"
EVERY_MODEL = "*"
MAX_TOKEN_BYTES = 4096
MAX_REVOKED = 10_000
"""The most token ids in one message of revocations."""
MAX_QUOTA_ROWS = 10**12
"""Far more inputs than anybody asks for in a window, and twice as many still fit a number column of every database."""
MAX_QUOTA_SECONDS = 366 * 86_400
MAX_EXPIRES = 253_402_300_799
"""The last second of the year 9999. Calendars represent no later time."""
OutputKind = Literal["logits", "labels", "count"]
OUTPUTS: tuple[OutputKind, ...] = ("logits", "labels", "count")


class Quota(Public):
    """At most `rows` inputs in every window of `seconds`."""

    rows: int = Field(ge=1, le=MAX_QUOTA_ROWS)
    seconds: int = Field(ge=1, le=MAX_QUOTA_SECONDS)


class Grant(Public):
    """What a token allows."""

    token_id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    subject: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f]+$")]
    models: tuple[Name | Literal["*"], ...] = (EVERY_MODEL,)
    outputs: tuple[OutputKind, ...] = OUTPUTS
    expires: int = Field(ge=0, le=MAX_EXPIRES, description="seconds since 1970")
    quota: Quota | None = None
    key: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{43}$")] | None = Field(
        None,
        description="thumbprint of the key that signs what a client seals; null: whoever has the token can use it",
    )

    def check_time(self, now: float) -> None:
        """Raises Problem UNAUTHORIZED when the token has expired."""
        if now >= self.expires:
            raise Problem(ProblemType.UNAUTHORIZED, "the token has expired")

    def check(self, model: str, output: OutputKind | Literal["decision"], now: float) -> None:
        """Check what is asked. A token that allows labels allows decisions, which say no more.

        Raises Problem UNAUTHORIZED when the token has expired, FORBIDDEN for a model or an output that it does not
        allow.
        """
        self.check_time(now)
        if EVERY_MODEL not in self.models and model not in self.models:
            raise Problem(ProblemType.FORBIDDEN, "the token is not for this model")
        if ("labels" if output == "decision" else output) not in self.outputs:
            raise Problem(ProblemType.FORBIDDEN, f"the token is not for models that give out {output}")


def issue(grant: Grant, key: Ed25519PrivateKey) -> str:
    """Sign the token. Anybody who has the token can use it, unless the grant names a key."""
    claims: dict[str, Any] = {
        "iss": key_text(key.public_key()),
        "aud": AUDIENCE,
        "jti": grant.token_id,
        "sub": grant.subject,
        "exp": grant.expires,
        **grant.model_dump(mode="json", include={"models", "outputs", "quota"}),
    }
    if grant.key is not None:
        claims["cnf"] = {"jkt": grant.key}
    return jwt.encode(claims, key, algorithm="EdDSA")


def verify(token: str | None, owner_key: str) -> Grant:
    """Return what a token of this owner grants. Raises Problem UNAUTHORIZED. `Grant.check` looks at the time, not
    this."""
    if token is None:
        raise Problem(ProblemType.UNAUTHORIZED, "this model is for holders of its owner's tokens")
    if len(token) > MAX_TOKEN_BYTES or not token.isascii():  # base64's reader skips what is not of its alphabet
        raise Problem(ProblemType.UNAUTHORIZED, "this is not a token")
    key: Ed25519PublicKey = key_from_text(owner_key)
    try:
        claims = jwt.decode(
            token,
            key,
            algorithms=["EdDSA"],
            audience=AUDIENCE,
            options={"require": ["jti", "sub", "exp", "aud"], "verify_exp": False},
        )
        return Grant(
            token_id=claims["jti"],
            subject=claims["sub"],
            expires=claims["exp"],
            models=claims.get("models", ()),
            outputs=claims.get("outputs", ()),
            quota=claims.get("quota"),
            key=_confirmed(claims),
        )
    except (jwt.InvalidTokenError, ValidationError, RecursionError):
        raise Problem(ProblemType.UNAUTHORIZED, "the token is not from this model's owner") from None


def _confirmed(claims: dict[str, Any]) -> str | None:
    """Return the key's thumbprint, or None without `cnf`. A `cnf` of another kind becomes "", which fails validation:
    it must never pass as a token that is bound to no key."""
    if "cnf" not in claims:
        return None
    named = claims["cnf"].get("jkt") if isinstance(claims["cnf"], dict) else None
    return named if isinstance(named, str) else ""
