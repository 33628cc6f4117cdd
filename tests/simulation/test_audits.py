"""Audits: whoever lied in a run of a signed model is named, and whoever was honest never is; and an owner learns
nothing of a request that somebody else sent.

The liars here follow the protocol but for one lie, and sign what they really sent, so nothing catches them in the run.
"""

import asyncio
import base64
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import numpy as np
import pytest

from moiety_client.exchange import Drawn, Sealer
from moiety_party import results
from moiety_party.helper import helper
from moiety_party.leader import runs
from moiety_party.party import Party
from moiety_server.audited import AuditableUpload, AuditedRequest
from moiety_server.audits import AuditFinding, AuditVerdict, judge
from moiety_server.kept import AuditableUploads
from moiety_server.publication import upload_body
from moiety_server.shown import Name
from moiety_service.security.identity import Identity
from moiety_shared.crypto.channel import open_words
from moiety_shared.crypto.prg import Stream
from moiety_shared.crypto.signing import key_text
from moiety_shared.messages.statements import RunTranscript, TranscriptRequest, audit_key, proof
from moiety_shared.messages.upload import MaskedModel
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.protocols import graph
from moiety_shared.protocols.opening import Round, Session
from moiety_shared.ring import Array
from tests import plans
from tests.simulation import world as worlds
from tests.simulation.detector import Detector
from tests.simulation.world import World, unchanged

NAMES: tuple[Name, Name] = ("alice", "bob")
HEADER, TAG = 8, 32  # bytes of a frame before its content, and of RESULT before what bob signs


def party(w: World, number: int) -> Party:
    """The only life of alice, or of bob."""
    (node,) = (w.alices, w.bobs)[number]
    return node.party


class OwnersRequest:
    """A request of the owner, who knows all that was drawn for it."""

    def __init__(self, w: World, rows: int = 1, seed: int = 0) -> None:
        self.drawn = Drawn.new()
        self.elements = plans.random_inputs(rows, seed=seed).astype(np.int32)
        if w.plan.input.classes:
            labels = np.arange(rows, dtype=np.int32)[:, None] % w.plan.input.classes
            self.elements = np.concatenate((self.elements, labels), axis=1)
        self.call = Sealer(w.entry.entry).call(self.elements, drawn=self.drawn)
        self.answer = b""

    async def ask(self, w: World) -> "OwnersRequest":
        self.answer = await w.ask(w.an_alice(), self.call.body)
        return self

    async def fail(self, w: World) -> "OwnersRequest":
        """Ask for what gets no answer, because the check of its run fails."""
        with pytest.raises(Problem) as caught:
            await self.ask(w)
        assert caught.value.kind is ProblemType.CHEATING_DETECTED
        return self

    def proof(self, upload_id: str, known: bytes) -> TranscriptRequest:
        """What asks a party for the transcript of this request, with a key made of what somebody knows."""
        shown = proof(audit_key(known, self.drawn.request_id), upload_id)
        return TranscriptRequest(request_id=self.drawn.request_id.hex(), proof=shown.hex(), challenge="00" * 16)

    async def shown_by(self, w: World, number: int) -> RunTranscript:
        upload_id = w.entry.entry.upload_id
        return await party(w, number).transcript(upload_id, self.proof(upload_id, self.drawn.result_keys[number]))

    async def verdict(self, w: World) -> AuditVerdict:
        """The owner's verdict on it."""
        loop, entry, call = asyncio.get_running_loop(), w.entry.entry, self.call

        def show(number: int, _method: str, path: str, most: int, json: dict[str, str]) -> httpx.Response:
            asked = TranscriptRequest.model_validate(json)
            shown = party(w, number).transcript(path.split("/")[3], asked)
            text = asyncio.run_coroutine_threadsafe(shown, loop).result().model_dump_json()
            assert len(text) <= most
            return httpx.Response(200, text=text)

        inputs = call.alice_share, call.bob_share()
        asked = AuditedRequest(call.entry.plan, call.binding, inputs, self.drawn.result_keys, self.answer)
        upload = AuditableUpload.read(kept(w.root), entry.upload_id, entry.plan)
        return await asyncio.to_thread(judge, show, upload, asked)


def kept(root: Path) -> AuditableUploads:
    return AuditableUploads(root / "auditable", bytes(32))


def signed_upload(root: Path, masked: MaskedModel, what: dict[str, object], *rest: Any) -> Any:
    """The upload of an auditable model, of which the owner keeps a file."""
    one, other = (key_text(Identity.load(root / "keys" / n, n).statement_key.public_key()) for n in NAMES)
    kept(root).keep(masked, (one, other))
    return upload_body(masked, what | {"statement_keys": (one, other)}, *rest)


def simulate(root: Path, detector: Detector, scenario: Callable[[World], Awaitable[None]], **world: Any) -> None:
    async def run() -> None:
        with patch.object(worlds, "upload_body", partial(signed_upload, root)):
            async with worlds.world(root, detector, **world) as w:
                await scenario(w)

    asyncio.run(asyncio.wait_for(run(), 120))


