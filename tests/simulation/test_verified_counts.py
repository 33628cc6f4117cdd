"""Verified counts in a deployment: who reads one checks it, and the owner gets nothing that opens an input."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moiety_client.client import AsyncClient
from moiety_client.errors import CheatingDetected
from moiety_party import verified
from moiety_party.helper import guests
from moiety_party.leader import runs
from moiety_party.results import ResultShare
from moiety_server.counts import open_count
from moiety_shared.crypto.sealing import PrivateKey
from moiety_shared.messages.wire import OwnerCount
from moiety_shared.plan.plan import Plan
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.protocols.verified import answers, layout
from moiety_shared.ring import Array
from tests import plans
from tests.simulation.detector import Detector
from tests.simulation.world import World, world

OWNER = PrivateKey(bytes(range(96)))
X, LABELS = plans.random_inputs(5), np.array([0, 1, 2, 3, 4])
RIGHT = int((plans.scores(X).argmax(axis=1) == LABELS).sum())
Scenario = Callable[[World, AsyncClient], Awaitable[None]]


class Opening:
    """The owner's sealing key."""

    def open(self, envelope: Any, context: bytes) -> bytes:
        return OWNER.open(bytes(envelope), context)


def simulate(root: Path, detector: Detector, scenario: Scenario, plan: Plan | None = None) -> None:
    plan = plan or plans.count()
    if plan.input.classes:
        plan = plan.model_copy(update={"output": plan.output.model_copy(update={"owner_key": OWNER.public.text()})})
    plan = layout.verified(plan)

    async def run() -> None:
        async with world(root, detector, plan=plan, weights=plans.weights(), run_seconds=60) as w, w.client() as client:
            await scenario(w, client)
            w.check_once()

    asyncio.run(asyncio.wait_for(run(), 180))
    detector.check()


async def counted(
    client: AsyncClient, who: str, x: Array = X, labels: Array = LABELS
) -> tuple[int | None, list[bytes]]:
    """What the client learns, and what it hands on."""
    told = await client.evaluate("small", x / 16.0, labels, reveal_to=who)
    return told.correct, list(told.for_owner)


def opened(w: World, handed_on: bytes) -> int:
    return open_count(Opening(), OwnerCount.unpack(handed_on), w.entry.entry)  # type: ignore[arg-type]


def test_whoever_may_read_a_count_reads_it(root: Path, detector: Detector) -> None:
    async def scenario(w: World, client: AsyncClient) -> None:
        assert 0 < RIGHT < len(X)
        assert await counted(client, "client") == (RIGHT, [])
        for who, known in (("owner", None), ("both", RIGHT)):
            told, (count,) = await counted(client, who)
            assert told == known and opened(w, count) == RIGHT
        at = [slice(end - rows, end) for end, rows in ((1, 1), (3, 2), (5, 2))]
        each = await asyncio.gather(*(counted(client, "both", X[place], LABELS[place]) for place in at))
        right = [int((plans.scores(X[place]).argmax(axis=1) == LABELS[place]).sum()) for place in at]
        assert [told for told, _ in each] == [opened(w, count) for _, (count,) in each] == right

    simulate(root, detector, scenario)


def test_a_sum_of_outputs_is_checked_too(root: Path, detector: Detector) -> None:
    async def scenario(w: World, client: AsyncClient) -> None:
        assert np.array_equal(await client.total("small", X / 16.0), plans.scores(X).sum(axis=0) / 16.0)

    simulate(root, detector, scenario, plans.totals())


def windows(raw: bytes) -> Iterator[bytes]:
    return (raw[at : at + answers.KEY_BYTES] for at in range(len(raw) - answers.KEY_BYTES + 1))


def test_what_the_owner_gets_opens_no_input(root: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    """No 32 bytes of it are a key of a row. Whoever had those of both parties, and saw x^ at one of them, had x. And
    nothing that the client of such a count gets is a key of the count."""
    said = list[ResultShare]()
    run = verified.Checks.run

    async def kept(*given: Any) -> list[ResultShare]:
        told = await run(*given)
        said.extend(told)
        return told

    drawn = dict[str, set[bytes]](row=set(), count=set())
    draw = answers.RowKeys.draw

    def noted(stream: Any, rows: int, of: answers.Kind = "row") -> answers.RowKeys:
        keys = draw(stream, rows, of)
        drawn[of].update(keys.keys)
        return keys

    async def scenario(w: World, client: AsyncClient) -> None:
        _, (count,) = await counted(client, "owner")
        assert opened(w, count) == RIGHT and len(said) == 2
        for share in said:
            owners, clients = set(windows(share.result)), set(windows(share.beside))
            assert not owners & drawn["row"] and len(owners & drawn["count"]) == 1
            assert not clients & drawn["count"] and len(clients & drawn["row"]) == len(X)
        assert not drawn["row"] & drawn["count"]

    monkeypatch.setattr(verified.Checks, "run", kept)
    monkeypatch.setattr(answers.RowKeys, "draw", noted)
    simulate(root, detector, scenario)


@pytest.mark.parametrize("liar", [pytest.param("alice", marks=pytest.mark.long), "bob"])
def test_another_input_is_noticed_where_the_owner_alone_may_read(
    root: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch, liar: str
) -> None:
    """The client has no count, and hands none on: the liar counted other inputs, and followed the protocol."""
    of, name = (runs, "_shares") if liar == "alice" else (guests.Guests, "shares")
    shares = getattr(of, name)

    def added(given: Any) -> Array:
        more = np.array(shares(given))
        more[0, 1] += 1
        return more

    async def scenario(w: World, client: AsyncClient) -> None:
        monkeypatch.setattr(of, name, added)
        for who in ("client", "owner", "both"):
            with pytest.raises(CheatingDetected, match="does not hold together"):
                await counted(client, who)
        monkeypatch.setattr(of, name, shares)
        assert await counted(client, "client") == (RIGHT, [])

    simulate(root, detector, scenario)


LIES = {"lease": 0, "row": 16, "digest": 24, "key": 56, "count": 88}
"""A byte of what a party says of a count."""


@pytest.mark.parametrize("liar", [pytest.param(0, id="alice", marks=pytest.mark.long), pytest.param(1, id="bob")])
def test_a_lie_about_a_count_is_noticed_by_whoever_reads_it(
    root: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch, liar: int
) -> None:
    """A party that followed the protocol until the verdict, and then tells something else; bob's voucher included."""
    module = (runs, guests)[liar]
    sealed, at = module.sealed_result, [0]

    def lying(plan: Any, party: int, share: ResultShare, *more: Any) -> bytes:
        said = bytearray(share.result)
        said[at[0]] ^= 1
        return sealed(plan, party, share._replace(result=bytes(said)), *more)

    async def scenario(w: World, client: AsyncClient) -> None:
        monkeypatch.setattr(module, "sealed_result", lying)
        for at[0] in [*LIES.values(), *((92, 100, -1) if liar else ())]:
            with pytest.raises(CheatingDetected, match="does not hold together"):
                await counted(client, "client")
            _, (count,) = await counted(client, "owner")  # the client cannot see it
            with pytest.raises(Problem) as caught:
                opened(w, count)
            assert caught.value.kind is ProblemType.CHEATING_DETECTED
        monkeypatch.setattr(module, "sealed_result", sealed)
        assert await counted(client, "client") == (RIGHT, [])

    simulate(root, detector, scenario)
