"""Verified runs in a deployment: honest ones are answered, and a party that cheats is caught before its client gets an
answer. Then nothing of the upload is answered until its owner gives it another key."""

import asyncio
import secrets
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moiety_client.errors import CheatingDetected, MoietyError
from moiety_client.exchange import Sealer
from moiety_party import lane, verified
from moiety_party.helper import guests
from moiety_party.leader import runs
from moiety_party.standings import Standings
from moiety_shared.crypto.prg import Stream
from moiety_shared.messages.verified import VerifiedAnswer
from moiety_shared.messages.wire import Request
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.protocols.verified import layout
from moiety_shared.protocols.verified.answers import PartyAnswer, RowKeys
from moiety_shared.protocols.verified.claims import CHECK_ROUNDS
from moiety_shared.ring import Array
from tests import plans
from tests.databases import Postgres
from tests.simulation.detector import Detector
from tests.simulation.test_shortages import until
from tests.simulation.world import MAX_ROWS, World, unchanged, world

X = plans.random_inputs(3)
PLAN = layout.verified(plans.two_layers())
_HEADER = 8  # bytes of a frame's header
Scenario = Callable[[World], Awaitable[None]]


def simulate(root: Path, detector: Detector, scenario: Scenario, server: Postgres | None = None) -> None:
    async def run() -> None:
        async with world(root, detector, server, plan=PLAN, weights=plans.two_weights(), run_seconds=60) as w:
            await scenario(w)
            w.check_once()

    asyncio.run(asyncio.wait_for(run(), 180))
    detector.check()


async def answered(w: World, x: Array = X) -> None:
    """A client's question, whose answer must be right."""
    async with w.client() as client:
        answer = await client.predict("small", x / 16.0)
    assert np.array_equal(answer.outputs, plans.second_scores(x))


async def refused(w: World, x: Array = X) -> str:
    async with w.client() as client:
        with pytest.raises(CheatingDetected) as caught:
            await client.predict("small", x / 16.0)
    return str(caught.value)


def test_honest_runs_are_answered(root: Path, detector: Detector) -> None:
    async def scenario(w: World) -> None:
        for rows in (1, 3, MAX_ROWS):
            await answered(w, plans.random_inputs(rows, rows))
        await asyncio.gather(*(answered(w, plans.random_inputs(2, n)) for n in range(8)))

    simulate(root, detector, scenario)


@pytest.mark.parametrize("work", [verified.INLINE_WORK, -1], ids=["small", "large"])
def test_no_event_loop_waits_for_the_disk(
    root: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch, work: int
) -> None:
    """It takes the steps of a small run itself but for three, and none of a large one. The three are when the run shows
    its coins, when it settles all claims, and when it has its verdict."""
    steps, writes, step = list[int](), list[int](), lane._step

    def stepping(*given: Any) -> Any:
        steps.append(threading.get_ident())
        return step(*given)

    def writing(method: Callable[..., bool]) -> Callable[..., bool]:
        def write(*given: Any, **named: Any) -> bool:
            writes.append(threading.get_ident())
            return method(*given, **named)

        return write

    async def scenario(w: World) -> None:
        await answered(w)
        own, parties = threading.get_ident(), 2
        assert PLAN.verified is not None and len(steps) == parties * PLAN.verified.rounds
        last = PLAN.verified.rounds - CHECK_ROUNDS - 1
        of_a_party = [[thread == own for thread in steps[party::parties]] for party in range(parties)]
        away = [last, last + 1, len(of_a_party[0]) - 1] if work > 0 else range(len(of_a_party[0]))
        assert of_a_party == [[number not in away for number in range(PLAN.verified.rounds)]] * parties
        assert len(writes) == parties * 2 and own not in writes

    monkeypatch.setattr(verified, "INLINE_WORK", work)
    monkeypatch.setattr(lane, "_step", stepping)
    for name in ("toss", "resolve"):
        monkeypatch.setattr(Standings, name, writing(getattr(Standings, name)))
    simulate(root, detector, scenario)


