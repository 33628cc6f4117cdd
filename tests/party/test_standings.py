"""How the checks of an upload went, and whose turn it is: what replicas tell one another in their party's database."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, closing

import pytest
from sqlalchemy import URL, Connection

from moiety_party.standings import TURN_SECONDS, WANTED_SECONDS, Standings
from moiety_party.state import State
from moiety_party.verified import DurableStanding
from moiety_service.database import Database
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.protocols.verified.claims import UploadEnded
from tests.clock import Clock

UPLOAD = "00" * 16


@pytest.fixture
def clock() -> Clock:
    return Clock(1e9)


@pytest.fixture
def state(database: URL, clock: Clock) -> Iterator[State]:
    with closing(State(database, "alice", clock)) as made:
        yield made


def test_one_check_is_open_at_a_time(state: State) -> None:
    checks = state.standings
    assert checks.of(UPLOAD, "one") == (UPLOAD, "good")
    assert checks.toss(UPLOAD, UPLOAD, "one", 60) and checks.of(UPLOAD, "one") == (UPLOAD, "open")
    assert not checks.toss(UPLOAD, UPLOAD, "other", 60) and not checks.toss(UPLOAD, UPLOAD, "one", 60)
    assert checks.resolve(UPLOAD, UPLOAD) and not checks.resolve(UPLOAD, UPLOAD)
    assert checks.toss(UPLOAD, UPLOAD, "other", 60)
    checks.end(UPLOAD, UPLOAD)
    assert checks.of(UPLOAD, "one") == (UPLOAD, "ended")
    assert not checks.resolve(UPLOAD, UPLOAD) and not checks.toss(UPLOAD, UPLOAD, "one", 60)
    checks.rekey(UPLOAD, "new")
    assert checks.of(UPLOAD, "one") == ("new", "good")
    assert not checks.toss(UPLOAD, UPLOAD, "one", 60), "under the key before"
    assert checks.toss(UPLOAD, "new", "one", 60)


def test_a_check_without_a_verdict_counts_as_failed_for_good(state: State, clock: Clock) -> None:
    """At replicas once its time is over; where one process is alone, as soon as that is another one."""
    checks = state.standings
    assert checks.toss(UPLOAD, UPLOAD, "one", 60)
    clock.now += 59
    assert checks.of(UPLOAD, "one")[1] == "open"
    assert checks.of(UPLOAD, "other")[1] == ("open" if state.shared else "ended")
    clock.now += 2
    assert checks.of(UPLOAD, "other")[1] == "ended"
    assert not checks.resolve(UPLOAD, UPLOAD), "the one that was slow gives out nothing"
    clock.now = 0
    assert checks.of(UPLOAD, "one")[1] == "ended"


def test_a_process_that_is_alone_reads_an_upload_once(
    state: State, database: URL, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run asks again and again. Replicas read each time, because others write."""
    checks, read, reads = state.standings, Database.read, list[Database]()

    def reading(self: Database) -> AbstractContextManager[Connection]:
        reads.append(self)
        return read(self)

    monkeypatch.setattr(Database, "read", reading)
    assert checks.toss(UPLOAD, UPLOAD, "one", 60)
    assert [checks.of(UPLOAD, "one")[1] for _ in range(3)] == ["open"] * 3
    assert checks.resolve(UPLOAD, UPLOAD) and checks.of(UPLOAD, "one")[1] == "good"
    checks.rekey(UPLOAD, "new")
    assert checks.of(UPLOAD, "one") == ("new", "good") and len(reads) == (5 if state.shared else 0)
    with closing(State(database, "alice", clock)) as again:
        assert again.standings.of(UPLOAD, "one") == ("new", "good")
        again.standings.end(UPLOAD, "new")
        assert again.standings.of(UPLOAD, "one") == ("new", "ended")
        if state.shared:
            assert checks.of(UPLOAD, "one") == ("new", "ended")


def taken(checks: Standings, *replicas: str) -> list[bool]:
    return [checks.take(UPLOAD, replica) for replica in replicas]


def test_a_turn_is_one_replicas_until_it_ends_it_or_ends(state: State, clock: Clock) -> None:
    checks = state.standings
    assert taken(checks, "one", "other", "third") == [True, False, False]
    checks.release(UPLOAD, "other")
    assert taken(checks, "other") == [False], "it is not the other's to give"
    clock.now += TURN_SECONDS - 1
    checks.renew(UPLOAD, "one")
    clock.now += TURN_SECONDS - 1
    assert taken(checks, "other") == [False]
    checks.release(UPLOAD, "one")
    assert taken(checks, "other", "one") == [True, False]
    clock.now += TURN_SECONDS + 1
    assert taken(checks, "one", "other") == [True, False], "the other has ended"


def test_whoever_waits_for_a_turn_goes_before_the_one_that_had_the_last(state: State, clock: Clock) -> None:
    checks = state.standings
    assert taken(checks, "one", "other") == [True, False]
    checks.release(UPLOAD, "one")
    assert taken(checks, "one", "other", "one") == [False, True, False]
    checks.release(UPLOAD, "other")
    assert taken(checks, "other") == [False]
    clock.now += WANTED_SECONDS + 1
    assert taken(checks, "other") == [True], "who waited has gone"


def test_an_open_check_is_no_turn_to_give_away(state: State, clock: Clock) -> None:
    checks = state.standings
    assert taken(checks, "one") == [True]
    assert checks.toss(UPLOAD, UPLOAD, "one", 60)
    checks.release(UPLOAD, "one")
    checks.renew(UPLOAD, "one")
    clock.now += 59
    assert taken(checks, "other") == [False] and checks.of(UPLOAD, "one")[1] == "open"
    clock.now += 2
    assert taken(checks, "other") == [False], "nor is it one when its time is over: it would have another one"
    assert checks.of(UPLOAD, "other")[1] == "ended"
    assert taken(checks, "other") == [True], "and learns that the upload has ended"


def test_a_run_that_was_given_up_shows_no_coins_any_more(state: State) -> None:
    """Though a step of it may still compute in a thread. Before them that harms nothing, after them it ends all."""

    def run() -> DurableStanding:
        return DurableStanding(state, UPLOAD, UPLOAD, "one", 60)

    first, second = run(), run()
    assert not first.give_up()
    with pytest.raises(UploadEnded):
        first.toss()
    assert state.standings.of(UPLOAD, "one")[1] == "good"
    second.toss()
    with pytest.raises(Problem) as other:
        run().toss()
    assert other.value.kind is ProblemType.OVERLOADED and state.standings.of(UPLOAD, "one")[1] == "open"
    assert second.give_up() and not second.give_up()
    with pytest.raises(UploadEnded):
        second.resolve()
    with pytest.raises(UploadEnded):
        run().toss()
    assert state.standings.of(UPLOAD, "one")[1] == "ended"
