"""Requests of several clients that share a run: each has its own answer or its own error, whatever the others send."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from moiety_client.errors import ResultRejected
from moiety_client.exchange import Call
from moiety_party import capacity
from moiety_party.helper import helper
from moiety_party.helper.guests import Guests
from moiety_party.results import ResultShare
from moiety_party.settings import PartySettings
from moiety_party.store import Model
from moiety_shared.crypto.tokens import Grant
from moiety_shared.messages.wire import Asked, Outcome, Request, Start, pack_outcomes, pack_start, unpack_start
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.ring import Array
from tests import days, plans
from tests.simulation.detector import Detector
from tests.simulation.test_invariants import simulate
from tests.simulation.world import World, check

COUNT = 6


@dataclass
class Asking:
    """One client's request, of one input that nobody else has."""

    x: Array
    call: Call
    token: str | None = None
    body: bytes = b""

    async def answered(self, w: World) -> None:
        check(self.x, self.call.open(await self.ask(w)))

    async def refused(self, w: World) -> ProblemType:
        with pytest.raises(Problem) as caught:
            await self.ask(w)
        return caught.value.kind

    async def ask(self, w: World) -> bytes:
        return await w.ask(w.alices[0], self.body or self.call.body, self.token)


def clients(w: World, count: int = COUNT) -> list[Asking]:
    asking = []
    for n in range(count):
        holder = w.holder(token_id=f"{n:032x}", subject=f"client {n}")
        x = plans.random_inputs(1, seed=100 + n)
        asking.append(Asking(x, w.call(x, holder), holder.token))
    return asking


async def useless(w: World, asking: list[Asking], patch: pytest.MonkeyPatch) -> dict[ProblemType, Asking]:
    """Make the first four useless to bob, each for another reason: a token that has expired by his clock, a quota that
    he has counted to its end, an id that he has answered, an envelope that he cannot open."""
    (alice,), (bob,) = w.alices, w.bobs
    expired, spent, again, bad = asking[:4]
    await again.ask(w)
    assert alice.leader is not None
    alice.leader._requests._entries.clear()
    unreadable(bad)
    late = w.holder(key=None, token_id="aa" * 16, subject="late", expires=1 << 35)
    poor = w.holder(key=None, token_id="bb" * 16, subject="poor", quota=days.quota(1))
    expired.token, spent.token = late.token, poor.token
    expired.call, spent.call = w.call(expired.x), w.call(spent.x)
    clock, original = bob.party.admission._clock, bob.party.admission.admit

    def admit(model: Model, token: str | None) -> Grant | None:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(bob.party.admission, "_clock", lambda: 1 << 36 if token == late.token else clock())
            return original(model, token)

    patch.setattr(bob.party.admission, "admit", admit)
    (model,) = bob.party.store.all()
    await bob.party.admission.spend(model, original(model, spent.token), 1)
    return {
        ProblemType.UNAUTHORIZED: expired,
        ProblemType.QUOTA_EXCEEDED: spent,
        ProblemType.REQUEST_EXPIRED: again,
        ProblemType.SEALED_FOR_ANOTHER: bad,
    }


def unreadable(one: Asking) -> Asking:
    """bob cannot open his envelope."""
    one.body = one.call.body[:-1] + bytes([one.call.body[-1] ^ 1])
    return one


def runs(w: World) -> list[int]:
    """How many requests each run had, that came to its end."""
    assert w.alices[0].leader is not None
    return w.alices[0].leader.runs


def positions(w: World) -> list[int]:
    return [pool.position for node in (*w.alices, *w.bobs) for pool in node.party.pools.by_pair.values()]


async def together(*work: Awaitable[object]) -> list[object]:
    return list(await asyncio.gather(*work))


def shared(
    root: Path, detector: Detector, scenario: Callable[[World], Awaitable[None]], milliseconds: float = 100
) -> None:
    """The scenario, once the parties have a lane and rows. alice gathers requests for so long."""

    async def begun(w: World) -> None:
        (alice,) = w.alices
        await w.predict(plans.random_inputs(1))
        alice.party.settings = alice.party.settings.model_copy(update={"batch_milliseconds": milliseconds})
        await scenario(w)

    simulate(root, detector, begun)


