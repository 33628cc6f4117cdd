"""A party's pool gives out each prepared row once, to a run that both parties name alike."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest

from moiety_party.capacity import bundle_rows, pool_rows, request_rows
from moiety_party.pool import Pool
from moiety_party.settings import PartySettings
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.protocols import product
from moiety_shared.protocols.preparation import PreparedRows
from tests import plans

ROWS = 8


def rows_of(number: int, size: int) -> PreparedRows:
    """Rows that say who they are: bundle * size + index."""
    values = np.arange(number * size, (number + 1) * size)[:, None]
    return {"layer": product.PreparedProduct(values)}


def numbers(prepared: PreparedRows) -> list[int]:
    return [int(n) for n in prepared["layer"][0][:, 0]]


async def taken(alice: Pool, count: int) -> tuple[int, PreparedRows]:
    """The next rows, once alice has them. bob has all that she wants."""
    alice.heard(1 << 40)
    while (rows := await alice.take(count)) is None:
        await alice.want(count)
        await asyncio.sleep(0)
    return rows


@asynccontextmanager
async def pool(
    target: int = 32, fail: dict[int, ProblemType] | None = None, size: int = ROWS, spread: int = 0
) -> AsyncIterator[Pool]:
    failures = fail if fail is not None else {}

    async def make(number: int) -> PreparedRows:
        if number in failures:
            raise Problem(
                failures.pop(number) if failures[number] is ProblemType.PROVIDER_UNAVAILABLE else failures[number]
            )
        await asyncio.sleep(0)
        return rows_of(number, size)

    made = Pool("lease", b"", size, make, target=target, spread=spread, claim_seconds=5)
    try:
        yield made
    finally:
        await made.close()


def test_rows_leave_the_pool_in_order_and_once() -> None:
    async def run() -> None:
        async with pool() as alice, pool() as bob:
            seen: list[int] = []
            for count in (1, 3, 8, 5, 20, 1, 16, 7):
                first, mine = await taken(alice, count)
                theirs = await bob.claim(first, count)
                assert numbers(mine) == numbers(theirs) == list(range(first, first + count))
                seen += numbers(mine)
            assert seen == list(range(len(seen)))
            for first in (0, 5, len(seen) - 1):
                with pytest.raises(Problem) as caught:
                    await bob.claim(first, 1)
                assert caught.value.kind is ProblemType.ROW_USED

    asyncio.run(run())


def test_claims_may_arrive_out_of_order_but_never_twice() -> None:
    async def run() -> None:
        async with pool() as bob:
            assert numbers(await bob.claim(10, 4)) == [10, 11, 12, 13]
            assert numbers(await bob.claim(2, 8)) == list(range(2, 10))
            for first, count in ((9, 2), (13, 1), (0, 3), (-1, 1), (0, 0), (10**9, 1)):
                with pytest.raises(Problem) as caught:
                    await bob.claim(first, count)
                assert caught.value.kind is ProblemType.ROW_USED
            assert numbers(await bob.claim(0, 2)) == [0, 1], "a refused claim takes nothing"

    asyncio.run(run())


def test_burnt_rows_are_gone_and_those_around_them_are_not() -> None:
    async def run() -> None:
        async with pool() as bob:
            await bob.claim(0, 4)
            await bob.burn(2, 8)  # some of them are used already
            await bob.burn(2, 8)
            assert bob.position == 10
            for first, count in ((4, 1), (9, 2), (0, 1)):
                with pytest.raises(Problem) as caught:
                    await bob.claim(first, count)
                assert caught.value.kind is ProblemType.ROW_USED
            assert numbers(await bob.claim(10, 4)) == [10, 11, 12, 13]
            for first, count in ((-1, 2), (0, 0), (10**9, 1)):
                await bob.burn(first, count)
            assert bob.position == 14, "what no honest leader names is left alone"

    asyncio.run(run())


def test_rows_that_are_still_to_be_made_come_burnt() -> None:
    """bob refuses a run whose rows alice has already and he has not."""

    async def run() -> None:
        async with pool(target=ROWS, spread=8 * ROWS) as bob:
            ahead = bob.made + 3 * ROWS
            await bob.burn(ahead - 2, 4)
            assert numbers(await bob.claim(ahead - 4, 2)) == [ahead - 4, ahead - 3]
            for first in range(ahead - 2, ahead + 2):
                with pytest.raises(Problem) as caught:
                    await bob.claim(first, 1)
                assert caught.value.kind is ProblemType.ROW_USED
            assert numbers(await bob.claim(ahead + 2, 2)) == [ahead + 2, ahead + 3]
            assert not bob._rows._burnt, "nothing is remembered of bundles that came"

    asyncio.run(run())


def test_a_bundle_that_never_arrives_is_skipped_by_both() -> None:
    async def run() -> None:
        async with pool() as alice, pool(fail={1: ProblemType.ALREADY_ISSUED}) as bob:
            first, _ = await taken(alice, 6)
            await bob.claim(first, 6)
            first, _ = await taken(alice, 6)
            with pytest.raises(Problem):
                await bob.claim(first, 6)
            alice.skip(bob.gaps)
            first, mine = await taken(alice, 6)
            assert first == 16 and numbers(mine) == numbers(await bob.claim(first, 6))

    asyncio.run(run())


def test_a_bundle_that_came_changed_is_a_gap_and_never_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moiety_party.filler._RETRY_SECONDS", 0.01)
    asked: list[int] = []

    async def make(number: int) -> PreparedRows:
        asked.append(number)
        if number == 1:
            raise Problem(ProblemType.MALFORMED)
        return rows_of(number, ROWS)

    async def run() -> None:
        bob = Pool("lease", b"", ROWS, make, target=32, spread=0, claim_seconds=5)
        assert numbers(await bob.claim(16, 3)) == [16, 17, 18] and bob.gaps == [1]
        with pytest.raises(Problem):
            await bob.claim(8, 1)
        await bob.close()

    asyncio.run(run())
    assert asked == sorted(set(asked)) and 1 in asked


def test_the_same_bundle_is_asked_for_again_while_the_provider_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moiety_party.filler._RETRY_SECONDS", 0.01)

    async def run() -> None:
        async with pool(fail={0: ProblemType.PROVIDER_UNAVAILABLE}) as bob:
            assert numbers(await bob.claim(0, 3)) == [0, 1, 2] and bob.gaps == []

    asyncio.run(run())


def test_a_pool_without_its_lease_gives_what_it_has_and_then_says_so() -> None:
    async def run() -> None:
        async with pool(fail={2: ProblemType.UNKNOWN_LEASE}) as alice:
            assert len(numbers((await taken(alice, 16))[1])) == 16
            with pytest.raises(Problem) as caught:
                await taken(alice, 1)
            assert caught.value.kind is ProblemType.RANDOMNESS_EXHAUSTED and alice.lost

    asyncio.run(run())


def test_no_bundle_is_made_beside_a_run_while_half_of_the_rows_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moiety_party.filler._QUIET_SECONDS", 0.0)
    busy = True

    async def make(number: int) -> PreparedRows:
        return rows_of(number, ROWS)

    async def run() -> list[int]:
        nonlocal busy
        made = []
        alice = Pool("lease", b"", ROWS, make, target=4 * ROWS, spread=0, claim_seconds=5, busy=lambda: busy)
        for count in (0, ROWS - 1, 1):
            if count:
                await taken(alice, count)
            await asyncio.sleep(0.1)
            made.append(alice.made // ROWS)
        busy = False
        await asyncio.sleep(0.1)
        await alice.close()
        return [*made, alice.made // ROWS]

    assert asyncio.run(run()) == [3, 3, 4, 5]


def test_a_row_that_is_larger_than_a_pool_is_made_beside_no_run_unless_somebody_waits() -> None:
    """Two of them would be in memory. The row of a model that fits is made at once."""
    busy = True

    async def make(number: int) -> PreparedRows:
        return rows_of(number, 1)

    async def run(alone: bool) -> list[int]:
        nonlocal busy
        busy = False
        alice = Pool("lease", b"", 1, make, target=1, spread=0, claim_seconds=5, busy=lambda: busy, alone=alone)
        made = []
        await taken(alice, 1)
        busy = True
        await asyncio.sleep(0.1)
        made.append(alice.made)
        await alice.want(1)
        await asyncio.sleep(0.05)
        made.append(alice.made)
        await alice.close()
        return made

    assert asyncio.run(run(True)) == [1, 2] and asyncio.run(run(False)) == [2, 2]


def test_alice_takes_no_row_that_bob_is_not_known_to_have() -> None:
    async def run() -> None:
        async with pool() as alice:
            await alice.want(32)
            await asyncio.sleep(0.05)
            assert await alice.take(1) is None and not alice.has(1) and alice.ready == 0
            alice.heard(10)
            alice.heard(4)
            assert alice.ready == 10 and alice.has(10) and not alice.has(11)
            assert await alice.take(11) is None and alice.position == 0
            first, mine = await alice.take(10) or (-1, {})
            assert first == 0 and numbers(mine) == list(range(10))
            assert alice.ready == 0 and await alice.take(1) is None

    asyncio.run(run())


def test_rows_that_were_lost_on_the_way_do_not_pile_up() -> None:
    async def run() -> None:
        async with pool(target=16) as bob:
            for first in range(0, 400, 20):  # the leader took more than it named
                await bob.claim(first, 4)
                await asyncio.sleep(0.001)
            assert bob.stock <= 24 and len(bob._rows.bundles) <= 6

    asyncio.run(run())


def test_a_pool_of_one_row_serves_runs_side_by_side() -> None:
    """Whatever the order in which the rows are named, each reaches both parties once."""

    async def run() -> None:
        async with pool(target=1, size=1) as alice, pool(target=1, size=1, spread=12) as bob:
            seen: list[int] = []

            async def one(count: int, delay: float) -> None:
                first, mine = await taken(alice, count)
                await asyncio.sleep(delay)
                assert numbers(mine) == numbers(await bob.claim(first, count))
                seen.extend(numbers(mine))

            for _ in range(5):
                await asyncio.gather(*(one(count, 0.004 * (4 - i)) for i, count in enumerate((1, 3, 1, 2))))
            assert sorted(seen) == list(range(35)) and seen != sorted(seen)
            await asyncio.sleep(0.01)
            assert alice.stock == bob.stock == 1 and alice.full and bob.full
            assert len(alice._rows.bundles) == len(bob._rows.bundles) == 1

    asyncio.run(asyncio.wait_for(run(), 10))


def test_a_pool_makes_the_rows_that_are_wanted_of_it() -> None:
    async def run() -> None:
        async with pool(target=1, size=1, spread=8) as alice, pool(target=1, size=1, spread=8) as bob:
            assert await alice.want(6) == 6
            await bob.want_until(6)
            await bob.want_until(10**9)  # nonsense is not followed
            await asyncio.sleep(0.05)
            assert (alice.made, bob.made) == (6, 6)
            first, mine = await taken(alice, 6)
            assert numbers(await bob.claim(first, 6)) == numbers(mine)

    asyncio.run(asyncio.wait_for(run(), 10))


def test_a_pool_of_one_row_goes_on_after_a_bundle_that_never_came() -> None:
    async def run() -> None:
        lost = {0: ProblemType.ALREADY_ISSUED, 2: ProblemType.ALREADY_ISSUED}
        async with pool(target=1, size=1) as alice, pool(target=1, size=1, spread=8, fail=lost) as bob:
            await asyncio.sleep(0.01)
            assert bob.gaps == [0] and bob.stock == 1, "another is made in its place"
            alice.skip(bob.gaps)
            end = await alice.want(2)
            await bob.want_until(end)
            await asyncio.sleep(0.01)
            assert bob.gaps == [0, 2]
            alice.skip(bob.gaps)
            end = await alice.want(2)
            await bob.want_until(end)
            first, mine = await taken(alice, 2)
            assert numbers(mine) == numbers(await bob.claim(first, 2)) == [3, 4]

    asyncio.run(asyncio.wait_for(run(), 10))


@pytest.mark.parametrize(
    ("pool_bytes", "expected"),
    [(1 << 30, (512, 64, 2048)), (1 << 22, (32, 16, 32)), (1 << 18, (2, 1, 2)), (1000, (1, 1, 1))],
)
def test_rows_are_as_many_as_their_bytes_allow(pool_bytes: int, expected: tuple[int, int, int]) -> None:
    """Inputs in a request, rows in a bundle, rows ready."""
    settings = PartySettings(pool_bytes=pool_bytes)
    plan = plans.logits()
    wide = plan.model_copy(
        update={"layers": (plan.layers[0], plan.layers[1].model_copy(update={"out_features": 1 << 15}))}
    )
    assert wide.bundle_row_bytes == 1 << 17

    assert (request_rows(settings, wide), bundle_rows(settings, wide), pool_rows(settings, wide)) == expected
