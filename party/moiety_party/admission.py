"""Who may ask: tokens verified offline against the owner's key that came with the model, and quotas counted durably."""

import asyncio
import time
from collections.abc import Callable
from functools import lru_cache

from moiety_party.state import State
from moiety_party.store import Model
from moiety_shared import possession, tokens
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.tokens import Grant, Quota
from moiety_shared.wire import Binding, Secret

_BLOCKS = 64  # a quota is counted on disk in so many blocks: a crash may cost a client one of them, and never gives one
_MAX_BLOCK = 4096
ANYBODY = "-"
"""Who asks for an open model without a token."""


class Admission:
    """Lets requests in. A token's signature is verified once; its expiry, its purpose and revocation every time."""

    def __init__(self, state: State, clock: Callable[[], float] = time.time) -> None:
        self._state = state
        self._clock = clock
        self._verified = lru_cache(maxsize=4096)(tokens.verify)
        self._holders_key = lru_cache(maxsize=4096)(possession.holders_key)
        self._reserved: dict[tuple[str, str], tuple[int, int]] = {}  # by owner and subject: window's end, rows left
        self._reserving = asyncio.Lock()

    def admit(self, model: Model, token: str | None) -> Grant | None:
        """What the token grants; None where the model is open to everybody.

        Raises Problem UNAUTHORIZED or FORBIDDEN.
        """
        manifest = model.manifest
        if manifest.access == "open" and not token:
            return None
        grant = self._verified(token or None, manifest.owner_key)
        if self._state.is_revoked(grant.token_id):
            raise Problem(ProblemType.UNAUTHORIZED, "the token was revoked")
        grant.check(manifest.name, model.plan.output.kind, self._clock())
        return grant

    def check_time(self, binding: Binding, seconds: float, party: int) -> None:
        """Raises Problem REQUEST_EXPIRED unless the request was made `seconds` ago at most, by this party's clock."""
        late = self._clock() - binding.time
        if abs(late) > seconds:
            name, off = ("alice", "bob")[party], "behind" if late > 0 else "ahead of"
            raise Problem(
                ProblemType.REQUEST_EXPIRED,
                f"its time is {abs(late):.0f} seconds {off} {name}'s clock; at most {seconds:.0f} are accepted",
            )

    def check_holder(self, grant: Grant | None, secret: Secret, binding: Binding, party: int, token: str) -> None:
        """Raises Problem UNAUTHORIZED unless whoever made this envelope holds the key that the token is bound to."""
        if grant is not None and grant.key is not None:
            possession.check(secret.proof, secret.statement(binding, party, token), grant.key, self._holders_key)

    async def spend(self, model: Model, grant: Grant | None, rows: int) -> None:
        """Count these inputs. Raises Problem QUOTA_EXCEEDED, with the seconds until the window ends."""
        if grant is None or grant.quota is None:
            return
        key, quota = (model.manifest.owner_key, grant.subject), grant.quota
        if rows > quota.rows:
            raise Problem(ProblemType.FORBIDDEN, f"the token allows {quota.rows} inputs at a time at most")
        async with self._reserving:
            end = self._window_end(quota)
            left = self._left(key, end)
            if left < rows:
                left += await asyncio.to_thread(self._reserve, key, quota, end, rows - left)
            self._reserved[key] = (end, left - rows)

    async def refund(self, model: Model, grant: Grant | None, rows: int) -> None:
        """The run failed: the client got nothing for them."""
        if grant is None or grant.quota is None:
            return
        key, end = (model.manifest.owner_key, grant.subject), self._window_end(grant.quota)
        async with self._reserving:
            if key in self._reserved and self._reserved[key][0] == end:
                self._reserved[key] = (end, self._reserved[key][1] + rows)

    def _left(self, key: tuple[str, str], end: int) -> int:
        known, left = self._reserved.get(key, (end, 0))
        return left if known == end else 0

    def _reserve(self, key: tuple[str, str], quota: Quota, end: int, rows: int) -> int:
        now = self._clock()
        for block in (max(rows, min(quota.rows // _BLOCKS, _MAX_BLOCK)), rows):
            if self._state.reserve(*key, end, block, quota.rows, now):
                return block
        raise Problem(ProblemType.QUOTA_EXCEEDED, retry_after=max(1, int(end - now) + 1))

    def _window_end(self, quota: Quota) -> int:
        return (int(self._clock()) // quota.seconds + 1) * quota.seconds
