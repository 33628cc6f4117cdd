"""Vectors of what crosses a boundary: entries, tokens, handshakes, requests, results, problems."""

import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest import mock

import httpx
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from moiety_client import errors
from moiety_client.catalogue import CatalogueReader
from moiety_client.exchange import Call, Drawn, Sealer, TokenHolder, joined
from moiety_client.state import StateFile
from moiety_client.steps import Work
from moiety_shared import fixed_point
from moiety_shared.crypto import signing, tokens
from moiety_shared.crypto.handshake import context
from moiety_shared.crypto.possession import private_pem, thumbprint
from moiety_shared.crypto.prg import Stream
from moiety_shared.crypto.sealing import seal_result
from moiety_shared.crypto.signing import key_text
from moiety_shared.crypto.tokens import Grant, Quota
from moiety_shared.messages.canary import Canary
from moiety_shared.messages.catalogue import Entry, PartyEndpoint, Preprocessing, SignedEntry, sign
from moiety_shared.messages.wire import Recipients, Request, pack_result
from moiety_shared.plan.plan import Plan
from moiety_shared.problems import Problem, ProblemType
from tests import envelopes, plans
from tests.vectors.fixed import KEYS, Seals, drawn, randomness
from tests.vectors.numbers import Case, Cases, texts

OWNER, HOLDER, DEALER = (Ed25519PrivateKey.from_private_bytes(drawn(n, 32)) for n in ("owner", "holder", "dealer"))
NOW = 1_750_000_000
_DIGIT = Preprocessing(channels=1, size=(2, 2), mean=(0.1307,), std=(0.3081,), polarity="light-on-dark")


def entry(plan: Plan, **members: Any) -> Entry:
    """A catalogue entry of the owner's, with addresses where nobody listens."""
    ends = zip(("alice", "bob"), KEYS, strict=True)
    parties = tuple(
        PartyEndpoint(name=n, url=f"https://{n}.example:770{at}", sealing_key=k.public.text())
        for at, (n, k) in enumerate(ends, 1)
    )
    named: dict[str, Any] = {"name": "small", "version": 2, "upload_id": drawn("upload", 16).hex(), "parties": parties}
    if plan.verified:
        named["record_key"] = key_text(DEALER.public_key())
    return Entry.model_validate(named | {"plan": plan, "max_rows": 100} | plans.TERM | members)


def checked(plan: Plan) -> Plan:
    """The same plan, in whose runs the parties check each other."""
    costs = {"rounds": 10, "online_bytes": 100, "row_bytes": 100}
    return Plan.model_validate(plan.model_dump() | {"verified": costs})


def _full() -> Entry:
    told = {"label": 1, "outputs": (0.0, 3.0, -1.0, 2.0, 1e-5), "tolerance": 0.25}
    canary = Canary.model_validate({"seed": drawn("a canary", 32).hex()} | told)
    more = {"classes": ("a", "b", "ç", '"', "\n"), "description": "vowels €", "preprocessing": _DIGIT, "revision": 7}
    return entry(plans.logits("softmax"), canaries=(canary,), **more)


def entries() -> Cases:
    """Signed entries. `seen` is the highest revision of that name that the client has seen; `now` is its clock."""
    cases = []
    verified = entry(checked(plans.logits()))
    for made in (_full(), entry(plans.labels(), access="open"), entry(plans.decision()), verified):
        text, digest = sign(made, OWNER).model_dump_json(), made.plan.digest.hex()
        told = {"plan_digest": digest, "input_size": made.plan.input.size, "output_kind": made.plan.output.kind}
        cases.append(_asked(text) | told)
    key = key_text(DEALER.public_key())
    good, full = sign(_full(), OWNER), _full()
    text = good.model_dump_json()
    other = Ed25519PrivateKey.from_private_bytes(drawn("another owner", 32))
    refused = [
        _asked(text.replace('"max_rows":100', '"max_rows":101')) | {"error": "UntrustedEntry"},
        _asked(text.replace('"scale":0.0625', '"scale":0.0626')) | {"error": "UntrustedEntry"},
        _asked(sign(full, other).model_dump_json()) | {"error": "UntrustedEntry"},
        _asked(text.replace(good.owner_key, key_text(other.public_key()))) | {"error": "UntrustedEntry"},
        _asked(text, name="other") | {"error": "UntrustedEntry"},
        _asked(text, seen=8) | {"error": "UntrustedEntry"},
        _changed(full, active=False) | {"error": "UntrustedEntry"},
        _changed(full, issued=NOW - 2, expires=NOW - 1) | {"error": "ExpiredEntry"},
        _changed(full, issued=NOW - 2, expires=NOW) | {"error": "ExpiredEntry"},
        _changed(full, parties=(_plain(full), full.parties[1])) | {"error": "InsecureAddress"},
        *(_keyed(*bad) | {"error": "CatalogueError"} for bad in ((full, key), (verified, None), (verified, key[4:]))),
        _asked(text.replace('"entry":{"format":3', '"entry":{"format":4')) | {"error": "CatalogueError"},
        _asked(text.replace('"plan":{"format":4', '"plan":{"format":5')) | {"error": "CatalogueError"},
        _asked(text.replace('"max_rows":100', '"max_rows":100,"more":1')) | {"error": "CatalogueError"},
        _asked(text.replace('"max_rows":100,', "")) | {"error": "CatalogueError"},
        _asked(text[:-1]) | {"error": "CatalogueError"},
        _asked("<html>") | {"error": "CatalogueError"},
    ]
    for case in cases:
        assert believed(case) is None, case
    for case in refused:
        assert believed(case) == case["error"], (believed(case), case)
    return {"cases": cases, "refused": refused}


