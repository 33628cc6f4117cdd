"""The pool: prepared rows of randomness for one model under one lease, each handed out once.

bob's pool is filled by bundles from the provider, alice's from her seed, in the same order. alice `take`s the next rows
and names the first; bob `claim`s the same ones, or `burn`s them when he refuses the run. Either way the rows leave the
pool for good. Nothing puts them back, so a run that fails has burnt its rows at both parties. alice takes rows only
once she has heard that bob has made them too.
"""

import asyncio
import contextlib
from collections.abc import Callable

from moiety_party.ahead import Ahead, Prepare
from moiety_party.filler import Filler, Make
from moiety_party.rows import Rows
from moiety_party.verified import VerifiedLease
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.protocols.preparation import PreparedRows

_WAIT_SECONDS = 5.0  # for rows that the leader named


class Pool:
    """Keeps up to `target` rows ready, in bundles of `bundle_rows`, and hands them out.

    Runs side by side name rows at most `spread` apart. A claim waits `claim_seconds` at most: if it fails, the leader's
    rows are burnt.
    """

    def __init__(
        self,
        lease_id: str,
        check: bytes,
        bundle_rows: int,
        make: Make,
        *,
        ticket: str = "",
        target: int,
        spread: int,
        claim_seconds: float,
        failed: Callable[[str], None] = lambda _: None,
        busy: Callable[[], bool] = lambda: False,
        alone: bool = False,
        verified: VerifiedLease | None = None,
        prepare: Prepare | None = None,
    ) -> None:
        """`ticket` shows the lease to the provider. The pool calls `failed` with the problem's name when it cannot get
        a bundle. `busy` says whether a run is under way: then the pool makes no bundles while it has half of its rows.
        `alone` says that a row is larger than a pool should be: then it makes none at all beside a run, unless somebody
        waits for it. `verified` is what the rows of verified runs need besides, and `prepare` prepares them."""
        self.lease_id = lease_id
        self.ticket = ticket
        self.verified = verified
        self.check = check  # the key of the lease's transcripts
        self.bundle_rows = bundle_rows
        self.target = max(target, bundle_rows)
        self.spread = max(self.target, spread)
        self._peer_made = 0  # the peer has made the rows below this one, or given them up
        self._claim_seconds = claim_seconds
        self._changed = asyncio.Condition()
        self._rows = Rows(bundle_rows, self.spread)
        self._filler = Filler(
            lease_id, self._rows, self._changed, make, target=self.target, failed=failed, busy=busy, alone=alone
        )
        filler = self._filler
        self._ahead = None if prepare is None else Ahead(self._rows, self._changed, prepare, lambda: filler.quiet)

    @property
    def stock(self) -> int:
        """How many rows are ready."""
        return self._rows.stock

    @property
    def ready(self) -> int:
        """How many rows are ready at both parties, as far as this one knows."""
        return min(self.stock, max(self._peer_made - self.position, 0))

    @property
    def position(self) -> int:
        """No row below it is handed out in order again."""
        return self._rows.position

    @property
    def made(self) -> int:
        """Rows below this one were made, or given up."""
        return self._rows.made

    @property
    def gaps(self) -> list[int]:
        """The bundles that the provider issued and that did not arrive."""
        return self._rows.gaps

    @property
    def full(self) -> bool:
        """Whether no more rows are made or prepared for now."""
        return self._filler.full and (self._ahead is None or self._ahead.done)

    @property
    def lost(self) -> bool:
        """Whether the provider forgot the lease: the rows that are here can be used, and no more will come."""
        return self._filler.lost

    def told(self) -> dict[str, object]:
        """What bob's STOCK says of it."""
        return {
            "lease": self.lease_id,
            "position": self.position,
            "made": self.made,
            "lost": self.lost,
            "gaps": self.gaps,
        }

    async def close(self) -> None:
        await self._filler.close()
        if self._ahead is not None:
            await self._ahead.close()
        async with self._changed:
            self._filler.lost = True
            self._rows.bundles.clear()
            self._changed.notify_all()

    def heard(self, made: int) -> None:
        """The peer says that it has made the rows below this one, or given them up."""
        self._peer_made = max(self._peer_made, made)

    def has(self, count: int) -> bool:
        """Whether the next `count` rows are ready at both parties, as far as this one knows."""
        return self._next(count) is not None

    async def take(self, count: int) -> tuple[int, PreparedRows] | None:
        """Take the next `count` rows. Returns the number of the first, and the rows; None unless they are ready at both
        parties, as far as this one knows. It does not wait for them."""
        async with self._changed:
            first = self._next(count)
            return None if first is None else (first, self._remove(first, count))

    async def want(self, count: int) -> int:
        """Have the next `count` rows made. Returns where they end.

        Raises RANDOMNESS_EXHAUSTED when they will never come.
        """
        async with self._changed:
            first = self._rows.next_run(count)
            if first is not None:
                return first + count
            if self.lost:
                raise Problem(ProblemType.RANDOMNESS_EXHAUSTED)
            end = self._rows.end_of_next(count)
            self._filler.want_until(end)
            return end

    async def want_until(self, end: int) -> None:
        """Have the rows below `end` made, because the leader is about to name them."""
        async with self._changed:
            if end <= self.position + 2 * self.spread:
                self._filler.want_until(end)

    async def claim(self, first: int, count: int) -> PreparedRows:
        """Take the rows that the leader named.

        Raises ROW_USED, and removes nothing, unless all are here and unused; RANDOMNESS_EXHAUSTED when they are still
        to be made and do not come.
        """
        async with self._changed:
            end = first + count
            if first < 0 or count < 1 or end > self.position + 2 * self.spread:
                raise Problem(ProblemType.ROW_USED)
            self._filler.want_until(end)
            await self._wait_for(lambda: self.made >= end, _WAIT_SECONDS)
            await self._wait_for(lambda: self.made >= end or self._filler.failing, self._claim_seconds)
            if self.made < end:
                raise Problem(ProblemType.RANDOMNESS_EXHAUSTED)
            if not self._rows.are_unused(first, count):
                raise Problem(ProblemType.ROW_USED)
            return self._remove(first, count)

    async def burn(self, first: int, count: int) -> None:
        """Burn rows that the leader named and that will not be used: they are as gone here as they are there.

        The pool leaves rows alone that are further ahead than any run of an honest leader.
        """
        async with self._changed:
            if first < 0 or count < 1 or first + count > min(self.position, self.made) + 2 * self.spread:
                return
            self._rows.burn(first, count)
            self._changed.notify_all()

    def skip(self, bundles: list[int]) -> None:
        """Drop bundles that the other party never got."""
        self._rows.skip(bundles)

    def _remove(self, first: int, count: int) -> PreparedRows:
        self._filler.used()
        rows = self._rows.remove(first, count)
        self._changed.notify_all()
        return rows

    def _next(self, count: int) -> int | None:
        """Where the next `count` rows begin, if both parties have them."""
        first = self._rows.next_run(count)
        return first if first is not None and first + count <= self._peer_made else None

    async def _wait_for(self, condition: Callable[[], bool], seconds: float) -> None:
        if condition() or self.lost:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait_for(lambda: condition() or self.lost)
