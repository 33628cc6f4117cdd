"""Whose request is next, and which requests share a run."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from types import SimpleNamespace
from typing import cast

import pytest

from moiety_party.leader.queue import Queue, RunStats, Waiting
from moiety_party.store import Model
from moiety_shared.messages.wire import Asked, Binding, Request, Secret
from moiety_shared.problems import Problem, ProblemType

MOST = 64


def model(upload: int = 1) -> Model:
    return cast(Model, SimpleNamespace(upload_id=f"{upload:032x}", plan=SimpleNamespace(verified=None)))


def waiting(rows: int, client: str | None, upload: int = 1, token: str = "") -> Waiting:
    binding = Binding(bytes(32), upload.to_bytes(16, "big"), bytes(16), bytes(32), 0)
    secret = Secret(bytes(16), bytes(32), rows, b"")
    return Waiting(
        model(upload), secret, Asked(bytes(25), token, Request(binding, rows, (b"", b""))), client, RunStats()
    )


def played(scenario: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        await scenario()

    asyncio.run(run())


def queue_of(most: int, is_suspect: Callable[[Waiting], bool] = lambda _: False, lanes: int = 4) -> Queue:
    return Queue(most, lanes, lambda _: MOST, is_suspect)


def take(queue: Queue) -> list[Waiting]:
    """A run, which is over at once."""
    with queue.taken() as batch:
        return batch


def test_what_waits_for_one_model_shares_a_run_up_to_its_rows() -> None:
    async def scenario() -> None:
        queue = queue_of(1000)
        added = [waiting(10, f"client {n}", upload=1 + (n == 2)) for n in range(9)]
        for one in added:
            queue.add(one)
        first, second, third = take(queue), take(queue), take(queue)
        assert first == [one for one in added[:7] if one is not added[2]]
        assert second == [added[2]], "another model's runs by itself"
        assert third == added[7:] and queue.head is None and take(queue) == []

    played(scenario)


def test_a_verified_model_has_one_run_at_a_time() -> None:
    """Also of a request that shares none. Others go before: a second run would meet the first one's check."""

    async def scenario() -> None:
        queue = queue_of(1000)
        single, another, large, other = waiting(1, "1"), waiting(2, "2"), waiting(512, "3"), waiting(1, "4", upload=2)
        plan = SimpleNamespace(verified=object())
        verified = cast(Model, SimpleNamespace(upload_id=single.model.upload_id, plan=plan))
        for one in (single, another, large):
            one.model = verified
        for one in (single, another, large, other):
            queue.add(one)
        with queue.taken() as batch:
            assert batch == [single, another]
            assert take(queue) == [other] and take(queue) == []
        queue.add(late := waiting(1, "5"))
        late.model = verified
        assert take(queue) == [late]
        queue.add(later := waiting(1, "6"))
        later.model = verified
        later.turn = large.turn + 1
        with queue.taken() as batch:
            assert batch == [large]
            assert take(queue) == []
        assert take(queue) == [later]

    played(scenario)


def test_a_request_with_more_rows_than_runs_share_runs_alone() -> None:
    async def scenario() -> None:
        queue = queue_of(1000)
        large, small = waiting(512, "one"), waiting(1, "other")
        queue.add(large)
        queue.add(small)
        assert [take(queue), take(queue)] == [[small], [large]]

    played(scenario)


@pytest.mark.parametrize("named", [True, False], ids=["tokens", "nobody has a token"])
def test_large_batches_do_not_starve_single_requests(named: bool) -> None:
    """A client fills the queue with batches of 512. A single request that comes later is next, every time."""

    async def scenario() -> None:
        queue = queue_of(1000)
        for _ in range(20):
            queue.add(waiting(512, "greedy" if named else None))
        for n in range(10):
            single = waiting(1, f"modest {n}" if named else None)
            take(queue)
            queue.add(single)
            assert take(queue) == [single], n

    played(scenario)


def test_a_client_with_many_requests_waits_for_itself() -> None:
    async def scenario() -> None:
        queue = queue_of(1000)
        for _ in range(100):
            queue.add(waiting(MOST, "greedy"))
        take(queue)
        single = waiting(MOST, "modest")
        queue.add(single)
        taken = [take(queue)[0] for _ in range(2)]
        assert single in taken, "it is next or the one after, not the hundredth"

    played(scenario)


def test_no_request_waits_for_ever() -> None:
    """A large batch is taken although single requests of others keep coming."""

    async def scenario() -> None:
        queue = queue_of(1000)
        large = waiting(512, "large")
        queue.add(large)
        for n in range(1000):
            queue.add(waiting(1, f"single {n % 7}"))
            if large in take(queue):
                assert n < 100
                return
        raise AssertionError("the batch starves")

    played(scenario)


def test_suspects_share_runs_with_suspects_alone() -> None:
    async def scenario() -> None:
        queue = queue_of(1000, lambda one: one.asked.token == "suspect")
        good = [waiting(1, f"{n}") for n in range(3)]
        bad = [waiting(1, f"bad {n}", token="suspect") for n in range(3)]
        for pair in zip(good, bad, strict=True):
            for one in pair:
                queue.add(one)
        assert [take(queue), take(queue)] == [good, bad]
        assert all(one.suspect for one in bad) and not any(one.suspect for one in good)

    played(scenario)