def _asked(text: str, name: str = "small", seen: int = 0) -> Case:
    return {"name": name, "owner_key": key_text(OWNER.public_key()), "now": NOW, "seen": seen, "text": text}


def _changed(full: Entry, **update: Any) -> Case:
    return _asked(sign(full.model_copy(update=update), OWNER).model_dump_json())


def _keyed(full: Entry, record_key: str | None) -> Case:
    """An entry whose key of records does not fit its plan, signed for all that."""
    changed = full.model_copy(update={"record_key": record_key})
    named = {"owner_key": key_text(OWNER.public_key()), "signature": signing.sign("catalogue entry", changed, OWNER)}
    return _asked(SignedEntry.model_construct(entry=changed, **named).model_dump_json())


def _plain(full: Entry) -> PartyEndpoint:
    return full.parties[0].model_copy(update={"url": "http://alice.example:7701"})


def believed(case: Case) -> str | None:
    """The name of what the Python client raises for a catalogue's answer, or None if it believes it."""
    state = StateFile(None)
    with state.changing() as seen:
        seen.revisions[case["owner_key"]] = {case["name"]: case["seen"]}
    reader = CatalogueReader("https://owner.example", case["owner_key"], TokenHolder(), state, timeout=1.0)
    steps = reader._sealer(case["name"])
    try:
        with _clock(case["now"]):
            next(steps)
            work = steps.send(httpx.Response(200, text=case["text"]))
            assert isinstance(work, Work)
            work.call()
    except Exception as error:
        try:
            steps.throw(error)
        except errors.MoietyError as refused:
            return type(refused).__name__
    return None


def _clock(now: int) -> Any:
    return mock.patch("moiety_client.catalogue.time.time", lambda: float(now))


# Tokens


def _token(**members: Any) -> str:
    grant = {
        "token_id": drawn("token", 16).hex(),
        "subject": "clinic-7",
        "models": ("small",),
        "expires": 4_000_000_000,
    }
    whole = grant | {"quota": Quota(rows=1000, seconds=86_400), "key": thumbprint(_public())} | members
    return tokens.issue(Grant.model_validate(whole), OWNER)


def _public() -> bytes:
    return HOLDER.public_key().public_bytes_raw()


def token() -> Cases:
    """A token, and the key to which it is bound. A client reads no token; a party refuses `refused`."""
    made, owner = _token(), key_text(OWNER.public_key())
    bound = {"key_pem": private_pem(HOLDER), "public": _public().hex(), "thumbprint": thumbprint(_public())}
    cases = [{"owner_key": owner, "token": made, "grant": tokens.verify(made, owner).model_dump(mode="json")} | bound]
    head, claims, signature = made.split(".")
    bad = [f"{head}.{claims}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}", f"{head}.{claims}.", "a.b.c", ""]
    for text in bad:
        _raises(ProblemType.UNAUTHORIZED, tokens.verify, text, owner)
    return {"cases": cases, "refused": [{"owner_key": owner, "token": text} for text in bad]}


def _raises(kind: ProblemType, call: Callable[..., object], *arguments: object) -> None:
    try:
        call(*arguments)
    except Problem as problem:
        assert problem.kind is kind, (problem, kind)
        return
    raise AssertionError(f"not refused: {arguments}")


# Requests and results


