"""Audits of verified runs: whoever lied is named when the check of a run has failed, whoever was honest never is, and
what the log says of such a run can be shown to others."""

import base64
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from moiety_party.leader import runs
from moiety_server.audits import AuditFinding
from moiety_service.observability import logs
from moiety_shared.messages.statements import SignedStatement
from moiety_shared.messages.verified import VerifiedAnswer
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.protocols.opening import Session
from moiety_shared.protocols.verified import graph, layout
from moiety_shared.protocols.verified.claims import CHECK_ROUNDS
from moiety_shared.ring import Array
from tests import plans
from tests.simulation import test_audits
from tests.simulation.detector import Detector
from tests.simulation.test_audits import NAMES, OwnersRequest, all_shared, found, lying_in, party
from tests.simulation.test_shortages import until
from tests.simulation.test_verified import failed, lying, rekeyed
from tests.simulation.world import World, unchanged

PLAN = layout.verified(plans.two_layers())
assert PLAN.verified is not None
OPENINGS = PLAN.verified.rounds - CHECK_ROUNDS
BOTH = pytest.mark.parametrize("liar", [0, 1], ids=NAMES)


def simulate(root: Path, detector: Detector, scenario: Callable[[World], Awaitable[None]], **world: Any) -> None:
    model = {"plan": PLAN, "weights": plans.two_weights(), "run_seconds": 60}
    test_audits.simulate(root, detector, scenario, **(model | world))


@contextmanager
def a_liar(liar: int, round_: int) -> Iterator[None]:
    """While this is open, a party sends a wrong share in that round, and signs what it sent."""
    honest = graph.run

    def run(plan: Any, key: graph.PartyKey, *rest: Any) -> Session[Any]:
        session = honest(plan, key, *rest)
        return lying_in(session, round_) if key.party == liar else session

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "run", run)
        yield


def cutting(w: World, frame: str, number: int = 0) -> Callable[[str, bytes], bytes]:
    """What cuts all lanes when that frame is on its way."""

    def change(name: str, message: bytes) -> bytes:
        if name == frame and int.from_bytes(message[2:4], "little") == number:
            for wire in w.alices[0].wires:
                wire.cut()
        return message

    return change


def lied(liar: int, round_: int) -> AuditFinding:
    return AuditFinding(NAMES[liar], "lied", f"what it sent in round {round_} is wrong")


async def named(w: World, one: OwnersRequest) -> tuple[AuditFinding, ...]:
    return (await one.verdict(w)).findings


def test_honest_runs_name_nobody_whoever_shares_them(root: Path, detector: Detector) -> None:
    async def scenario(w: World) -> None:
        verdict = await (await OwnersRequest(w, 3).ask(w)).verdict(w)
        assert not verdict.findings and all(verdict.statements), verdict
        for one in await all_shared(w, 1, 2, 1, 2, 1):
            assert not await named(w, one)

    simulate(root, detector, scenario)