MESSAGES = {
    "x^": (0, 0), "coin promise": (0, 3 * 4 * 4), "y^": (1, 0), "looked-up bits": (2, 0), "signs": (3, 0), "h^": (4, 0),
    "y^ of the output": (5, 0), "coin nonce": (6, 0), "e": (7, 0), "proof": (7, 16), "verdict promise": (8, 0),
    "verdict": (9, 0),
}  # fmt: skip
"""(round, byte in it) of each kind of message, for three inputs."""


def lying(liar: str, round_: int, byte: int) -> Callable[[str, bytes], bytes]:
    """That party flips a bit of what it sends in that round, once."""
    told = []

    def change(name: str, frame: bytes) -> bytes:
        number = int.from_bytes(frame[2:4], "little")
        if name != f"OPENING of {liar}" or number != round_ or told:
            return frame
        told.append(number)
        changed = bytearray(frame)
        changed[_HEADER + byte] ^= 1
        return bytes(changed)

    return change


async def rekeyed(w: World) -> None:
    """The owner gives the model another key."""
    key_id = secrets.token_hex(16)
    for node in (*w.bobs, *w.alices):
        await node.party.models.rekey(w.entry.entry.upload_id, key_id)


def failed(w: World) -> list[float]:
    """How many failed checks each party has counted."""
    return [node.party.metrics.failed_checks.labels("small")._value.get() for node in (*w.alices, *w.bobs)]


@pytest.mark.parametrize("liar", [pytest.param("alice", marks=pytest.mark.long), "bob"])
def test_a_lie_in_any_message_is_caught_and_ends_the_upload(root: Path, detector: Detector, liar: str) -> None:
    honest = {"alice": 1, "bob": 0}[liar]

    async def scenario(w: World) -> None:
        for kind, (round_, byte) in MESSAGES.items():
            before = failed(w)
            w.change = lying(liar, round_, byte)
            await refused(w)
            w.change = unchanged
            await until(lambda count=before[honest] + 1: failed(w)[honest] == count)
            for _ in range(2):
                assert "earlier check" in await refused(w), kind
            await rekeyed(w)
            await answered(w)

    simulate(root, detector, scenario)


@pytest.mark.parametrize("liar", [runs, guests.Guests], ids=["alice", "bob"])
def test_another_input_is_noticed_by_the_client_alone(
    root: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch, liar: Any
) -> None:
    """A party that adds to its share of x follows the protocol from there on."""
    name = "_shares" if liar is runs else "shares"
    shares = getattr(liar, name)

    def added(of: Any) -> Array:
        more = np.array(shares(of))
        more[0, 1] += 1
        return more

    async def scenario(w: World) -> None:
        await answered(w)
        monkeypatch.setattr(liar, name, added)
        assert "does not hold together" in await refused(w)
        monkeypatch.setattr(liar, name, shares)
        assert failed(w) == [0, 0]
        await answered(w)

    simulate(root, detector, scenario)


@pytest.mark.parametrize("liar", ["alice", "bob"])
@pytest.mark.parametrize("frame", [3, *(pytest.param(frame, marks=pytest.mark.long) for frame in (6, 7, 8)), 9])
def test_who_breaks_off_after_the_coins_ends_the_upload(root: Path, detector: Detector, liar: str, frame: int) -> None:
    """Or it would draw coins until it liked them. Before them it has learned nothing, and the request runs again."""

    def cut(name: str, message: bytes) -> bytes:
        if name == f"OPENING of {liar}" and int.from_bytes(message[2:4], "little") == frame:
            w.change = unchanged
            for node in w.alices:
                for wire in node.wires:
                    wire.cut()
        return message

    async def scenario(made: World) -> None:
        nonlocal w
        w = made
        await answered(w)
        w.change = cut
        if frame < 6:
            await answered(w)
            return
        await refused(w)
        assert w.change is unchanged
        assert sum(failed(w)) >= 1
        await refused(w)
        await rekeyed(w)
        await answered(w)

    w: World
    simulate(root, detector, scenario)


