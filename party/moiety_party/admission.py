"""Who may ask: this party verifies tokens offline, with the owner's key that came with the model, and counts quotas.

Both parties count, durably: alice the inputs that she lets in, bob those for which he gives out his share.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from moiety_party.state import State
from moiety_party.store import Model
from moiety_shared.crypto import possession, tokens
from moiety_shared.crypto.handshake import Handshake
from moiety_shared.crypto.tokens import Grant
from moiety_shared.messages.wire import Binding
from moiety_shared.problems import Problem, ProblemType

_BLOCKS = 64  # a quota is counted on disk in so many blocks: a crash may cost a client a block, and never gives one
_MAX_BLOCK = 4096
ANYBODY = "-"
"""The subject of a request for an open model without a token."""
# A client can bring about these refusals as often as it likes, so its quota pays for the rows that they burn.
_CLIENTS_DOING = (
    ProblemType.MALFORMED,
    ProblemType.UNSUPPORTED_VERSION,
    ProblemType.SEALED_FOR_ANOTHER,
    ProblemType.KEY_RETIRED,
    ProblemType.UNAUTHORIZED,
    ProblemType.FORBIDDEN,
    ProblemType.QUOTA_EXCEEDED,
    ProblemType.REQUEST_EXPIRED,
)


@dataclass
class _Account:
    """The `left` rows that this process reserved of a quota in a window, and has not let in.

    Each window and each limit has an account of its own, because a reservation under one says nothing of another.
    """

    owner_key: str
    subject: str
    end: int  # of the window, seconds since 1970
    limit: int
    left: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def block(self) -> int:
        return min(self.limit // _BLOCKS, _MAX_BLOCK)


@dataclass
class Receipt:
    """How many inputs were counted, and where. It is good for one refund."""

    account: _Account
    rows: int


class Admission:
    """Lets requests in. It verifies a token's signature once, and its expiry, purpose and revocation every time."""

    def __init__(self, state: State, clock: Callable[[], float] = time.time) -> None:
        self._state = state
        self._clock = clock
        self._verified = lru_cache(maxsize=4096)(tokens.verify)
        self._proven = lru_cache(maxsize=4096)(possession.check)
        self._accounts: dict[tuple[str, str, int, int], _Account] = {}
        self._closed = False

    async def close(self) -> None:
        """Give back what was reserved and not let in. From now on, refunds are written at once."""
        self._closed = True
        for account in list(self._accounts.values()):
            await self._give_back(account, 0)

    def admit(self, model: Model, token: str | None) -> Grant | None:
        """What the token grants; None if there is no token and the model is open to everybody.

        Raises Problem UNAUTHORIZED or FORBIDDEN.
        """
        manifest = model.manifest
        if manifest.access == "open" and not token:
            return None
        grant = self._verified(token or None, manifest.owner_key)
        if self._state.is_revoked(grant.token_id):
            raise Problem(ProblemType.UNAUTHORIZED, "the model owner revoked the token")
        grant.check(manifest.name, model.plan.output.kind, self._clock())
        return grant

    def check_sender(self, models: Sequence[Model], token: str | None) -> None:
        """Check a token before its request is read, when nobody knows yet which model the request is for.

        Raises Problem UNAUTHORIZED unless one of these models may be asked with this token, or without one.
        """
        if not models or (not token and any(model.manifest.access == "open" for model in models)):
            return
        refused = Problem(ProblemType.UNAUTHORIZED)
        for owner_key in {model.manifest.owner_key for model in models}:
            try:
                grant = self._verified(token or None, owner_key)
                if self._state.is_revoked(grant.token_id):
                    raise Problem(ProblemType.UNAUTHORIZED, "the model owner revoked the token")
                grant.check_time(self._clock())
                return
            except Problem as problem:
                if problem.kind is not ProblemType.UNAUTHORIZED:
                    raise
                refused = problem
        raise refused

    def check_time(self, binding: Binding, seconds: float, party: int) -> None:
        """Raises Problem REQUEST_EXPIRED unless the request was made `seconds` ago at most, by this party's clock."""
        late = self._clock() - binding.time
        if abs(late) > seconds:
            name, off = ("alice", "bob")[party], "behind" if late > 0 else "ahead of"
            raise Problem(
                ProblemType.REQUEST_EXPIRED,
                f"its time is {abs(late):.0f} seconds {off} {name}'s clock, but it may be at most {seconds:.0f}",
            )

    def check_holder(self, grant: Grant | None, handshake: Handshake, party: int, token: str) -> None:
        """Raises Problem UNAUTHORIZED unless whoever made this handshake holds the key that the token is bound to.

        A signature is verified once.
        """
        if grant is not None and grant.key is not None:
            self._proven(handshake.proof, handshake.statement(party, token), grant.key)

    async def spend(self, model: Model, grant: Grant | None, rows: int) -> Receipt | None:
        """Count inputs against the client's quota. Returns what `refund` takes, or None if the client has no quota.

        Raises Problem QUOTA_EXCEEDED, with the seconds until the window ends; FORBIDDEN when the quota is smaller than
        the request.
        """
        if grant is None or grant.quota is None:
            return None
        quota = grant.quota
        if rows > quota.rows:
            raise Problem(ProblemType.FORBIDDEN, f"the token allows at most {quota.rows} inputs at a time")
        end = (int(self._clock()) // quota.seconds + 1) * quota.seconds
        account = self._account(model.manifest.owner_key, grant.subject, end, quota.rows)
        async with account.lock:
            if account.left < rows:
                account.left += await asyncio.to_thread(self._reserve, account, rows - account.left)
            account.left -= rows
        return Receipt(account, rows)

    async def refund(self, receipt: Receipt | None) -> None:
        """Give inputs back to a client that got nothing for them, by no fault of its own.

        At most a block stays in memory, because a crash would take it; the database gets the rest. What the database
        does not confirm is lost, because it may have been written. Once the window is over, nothing comes back.
        """
        if receipt is None:
            return
        rows, receipt.rows = receipt.rows, 0
        await self._give_back(receipt.account, rows)

    async def _give_back(self, account: _Account, rows: int) -> None:
        async with account.lock:
            account.left += rows
            surplus = account.left - (0 if self._closed else account.block)
            if surplus > 0:
                account.left -= surplus
                with contextlib.suppress(Problem):
                    await asyncio.to_thread(
                        self._state.unreserve, account.owner_key, account.subject, account.end, surplus
                    )

    def _account(self, owner_key: str, subject: str, end: int, limit: int) -> _Account:
        key = owner_key, subject, end, limit
        if key not in self._accounts:
            now = self._clock()
            for old in [old for old, account in self._accounts.items() if account.end <= now]:
                del self._accounts[old]
            self._accounts[key] = _Account(*key)
        return self._accounts[key]

    def _reserve(self, account: _Account, rows: int) -> int:
        now = self._clock()
        for block in (max(rows, account.block), rows):
            if self._state.reserve(account.owner_key, account.subject, account.end, block, account.limit, now):
                return block
        raise Problem(ProblemType.QUOTA_EXCEEDED, retry_after=max(1, int(account.end - now) + 1))


def client_pays(error: BaseException, *, by_bob: bool, again: bool) -> bool:
    """Whether the client's quota pays for a request that failed with this error.

    `by_bob` says that bob refused it, `again` that this was the second run. The quota pays for refusals that are the
    client's doing. It does not pay when alice has replaced her key, which she sees before she takes a row, nor when bob
    answered the first run and the answer was lost.
    """
    if not isinstance(error, Problem) or error.kind not in _CLIENTS_DOING:
        return False
    if error.kind is ProblemType.KEY_RETIRED:
        return by_bob
    return not (error.kind is ProblemType.REQUEST_EXPIRED and again)
