"""Quotas against a model that only adds up: two processes on one database, that crash or stop, while midnights pass."""

import asyncio
import tempfile
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, rule
from sqlalchemy import URL

from moiety_party.admission import Admission, Receipt
from moiety_party.state import State
from moiety_shared.crypto.tokens import Grant, Quota
from moiety_shared.problems import Problem, ProblemType
from tests.party.test_admission import Clock, a_model, grant

SECONDS = 100
TOKENS = {  # two of one subject's, with other limits; one of another's; one with other windows
    "many": grant(quota=Quota(rows=640, seconds=SECONDS)),
    "few": grant(quota=Quota(rows=150, seconds=SECONDS)),
    "other": grant(subject="other", quota=Quota(rows=90, seconds=SECONDS)),
    "often": grant(subject="often", quota=Quota(rows=200, seconds=SECONDS // 4)),
}
NAMES = st.sampled_from(sorted(TOKENS))
MODEL = a_model()
Window = tuple[str, int]
"""The subject, and the window's end."""


@dataclass
class Ticket:
    """What the model knows of one request that was let in."""

    process: int
    life: int
    receipt: Receipt | None
    window: Window
    limit: int
    rows: int


@dataclass
class Process:
    state: State
    admission: Admission
    life: int = 0


@dataclass
class Sums:
    """`used` is exact: of a subject, and `of_limit` of its tokens with one limit. `lost` is what nobody may have got
    though it was not used, at most."""

    used: Counter[Window] = field(default_factory=Counter)
    of_limit: Counter[tuple[Window, int]] = field(default_factory=Counter)
    lost: Counter[Window] = field(default_factory=Counter)


class Quotas(RuleBasedStateMachine):
    tickets = Bundle("tickets")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.url = URL.create("sqlite", database=str(Path(self.folder.name) / "state.sqlite"))
        self.clock, self.sums = Clock(), Sums()
        self.loop = asyncio.new_event_loop()

    @initialize()
    def begin(self) -> None:
        self.processes = [self._process(), self._process()]

    def _process(self, life: int = 0) -> Process:
        state = State(self.url, "alice", self.clock)
        return Process(state, Admission(state, self.clock), life)

    def teardown(self) -> None:
        for process in self.processes:
            process.state.close()
        self.loop.close()
        self.folder.cleanup()

    def _window(self, allowed: Grant) -> Window:
        assert allowed.quota is not None
        return allowed.subject, (int(self.clock.now) // allowed.quota.seconds + 1) * allowed.quota.seconds

    def _let_in(self, number: int, allowed: Grant, rows: int) -> Ticket | None:
        """One request. Let in, the sums stay within the limit; refused, there was no room but for what may be lost."""
        process, window, quota = self.processes[number], self._window(allowed), allowed.quota
        assert quota is not None
        try:
            receipt = self.loop.run_until_complete(process.admission.spend(MODEL, allowed, rows))
        except Problem as problem:
            if problem.kind is ProblemType.FORBIDDEN:
                assert rows > quota.rows
                return None
            assert problem.kind is ProblemType.QUOTA_EXCEEDED
            # Each process keeps a block of each of the subject's tokens at most, for itself.
            blocks = sum(t.quota.rows // 64 for t in TOKENS.values() if t.subject == allowed.subject and t.quota)
            kept = len(self.processes) * blocks
            assert self.sums.used[window] + self.sums.lost[window] + kept + rows > quota.rows, "refused too early"
            return None
        self.sums.used[window] += rows
        self.sums.of_limit[window, quota.rows] += rows
        largest = max(limit for of, limit in self.sums.of_limit if of == window)
        assert self.sums.of_limit[window, quota.rows] <= quota.rows, "more than the token's quota"
        assert self.sums.used[window] <= largest, "more than any of the subject's quotas"
        return Ticket(number, process.life, receipt, window, quota.rows, rows)

    @rule(target=tickets, number=st.integers(0, 1), token=NAMES, rows=st.integers(1, 100))
    def spend(self, number: int, token: str, rows: int) -> Ticket | None:
        return self._let_in(number, TOKENS[token], rows)

    @rule(number=st.integers(0, 1), token=NAMES, rows=st.integers(7, 40))
    def spend_until_refused(self, number: int, token: str, rows: int) -> None:
        while self._let_in(number, TOKENS[token], rows) is not None:
            pass

    @rule(number=st.integers(0, 1), token=NAMES, rows=st.lists(st.integers(1, 60), max_size=5))
    def race(self, number: int, token: str, rows: list[int]) -> None:
        """Side by side; those that are let in fail, side by side as well."""
        allowed, admission = TOKENS[token], self.processes[number].admission

        async def run() -> list[Receipt | None]:
            spends = (admission.spend(MODEL, allowed, count) for count in rows)
            got = await asyncio.gather(*spends, return_exceptions=True)
            receipts = [one for one in got if isinstance(one, Receipt)]
            together = sum(receipt.rows for receipt in receipts)
            assert allowed.quota is not None
            assert self.sums.of_limit[self._window(allowed), allowed.quota.rows] + together <= allowed.quota.rows
            await asyncio.gather(*map(admission.refund, receipts))
            return got  # type: ignore[return-value]

        self.loop.run_until_complete(run())

    @rule(ticket=consumes(tickets), times=st.integers(1, 2))
    def refund(self, ticket: Ticket | None, times: int) -> None:
        """At the process that let it in, if it lives; once counts."""
        if ticket is None or self.processes[ticket.process].life != ticket.life:
            return
        for _ in range(times):
            self.loop.run_until_complete(self.processes[ticket.process].admission.refund(ticket.receipt))
        self.sums.used[ticket.window] -= ticket.rows
        self.sums.of_limit[ticket.window, ticket.limit] -= ticket.rows

    @rule(seconds=st.sampled_from([1, 10, SECONDS // 4, SECONDS, -30, -1]))
    def time_passes(self, seconds: int) -> None:
        self.clock.now += seconds

    @rule(number=st.integers(0, 1))
    def crash(self, number: int) -> None:
        """A block of each token is lost in every window that is not over, and no more."""
        for allowed in TOKENS.values():
            assert allowed.quota is not None
            for window in list(self.sums.used):
                if window[0] == allowed.subject:
                    self.sums.lost[window] += allowed.quota.rows // 64
        self._again(number)

    @rule(number=st.integers(0, 1))
    def stop(self, number: int) -> None:
        self.loop.run_until_complete(self.processes[number].admission.close())
        self._again(number)

    def _again(self, number: int) -> None:
        old = self.processes[number]
        with suppress(Problem):
            old.state.close()
        self.processes[number] = self._process(old.life + 1)


Quotas.TestCase.settings = settings(
    max_examples=25,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestQuotas = Quotas.TestCase