def test_an_upload_stays_ended_when_a_party_comes_back(root: Path, detector: Detector) -> None:
    async def scenario(w: World) -> None:
        w.change = lying("alice", 1, 0)
        await refused(w)
        w.change = unchanged
        for role in ("bob", "alice"):
            await w.restart(role)  # type: ignore[arg-type]
            assert "earlier check" in await refused(w)
        await rekeyed(w)
        await answered(w)

    simulate(root, detector, scenario)


def test_a_crash_after_the_coins_counts_as_a_failed_check(root: Path, detector: Detector) -> None:
    """The database says that the coins were shown, and nothing that there was a verdict."""

    async def scenario(w: World) -> None:
        (bob,) = w.bobs
        upload = w.entry.entry.upload_id
        assert bob.party.state.standings.toss(upload, upload, bob.party.boot, 60)
        await w.restart("bob", crash=True)
        assert "earlier check" in await refused(w)
        await rekeyed(w)
        await answered(w)

    simulate(root, detector, scenario)


def test_no_party_gets_another_key_without_the_owner(root: Path, detector: Detector) -> None:
    """alice has the provider draw another key. bob goes on under none but that which the owner named."""

    async def scenario(w: World) -> None:
        (alice,), (bob,) = w.alices, w.bobs
        w.change = lying("alice", 1, 0)
        await refused(w)
        w.change = unchanged
        upload, own = w.entry.entry.upload_id, secrets.token_hex(16)
        await alice.party.provider.rekey(upload, own)
        alice.party.state.standings.rekey(upload, own)
        await alice.party.pools.drop_model(upload)
        with pytest.raises(MoietyError):
            await w.predict(X, 2)
        assert bob.party.state.standings.of(upload, "") == (upload, "ended")

    simulate(root, detector, scenario)


def test_a_client_cannot_cause_a_failed_check(root: Path, detector: Detector) -> None:
    """Whatever ring elements it shares, and whatever it seals to a party."""

    async def scenario(w: World) -> None:
        await answered(w)
        wild = Stream(bytes(32)).words("x", (3, plans.SIZE), np.int32)
        call = Sealer(w.entry.entry).call(wild)
        assert call.open(await w.ask(w.an_alice(), call.body)).shape == (3, 3)
        for party in (0, 1):
            request = Request.unpack(w.call(X).body)
            envelopes = [bytearray(envelope) for envelope in request.envelopes]
            envelopes[party][-1] ^= 1
            with pytest.raises(Problem) as caught:
                await w.ask(w.an_alice(), replace(request, envelopes=tuple(map(bytes, envelopes))).pack())
            assert caught.value.kind is ProblemType.SEALED_FOR_ANOTHER
        assert failed(w) == [0, 0]
        await answered(w)

    simulate(root, detector, scenario)


@pytest.mark.parametrize("liar", [pytest.param(0, id="alice", marks=pytest.mark.long), pytest.param(1, id="bob")])
@pytest.mark.parametrize("what", ["result", "key", "place", "voucher"])
def test_a_client_notices_what_a_party_tells_it(
    root: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch, liar: int, what: str
) -> None:
    """A party that followed the protocol until the verdict, and then tells something else."""
    pack = VerifiedAnswer.pack

    def changed(answer: VerifiedAnswer) -> bytes:
        if bool(answer.vouchers) != bool(liar) and what != "voucher":
            return pack(answer)
        opened, result, keys, _ = answer.answer
        match what:
            case "result":
                answer = answer._replace(answer=PartyAnswer(opened, result ^ 1, keys))
            case "key":
                answer = answer._replace(answer=PartyAnswer(opened, result, RowKeys((bytes(32), *keys.keys[1:]))))
            case "place":
                answer = answer._replace(first_row=answer.first_row + 1)
            case "voucher" if answer.vouchers:
                (voucher, *_) = answer.vouchers
                answer = answer._replace(vouchers=(voucher[:-1] + bytes([voucher[-1] ^ 1]),))
        return pack(answer)

    async def scenario(w: World) -> None:
        await answered(w)
        monkeypatch.setattr(VerifiedAnswer, "pack", changed)
        assert "does not hold together" in await refused(w)
        monkeypatch.setattr(VerifiedAnswer, "pack", pack)
        await answered(w)

    simulate(root, detector, scenario)
