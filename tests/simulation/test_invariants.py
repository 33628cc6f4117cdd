"""What holds whatever happens to the processes and the links between them. Each test is one kind of misfortune; the
last one throws dice.

1. No wrong answer. Whoever gets an answer gets the plan's, to the last bit. Getting none is allowed.
2. Once. In one life of alice a request id runs to its end once: copies get the same answer, other content under the
   same id is refused. (alice's memory of requests ends with her process: the same request sent to her next life runs
   again, with other rows, if bob has not answered it; see test_refusals.py.)
3. No mask twice. Over all lives of all parties, restarted, restored from old folders, or living twice, no row is ever
   opened under a mask that was used before; nor are weights. See detector.py.
4. It goes on. When the misfortune is over, and the owner has published again where a folder forgot the model, the next
   prediction is answered.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from moiety_client.errors import MoietyError, ServiceUnavailable, UnknownModel
from moiety_crypto_provider import issuer
from moiety_party.rows import Rows
from moiety_shared.messages.upload import Draws
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.protocols.preparation import cut, stack
from tests import plans
from tests.databases import Postgres
from tests.simulation.detector import Detector
from tests.simulation.world import Role, World, world

X = plans.random_inputs(3)
OTHER = plans.random_inputs(3, seed=1)
Scenario = Callable[[World], Awaitable[None]]
PartyRole = Literal["alice", "bob"]


# PostgreSQL's turn takes a minute or two of most: `make test-simulation`. Replicas share one in every run.
on_both = pytest.mark.parametrize(
    "server", ["sqlite", pytest.param("postgresql", marks=pytest.mark.long)], indirect=True
)


def simulate(
    root: Path, detector: Detector, scenario: Scenario, server: Postgres | None = None, seconds: float = 180
) -> None:
    """The scenario, then one prediction more; all invariants."""

    async def run() -> None:
        async with world(root, detector, server) as w:
            await scenario(w)
            await recover(w)
            w.check_once()

    asyncio.run(asyncio.wait_for(run(), seconds))
    detector.check()


async def attempt(w: World, x: np.ndarray = X, seconds: float = 1) -> bool:
    """A prediction that may fail, but not be wrong."""
    try:
        await w.predict(x, seconds)
    except MoietyError:
        return False
    return True


async def recover(w: World) -> None:
    try:
        await w.predict(X)
    except UnknownModel:  # a restored folder is older than the model
        await publish(w)
        await w.predict(X)


async def publish(w: World) -> None:
    """As an owner does: a lane that broke is a reason to publish again, under a new id."""
    for _ in range(5):
        try:
            await w.publish()
            return
        except Problem as problem:
            assert problem.kind is ProblemType.PEER_UNAVAILABLE
    raise AssertionError("publishing never succeeds")


def test_nothing_happens(root: Path, detector: Detector) -> None:
    async def scenario(w: World) -> None:
        for _ in range(12):
            await asyncio.gather(*(w.predict(x) for x in (X, X, OTHER)))

    simulate(root, detector, scenario)
    assert len(detector.rows) > 200


def test_two_uploads_of_one_model_have_other_masks(root: Path, detector: Detector) -> None:
    async def scenario(w: World) -> None:
        for _ in range(3):
            await w.predict(X)
            await w.publish()

    simulate(root, detector, scenario)


@on_both
@pytest.mark.parametrize("role", ["alice", "bob", "provider"])
def test_restart(root: Path, detector: Detector, role: Role, server: Postgres | None) -> None:
    async def scenario(w: World) -> None:
        for _ in range(3):
            await w.predict(X)
            await w.restart(role)

    simulate(root, detector, scenario, server)


@on_both
@pytest.mark.parametrize("role", ["alice", "bob"])
def test_crash_in_the_middle_of_runs(root: Path, detector: Detector, role: PartyRole, server: Postgres | None) -> None:
    async def scenario(w: World) -> None:
        for frame in range(1, 14, 2):
            (node,) = w.alices if role == "alice" else w.bobs
            w.at_frame = (w.frames + frame, node.crash)
            running = asyncio.gather(*(attempt(w) for _ in range(3)))
            await node.ended.wait()
            await w.restart(role, crash=True)
            await running

    simulate(root, detector, scenario, server)


def test_a_helper_that_is_told_to_stop_ends_its_run_and_begins_no_other(root: Path, detector: Detector) -> None:
    async def scenario(w: World) -> None:
        (bob,), told = w.bobs, list[asyncio.Task[None]]()

        def change(name: str, message: bytes) -> bytes:
            if name == "OPENING of bob" and not told:
                told.append(asyncio.create_task(bob.drain.finish(60)))
            return message

        w.change = change
        await w.predict(X)
        await told[0]
        with pytest.raises(ServiceUnavailable) as refused:
            await w.predict(X, 0.5)
        assert refused.value.problem.retry_after
        await w.restart("bob")

    simulate(root, detector, scenario)


def test_a_lane_is_cut_at_every_frame(root: Path, detector: Detector) -> None:
    async def scenario(w: World) -> None:
        await w.predict(X)
        for frame in range(1, 16):
            w.cut_at = w.frames + frame
            await w.predict(X)
            while w.frames < w.cut_at:
                await attempt(w)

    simulate(root, detector, scenario)


def test_retry(root: Path, detector: Detector) -> None:
    """The same request again, copies that race, other content under the same id, and answers that got lost."""

    async def scenario(w: World) -> None:
        (alice,) = w.alices
        call, other = w.call(X), w.call(OTHER)
        answers = await asyncio.gather(*(w.ask(alice, call.body) for _ in range(8)))
        assert len({*answers, await w.ask(alice, call.body)}) == 1
        renamed = bytearray(other.body)
        renamed[52:68] = call.binding.request_id
        with pytest.raises(Problem) as caught:
            await w.ask(alice, bytes(renamed))
        assert caught.value.kind is ProblemType.REQUEST_CONFLICT
        assert alice.leader is not None and alice.leader.completed[call.binding.request_id] == 1
        for frame in (
            3,
            7,
            11,
        ):  # of the ten of a run; after the last, RESULT, bob answers no more
            lost = w.call(X)
            w.cut_run_at = w.run_frames + frame
            for _ in range(2):
                await asyncio.gather(*(w.ask(alice, lost.body) for _ in range(2)), return_exceptions=True)
            assert alice.leader.completed[lost.binding.request_id] == 1

    simulate(root, detector, scenario)


@on_both
@pytest.mark.parametrize("role", ["alice", "bob", "provider"])
def test_restored(root: Path, detector: Detector, role: Role, server: Postgres | None) -> None:
    """The role comes back, twice, from a copy of its folder that others have long gone beyond."""

    async def scenario(w: World) -> None:
        await w.predict(X)
        copy = w.copy(role, "early")
        for _ in range(2):
            for _ in range(8):
                await w.predict(X)
            await w.restore(role, copy)
            await w.predict(X)

    simulate(root, detector, scenario, server)


@pytest.mark.parametrize("role", ["alice", "bob", "provider"])
def test_restored_to_before_the_model(root: Path, detector: Detector, role: Role) -> None:
    async def scenario(w: World) -> None:
        copy = w.copy(role, "early")
        await w.publish()
        await w.predict(X)
        await w.restore(role, copy)
        answered = [await attempt(w) for _ in range(20)]  # after what is in stock
        assert not all(answered), "what a folder forgot is not served"

    simulate(root, detector, scenario)


@on_both
@pytest.mark.parametrize("role", ["alice", "bob"])
def test_cloned(root: Path, detector: Detector, role: PartyRole, server: Postgres | None) -> None:
    """Two lives on copies of one folder, at once, behind one address."""

    async def scenario(w: World) -> None:
        await w.predict(X)
        w.clone(role)
        answered = 0
        for _ in range(10):
            answered += sum(await asyncio.gather(*(attempt(w) for _ in range(2))))
        assert answered, "each of the two has leases of its own"
        await w.restart(role)

    simulate(root, detector, scenario, server)


# Replicas: lives that share a folder of keys, a database and a store.


@pytest.mark.parametrize("server", ["sqlite", "postgresql"], indirect=True)
def test_replicas(root: Path, detector: Detector, server: Postgres | None) -> None:
    """Two alices, and then two bobs as well, behind one address each."""

    async def scenario(w: World) -> None:
        await w.predict(X)
        w.start_party("alice")
        answered = sum([await attempt(w) for _ in range(10)])
        await publish(w)  # at one of the alices; the other hears of it
        answered += sum([await attempt(w) for _ in range(10)])
        assert answered, "they take the leases from one another, and still somebody is served"
        w.start_party("bob")
        for _ in range(5):
            await asyncio.gather(*(attempt(w) for _ in range(2)))
        w.check_once()
        await w.restart("alice")
        await w.restart("bob")

    simulate(root, detector, scenario, server)


def test_a_request_runs_at_one_replica(root: Path, detector: Detector, postgres: Postgres) -> None:
    async def scenario(w: World) -> None:
        w.start_party("alice")
        for _ in range(4):
            call = w.call(X)
            copies = [w.ask(alice, call.body) for alice in w.alices for _ in range(3)]
            answers = [a for a in await asyncio.gather(*copies, return_exceptions=True) if isinstance(a, bytes)]
            assert len(set(answers)) <= 1 and w.completed(call.binding.request_id) <= 1
            later = await asyncio.gather(*(w.ask(alice, call.body) for alice in w.alices))
            assert len({*answers, *later}) == 1 and w.completed(call.binding.request_id) == 1
        await w.restart("alice")
        assert await w.ask(w.an_alice(), call.body) == later[0], "a restarted alice knows it too"
        assert w.completed(call.binding.request_id) == 1

    simulate(root, detector, scenario, postgres)


@on_both
def test_a_deletion_reaches_all_replicas(root: Path, detector: Detector, server: Postgres | None) -> None:
    async def scenario(w: World) -> None:
        parties: tuple[PartyRole, ...] = ("alice", "bob")
        copies = {role: w.copy(role, "before") for role in parties}
        w.start_party("alice")
        w.start_party("bob")
        upload_id = w.entry.entry.upload_id
        for nodes in (w.alices, w.bobs):
            await nodes[0].party.models.delete(upload_id)
            await nodes[1].party.replicas.look()
            assert not [node for node in nodes if upload_id in node.party.store]
        for alice in w.alices:
            with pytest.raises(Problem) as caught:
                await w.ask(alice, w.call(X).body)
            assert caught.value.kind is ProblemType.UNKNOWN_MODEL
        for role in parties:
            await w.stop(role)
            w.backups.restore_files(copies[role], w.folder(role))
            assert list(w.folder(role).glob("models/*"))
            w.start(role)
            assert not list(w.folder(role).glob("models/*")), "old files came back, and the database knew better"

    simulate(root, detector, scenario, server)


# The detector itself: bugs planted, to see that it sees them.


def planted(root: Path, detector: Detector, scenario: Scenario) -> None:
    async def run() -> None:
        async with world(root, detector) as w:
            await scenario(w)

    asyncio.run(asyncio.wait_for(run(), 30))
    with pytest.raises(AssertionError, match="used before"):
        detector.check()


async def some_predictions(w: World) -> None:
    for _ in range(3):
        await w.predict(X)


def test_a_pool_that_hands_out_rows_twice_is_noticed(
    root: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    def keep(self: Rows, first: int, count: int) -> object:
        return stack([cut(self.bundles[n].prepared, a, b) for n, a, b in self._pieces(first, count)])

    monkeypatch.setattr(Rows, "remove", keep)
    planted(root, detector, some_predictions)


def test_a_dealer_that_repeats_the_seeds_of_leases_is_noticed(
    root: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    def repeated(lease_id: str, upload_id: str, rows: int, *_: bytes) -> issuer.Lease:
        return original(lease_id, upload_id, rows, b"a" * 32, b"b" * 32)

    original = issuer.Lease
    monkeypatch.setattr(issuer, "Lease", repeated)

    async def scenario(w: World) -> None:
        await w.predict(X)
        await w.restart("alice")
        await w.predict(X)

    planted(root, detector, scenario)


def test_an_owner_who_repeats_the_seeds_of_uploads_is_noticed(
    root: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    repeated = Draws.fresh()
    monkeypatch.setattr(Draws, "fresh", lambda: repeated)

    async def scenario(w: World) -> None:
        await w.publish()

    planted(root, detector, scenario)


# Dice


class Dice:
    """Choices from a seed, so that a run that fails can be had again, as far as the event loop allows."""

    def __init__(self, seed: int) -> None:
        self._state = seed

    def below(self, n: int) -> int:
        self._state = (self._state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self._state >> 33) % n


def operations(w: World, dice: Dice) -> Iterator[tuple[str, Callable[[], Awaitable[object]]]]:
    """Endless, what happens next."""
    copies: dict[Role, Path] = {}
    roles: tuple[Role, ...] = ("alice", "bob", "provider")
    parties: tuple[PartyRole, ...] = ("alice", "bob")

    async def clients(count: int) -> None:
        xs = [X if dice.below(4) else OTHER for _ in range(count)]
        await asyncio.gather(*(attempt(w, x[: 1 + dice.below(3)], 2) for x in xs))

    async def cut_lane() -> None:
        w.cut_at = w.frames + 1 + dice.below(14)
        await clients(2)

    async def crash(role: PartyRole) -> None:
        nodes = w.alices if role == "alice" else w.bobs
        node = nodes[dice.below(len(nodes))]
        w.at_frame = (w.frames + 1 + dice.below(14), node.crash)
        await clients(2)
        await w.restart(role, crash=True)

    async def copies_race() -> None:
        alice, call = w.an_alice(), w.call(X)
        answers = await asyncio.gather(*(w.ask(alice, call.body) for _ in range(3)), return_exceptions=True)
        assert len({a for a in answers if isinstance(a, bytes)}) <= 1

    async def take_copy(role: Role) -> None:
        copies[role] = w.copy(role, "dice")

    async def restore(role: Role) -> None:
        await (w.restore(role, copies[role]) if role in copies else take_copy(role))

    async def clone(role: PartyRole) -> None:
        w.clone(role)
        await clients(3)
        await clients(3)
        await w.restart(role)

    async def publish_again() -> None:
        await recover(w)
        await publish(w)

    while True:
        role, party = roles[dice.below(3)], parties[dice.below(2)]
        yield (
            ("clients", lambda: clients(3)),
            ("clients", lambda: clients(1)),
            ("copies race", copies_race),
            ("cut", cut_lane),
            ("cut", cut_lane),
            (f"crash {party}", lambda party=party: crash(party)),  # type: ignore[misc]
            (f"restart {role}", lambda role=role: w.restart(role)),  # type: ignore[misc]
            (f"copy {role}", lambda role=role: take_copy(role)),  # type: ignore[misc]
            (f"restore {role}", lambda role=role: restore(role)),  # type: ignore[misc]
            (f"clone {party}", lambda party=party: clone(party)),  # type: ignore[misc]
            ("publish", publish_again),
        )[dice.below(11)]


@pytest.mark.parametrize(
    ("seed", "server"),
    [(1, "sqlite"), (2, "sqlite"), pytest.param(3, "postgresql", marks=pytest.mark.long)],
    indirect=["server"],
)
def test_dice(root: Path, detector: Detector, seed: int, server: Postgres | None, pytestconfig: pytest.Config) -> None:
    """Anything, in any order. `--steps` makes it longer."""
    steps: int = pytestconfig.getoption("--steps")

    async def scenario(w: World) -> None:
        for name, act in itertools.islice(operations(w, Dice(seed)), steps):
            print("step", name)  # shown when it fails
            await act()
            detector.check()
            w.check_once()

    simulate(root, detector, scenario, server, seconds=60 + 5 * steps)