def test_a_count_is_audited(root: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    """One request's, whoever shared its run. A lie in what both open of it is named, and one about it."""
    pack = VerifiedAnswer.pack

    def changed(answer: VerifiedAnswer) -> bytes:
        if answer.vouchers and answer.answer.keys.of == "count":
            answer.answer.result[0] ^= 1
        return pack(answer)

    async def scenario(w: World) -> None:
        assert w.plan.verified is not None
        for one in await all_shared(w, 1, 2, 3, 4):
            assert not await named(w, one)
        with monkeypatch.context() as lying_now:
            lying_now.setattr(VerifiedAnswer, "pack", changed)
            one = await OwnersRequest(w, 3).ask(w)
        assert await named(w, one) == (AuditFinding("bob", "lied", "its share of the result is wrong"),)
        last = w.plan.verified.rounds - CHECK_ROUNDS
        with a_liar(1, last):
            assert await named(w, await OwnersRequest(w, 3).fail(w)) == (lied(1, last),)

    simulate(root, detector, scenario, plan=layout.verified(plans.count()), weights=plans.weights())


@BOTH
def test_who_lies_in_an_opening_is_named_by_the_run_that_failed(root: Path, detector: Detector, liar: int) -> None:
    """And what asks after it has no run, so it names nobody. No check covers the first opening, of the input: there the
    client notices the lie."""

    async def scenario(w: World) -> None:
        with a_liar(liar, 1):
            assert await found(w, 2) == (lied(liar, 1),)
        for round_ in range(2, OPENINGS + 1):
            with a_liar(liar, round_):
                one = await OwnersRequest(w, 2).fail(w)
            assert await named(w, one) == (lied(liar, round_),)
            (nothing,) = await named(w, await OwnersRequest(w).fail(w))
            assert (nothing.party, nothing.kind) == (None, "unsettled")
            await rekeyed(w)
            assert not await found(w)

    simulate(root, detector, scenario)


@BOTH
def test_who_lies_and_breaks_off_is_named(root: Path, detector: Detector, liar: int) -> None:
    """When it has seen the coins, and they do not suit it: it has signed before."""

    async def scenario(w: World) -> None:
        await OwnersRequest(w).ask(w)
        with a_liar(liar, 3):
            w.change = cutting(w, f"OPENING of {NAMES[liar]}", OPENINGS)
            one = await OwnersRequest(w).fail(w)
            w.change = unchanged
        assert await named(w, one) == (lied(liar, 3),)

    simulate(root, detector, scenario)


@BOTH
@pytest.mark.parametrize("message", range(CHECK_ROUNDS))
def test_nobody_is_named_for_a_broken_check(root: Path, detector: Detector, liar: int, message: int) -> None:
    """Who only wants the upload to end breaks off after the coins. A lie in the check does no more."""

    async def scenario(w: World) -> None:
        w.change = lying(NAMES[liar], OPENINGS + message, 0)
        one = await OwnersRequest(w).fail(w)
        (finding,) = await named(w, one)
        assert (finding.party, finding.kind) == (None, "unsettled") and "its check failed" in finding.what

    simulate(root, detector, scenario)


@BOTH
def test_no_coins_without_the_others_signature(root: Path, detector: Detector, liar: int) -> None:
    """Of all that it sent and heard. Without it an honest party goes no further, and nobody names it."""

    async def scenario(w: World) -> None:
        standings, upload_id = party(w, 1 - liar).state.standings, w.entry.entry.upload_id
        for byte in (40, 8):  # the signature, the salts
            w.change = lambda name, raw, at=byte: (
                raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :] if name == f"SIGNED of {NAMES[liar]}" else raw
            )
            one = OwnersRequest(w)
            with pytest.raises(Problem) as caught:
                await one.ask(w)
            told = ProblemType.OPENINGS_DIFFER if liar else ProblemType.CHEATING_DETECTED  # she had his, and waits
            assert caught.value.kind is told
            w.change = unchanged
            assert failed(w)[1 - liar] == 0 and standings.of(upload_id, "")[1] == "good"
            (finding,) = await named(w, one)
            assert (finding.party, finding.kind) == (None, "unsettled")
            await rekeyed(w)  # the other one had a signature, and waits for coins
            assert not await found(w)

    simulate(root, detector, scenario)


@BOTH
def test_who_lied_and_shows_nothing_is_named(root: Path, detector: Detector, liar: int) -> None:
    async def scenario(w: World) -> None:
        for forgets in (True, False):
            with a_liar(liar, 2):
                one = await OwnersRequest(w).fail(w)
            kept = party(w, liar).kept_runs._runs
            if forgets:
                del kept[one.drawn.request_id]
            else:
                kept[one.drawn.request_id] = replaced(kept[one.drawn.request_id])
            (finding,) = await named(w, one)
            assert (finding.party, finding.kind) == (NAMES[liar], "silent"), finding
            assert ("no such run is kept" if forgets else "no words") in finding.what
            await rekeyed(w)

    def replaced(run: Any) -> Any:
        return type(run)(**{**vars(run), "ticket": "AAAA"})

    simulate(root, detector, scenario)


@BOTH
def test_an_honest_party_that_was_shown_no_signature_is_not_named(root: Path, detector: Detector, liar: int) -> None:
    """The liar signs nothing, says that the check failed, and shows what the honest one signed."""

    async def scenario(w: World) -> None:
        def silent(name: str, raw: bytes) -> bytes:
            return raw[:8] + bytes(len(raw) - 8) if name == f"SIGNED of {NAMES[liar]}" else raw

        w.change = silent
        with a_liar(liar, 2):
            one = OwnersRequest(w)
            with pytest.raises(Problem):
                await one.ask(w)
        w.change = unchanged
        assert party(w, 1 - liar).kept_runs._runs[one.drawn.request_id].signed is None
        (finding,) = await named(w, one)
        assert finding.party is None

    simulate(root, detector, scenario)