async def all_shared(w: World, *rows: int) -> list[OwnersRequest]:
    """Requests of so many rows, sent at the same time, of which some share a run."""
    made = [OwnersRequest(w, count, seed) for seed, count in enumerate(rows)]
    await asyncio.gather(*(one.ask(w) for one in made))
    assert w.alices[0].leader is not None and max(w.alices[0].leader.runs) > 1, "some shared a run"
    return made


async def found(w: World, rows: int = 1) -> tuple[AuditFinding, ...]:
    return (await (await OwnersRequest(w, rows).ask(w)).verdict(w)).findings


def test_honest_runs_name_nobody_whoever_shares_them(root: Path, detector: Detector) -> None:
    async def scenario(w: World) -> None:
        verdict = await (await OwnersRequest(w, 3).ask(w)).verdict(w)
        assert not verdict.findings and all(verdict.statements), verdict
        made = await all_shared(w, 1, 2, 1, 2, 1)
        for one in made:
            assert not (await one.verdict(w)).findings
            shown = base64.b64decode((await one.shown_by(w, 0)).peer.statement)
            named = [other.drawn.request_id in shown for other in made]
            assert sum(named) == 1, "it says nothing of the requests that shared the run"

    simulate(root, detector, scenario)


def lying_in(session: Session[Array], round_: int) -> Session[Array]:
    """A session that sends a wrong share in a round, and goes on as the protocol says with what was opened."""
    sent, number = next(session), 0
    while True:
        number += 1
        if number == round_:
            first, *others = sent.openings
            sent = Round((replace(first, share=first.share ^ 1), *others), sent.work)
        opened = yield sent
        try:
            sent = session.send(opened)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]


def shares_wrong(plan: Any, outputs: Array, rows: Any) -> list[results.ResultShare]:
    shares = results.result_shares(plan, outputs, rows)
    return [one._replace(result=bytes([one.result[0] ^ 1]) + one.result[1:]) for one in shares]


@pytest.mark.parametrize("liar", [0, 1], ids=NAMES)
def test_who_lies_is_named(root: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch, liar: int) -> None:
    """In an opening of any round, in its share of the result, or about its share of the input."""
    honest = graph.evaluate_slices

    def lying(round_: int) -> Any:
        def evaluate(plan: Any, number: int, *rest: Any) -> list[Session[Array]]:
            made = honest(plan, number, *rest)
            return [lying_in(session, round_) for session in made] if number == liar else made

        return evaluate

    def on_another_input(plan: Any, number: int, x: Array, *rest: Any) -> list[Session[Array]]:
        return honest(plan, number, x + (number == liar), *rest)

    async def scenario(w: World) -> None:
        assert w.plan.rounds == 4
        for round_ in range(1, w.plan.rounds + 1):
            with monkeypatch.context() as lying_now:
                lying_now.setattr(graph, "evaluate_slices", lying(round_))
                told = AuditFinding(NAMES[liar], "lied", f"what it sent in round {round_} is wrong")
                assert await found(w, 2) == (told,)
        with monkeypatch.context() as lying_now:
            lying_now.setattr((runs, helper)[liar], "result_shares", shares_wrong)
            told = AuditFinding(NAMES[liar], "lied", "its share of the result is wrong")
            assert await found(w, 2) == (told,)
        with monkeypatch.context() as lying_now:
            lying_now.setattr(graph, "evaluate_slices", on_another_input)
            told = AuditFinding(NAMES[liar], "lied", "what it sent in round 1 is wrong")
            assert await found(w) == (told,)
        assert not await found(w)

    simulate(root, detector, scenario)


@pytest.mark.parametrize("liar", [0, 1], ids=NAMES)
def test_who_signs_something_else_than_it_sent_gets_no_answer_out(root: Path, detector: Detector, liar: int) -> None:
    frame, at = (("SIGNED of alice", HEADER + 40), ("RESULT of bob", HEADER + TAG + 40))[liar]

    def change(name: str, raw: bytes) -> bytes:
        return raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :] if name == frame else raw

    async def scenario(w: World) -> None:
        await OwnersRequest(w).ask(w)
        w.change = change
        one = OwnersRequest(w)
        with pytest.raises(Problem) as caught:
            await one.ask(w)
        assert caught.value.kind is ProblemType.OPENINGS_DIFFER
        assert one.drawn.request_id not in party(w, 1 - liar).kept_runs._runs
        w.change = unchanged

    simulate(root, detector, scenario)