@pytest.mark.parametrize("milliseconds", [0, 100])
def test_requests_of_several_clients_share_a_run(root: Path, detector: Detector, milliseconds: float) -> None:
    async def scenario(w: World) -> None:
        before, done = positions(w), len(runs(w))
        await together(*(one.answered(w) for one in clients(w)))
        assert runs(w)[done:] == [COUNT]
        assert positions(w) == [position + COUNT for position in before]

    shared(root, detector, scenario, milliseconds)


def test_what_bob_cannot_open_fails_no_other_and_burns_its_own_rows(root: Path, detector: Detector) -> None:
    async def scenario(w: World) -> None:
        before, done = positions(w), len(runs(w))
        *good, bad = clients(w)
        unreadable(bad)
        results = await together(bad.refused(w), *(one.answered(w) for one in good))
        assert results[0] is ProblemType.SEALED_FOR_ANOTHER
        assert runs(w)[done:] == [COUNT], "the run went on"
        assert positions(w) == [position + COUNT for position in before]
        await bad.refused(w)  # bob is asked before now, and nothing is burnt
        assert positions(w) == [position + COUNT for position in before]

    shared(root, detector, scenario)


def test_a_run_of_which_bob_can_use_nothing_costs_no_lane(root: Path, detector: Detector) -> None:
    async def scenario(w: World) -> None:
        bad = [unreadable(one) for one in clients(w, 3)]
        kinds = await together(*(one.refused(w) for one in bad))
        assert set(kinds) == {ProblemType.SEALED_FOR_ANOTHER}
        before = w.alices[0].wires[:]
        await together(*(one.answered(w) for one in clients(w, 3)))
        assert w.alices[0].wires == before

    shared(root, detector, scenario)