def test_what_was_taken_apart_runs_alone() -> None:
    async def scenario() -> None:
        queue = queue_of(1000)
        many = [waiting(1, f"{n}") for n in range(3)]
        for one in many:
            queue.add(one)
        assert take(queue) == many
        many[1].fail(Problem(ProblemType.INTERNAL))  # nobody waits for it any more
        for one in many:
            one.alone = True
        queue.again(many)
        queue.add(waiting(1, "another"))
        assert [len(take(queue)) for _ in range(3)] == [1, 1, 1] and queue.head is None

    played(scenario)


def test_too_many_are_refused_and_those_who_go_make_room() -> None:
    async def scenario() -> None:
        told: list[int] = []
        queue = Queue(2, 4, lambda _: MOST, changed=told.append)
        first, second, third = (waiting(1, f"{n}") for n in range(3))
        queue.add(first)
        queue.add(second)
        with pytest.raises(Problem) as refused:
            queue.add(third)
        assert refused.value.kind is ProblemType.OVERLOADED and refused.value.retry_after
        queue.drop(first)
        queue.drop(first)
        queue.add(third)
        assert take(queue) == [second, third] and told == [1, 2, 1, 2, 0]

    played(scenario)


def test_what_a_queue_remembers_of_clients_is_bounded_by_what_lies_ahead() -> None:
    async def scenario() -> None:
        queue = queue_of(1000)
        for n in range(500):
            queue.add(waiting(1, f"client {n}"))
            take(queue)
        assert len(queue._turns) <= 1

    played(scenario)


def test_small_runs_do_not_begin_beside_others_of_their_model_and_full_ones_do() -> None:
    async def scenario() -> None:
        queue = queue_of(1000)
        with ExitStack() as going:
            for n in range(2):
                queue.add(waiting(1, f"{n}"))
                assert len(going.enter_context(queue.taken())) == 1
            queue.add(waiting(1, "third"))
            assert queue.head is None and take(queue) == [], "it waits for more, or for the end of a run"
            queue.add(waiting(1, "another model's", upload=2))
            assert len(take(queue)) == 1
            for n in range(MOST - 1):
                queue.add(waiting(1, f"more {n}"))
            assert len(take(queue)) == MOST
            queue.add(waiting(1, "last"))
            assert take(queue) == []
        assert len(take(queue)) == 1

    played(scenario)


def test_a_second_run_waits_until_it_has_as_many_requests_as_the_first() -> None:
    async def scenario() -> None:
        queue = queue_of(1000)
        for n in range(3):
            queue.add(waiting(1, f"first {n}"))
        with queue.taken() as first:
            for n in range(2):
                queue.add(waiting(20, f"second {n}"))  # requests count, and not rows
                assert len(first) == 3 and queue.head is None
            queue.add(last := waiting(1, "second 2"))
            assert queue.may_begin(last) and len(take(queue)) == 3
            queue.add(waiting(1, "too early"))
            assert queue.head is None
        assert len(take(queue)) == 1, "no run goes on any more"

    played(scenario)


@pytest.mark.parametrize("lanes", [1, 2, 4])
def test_large_batches_leave_a_lane_to_small_requests(lanes: int) -> None:
    async def scenario() -> None:
        queue, single = queue_of(1000, lanes=lanes), waiting(1, "modest")
        for n in range(8):
            queue.add(waiting(512, f"greedy {n}"))
        with ExitStack() as going:
            batches = [going.enter_context(queue.taken()) for _ in range(lanes)]
            assert sum(map(len, batches)) == max(lanes - 1, 1)
            queue.add(single)
            assert take(queue) == [single]

    played(scenario)


def test_a_model_without_rows_is_held_and_others_go_on() -> None:
    async def scenario() -> None:
        queue = queue_of(1000)
        first, second = waiting(1, "first"), waiting(1, "second")
        queue.add(first)
        assert take(queue) == [first]
        queue.hold(first.model.upload_id)
        queue.again([first])
        queue.add(second)
        other = waiting(1, "third", upload=2)
        queue.add(other)
        assert take(queue) == [other] and queue.head is None and take(queue) == []
        assert queue.waits_for(first.model.upload_id) and not queue.waits_for(other.model.upload_id)
        queue.release(first.model.upload_id)
        assert take(queue) == [first, second]

    played(scenario)


def test_what_waits_for_rows_leaves_half_of_the_places_to_others() -> None:
    async def scenario() -> None:
        queue = queue_of(4)
        held = [waiting(1, f"{n}") for n in range(3)]
        queue.hold(held[0].model.upload_id)
        queue.add(held[0])
        queue.add(held[1])
        with pytest.raises(Problem) as refused:
            queue.add(held[2])
        assert refused.value.kind is ProblemType.RANDOMNESS_EXHAUSTED and refused.value.retry_after
        queue.add(waiting(1, "other", upload=2))
        assert queue.clear(held[0].model.upload_id) == held[:2] and len(take(queue)) == 1

    played(scenario)
