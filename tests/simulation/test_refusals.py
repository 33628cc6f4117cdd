"""Requests that are refused, and requests that alice runs more than once: what they cost, and whom.

What bob refuses is gone at both parties and costs no lane; what alice refuses costs no row. bob answers a request once.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moiety_party.envelopes import open_envelope
from moiety_party.helper.guests import Guests
from moiety_party.leader.queue import RunStats, Waiting
from moiety_party.leader.suspects import Suspects
from moiety_shared import fixed_point
from moiety_shared.messages.wire import Asked, Outcome, Request, Secret
from moiety_shared.problems import Problem, ProblemType
from tests import plans
from tests.databases import Postgres
from tests.simulation.detector import Detector
from tests.simulation.test_invariants import simulate
from tests.simulation.world import Node, World

X = plans.random_inputs(3)


def pools(w: World) -> list[tuple[int, int]]:
    """The position and the lanes of each party's only life."""
    lives = (*w.alices, *w.bobs)
    return [(pool.position, len(node.wires)) for node in lives for pool in node.party.pools.by_pair.values()]


async def refused(w: World, body: bytes, token: str | None = None) -> ProblemType:
    with pytest.raises(Problem) as caught:
        await w.ask(w.an_alice(), body, token)
    return caught.value.kind


def junk(w: World, party: int) -> bytes:
    """A request whose envelope for that party nobody can open."""
    request = Request.unpack(w.call(X).body)
    envelopes = [bytearray(envelope) for envelope in request.envelopes]
    envelopes[party][-1] ^= 1
    return replace(request, envelopes=tuple(map(bytes, envelopes))).pack()


def test_what_alice_cannot_open_takes_no_rows(root: Path, detector: Detector) -> None:
    async def scenario(w: World) -> None:
        await w.predict(X)
        before = pools(w)
        for _ in range(20):
            assert await refused(w, junk(w, 0)) is ProblemType.SEALED_FOR_ANOTHER
        assert pools(w) == before

    simulate(root, detector, scenario)