def test_each_is_refused_for_its_own_reason(root: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one run. The others are answered."""

    async def scenario(w: World) -> None:
        asking = clients(w)
        bad = await useless(w, asking, monkeypatch)
        done = len(runs(w))
        results = await together(
            *(one.refused(w) for one in bad.values()), *(one.answered(w) for one in asking[len(bad) :])
        )
        assert runs(w)[done:] == [COUNT]
        assert results[: len(bad)] == list(bad)

    shared(root, detector, scenario)


def test_a_token_that_bob_could_not_read_is_refused_before_it_meets_others(root: Path, detector: Detector) -> None:
    """base64 readers skip letters that are not of their alphabet: such a token would verify, and be no ASCII text."""

    async def scenario(w: World) -> None:
        done, (odd, *good) = len(runs(w)), clients(w)
        odd.token = f"{odd.token}\u00e9"
        results = await together(odd.refused(w), *(one.answered(w) for one in good))
        assert results[0] is ProblemType.UNAUTHORIZED and runs(w)[done:] == [COUNT - 1]

    shared(root, detector, scenario)


def test_a_client_that_goes_away_takes_nobody_along(root: Path, detector: Detector) -> None:
    async def scenario(w: World) -> None:
        (alice,), (gone, *good) = w.alices, clients(w)
        assert alice.leader is not None
        leaving = asyncio.create_task(alice.leader.predict(gone.call.body, gone.token))

        def change(name: str, message: bytes) -> bytes:
            if name == "OPENING of bob":
                leaving.cancel()
            return message

        w.change, done = change, len(runs(w))
        await together(*(one.answered(w) for one in good))
        assert runs(w)[done:] == [COUNT] and leaving.cancelled()

    shared(root, detector, scenario)


def test_a_lane_that_breaks_under_a_shared_run_costs_each_a_second_run(root: Path, detector: Detector) -> None:
    async def scenario(w: World) -> None:
        for frame in (1, 2, 4, 6, 8):
            w.cut_run_at = w.run_frames + frame
            await together(*(one.answered(w) for one in clients(w)))
            assert all(w.completed(one.call.binding.request_id) <= 1 for one in clients(w))

    simulate(root, detector, scenario)


def test_a_shared_run_that_bob_refuses_as_a_whole_is_taken_apart(
    root: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(w: World) -> None:
        done = len(runs(w))
        with monkeypatch.context() as patched:
            patched.setattr(helper, "run_rows", lambda settings, plan: 1)
            await together(*(one.answered(w) for one in clients(w, 3)))
        assert runs(w)[done:] == [1, 1, 1]

    shared(root, detector, scenario)


def test_a_client_sees_its_own_figures_alone(root: Path, detector: Detector) -> None:
    async def scenario(w: World) -> None:
        (alice,) = w.alices
        assert alice.leader is not None
        single, *many = clients(w)

        async def stats(one: Asking) -> tuple[int, int]:
            assert alice.leader is not None
            _, told = await alice.leader.predict(one.call.body, one.token)
            return told.rounds, told.opening_bytes

        alone = await stats(single)
        cost = w.plan.cost(1)
        assert alone == (cost.rounds, cost.online_bytes)
        assert await together(*map(stats, many)) == [alone] * len(many) and runs(w)[-1] == len(many)

    shared(root, detector, scenario)


# What a party could do to those who share a run


def test_an_answer_that_reaches_another_client_opens_for_nobody(
    root: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Guests.outcomes

    async def swapped(self: Guests, outputs: Array) -> list[Outcome]:
        return (await original(self, outputs))[::-1]

    async def scenario(w: World) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(Guests, "outcomes", swapped)
            asking = clients(w, 2)
            for one, answer in zip(asking, await together(*(one.ask(w) for one in asking)), strict=True):
                assert isinstance(answer, bytes)
                with pytest.raises(ResultRejected):
                    one.call.open(answer)

    shared(root, detector, scenario)


def test_outcomes_that_are_swapped_on_their_way_are_noticed(root: Path, detector: Detector) -> None:
    """By whoever opens the lane's seal: the tag covers the outcomes in their order."""

    async def scenario(w: World) -> None:
        def change(name: str, message: bytes) -> bytes:
            if name != "RESULT of bob":
                return message
            half = (len(message) - 40) // 2
            return message[:40] + message[40 + half :] + message[40 : 40 + half]

        w.change = change
        asking = clients(w, 2)
        assert set(await together(*(one.refused(w) for one in asking))) == {ProblemType.OPENINGS_DIFFER}
        w.change = lambda _, message: message

    shared(root, detector, scenario)


@pytest.mark.parametrize("copies", [2, 3])
def test_bob_answers_a_request_once_that_alice_names_twice_in_one_run(
    root: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch, copies: int
) -> None:
    async def scenario(w: World) -> None:
        (bob,) = w.bobs
        assert bob.helper is not None
        (model,), one = bob.party.store.all(), clients(w, 1)[0]
        start = unpack_start(_start(one, copies))
        guests = Guests(bob.party, bob.helper._answered, model, start.asked)
        await guests.let_in()
        assert len(guests.welcome) == copies, "none was answered yet"
        found = await guests.outcomes([ResultShare(bytes(w.plan.output_bytes(1)))] * copies)
        kinds = [outcome.kind if isinstance(outcome, Problem) else None for outcome in found]
        assert kinds == [None, *[ProblemType.REQUEST_EXPIRED] * (copies - 1)]
        assert pack_outcomes(found)

    shared(root, detector, scenario)


def _start(one: Asking, copies: int) -> bytes:
    asked = Asked(bytes(25), one.token or "", Request.unpack(one.call.body))
    return pack_start(Start("ab" * 16, 0, (asked,) * copies))


def test_both_parties_bound_what_shares_a_run() -> None:
    plan, settings = plans.branches(), PartySettings(transport="plain", pool_rows=16, max_rows=6)
    assert capacity.shared_rows(settings, plan) == 8 <= capacity.run_rows(settings, plan) == plan.slice_rows
