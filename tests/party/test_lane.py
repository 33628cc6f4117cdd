"""The peer link's driver: slices, rounds of several openings, openings in parts, a peer that does not read."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from moiety_party import hello, lane
from moiety_party.helper import helper
from moiety_party.lane import Lane
from moiety_shared.crypto.channel import TAG_BYTES, Channel
from moiety_shared.crypto.integrity import Transcript
from moiety_shared.crypto.prg import new_seed
from moiety_shared.plan.plan import Plan
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.protocols import graph
from moiety_shared.protocols.opening import Kind, Opening, Round, Session
from moiety_shared.ring import Array, Ring
from tests import plans
from tests.protocols.running import Run, bundle, prepare

CHECK = bytes(32)


class Pipe:
    """One end of a link in memory. What goes to the helper waits until it reads, as on a WebSocket server."""

    def __init__(self, incoming: asyncio.Queue[bytes], outgoing: asyncio.Queue[bytes]) -> None:
        self.incoming, self.outgoing = incoming, outgoing
        self.sizes: list[int] = []

    async def send(self, message: bytes) -> None:
        self.sizes.append(len(message))
        await self.outgoing.put(message)

    async def recv(self) -> bytes:
        return await self.incoming.get()

    async def close(self) -> None: ...


def pipes() -> tuple[Pipe, Pipe]:
    to_alice, to_bob = asyncio.Queue[bytes](), asyncio.Queue[bytes](1)
    return Pipe(to_alice, to_bob), Pipe(to_bob, to_alice)


def both_ends(alice: Pipe, bob: Pipe) -> list[Lane]:
    """A lane as it is after its HELLOs."""
    return [Lane(pipe, Channel(CHECK, party, b"hello"), "peer") for party, pipe in enumerate((alice, bob))]


Sessions = Sequence[Session[Array]]


def drive(alice: Sessions, bob: Sessions) -> tuple[list[Lane], list[list[Array]]]:
    async def run() -> tuple[list[Lane], list[list[Array]]]:
        lanes = both_ends(*pipes())
        with ThreadPoolExecutor(2) as threads:
            both = (
                end.drive(sessions, Transcript(CHECK, b""), threads)
                for end, sessions in zip(lanes, (alice, bob), strict=True)
            )
            return lanes, list(await asyncio.wait_for(asyncio.gather(*both), 20))

    return asyncio.run(run())


def sessions(run: Run, x: Array) -> tuple[Sessions, Sessions]:
    plan, rows = run.plan, len(x)
    seeds = [new_seed() for _ in range(2)]
    raw = bundle(plan, rows, run.masks, seeds)
    one = run.random(x.shape)
    a, b = (
        graph.evaluate_slices(plan, p, share, prepare(plan, p, rows, seeds[p], raw, run.models[p]), run.models[p])
        for p, share in enumerate((one, x - one))
    )
    return a, b


def joined(outputs: list[list[Array]]) -> Array:
    return np.concatenate(outputs[0]) + np.concatenate(outputs[1])


@pytest.mark.parametrize(
    ("small", "part"), [(48_000, 1 << 23), (0, 1 << 23), (0, 100), (48_000, 333)], ids=["one", "own", "split", "both"]
)
@pytest.mark.parametrize("inline_work", [lane.INLINE_WORK, -1], ids=["inline", "threads"])
def test_slices_and_side_by_side_layers_share_rounds(
    monkeypatch: pytest.MonkeyPatch, small: int, part: int, inline_work: int
) -> None:
    monkeypatch.setattr(lane, "_SMALL_BYTES", small)
    monkeypatch.setattr(lane, "_PART_BYTES", part)
    monkeypatch.setattr(lane, "INLINE_WORK", inline_work)
    plan, x = plans.branches(), plans.random_inputs(150)
    lanes, outputs = drive(*sessions(Run(plan, plans.weights()), x))
    y = plans.scores(x)
    assert np.array_equal(joined(outputs), np.maximum(y, 0) - 2 * np.maximum(y - 3, 0))
    cost = plan.cost(len(x))
    assert cost.rounds == 4 < sum(c.rounds for c in plan.costs(1).values())
    for end in lanes:
        assert (end.rounds, end.opening_bytes) == (cost.rounds, cost.online_bytes)
        assert max(end._link.sizes) <= max(part, small) + 8 + TAG_BYTES  # type: ignore[attr-defined]


def opening(make: Callable[[], Array], ring: Ring) -> Session[Array]:
    (value,) = yield Round((Opening(make(), Kind.RING, ring),))
    return value


def test_many_long_openings_pass_a_helper_that_reads_late() -> None:
    """32 slices of 9 MB: neither party may wait with sending until the other has read."""
    ring, share = Ring(32), np.ones(9 << 18, dtype=np.int32)
    a, b = ([opening(lambda: share, ring) for _ in range(32)] for _ in range(2))
    _, outputs = drive(a, b)
    assert all(int(v[0]) == 2 and len(v) == len(share) for values in outputs for v in values)


@pytest.mark.parametrize("size", [0, 39, 41])
def test_openings_of_another_length_are_refused(size: int) -> None:
    async def run() -> None:
        alice, bob = both_ends(*pipes())
        with ThreadPoolExecutor(1) as threads:
            session = opening(lambda: np.zeros(10, np.int32), Ring(32))
            task = asyncio.create_task(bob.drive([session], Transcript(CHECK, b""), threads))
            await alice.send(lane.FrameKind.OPENING, bytes(size))
            with pytest.raises(Problem) as caught:
                await task
            assert caught.value.kind is ProblemType.PEER_UNAVAILABLE and "bytes" in caught.value.detail

    asyncio.run(run())


def test_prepared_rows_are_let_go_of_during_a_run() -> None:
    plan: Plan = plans.branches()
    run = Run(plan, plans.weights())
    seeds = [new_seed() for _ in range(2)]
    prepared = prepare(plan, 0, 2, seeds[0], bundle(plan, 2, run.masks, seeds), run.models[0])
    session = graph.evaluate(plan, 0, plans.random_inputs(2), prepared, run.models[0])
    next(session)
    assert "o" in prepared
    session.send([np.zeros((2, plans.SIZE), np.int32)])
    assert "o" not in prepared and "l" not in prepared and "a" in prepared


def test_a_leader_that_never_says_hello_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hello, "HELLO_SECONDS", 0.05)

    class Silent(Pipe):
        closed = False

        async def close(self) -> None:
            self.closed = True

    async def run() -> bool:
        link = Silent(asyncio.Queue(), asyncio.Queue())
        party = SimpleNamespace(
            replicas=SimpleNamespace(start=lambda: None),
            state=SimpleNamespace(answered=dict),
            settings=SimpleNamespace(request_seconds=1.0),
            boot="bob",
        )
        await asyncio.wait_for(helper.Helper(party).serve(link), 20)  # type: ignore[arg-type]
        return link.closed

    assert asyncio.run(run())


@pytest.mark.parametrize("said", [ProblemType.KEY_RETIRED, None], ids=["a refusal", "nothing"])
def test_what_a_peer_said_before_it_closed_is_read(said: ProblemType | None) -> None:
    """Its refusal has arrived when sending fails: that is the reason, and not the link."""

    class Closed(Pipe):
        async def send(self, message: bytes) -> None:
            raise Problem(ProblemType.PEER_UNAVAILABLE, "closed")

        async def recv(self) -> bytes:
            if self.incoming.empty():
                raise Problem(ProblemType.PEER_UNAVAILABLE, "at the end")
            return await super().recv()

    async def run() -> None:
        to_alice = asyncio.Queue[bytes]()
        end, bob = both_ends(Closed(to_alice, asyncio.Queue()), Pipe(asyncio.Queue(), to_alice))
        await bob.send(lane.FrameKind.OPENING, b"of a round before")
        if said is not None:
            await bob.send_json(lane.FrameKind.FAILED, Problem(said, retry_after=7).document())
        with pytest.raises(Problem) as caught:
            await end.send(lane.FrameKind.OPENING, b"the next")
        if said is None:
            assert (caught.value.kind, caught.value.detail) == (ProblemType.PEER_UNAVAILABLE, "closed")
        else:
            assert isinstance(caught.value, lane.Refused)
            assert (caught.value.kind, caught.value.retry_after) == (said, 7)
        assert end.in_run, "such a lane is of no more use"

    asyncio.run(run())