@pytest.mark.parametrize("liar", [0, 1], ids=NAMES)
def test_who_does_not_show_what_it_has_to_is_named(root: Path, detector: Detector, liar: int) -> None:
    """It has forgotten the run; it shows true statements of another one; it has the provider seal other rows' words, or
    says that the lease is over while it is not."""

    async def scenario(w: World) -> None:
        first, cheat = await OwnersRequest(w).ask(w), party(w, liar)
        runs_of_it = cheat.kept_runs._runs
        for number in range(4):
            one = await OwnersRequest(w).ask(w)
            true = runs_of_it[one.drawn.request_id]
            if number == 0:
                del runs_of_it[one.drawn.request_id]
            elif number == 1:
                runs_of_it[one.drawn.request_id] = replace(true, signed=runs_of_it[first.drawn.request_id].signed)
            elif number == 2:
                runs_of_it[one.drawn.request_id] = replace(true, first_row=0)
            else:
                runs_of_it[one.drawn.request_id] = replace(true, ticket=base64.b64encode(bytes(100)).decode())
            (named,) = (await one.verdict(w)).findings
            assert (named.party, named.kind) == (NAMES[liar], "silent"), (number, named)
            assert not (await first.verdict(w)).findings
        one = await OwnersRequest(w).ask(w)
        one.answer = one.answer[:-1] + bytes([one.answer[-1] ^ 1])  # alice hands on another share than bob's
        (named,) = (await one.verdict(w)).findings
        assert (named.party, named.kind) == ("alice", "silent"), named

    simulate(root, detector, scenario)


def test_nobody_is_named_when_the_lease_is_over(root: Path, detector: Detector) -> None:
    """Either party can end it, so nobody knows who did. But who ends it cannot have the other one named."""

    async def scenario(w: World) -> None:
        one, alice = await OwnersRequest(w).ask(w), party(w, 0)
        shown, lease_id = alice.transcript, alice.kept_runs._runs[one.drawn.request_id].lease_id

        async def then_end(upload_id: str, asked: TranscriptRequest) -> RunTranscript:
            made = await shown(upload_id, asked)
            await alice.provider.end_lease(lease_id)
            return made

        alice.transcript = then_end  # type: ignore[method-assign]
        for _ in ("alice ends it when she has shown her words", "it was over before"):
            (over,) = (await one.verdict(w)).findings
            assert (over.party, over.kind) == (None, "over")

    simulate(root, detector, scenario)


@pytest.mark.parametrize("liar", [0, 1], ids=NAMES)
def test_who_ended_the_lease_and_kept_its_words_has_nobody_named_by_them(
    root: Path, detector: Detector, liar: int
) -> None:
    """The other one cannot show its own any more. What the provider sealed for an earlier challenge does not open."""

    async def scenario(w: World) -> None:
        one, cheat = await OwnersRequest(w).ask(w), party(w, liar)
        earlier = await one.shown_by(w, liar)
        await party(w, 0).provider.end_lease(party(w, 0).kept_runs._runs[one.drawn.request_id].lease_id)

        async def show_again(upload_id: str, asked: TranscriptRequest) -> RunTranscript:
            return earlier

        cheat.transcript = show_again  # type: ignore[method-assign]
        (named,) = (await one.verdict(w)).findings
        assert (named.party, named.kind) == (NAMES[liar], "silent"), named

    simulate(root, detector, scenario)


def test_a_transcript_is_for_the_requests_own_client(root: Path, detector: Detector) -> None:
    """The owner, who knows another client's request id, is shown nothing of it by an honest party, even if the other
    party tells the owner all that it knows. And what the client is shown holds that party's words of these rows, which
    the provider sealed to the owner, and of no other rows."""

    async def scenario(w: World) -> None:
        await OwnersRequest(w).ask(w)
        one, entry = await OwnersRequest(w, 2).ask(w), w.entry.entry
        upload = AuditableUpload.read(kept(w.root), entry.upload_id, entry.plan)
        for number in (0, 1):
            honest = party(w, number)
            for known in (one.drawn.result_keys[1 - number], one.drawn.seed, bytes(32)):
                with pytest.raises(Problem) as caught:
                    await honest.transcript(entry.upload_id, one.proof(entry.upload_id, known))
                assert caught.value.kind is ProblemType.NOT_FOUND
            run, shown = honest.kept_runs._runs[one.drawn.request_id], await one.shown_by(w, number)
            place = run.lease_id, run.first_row, run.rows
            words = open_words(upload.words_key, number, *place, bytes(16), shown.sealed_words)
            with pytest.raises(Problem):
                open_words(upload.words_key, 1 - number, *place, bytes(16), shown.sealed_words)
            (pool,) = honest.pools.by_pair.values()
            bundle, first = divmod(run.first_row, pool.bundle_rows)
            grant = pool._filler._make.args[1]  # type: ignore[attr-defined]

            def rows(at: int, count: int, seed: bytes = grant.seed, bundle: int = bundle) -> bytes:
                stream = Stream(seed, "bundle", bundle).at("o")
                return stream.rows("input", at, (count, plans.SIZE), np.int32).tobytes()

            assert words.startswith(rows(first, 2))
            assert rows(first - 1, 1) not in words and rows(first + 2, 1) not in words

    simulate(root, detector, scenario)
