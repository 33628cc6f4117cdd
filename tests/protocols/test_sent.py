"""What each party sent in a run, by request: one request's digests are those of its rows alone, whoever shared its
run."""

from functools import partial

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from moiety_shared.crypto.prg import new_seed
from moiety_shared.protocols import graph
from moiety_shared.protocols.opening import Session, to_wire
from moiety_shared.protocols.preparation import cut
from moiety_shared.protocols.recomputing import AuditedModel
from moiety_shared.protocols.sent import SentDigests
from moiety_shared.protocols.verified.layout import RowStream
from moiety_shared.protocols.words import words_of
from moiety_shared.ring import Array
from tests.protocols.growing import Case, plans
from tests.protocols.running import Run
from tests.protocols.test_differential import LENIENT


def watched(sessions: list[list[Session[Array]]], digests: list[SentDigests]) -> list[list[Array]]:
    """Drive both parties' slices, and tell each one's digests what both send. Returns both outcomes of each slice."""
    rounds, done = [[next(one) for one in mine] for mine in sessions], list[list[Array]]()
    while rounds[0]:
        raw = [[memoryview(b"".join(to_wire(o).tobytes() for o in r.openings)) for r in mine] for mine in rounds]
        for p in (0, 1):
            digests[p].sent(rounds[p])
            digests[p].received(rounds[p], raw[1 - p])
        before, rounds, done = rounds, [[], []], [[], []]
        for p in (0, 1):
            for session, round_, theirs in zip(sessions[p], before[p], raw[1 - p], strict=True):
                try:
                    rounds[p].append(session.send(round_.combined(theirs)))
                except StopIteration as stop:
                    done[p].append(stop.value)
    return done


@pytest.mark.parametrize("kind", ["relu", "max_pool", "top_k", "table", "waves", ""])
def test_what_was_sent_is_computed_again_of_one_requests_rows(kind: str) -> None:
    @settings(max_examples=6, deadline=None, suppress_health_check=LENIENT)
    @given(plans(kind), st.lists(st.integers(1, 7), min_size=1, max_size=4))
    def check(case: Case, rows: list[int]) -> None:
        plan, run, total = case.plan, Run(case.plan, case.weights), sum(rows)
        assume(plan.rounds)
        seeds = new_seed(), new_seed()

        def words(first: int, count: int) -> tuple[bytes, bytes]:
            """Both parties' words of some rows of a bundle, as the provider hands them over."""
            numbers = range(first, first + count)
            drawn = [[RowStream.of(seed, total, numbers) for seed in seeds] for _ in (0, 1)]
            one, other = (
                words_of(partial(graph.deal, plan, count, run.masks), (a, b), p) for p, (a, b) in enumerate(drawn)
            )
            return one, other

        model = AuditedModel(plan, (run.models[0], run.models[1]), run.masks)
        prepared = model._prepared(words(0, total), total)
        x = np.resize(case.x, (total, case.x.shape[1]))
        inputs = run.random(x.shape)
        shares = run.ring.wrap(x - inputs), inputs
        half = max(total // 2, 1)
        slices = [(at, min(at + half, total)) for at in range(0, total, half)]
        sessions = [
            [graph.evaluate(plan, p, shares[p][a:b], cut(prepared[p], a, b), run.models[p]) for a, b in slices]
            for p in (0, 1)
        ]
        digests = [SentDigests(slices, rows), SentDigests(slices, rows)]
        outcomes = [np.concatenate(mine) for mine in watched(sessions, digests)]
        end = 0
        for number, count in enumerate(rows):
            start, end = end, end + count
            sent = [digests[p].of(number, peer=False) for p in (0, 1)]
            assert [digests[1 - p].of(number, peer=True) for p in (0, 1)] == sent
            mine = shares[0][start:end], shares[1][start:end]
            again = model.recompute(words(start, count), mine, [piece.rows for piece in sent[0]])
            assert list(again.sent) == sent
            assert list(again.shares) == [graph.given_out(plan, outcome[start:end]) for outcome in outcomes]

    check()
