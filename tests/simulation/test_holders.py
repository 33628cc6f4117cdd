"""Who may make a request, and when: tokens that are bound to a key, and times that both parties look at.

Each attack is made with what one party sees and can do, through the code of the other party.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from moiety_client.exchange import Call, Drawn, Sealer, TokenHolder
from moiety_shared.crypto.handshake import SEALED_BYTES, Handshake
from moiety_shared.crypto.possession import PROOF_BYTES, prove
from moiety_shared.crypto.sealing import PrivateKey, PublicKey
from moiety_shared.messages.catalogue import Access
from moiety_shared.messages.wire import Binding, Request, Secret, new_id, share_bytes
from moiety_shared.problems import Problem, ProblemType
from tests import days, plans
from tests.envelopes import opened, sealed
from tests.simulation.detector import Detector
from tests.simulation.world import Node, World, check, world

X = plans.random_inputs(1)
OWN = bytes(range(32))
"""The key that a thief draws."""
Scenario = Callable[[World], Awaitable[None]]


def play(root: Path, detector: Detector, scenario: Scenario, access: Access = "token") -> None:

    async def run() -> None:
        async with world(root, detector) as w:
            await w.publish(access)
            await scenario(w)

    asyncio.run(asyncio.wait_for(run(), 120))
    detector.check()


async def refused(w: World, body: bytes, token: str | None) -> Problem:
    with pytest.raises(Problem) as caught:
        await w.ask(w.an_alice(), body, token)
    return caught.value


def view(w: World, party: int, call: Call) -> Handshake:
    """What a party sees in its own envelope, besides the request."""
    node = (w.an_alice(), w.a_bob())[party]
    return opened(node.party.identity.keyring, Request.unpack(call.body), w.plan, party)[0]


def forged(w: World, binding: Binding, proofs: tuple[bytes, bytes], envelopes: dict[int, bytes | memoryview]) -> bytes:
    """A request that a party makes: anybody can seal. `proofs` are those of its handshakes; `envelopes` are those that
    it takes over as they are."""
    made = []
    for party, public in enumerate(w.entry.entry.parties):
        size = share_bytes(w.plan, party, 1)
        secret = Secret(binding.request_id, bytes(range(32)), 1, bytes(size))
        begun, key = Handshake(OWN, binding.time, proofs[party]), PublicKey.from_text(public.sealing_key)
        own = sealed(key, begun, party, secret.pack(), binding.context("input", party))
        made.append(envelopes.get(party, own))
    return Request(binding, 1, (made[0], made[1])).pack()


def lets_all_in(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """A party that looks at nothing."""
    monkeypatch.setattr(node.party.admission, "check_holder", lambda *_: None)
    monkeypatch.setattr(node.party.admission, "check_time", lambda *_: None)


def test_the_holder_of_the_key_is_let_in(root: Path, detector: Detector) -> None:
    async def steps(w: World) -> None:
        holder = w.holder()
        call = w.call(X, holder)
        check(X, call.open(await w.ask(w.an_alice(), call.body, holder.token)))
        unbound = TokenHolder(w.holder(key=None).token)
        call = w.call(X, unbound)
        check(X, call.open(await w.ask(w.an_alice(), call.body, unbound.token)))

    play(root, detector, steps)


def test_without_the_key_a_token_is_of_no_use(root: Path, detector: Detector) -> None:
    async def steps(w: World) -> None:
        holder, other = w.holder(), w.holder(token_id="cd" * 16)
        for thief in (TokenHolder(holder.token), TokenHolder(holder.token, other.key)):
            problem = await refused(w, w.call(X, thief).body, holder.token)
            assert problem.kind is ProblemType.UNAUTHORIZED and "bound to a key" in problem.detail
        problem = await refused(w, w.call(X, other).body, holder.token)
        assert problem.kind is ProblemType.UNAUTHORIZED, "signed under another token"
        assert not any(alice.leader.completed for alice in w.alices if alice.leader)

    play(root, detector, steps)


def test_who_has_no_key_does_not_use_up_the_quota_of_who_has(root: Path, detector: Detector) -> None:
    async def steps(w: World) -> None:
        holder = w.holder(quota=days.quota(2))
        for _ in range(3):
            body = w.call(X, TokenHolder(holder.token)).body
            await refused(w, body, holder.token)
            await refused(
                w,
                forged(w, w.call(X).binding, (b"", b""), {0: body[-1:] * len(Request.unpack(body).envelopes[0])}),
                holder.token,
            )
        for _ in range(2):
            call = w.call(X, holder)
            check(X, call.open(await w.ask(w.an_alice(), call.body, holder.token)))
        assert (await refused(w, w.call(X, holder).body, holder.token)).kind is ProblemType.QUOTA_EXCEEDED

    play(root, detector, steps)


def test_alice_cannot_use_a_token_that_she_saw(root: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    async def steps(w: World) -> None:
        holder, alice = w.holder(), w.an_alice()
        call = w.call(X, holder)
        await w.ask(alice, call.body, holder.token)
        seen = view(w, 0, call)
        lets_all_in(alice, monkeypatch)
        own, fresh = w.holder().key, replace(call.binding, request_id=new_id())
        for binding in (fresh, call.binding):
            alice.leader._requests._entries.clear()  # type: ignore[union-attr]
            statement = Handshake(OWN, binding.time).statement(1, holder.token)
            for proof in (seen.proof, bytes(PROOF_BYTES), prove(own, statement)):
                problem = await refused(w, forged(w, binding, (seen.proof, proof), {}), holder.token)
                assert problem.kind is ProblemType.UNAUTHORIZED
        taken = {1: Request.unpack(call.body).envelopes[1]}
        for binding in (fresh, replace(call.binding, time=call.binding.time + 1)):
            problem = await refused(w, forged(w, binding, (seen.proof, b""), taken), holder.token)
            assert problem.kind is ProblemType.SEALED_FOR_ANOTHER, "bob's envelope is of its own request alone"

    play(root, detector, steps)


def test_bob_cannot_use_a_token_that_he_saw(root: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    async def steps(w: World) -> None:
        holder = w.holder()
        call = w.call(X, holder)
        await w.ask(w.an_alice(), call.body, holder.token)
        seen = view(w, 1, call)
        lets_all_in(w.a_bob(), monkeypatch)
        own, fresh = w.holder().key, replace(call.binding, request_id=new_id())
        statement = Handshake(OWN, fresh.time).statement(0, holder.token)
        for proof in (seen.proof, bytes(PROOF_BYTES), prove(own, statement)):
            problem = await refused(w, forged(w, fresh, (proof, seen.proof), {}), holder.token)
            assert problem.kind is ProblemType.UNAUTHORIZED

    play(root, detector, steps)


@pytest.mark.parametrize("party", [0, 1], ids=["alice", "bob"])
def test_each_party_looks_at_what_was_signed(
    root: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch, party: int
) -> None:
    """One wrong envelope of a client that holds the key is found by the party that it is for."""

    async def steps(w: World) -> None:
        holder = w.holder()
        assert holder.key is not None
        monkeypatch.setattr(TokenHolder, "handshake", _wrong_for(party))
        problem = await refused(w, w.call(X, holder).body, holder.token)
        assert problem.kind is ProblemType.UNAUTHORIZED and "not signed" in problem.detail

    play(root, detector, steps)


def _wrong_for(party: int) -> Callable[[TokenHolder, int, int], Handshake]:
    """Signs a handshake, and sends another with its proof."""
    made = TokenHolder.handshake

    def changed(holder: TokenHolder, time: int, of: int) -> Handshake:
        return replace(made(holder, time, of), key=OWN) if of == party else made(holder, time, of)

    return changed


@pytest.mark.parametrize("party", [0, 1], ids=["alice", "bob"])
def test_who_took_over_a_handshake_cannot_go_on_with_it(
    root: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch, party: int
) -> None:
    """alice relays bob's, and whoever ends TLS before her sees both: what follows needs the key in it."""

    async def steps(w: World) -> None:
        holder = w.holder()
        call = w.call(X, holder)
        await w.ask(w.an_alice(), call.body, holder.token)
        request = Request.unpack(call.body)
        taken = bytes(request.envelopes[party][:SEALED_BYTES])
        seen = view(w, 1 - party, call)
        binding = replace(call.binding, request_id=new_id())
        content = Secret(binding.request_id, OWN, 1, bytes(share_bytes(w.plan, party, 1))).pack()
        with monkeypatch.context() as patched:
            lets_all_in((w.an_alice(), w.a_bob())[1 - party], patched)
            for key in (OWN, seen.key):
                theirs = Handshake(key, binding.time).seal(taken, content, binding.context("input", party))
                problem = await refused(w, forged(w, binding, (b"", b""), {party: theirs}), holder.token)
                assert problem.kind is ProblemType.SEALED_FOR_ANOTHER

    play(root, detector, steps)