@pytest.mark.parametrize("liar", [0, 1], ids=NAMES)
@pytest.mark.parametrize("what", ["result", "input", "voucher"])
def test_who_tells_the_client_something_else_is_named(
    root: Path,
    detector: Detector,
    monkeypatch: pytest.MonkeyPatch,
    liar: int,
    what: str,
) -> None:
    """The client notices it, and cannot tell who it was."""
    pack, shares = VerifiedAnswer.pack, runs._shares

    def changed(answer: VerifiedAnswer) -> bytes:
        if bool(answer.vouchers) != bool(liar):
            return pack(answer)
        if what == "voucher":
            told = pack(answer)
            return told[:-1] + bytes([told[-1] ^ 1])
        answer.answer.result[0] ^= 1
        return pack(answer)

    def added(batch: Any) -> Array:
        more = np.array(shares(batch))
        more[0, 1] += 1
        return more

    async def scenario(w: World) -> None:
        with monkeypatch.context() as lying_now:
            if what == "input":
                lying_now.setattr(runs, "_shares", added)
                assert await found(w, 2) == (lied(0, 1),)
                return
            lying_now.setattr(VerifiedAnswer, "pack", changed)
            one = await OwnersRequest(w, 2).ask(w)
        told = AuditFinding(NAMES[liar], "lied", "its share of the result is wrong")
        assert await named(w, one) == (told,)

    simulate(root, detector, scenario)


@BOTH
def test_a_request_whose_run_was_signed_is_not_run_again(root: Path, detector: Detector, liar: int) -> None:
    """Or a liar could show what the honest party signed of the first run, of which that shows no words any more."""

    async def scenario(w: World) -> None:
        one, kept = OwnersRequest(w), party(w, 1 - liar).kept_runs._runs
        w.change = cutting(w, f"SIGNED of {NAMES[liar]}")
        with pytest.raises(Problem) as caught:
            await one.ask(w)
        assert caught.value.kind in (ProblemType.PEER_UNAVAILABLE, ProblemType.CHEATING_DETECTED)
        w.change = unchanged
        first = kept[one.drawn.request_id]
        with pytest.raises(Problem) as caught:
            await one.ask(w)
        assert caught.value.kind is ProblemType.REQUEST_EXPIRED
        assert kept[one.drawn.request_id] is first
        (finding,) = await named(w, one)
        assert finding.party is None

    simulate(root, detector, scenario)


def test_bob_signs_one_run_of_a_request(root: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if alice runs it twice at a time, or has it twice in a run. Then nobody signs, and the upload goes on."""

    async def scenario(w: World) -> None:
        (alice,) = w.alices
        assert alice.leader is not None
        run = alice.leader._runs.run
        twice = OwnersRequest(w)

        async def doubled(lane: Any, batch: Any) -> None:
            await run(lane, [*batch, batch[0]])

        monkeypatch.setattr(alice.leader._runs, "run", doubled)
        monkeypatch.setattr(alice.party.kept_runs, "keep", lambda *_: None)
        with pytest.raises(Problem):
            await twice.ask(w)
        monkeypatch.undo()
        assert failed(w) == [0, 0]
        assert not await found(w)

    simulate(root, detector, scenario)


def test_the_log_shows_what_the_other_party_signed(root: Path, detector: Detector) -> None:
    """Of every request of the run. A third person verifies it with the key that the party gives out."""

    async def scenario(w: World) -> None:
        with a_liar(1, 3), capture_logs() as lines:
            one = await OwnersRequest(w, 2).fail(w)
            await until(lambda: len([line for line in lines if line["event"] == "check failed"]) == 2)
        told = [line["signed"] for line in lines if line["event"] == "check failed"]
        assert "signed" in logs.ALLOWED
        said = [
            SignedStatement.model_validate(signed).verify(of, w.identities[NAMES[of]].statement_key.public_key())
            for of, (signed,) in enumerate(sorted(told, key=lambda signed: party_of(signed[0])))
        ]
        assert [(each.binding.request_id, each.rows) for each in said] == [(one.drawn.request_id, 2)] * 2
        assert said[0].pieces == said[1].heard and said[1].pieces == said[0].heard

    def party_of(signed: dict[str, str]) -> int:
        return base64.b64decode(signed["statement"])[0]

    simulate(root, detector, scenario)