def sealed_call(
    what: str, plan: Plan, rows: int, token: str, seals: Seals, recipients: Recipients
) -> tuple[Call, Case]:
    """A request of the Python client, and all that it was made of."""
    made, holder = entry(plan), TokenHolder(token, HOLDER if token else None)
    sealer = Sealer(made, holder)
    given = Drawn(*(drawn(f"{what} {n}", c) for n, c in (("id", 16), ("seed", 32))), _result_keys(what), NOW)
    elements = _elements(plan, rows)
    with randomness(what, seals) as came:
        call = sealer.call(elements, recipients, given)
    keys, nonces = came[:2], came[2:]
    assert [len(one) for one in came] == [32, 32, 12, 12] and sealer._begun is not None
    handshakes = []
    for party, begun in enumerate(sealer._begun):
        handshake = begun.handshake
        assert handshake.key == keys[party]
        handshakes.append(
            {
                "key": handshake.key.hex(),
                "time": handshake.time,
                "statement": handshake.statement(party, token).hex(),
                "proof": handshake.proof.hex(),
                "content": handshake.pack().hex(),
                "info": context(party).hex(),
                "sealed": begun.sealed.hex(),
            }
        )
    binding = call.binding
    case = {
        "plan": plan.canonical().decode(),
        "upload_id": made.upload_id,
        "rows": rows,
        "elements": texts(elements),
        "recipients": int(recipients),
        "token": token,
        "holder": private_pem(HOLDER) if token else "",
        "request_id": binding.request_id.hex(),
        "seed": given.seed.hex(),
        "result_keys": [key.hex() for key in given.result_keys],
        "time": given.time,
        "handshakes": handshakes,
        "nonces": [nonce.hex() for nonce in nonces],
        "plan_digest": binding.plan_digest.hex(),
        "request_digest": binding.request_digest.hex(),
        "alice_share": call.alice_share.tobytes().hex(),
        "contexts": [binding.context("input", party).hex() for party in (0, 1)],
        "body": call.body.hex(),
    }
    return call, case


def _wide() -> Plan:
    return Plan.model_validate(plans.logits().model_dump() | {"ring_bits": 64})


def _result_keys(what: str) -> tuple[bytes, bytes]:
    return drawn(f"{what} key 0", 32), drawn(f"{what} key 1", 32)


def _elements(plan: Plan, rows: int) -> Any:
    dtype = fixed_point.ring_dtype(plan.ring_bits)
    x = plans.random_inputs(rows).astype(dtype)
    return np.concatenate((x, np.ones((rows, 1), dtype=dtype)), axis=1) if plan.input.classes else x


def requests(seals: Seals) -> Cases:
    """Requests, and each part of them. A party refuses `refused`; a client reads no request."""
    bound, open_to_all = _token(), ""
    given = [
        ("one", plans.logits(), 1, bound),
        ("three", plans.labels(), 3, open_to_all),
        ("wide", _wide(), 2, open_to_all),
    ]
    made = [sealed_call(what, plan, rows, token, seals, Recipients.CLIENT) for what, plan, rows, token in given]
    call, _ = made[0]
    body = call.body
    bad = [
        (body[:-1], ProblemType.MALFORMED),
        (body + b"\0", ProblemType.MALFORMED),
        (b"MRQ1" + body[4:], ProblemType.UNSUPPORTED_VERSION),
        (b"XXXX" + body[4:], ProblemType.MALFORMED),
        (body[:100], ProblemType.MALFORMED),
        (_set(body, 20, bytes(32)), ProblemType.UNKNOWN_MODEL),  # another plan
        (_set(body, 108, struct.pack("<I", 2)), ProblemType.MALFORMED),  # two rows, and the envelopes of one
        (_set(body, 108, struct.pack("<I", 0)), ProblemType.INVALID_INPUT),
        (_set(body, 4, bytes(16)), ProblemType.SEALED_FOR_ANOTHER),  # another upload
        (_set(body, 100, struct.pack("<Q", NOW + 1)), ProblemType.SEALED_FOR_ANOTHER),  # another time
        (_swapped(body), ProblemType.MALFORMED),
    ]
    for changed, kind in bad:
        _raises(kind, read_request, changed, call.entry.plan)
    refused = [{"case": 0, "body": changed.hex(), "problem": kind.urn} for changed, kind in bad]
    return {"cases": [case for _, case in made], "refused": refused}


def read_request(body: bytes, plan: Plan) -> list[bytes]:
    """Both parties' shares, as they read them. Raises Problem."""
    request = Request.unpack(body)
    request.check(plan, 100)
    return [bytes(envelopes.opened(key, request, plan, party)[1].share) for party, key in enumerate(KEYS)]


def _set(body: bytes, at: int, what: bytes) -> bytes:
    return body[:at] + what + body[at + len(what) :]


def _swapped(body: bytes) -> bytes:
    request = Request.unpack(body)
    return replace(request, envelopes=(request.envelopes[1], request.envelopes[0])).pack()