def test_a_handshake_is_good_for_the_requests_of_five_minutes(root: Path, detector: Detector) -> None:
    async def steps(w: World) -> None:
        made = Sealer(w.entry.entry)
        elements = np.zeros((1, w.plan.input.shared_size), np.int32)
        first = made.call(elements, drawn=replace(Drawn.new(), time=int(time.time()) - 250))
        begun = made._begun
        for seconds, again in ((0, True), (200, False)):  # 250 and 450 seconds after the first
            later = made.call(elements, drawn=replace(Drawn.new(), time=int(time.time()) + seconds))
            assert (made._begun is begun) is again
            await w.ask(w.an_alice(), later.body, None)
        await w.ask(w.an_alice(), first.body, None)
        made._begun, keep = begun, made._handshakes
        assert begun is not None
        made._handshakes = lambda _: begun  # type: ignore[method-assign]  # a client that goes on with an old one
        late = made.call(elements, drawn=replace(Drawn.new(), time=int(time.time()) + 200))
        problem = await refused(w, late.body, None)
        assert problem.kind is ProblemType.MALFORMED and "time is too far from the request" in problem.detail
        made._handshakes = keep  # type: ignore[method-assign]

    play(root, detector, steps, "open")


def test_a_handshake_costs_each_party_one_operation_and_ends_with_its_key(
    root: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened_with: list[str] = []
    own = PrivateKey.open

    def counted(key: PrivateKey, envelope: bytes | memoryview, context: bytes) -> bytes:
        opened_with.append(key.public.key_id)
        return own(key, envelope, context)

    async def steps(w: World) -> None:
        holder = w.holder()
        made = Sealer(w.entry.entry, holder)
        elements = np.zeros((1, w.plan.input.shared_size), np.int32)
        monkeypatch.setattr(PrivateKey, "open", counted)
        for _ in range(3):
            await w.ask(w.an_alice(), made.call(elements).body, holder.token)
        parties = [PublicKey.from_text(party.sealing_key).key_id for party in w.entry.entry.parties]
        assert sorted(key_id for key_id in opened_with if key_id in parties) == sorted(parties)
        keyring = w.an_alice().party.identity.keyring
        keyring.rotate(timedelta(0))
        keyring.wipe()
        problem = await refused(w, made.call(elements).body, holder.token)
        assert problem.kind is ProblemType.KEY_RETIRED

    play(root, detector, steps)


# The time


def at(w: World, seconds: float) -> bytes:
    """A request that was made so many seconds from now."""
    drawn, elements = Drawn.new(), np.zeros((1, w.plan.input.shared_size), np.int32)
    return Sealer(w.entry.entry).call(elements, drawn=replace(drawn, time=drawn.time + int(seconds))).body


def test_a_request_is_taken_for_five_minutes(root: Path, detector: Detector) -> None:
    async def steps(w: World) -> None:
        for seconds in (-290, 290):
            await w.ask(w.an_alice(), at(w, seconds))
        for seconds, said in ((-310, "31[0-9] seconds behind alice's"), (330, "3[23][0-9] seconds ahead of alice's")):
            problem = await refused(w, at(w, seconds), None)
            assert problem.kind is ProblemType.REQUEST_EXPIRED
            assert re.search(said, problem.detail), problem.detail

    play(root, detector, steps, "open")


def test_bob_looks_at_the_time_too_and_nobody_can_change_it(
    root: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def steps(w: World) -> None:
        body, alice = at(w, -1000), w.an_alice()
        lets_all_in(alice, monkeypatch)
        problem = await refused(w, body, None)
        assert problem.kind is ProblemType.REQUEST_EXPIRED and "behind bob's clock" in problem.detail
        late = Request.unpack(at(w, -310))
        now = replace(late, binding=replace(late.binding, time=late.binding.time + 20))
        assert (await refused(w, now.pack(), None)).kind is ProblemType.SEALED_FOR_ANOTHER

    play(root, detector, steps, "open")
