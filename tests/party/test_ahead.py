"""The rows of verified runs are prepared before runs take them, a few bundles ahead, and each is handed out once."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import numpy as np
import pytest

from moiety_party.ahead import BUNDLES
from moiety_party.pool import Pool
from moiety_shared.protocols.preparation import PreparedRows
from moiety_shared.protocols.verified.layout import NUMBERS
from tests.party.test_pool import taken

ROWS = 4
TARGET = 6 * ROWS


class Preparing:
    """Prepares bundles by saying so beside each row; and whether a run is under way."""

    def __init__(self) -> None:
        self.bundles: list[int] = []
        self.busy = False

    async def make(self, number: int) -> PreparedRows:
        return {NUMBERS: (np.arange(ROWS) + number * ROWS, np.full(ROWS, None))}

    async def prepare(self, rows: PreparedRows) -> None:
        await asyncio.sleep(0)
        numbers, beside = rows[NUMBERS]
        beside.fill("prepared")
        self.bundles.append(int(numbers[0]) // ROWS)


@asynccontextmanager
async def pool(preparing: Preparing) -> AsyncIterator[Pool]:
    made = Pool(
        "lease", b"", ROWS, preparing.make, target=TARGET, spread=TARGET, claim_seconds=60,
        busy=lambda: preparing.busy, prepare=preparing.prepare,
    )  # fmt: skip
    try:
        yield made
    finally:
        await made.close()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110  a pool has no events
            await asyncio.sleep(0.01)


def run(scenario: Callable[[Preparing, Pool], Awaitable[None]]) -> None:
    async def all_of_it() -> None:
        preparing = Preparing()
        async with pool(preparing) as alice:
            await scenario(preparing, alice)

    asyncio.run(all_of_it())


def test_the_next_bundles_are_prepared_in_order() -> None:
    async def scenario(preparing: Preparing, alice: Pool) -> None:
        await until(lambda: alice.full)
        assert preparing.bundles == list(range(BUNDLES)) and alice.stock == TARGET, "no more than these"
        first, rows = await taken(alice, ROWS + 1)
        assert first == 0 and rows[NUMBERS][0].tolist() == list(range(ROWS + 1))
        assert rows[NUMBERS][1].tolist() == ["prepared"] * (ROWS + 1)
        await until(lambda: alice.full)
        assert preparing.bundles == list(range(BUNDLES + 1))

    run(scenario)


def test_beside_a_run_bundles_are_prepared_only_when_half_of_them_are_not() -> None:
    async def scenario(preparing: Preparing, alice: Pool) -> None:
        await until(lambda: alice.full)
        preparing.busy = True
        await taken(alice, ROWS)
        await asyncio.sleep(0.3)
        assert preparing.bundles == list(range(BUNDLES))
        await taken(alice, ROWS)
        await until(lambda: len(preparing.bundles) == BUNDLES + 1)
        await asyncio.sleep(0.1)
        assert preparing.bundles == list(range(BUNDLES + 1)), "then the rest waits again"
        preparing.busy = False
        await until(lambda: alice.full)
        assert preparing.bundles == list(range(BUNDLES + 2))

    run(scenario)


def test_rows_that_are_taken_first_are_handed_out_as_they_were_dealt() -> None:
    async def scenario(preparing: Preparing, alice: Pool) -> None:
        hold = asyncio.Event()
        prepare = preparing.prepare

        async def late(rows: PreparedRows) -> None:
            await hold.wait()
            await prepare(rows)

        preparing.prepare = late
        async with pool(preparing) as bob:
            await until(lambda: bob.stock == TARGET)
            assert (await bob.claim(1, 2))[NUMBERS][1].tolist() == [None, None]
            hold.set()
            await until(lambda: bob.full)
            rows = await bob.claim(3, 2)
            assert rows[NUMBERS][0].tolist() == [3, 4] and rows[NUMBERS][1].tolist() == ["prepared"] * 2

    run(scenario)


def test_where_rows_cannot_be_prepared_runs_get_them_as_they_were_dealt(capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario(preparing: Preparing, alice: Pool) -> None:
        async def broken(rows: PreparedRows) -> None:
            raise ArithmeticError("secret")

        preparing.prepare = broken
        async with pool(preparing) as bob:
            await until(lambda: bob.full)
            assert (await bob.claim(0, 2))[NUMBERS][1].tolist() == [None, None]

    run(scenario)
    said = capsys.readouterr().out
    assert said.count("not prepared") == 1 and "secret" not in said


def test_what_is_prepared_goes_with_its_pool() -> None:
    async def scenario(preparing: Preparing, alice: Pool) -> None:
        await until(lambda: alice.full)
        await alice.close()
        assert alice.stock == 0 and not alice.has(1)
        done = len(preparing.bundles)
        await asyncio.sleep(0.05)
        assert len(preparing.bundles) == done

    run(scenario)