def results() -> Cases:
    """Answers to requests: both shares, and what they join to. A client refuses `refused`."""
    cases, calls = [], []
    for what, plan in (("a", plans.logits()), ("b", plans.labels()), ("c", plans.decision()), ("d", _wide())):
        rows = 3
        call, _ = sealed_call(f"result {what}", plan, rows, "", Seals.none(), Recipients.CLIENT)
        shares = _shares(what, plan, rows)
        body = _answer(what, call, shares)
        assert all(np.array_equal(one, other) for one, other in zip(call.shares(body), shares, strict=True))
        calls.append((call, body))
        cases.append(told_of(call) | _read(plan, call, body))
    call, body = calls[0]
    other, _ = sealed_call("result e", plans.logits(), 3, "", Seals.none(), Recipients.CLIENT)
    foreign = _answer("e", other, _shares("e", plans.logits(), 3))
    half = (len(body) - 28) // 2
    bad = [
        body[:-1],
        body + b"\0",
        b"",
        b"MRS2" + body[4:],
        b"XXXX" + body[4:],
        foreign,
        _set(foreign, 4, call.binding.request_id),
        body[:28] + body[28 + half :] + body[28 : 28 + half],
        body[:28] + body[28 : 28 + half] * 2,
    ]
    none, undecided = calls[2], np.array([2, 0, 1], np.int32)
    bad_decision = _answer("c", none[0], (undecided, np.zeros(3, np.int32)))
    refused = [{"case": 0, "body": one.hex()} for one in bad] + [{"case": 2, "body": bad_decision.hex()}]
    for case in refused:
        try:
            calls[case["case"]][0].open(bytes.fromhex(case["body"]))
        except errors.ResultRejected:
            continue
        raise AssertionError("not refused")
    return {"cases": cases, "refused": refused}


def told_of(call: Call) -> Case:
    """What a client keeps of a request to open its answer."""
    b = call.binding
    named = {"request_id": b.request_id.hex(), "request_digest": b.request_digest.hex(), "time": b.time}
    keys = {"result_keys": [key.hex() for key in call._keys]}
    plan = call.entry.plan.canonical().decode()
    return {"plan": plan, "upload_id": b.upload_id.hex(), "rows": call.rows} | named | keys


def _read(plan: Plan, call: Call, body: bytes) -> Case:
    alice, bob = call.shares(body)
    joint = joined(plan, (alice, bob))
    contexts = [call.binding.context("result", party).hex() for party in (0, 1)]
    halves = {"alice": alice.tobytes().hex(), "bob": bob.tobytes().hex()}
    return {"contexts": contexts, "body": body.hex()} | halves | {"joined": joint.reshape(call.rows, -1).tolist()}


def _shares(what: str, plan: Plan, rows: int) -> tuple[Any, Any]:
    """Two shares of outputs that a model of this plan may have."""
    size = rows * plan.output.size
    own = Stream(drawn(f"result {what}", 32), "vectors")
    if plan.output.kind == "labels":
        ranks = np.tile(np.array([0, 1, 0, 2, 0], np.uint8), rows)
        first = own.words("bob", (size,), np.uint8)
        return ranks ^ first, first
    dtype = fixed_point.ring_dtype(plan.ring_bits)
    outputs = np.arange(size) % 2 if plan.output.kind == "decision" else np.arange(size) * 37 - 100
    first = own.words("bob", (size,), dtype)
    return outputs.astype(dtype) - first, first


def _answer(what: str, call: Call, shares: tuple[Any, Any]) -> bytes:
    """What alice returns, sealed as parties seal it."""
    with randomness(f"answer {what}", Seals.none()):
        sealed = [seal_result(call._keys[p], shares[p].tobytes(), call.binding.context("result", p)) for p in (0, 1)]
    return pack_result(call.binding.request_id, (sealed[0], sealed[1]))


# Problems


def problems() -> Cases:
    """Problem documents, and the error that stands for each at a client."""
    documents: list[Any] = [Problem(kind, "a detail").document("ab12") for kind in ProblemType]
    documents += [
        Problem(ProblemType.QUOTA_EXCEEDED, retry_after=4000).document(),
        {"type": "urn:moiety:error:unheard-of", "title": "New", "status": 418, "detail": "x"},
        {"type": 5},
        {"type": "urn:moiety:error:overloaded", "retry_after": "soon"},
        {"type": "urn:moiety:error:overloaded", "retry_after": -1},
        {"type": "about:blank"},
        [],
        None,
    ]
    cases = []
    for document in documents:
        problem = Problem.from_document(document)
        error = errors.from_problem(problem)
        told = {"problem": problem.kind.urn, "retry_after": problem.retry_after, "text": str(error)}
        cases.append({"document": document} | told | {"error": type(error).__name__})
    return {"cases": cases}