def test_what_bob_cannot_open_is_burnt_at_both_and_costs_no_lane(root: Path, detector: Detector) -> None:
    async def scenario(w: World) -> None:
        await w.predict(X)
        (_, lanes), _ = pools(w)
        (bob,) = w.bobs
        for n in range(12):  # a stranger each time: nobody asks bob before
            assert await refused(w, junk(w, 1), w.token(100 + n)) is ProblemType.SEALED_FOR_ANOTHER
            if n % 3 == 2:
                await w.predict(X)  # over the lane that alice's openings are still on
            (mine, _), (theirs, _) = pools(w)
            assert mine == theirs == len(X) * (1 + n + 1 + (n + 1) // 3)
        (_, after), _ = pools(w)
        assert after == lanes, "the lanes go on"
        (pool,) = bob.party.pools.by_pair.values()
        for number, bundle in pool._rows.bundles.items():
            start = number * pool.bundle_rows
            assert not bundle.unused[: max(pool.position - start, 0)].any(), "no row that alice used is to be had"

    simulate(root, detector, scenario)


@pytest.mark.parametrize("named", [True, False], ids=["a token", "nobody"])
def test_who_sent_junk_burns_no_more(root: Path, detector: Detector, named: bool) -> None:
    """Side by side too: no more runs are burnt than there are lanes. Good requests of the same sender go on."""

    async def scenario(w: World) -> None:
        await w.predict(X)
        token = w.holder(key=None).token if named else None
        (alice,), ((before, lanes), _) = w.alices, pools(w)
        flood = (refused(w, junk(w, 1), token) for _ in range(30))
        assert set(await asyncio.gather(*flood)) == {ProblemType.SEALED_FOR_ANOTHER}
        (burnt, _), (theirs, _) = pools(w)
        shared = 2 * len(X)  # of a run: at most 8, half of the pool
        assert before < burnt == theirs <= before + shared * alice.party.settings.lanes
        for n in range(1, 4):
            assert await refused(w, junk(w, 1), token) is ProblemType.SEALED_FOR_ANOTHER
            call = w.call(X)
            call.open(await w.ask(alice, call.body, token))
            assert [position for position, _ in pools(w)] == [burnt + n * len(X)] * 2
        (_, after), _ = pools(w)
        assert after <= max(lanes, alice.party.settings.lanes), "the lanes go on"

    simulate(root, detector, scenario)


def test_who_is_suspected_is_so_for_a_minute_after_the_last_time(root: Path, detector: Detector) -> None:
    async def scenario(w: World) -> None:
        (alice,), now = w.alices, 0.0
        assert alice.leader is not None
        (model,) = alice.party.store.all()
        suspects = Suspects(lambda: now)
        suspects.note(model, "a token")
        now = 40.0
        suspects.note(model, "a token")
        suspects.note(model, "another")
        now = 99.0
        assert suspects.holds(model, "a token") and not suspects.holds(model, "")
        now = 101.0
        assert not suspects.holds(model, "a token")
        for n in range(5000):
            suspects.note(model, str(n))
        assert len(suspects._until) == 4096 and suspects.holds(model, "4999")

    simulate(root, detector, scenario)


# Quotas


def test_the_clients_quota_pays_for_what_the_client_did(root: Path, detector: Detector) -> None:
    async def scenario(w: World) -> None:
        token = w.token(2 * len(X))
        for party in (0, 1):
            assert await refused(w, junk(w, party), token) is ProblemType.SEALED_FOR_ANOTHER
        assert await refused(w, w.call(X).body, token) is ProblemType.QUOTA_EXCEEDED

    simulate(root, detector, scenario)


def test_what_failed_by_our_doing_is_given_back_by_both(root: Path, detector: Detector) -> None:
    async def scenario(w: World) -> None:
        token = w.token(len(X))
        (alice,), (bob,) = w.alices, w.bobs

        def breaks(name: str, message: bytes) -> bytes:
            if name.startswith("OPENING"):
                for wire in bob.wires:
                    wire.cut()
            return message

        for _ in range(3):
            w.change = breaks
            assert await refused(w, w.call(X).body, token) is ProblemType.PEER_UNAVAILABLE, "not that it is used up"
            w.change = lambda _, message: message
            while bob.drain._under_way:
                bob.drain._ended.clear()
                await bob.drain._ended.wait()
        call = w.call(X)
        call.open(await w.ask(alice, call.body, token))
        assert await refused(w, w.call(X).body, token) is ProblemType.QUOTA_EXCEEDED

    simulate(root, detector, scenario)


def test_bob_counts_a_tokens_quota_too(root: Path, detector: Detector) -> None:
    """alice has the client's token while it asks: she may use it, within its quota."""

    async def scenario(w: World) -> None:
        token = w.token(2 * len(X))
        for _ in range(2):
            await runs(w.an_alice(), w.call(X).body, 0, token)
        for _ in range(3):
            with pytest.raises(Problem) as caught:
                await runs(w.an_alice(), w.call(X).body, 0, token)
            assert caught.value.kind is ProblemType.QUOTA_EXCEEDED and caught.value.retry_after
            await w.restart("bob")
            await w.predict(X)  # over new lanes

    simulate(root, detector, scenario)


# The same request, more than once


async def runs(alice: Node, body: bytes, delta: int, token: str = "") -> bytes:
    """An alice who runs a request, past all that remembers it, with a share of the input that she changed."""
    assert alice.leader is not None
    request, leader = Request.unpack(body), alice.leader
    model = await alice.party.replicas.model(request.binding.upload_id.hex())
    secret = await open_envelope(alice.party, 0, model, request, None, token)
    share = np.frombuffer(secret.share, fixed_point.ring_dtype(model.plan.ring_bits)).copy()
    share[0] += delta
    waiting = Waiting(model, _sharing(secret, share), Asked(bytes(25), token, request), None, RunStats())
    async with leader._lanes.lend() as lane:
        await leader._runs.run(lane, [waiting])
    return await waiting.answer


def _sharing(secret: Secret, share: np.ndarray) -> Secret:
    return replace(secret, share=memoryview(share.tobytes()))


@contextmanager
def answers(patch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """What bob's lives give out, sealed, while it lasts."""
    given: list[bytes] = []

    async def seal(self: Guests, outputs: np.ndarray) -> list[Outcome]:
        outcomes = await original(self, outputs)
        given.extend(bytes(outcome) for outcome in outcomes if not isinstance(outcome, Problem))
        return outcomes

    original = Guests.outcomes
    with patch.context() as patched:
        patched.setattr(Guests, "outcomes", seal)
        yield given


def test_bob_answers_a_request_once(root: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(w: World) -> None:
        call = w.call(X)
        with answers(monkeypatch) as given:
            await runs(w.an_alice(), call.body, 0)
            for delta in (0, 1, 2):
                with pytest.raises(Problem) as caught:
                    await runs(w.an_alice(), call.body, delta)
                assert caught.value.kind is ProblemType.REQUEST_EXPIRED
            for role in ("alice", "bob"):
                await w.restart(role)  # type: ignore[arg-type]
                assert await refused(w, call.body) is ProblemType.REQUEST_EXPIRED
            assert len(given) == 1

    simulate(root, detector, scenario)


def test_of_runs_side_by_side_one_is_answered(root: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(w: World) -> None:
        for _ in range(5):
            call = w.call(X)
            with answers(monkeypatch) as given:
                copies = (runs(w.an_alice(), call.body, delta) for delta in (0, 1))
                got = await asyncio.gather(*copies, return_exceptions=True)
            assert len(given) <= 1 and sum(isinstance(one, bytes) for one in got) <= 1

    simulate(root, detector, scenario)


def test_replicas_of_bob_answer_a_request_once(
    root: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch, postgres: Postgres
) -> None:
    async def scenario(w: World) -> None:
        w.start_party("bob")
        await w.predict(X)
        for _ in range(5):
            call, got = w.call(X), list[bytes]()
            with answers(monkeypatch) as given:
                for delta in range(4):
                    try:
                        got.append(await runs(w.an_alice(), call.body, delta))
                    except Problem as problem:
                        assert got or problem.kind is not ProblemType.REQUEST_EXPIRED
                    for lane in [lane for node in w.alices for lane in node.wires]:
                        lane.cut()  # the next run goes to the other bob
            assert len(given) <= 1 and len(got) <= 1

    simulate(root, detector, scenario, postgres)


def test_an_answer_that_is_lost_is_asked_for_anew(root: Path, detector: Detector) -> None:
    """The client seals the input again: of the request that bob answered, nobody will get anything."""

    async def scenario(w: World) -> None:
        await w.predict(X)
        lost = 0

        def lose(name: str, message: bytes) -> bytes:
            nonlocal lost
            if name == "RESULT of bob" and not lost:
                lost = 1
                for wire in w.bobs[0].wires:
                    wire.cut()
            return message

        (bob,) = w.bobs
        assert bob.helper is not None
        w.change = lose
        before = len(bob.helper._answered._until)
        await w.predict(X)
        assert lost and len(bob.helper._answered._until) == before + 2

    simulate(root, detector, scenario)
