"""Who speaks last, who repeats, who falls silent: cheating programs against the driver."""

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from moiety_shared.crypto.prg import new_seed
from moiety_shared.protocols.opening import Round, Session, combine, to_wire
from moiety_shared.protocols.verified import bits, fields
from moiety_shared.protocols.verified.answers import PartyAnswer, RowKeys
from moiety_shared.protocols.verified.claims import CheckFailed, Nonces, Standing, UploadEnded
from moiety_shared.protocols.verified.graph import WORD
from moiety_shared.ring import Array
from tests.protocols.running import integers
from tests.protocols.verified import lies
from tests.protocols.verified.running import Bundle, Upload, accepted, drive

NONCES, SUMS, PROMISES, VERDICTS = 6, 7, 8, 9
"""The rounds of the check."""


@pytest.fixture(scope="module")
def up() -> Upload:
    return lies.upload()


Rushing = Callable[[int, list[bytes], list[bytes]], list[bytes]]
"""(round, what bob sends, what an honest alice would send) to what a cheating alice sends."""


def rushed(sessions: list[Session[PartyAnswer]], cheat: Rushing) -> PartyAnswer:
    """bob's answer where alice sees his messages of a round before she sends hers. Her own session goes on as if she
    had sent what it says."""
    alice, bob = sessions
    mine, theirs, number = next(alice), next(bob), 0
    while True:
        his, hers = _raw(theirs), _raw(mine)
        said = cheat(number, his, hers)
        opened = [combine(opening, memoryview(raw)) for opening, raw in zip(mine.openings, his, strict=True)]
        at_bob = [combine(opening, memoryview(raw)) for opening, raw in zip(theirs.openings, said, strict=True)]
        with contextlib.suppress(StopIteration, CheckFailed):
            mine = alice.send(opened)
        try:
            theirs = bob.send(at_bob)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        number += 1


def _raw(round_: Round) -> list[bytes]:
    return [to_wire(opening).tobytes() for opening in round_.openings]


