"""The requests that wait for a lane: which is next, and which go with it in one run."""

import asyncio
import contextvars
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from moiety_party.store import Model
from moiety_service.observability.tracing import Timeline
from moiety_shared.messages.wire import Asked, Request, Secret
from moiety_shared.problems import Problem, ProblemType

_ROWS_OF_A_RUN = 64
"""So many rows take about as long as all that a run costs besides."""
_SIDE_BY_SIDE = 2  # of a model: one computes while the other's openings travel
_SOMEBODY = "somebody"  # whoever sends a large request without a token: all of them take turns as one client


@dataclass
class RunStats:
    """What one request's run took, as far as its own client may know it: the rounds and bytes are those of the
    request's own rows, as if it had run alone."""

    rounds: int = 0
    opening_bytes: int = 0
    seconds: float = 0.0  # of the rounds alone
    timeline: Timeline = field(default_factory=Timeline)


@dataclass(eq=False)
class Waiting:
    """A request that alice let in, and that no run has answered yet.

    `client` names who sent it: requests of one client take turns with those of others. None means that nobody knows.
    """

    model: Model
    secret: Secret
    asked: Asked
    client: Hashable
    stats: RunStats
    suspect: bool = False
    """bob is asked before its run takes rows. It is set when the request is taken."""
    alone: bool = False
    """It shares its run with no other."""
    first: Problem | None = None
    """Why its first run failed, once there was one."""
    turn: float = 0.0
    most_rows: int = 0
    """The most rows in a run that it may share."""
    answer: asyncio.Future[bytes] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    context: contextvars.Context = field(default_factory=contextvars.copy_context)

    @property
    def request(self) -> Request:
        return self.asked.request

    @property
    def is_large(self) -> bool:
        """Whether it has too many rows to share a run."""
        return self.request.rows > self.most_rows

    def may_join(self, other: "Waiting") -> bool:
        """Whether both may share a run: they ask the same upload, and bob is asked before about both or neither."""
        alone, same = self.alone or other.alone, self.model.upload_id == other.model.upload_id
        return same and not alone and self.suspect == other.suspect

    def fail(self, problem: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(problem)
            self.answer.exception()  # marks it as seen: whoever waited may have gone

    def succeed(self, answer: bytes) -> None:
        if not self.answer.done():
            self.answer.set_result(answer)


class Queue:
    """Orders waiting requests fairly between clients, by what each costs (self-clocked fair queueing).

    A request's turn is the later of now and the turn of its client's last request, plus its cost. "Now" is the turn of
    the request that was taken last. So a client with many requests, or with large ones, waits for itself: a request of
    anybody else goes before them. No request waits for ever, because every request that comes later has a later turn.
    """

    def __init__(
        self,
        most: int,
        lanes: int,
        most_rows: Callable[[Model], int],
        is_suspect: Callable[[Waiting], bool] = lambda _: False,
        changed: Callable[[int], object] = lambda _: None,
    ) -> None:
        """At most `most` requests wait for `lanes` lanes. Requests that share a run have `most_rows` of their model
        together, at most. `changed` is told how many wait."""
        self._most, self._lanes, self._most_rows = most, lanes, most_rows
        self._is_suspect, self._changed = is_suspect, changed
        self._waiting: dict[Waiting, None] = {}  # in the order in which they came
        self._held = set[str]()  # uploads without rows
        self._rows = Counter[str]()  # that wait and may share a run, by upload
        self._line = Counter[str]()  # requests of such rows, by upload
        self._going = Counter[str]()  # runs of such requests, by upload; of a verified one, all runs
        self._along = Counter[str]()  # requests in these runs, by upload
        self._large = 0  # runs of a request that is too large to share one
        self._now = 0.0
        self._turns: dict[Hashable, float] = {}  # of each client's last request, if it lies ahead

    @property
    def head(self) -> Waiting | None:
        """The request whose turn is next, of those that may begin to run now."""
        ready = (waiting for waiting in self._waiting if self.may_begin(waiting))
        return min(ready, key=lambda waiting: waiting.turn, default=None)

    def add(self, waiting: Waiting) -> None:
        """Raises Problem OVERLOADED when too many wait, and RANDOMNESS_EXHAUSTED when half of them would wait for
        rows: models without rows leave room to the others."""
        if len(self._waiting) >= self._most:
            raise Problem(ProblemType.OVERLOADED)
        if waiting.model.upload_id in self._held:
            held = sum(one.model.upload_id in self._held for one in self._waiting)
            if held >= max(self._most // 2, 1):
                raise Problem(ProblemType.RANDOMNESS_EXHAUSTED)
        client, waiting.most_rows = waiting.client, self._most_rows(waiting.model)
        if client is None and waiting.is_large:
            client = _SOMEBODY
        begin = max(self._now, self._turns.get(client, 0.0))
        waiting.turn = begin + 1 + waiting.request.rows / _ROWS_OF_A_RUN
        if client is not None:
            self._turns[client] = waiting.turn
        self._waiting[waiting] = None
        self._count(waiting)
        self._changed(len(self._waiting))

    def again(self, waiting: list[Waiting]) -> None:
        """Put requests back whose run failed. They keep their turns."""
        self._keep([*self._waiting, *(one for one in waiting if not one.answer.done())])

    def drop(self, waiting: Waiting) -> None:
        """Forget a request whose sender has gone, if it still waits."""
        if waiting in self._waiting:
            self._keep([one for one in self._waiting if one is not waiting])

    @contextmanager
    def taken(self) -> Iterator[list[Waiting]]:
        """Take the request whose turn is next, and with it those that may share its run, in the order of their turns.

        The block is their run. There are none if no request may begin now.
        """
        batch = self._take()
        if not batch:
            yield batch
            return
        upload, large = batch[0].model.upload_id, batch[0].is_large
        counted = not large or batch[0].model.plan.verified is not None
        self._large += large
        self._going[upload] += counted
        along = counted * len(batch)
        self._along[upload] += along
        try:
            yield batch
        finally:
            self._large -= large
            self._going[upload] -= counted
            self._along[upload] -= along
            self._going += Counter()  # drops what is zero
            self._along += Counter()

    def _take(self) -> list[Waiting]:
        first = self.head
        if first is None:
            return []
        line = sorted(self._waiting, key=lambda waiting: waiting.turn)
        for waiting in line:
            waiting.suspect = self._is_suspect(waiting)
        taken, rows = [first], first.request.rows
        for waiting in line:
            if waiting is not first and waiting.may_join(first) and rows + waiting.request.rows <= first.most_rows:
                taken.append(waiting)
                rows += waiting.request.rows
        self._now = max(self._now, first.turn)
        self._turns = {client: turn for client, turn in self._turns.items() if turn > self._now}
        going = set(taken)
        self._keep(waiting for waiting in line if waiting not in going)
        return taken

    def clear(self, upload_id: str | None = None) -> list[Waiting]:
        """Take all that wait, or all that wait for one upload."""
        cleared = [one for one in self._waiting if upload_id is None or one.model.upload_id == upload_id]
        self._keep([one for one in self._waiting if one not in cleared])
        return cleared

    def hold(self, upload_id: str) -> None:
        """Let no request for this upload begin: it has no rows."""
        self._held.add(upload_id)

    def waits_for(self, upload_id: str) -> bool:
        return any(one.model.upload_id == upload_id for one in self._waiting)

    def release(self, upload_id: str) -> None:
        """Let requests for this upload begin again."""
        self._held.discard(upload_id)
        for one in self._waiting:
            if one.model.upload_id == upload_id:
                one.stats.timeline.passed("rows")

    def may_begin(self, waiting: Waiting) -> bool:
        """Whether a request that waits may begin to run beside those that run now.

        One lane is left to small requests. And runs that many could share begin side by side only as far as that is
        quicker than larger runs: two at most, the second once as many requests wait for it as the first has.
        """
        upload, verified = waiting.model.upload_id, waiting.model.plan.verified is not None
        if upload in self._held or (verified and self._going[upload]):  # one run at a time is past its coins
            return False
        if waiting.is_large:
            return self._large < max(self._lanes - 1, 1)
        beside = self._going[upload] < _SIDE_BY_SIDE and self._line[upload] >= self._along[upload]
        return beside or self._rows[upload] >= waiting.most_rows

    def _keep(self, waiting: Iterable[Waiting]) -> None:
        self._waiting = dict.fromkeys(waiting)
        self._rows.clear()
        self._line.clear()
        for one in self._waiting:
            self._count(one)
        self._changed(len(self._waiting))

    def _count(self, waiting: Waiting) -> None:
        if not waiting.is_large:
            self._rows[waiting.model.upload_id] += waiting.request.rows
            self._line[waiting.model.upload_id] += 1