def added(raw: bytes, value: int) -> bytes:
    """Words in bytes, with a value added to the first."""
    words = WORD.from_bytes(raw, (len(raw) // 9,))
    words[0, 0] += value
    return WORD.to_bytes(words).tobytes()


def flipped(raw: bytes) -> bytes:
    return bytes([raw[0] ^ 1]) + raw[1:]


def test_bob_accepts_a_rushing_alice_who_does_not_lie(up: Upload) -> None:
    x, bundle = integers((2, 6)), up.deal(2)
    assert rushed(up.sessions(bundle, x), lambda number, his, hers: hers).result.shape == (2, 3)


@pytest.mark.parametrize("answer", ["her own sum", "his sum", "his verdict", "zero"])
def test_seeing_his_message_first_does_not_help_a_liar(up: Upload, answer: str) -> None:
    """After a lie in y^ she answers each round of the check with what she has just seen."""

    def cheat(number: int, his: list[bytes], hers: list[bytes]) -> list[bytes]:
        if number == 1:
            return [added(hers[0], 1 << 31)]
        if number == SUMS and answer == "his sum":
            return [his[0], hers[1]]
        if number == PROMISES and answer == "his verdict":
            return his
        if number == VERDICTS and answer == "his verdict":
            return his
        if number == SUMS and answer == "zero":
            return [bytes(16), hers[1]]
        return hers

    x, bundle, standing = integers((2, 6)), up.deal(2), Standing()
    with pytest.raises(CheckFailed):
        rushed(up.sessions(bundle, x, (Standing(), standing)), cheat)
    assert standing.ended


@pytest.mark.parametrize("mirrored", [True, False], ids=["mirrored", "chosen late"])
def test_a_nonce_that_was_not_promised_is_refused(up: Upload, mirrored: bool) -> None:
    """alice repeats bob's promise, and later what he shows: the promise names him. Or she shows another nonce than she
    promised. bob refuses at once, before any sum."""
    reached = []

    def cheat(number: int, his: list[bytes], hers: list[bytes]) -> list[bytes]:
        reached.append(number)
        if number == 0 and mirrored:
            return [hers[0], his[1]]
        if number == NONCES:
            return his if mirrored else [flipped(hers[0])]
        return hers

    x, bundle = integers((2, 6)), up.deal(2)
    with pytest.raises(CheckFailed):
        rushed(up.sessions(bundle, x), cheat)
    assert reached[-1] == NONCES


def test_the_coins_are_unknown_until_the_last_opening_has_arrived(up: Upload) -> None:
    """bob shows nothing of his nonce before round 6, whatever arrives."""
    x, bundle = integers((2, 6)), up.deal(2)
    seen: list[list[bytes]] = []

    def cheat(number: int, his: list[bytes], hers: list[bytes]) -> list[bytes]:
        seen.append(his)
        return hers

    rushed(up.sessions(bundle, x), cheat)
    (nonce,) = seen[NONCES]
    assert len(nonce) == 16 and not any(nonce in raw for round_ in seen[:NONCES] for raw in round_)


def until(sessions: list[Session[PartyAnswer]], rounds: int, tamper: Any = None) -> list[list[bytes]]:
    """Run so many rounds, and then the line is dead: returns what bob sent, with his next message."""
    sent, said = [next(session) for session in sessions], []
    for number in range(rounds):
        wires = [_raw(each) for each in sent]
        said.append(wires[1])
        if tamper:
            wires[0] = [tamper(number, place, raw) for place, raw in enumerate(wires[0])]
        for party in (0, 1):
            opened = [
                combine(o, memoryview(raw)) for o, raw in zip(sent[party].openings, wires[1 - party], strict=True)
            ]
            sent[party] = sessions[party].send(opened)
    said.append(_raw(sent[1]))
    for session in sessions:
        session.close()
    return said


@pytest.mark.parametrize(("rounds", "ends"), [(3, False), (6, True), (7, True), (8, True), (9, True)])
def test_a_run_that_is_broken_off_after_the_coins_ends_the_upload(up: Upload, rounds: int, ends: bool) -> None:
    """Or alice would draw coins until she liked them; before them she has learned nothing, and has lost only rows."""
    x, bundle, standings = integers((2, 6)), up.deal(2), (Standing(), Standing())
    until(up.sessions(bundle, x, standings), rounds)
    assert standings[1].ended is ends
    again = up.sessions(up.deal(2), x, standings)
    if ends:
        with pytest.raises(UploadEnded):
            next(again[1])
    else:
        assert drive(again).answers[1] is not None


def test_one_run_at_a_time_is_past_its_coins(up: Upload) -> None:
    """Two at a time would be two guesses for the price of one."""
    x, standings = integers((2, 6)), (Standing(), Standing())
    first, second = (up.sessions(up.deal(2), x, standings) for _ in range(2))
    sent = [next(session) for session in first]
    for _ in range(NONCES):
        sent = _exchanged(first, sent)
    with pytest.raises(UploadEnded):
        drive(second)
    while True:
        try:
            sent = _exchanged(first, sent)
        except StopIteration:
            break


def _exchanged(sessions: list[Session[PartyAnswer]], sent: list[Round]) -> list[Round]:
    wires = [_raw(each) for each in sent]
    return [
        sessions[p].send([combine(o, memoryview(r)) for o, r in zip(sent[p].openings, wires[1 - p], strict=True)])
        for p in (0, 1)
    ]


def test_a_failed_check_stops_a_run_in_flight(up: Upload) -> None:
    """bob answers nothing more of the upload, though that run was honest."""
    x, standings = integers((2, 6)), (Standing(), Standing())
    flying = up.sessions(up.deal(2), x, standings)
    sent = [next(session) for session in flying]
    assert drive(up.sessions(up.deal(2), x, standings), 0, lies.lie("y^")).answers[1] is None
    with pytest.raises(UploadEnded):
        for _ in range(VERDICTS):
            sent = _exchanged(flying, sent)


@pytest.mark.parametrize("rounds", [6, 7, 8, 9])
def test_a_failed_check_stops_another_before_its_next_message_and_its_answer(up: Upload, rounds: int) -> None:
    standings = Standing(), Standing()
    sessions = up.sessions(up.deal(2), integers((2, 6)), standings)
    sent = [next(session) for session in sessions]
    for _ in range(rounds):
        sent = _exchanged(sessions, sent)
    standings[0].ended = True
    with pytest.raises(UploadEnded):
        _exchanged(sessions, sent)


@pytest.mark.parametrize(("withheld", "mask"), [(SUMS, "rho"), (VERDICTS, "product")])
def test_withholding_a_message_of_the_check_teaches_nothing_of_delta(up: Upload, withheld: int, mask: str) -> None:
    """alice lies by 1, and falls silent. With bob's sigma she would know Delta, as sigma_0 + sigma_1 is Delta times a
    number that both know. What bob shows is masked by his share of a verdict: all its bits turn with that share's."""
    x, bundle, shown = integers((2, 6)), up.deal(2), []
    nonces = tuple(Nonces(new_seed()[:16], new_seed()[:16]) for _ in range(2))

    def tamper(number: int, place: int, raw: bytes) -> bytes:
        return added(raw, 1) if number == 1 else raw

    for _ in range(2):
        said = until(up.sessions(bundle, x, nonces=nonces), withheld, tamper)
        shown.append(said[withheld][0][:16])
        ours = bundle.ready[1].verdicts[0]
        turned = ours._replace(**{mask: bytes(byte ^ 255 for byte in getattr(ours, mask))})
        bundle.ready[1] = bundle.ready[1]._replace(verdicts=[turned])
    assert shown[1] == bytes(byte ^ 255 for byte in shown[0])


def with_top_bit(session: Session[PartyAnswer], wire: int) -> Session[PartyAnswer]:
    """A party that adds to one byte of looked-up bits a bit that nobody looks up."""
    round_, number = next(session), 0
    while True:
        if number == 2:
            round_.openings[0].share.reshape(-1)[wire] |= 0x80
        values = yield round_
        try:
            round_ = session.send(values)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        number += 1


@pytest.mark.parametrize("checked", [True, False], ids=["as it is", "without the check"])
def test_bits_that_nobody_looks_up_are_refused(up: Upload, monkeypatch: pytest.MonkeyPatch, checked: bool) -> None:
    """The evaluation reads a byte with a bit too many as all ones, which gives another sign. The proof has the masked
    sign in that place: where it is 1, the bit would hide there. bob refuses it, and nothing more of the upload goes."""
    if not checked:
        monkeypatch.setattr(bits, "_unread", lambda layer, looked_up: False)
    x, forged = integers((2, 6), 7), 0
    for wire in range(72):
        if wire % 18 == 0:
            bundle = up.deal(2)
            right = up.expected(bundle, x)
        standings = Standing(), Standing()
        alice, bob = up.sessions(bundle, x, standings)
        y = accepted(up, bundle, x, drive([with_top_bit(alice, wire % 18), bob]))
        assert not checked or (y is None and standings[1].ended)
        forged += y is not None and not np.array_equal(y, right)
    assert checked or forged


def test_an_empty_proof_is_refused(up: Upload) -> None:
    x, bundle = integers((2, 6)), up.deal(2)
    outcome = drive(up.sessions(bundle, x), 1, lambda number, place, raw: bytes(len(raw)) if place else raw)
    assert outcome.answers[0] is None


def told(up: Upload, x: Array, change: Callable[[Bundle, list[PartyAnswer]], list[PartyAnswer]]) -> Array | None:
    bundle = up.deal(2)
    outcome = drive(up.sessions(bundle, x))
    answers = [answer for answer in outcome.answers if answer is not None]
    outcome.answers = list(change(bundle, answers))
    return accepted(up, bundle, x, outcome)


@pytest.mark.parametrize("liar", [0, 1])
@pytest.mark.parametrize("what", ["x^", "y^", "a key", "another row's key", "x^ of both"])
def test_a_client_notices_what_a_party_makes_up(up: Upload, what: str, liar: int) -> None:
    def change(bundle: Bundle, answers: list[PartyAnswer]) -> list[PartyAnswer]:
        one = np.zeros_like(answers[liar].result)
        one[0, 0] = 1
        keys = answers[liar].keys.keys
        match what:
            case "x^":
                answers[liar] = answers[liar]._replace(opened=flipped(answers[liar].opened))
            case "y^":
                answers[liar] = answers[liar]._replace(result=answers[liar].result + one)
            case "a key":
                answers[liar] = answers[liar]._replace(keys=RowKeys((flipped(keys[0]), keys[1])))
            case "another row's key":
                answers[liar] = answers[liar]._replace(keys=RowKeys(keys[::-1]))
            case "x^ of both":
                answers = [answer._replace(opened=flipped(answer.opened)) for answer in answers]
        return answers

    assert told(up, integers((2, 6)), change) is None


def test_a_client_is_told_the_truth(up: Upload) -> None:
    assert told(up, integers((2, 6)), lambda bundle, answers: answers) is not None


@pytest.mark.parametrize("others", ["e", "v"])
def test_a_verdict_shows_nothing_and_cannot_be_guessed(others: str) -> None:
    """In GF(8), exhaustively. alice's shares are known, and she shifts what she should send. What bob shows has one
    histogram for all differences of the sums but 0, and he accepts one shift of eight."""
    size, modulus = 8, 0b1011
    for shift in range(size):
        views = []
        for difference in range(1, size):
            seen = np.zeros((size, size), int)
            right = 0
            for a in range(size):
                for rho in range(size):
                    for mask in range(size):  # bob's share of a rho
                        e = rho ^ difference ^ (shift if others == "e" else 0)
                        v = fields.polynomial_product(a, e, modulus) ^ mask
                        hers = mask ^ fields.polynomial_product(a, rho, modulus) ^ (shift if others == "v" else 0)
                        seen[e, v] += 1
                        right += v == hers
            views.append(seen)
            if others == "v" or shift != difference:
                assert right == size**2
            else:
                assert right == size**3  # she guessed the difference of the sums
        assert all(np.array_equal(views[0], view) for view in views[1:])
