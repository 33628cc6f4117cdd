"""Vectors of verified runs: what each party says of its rows, and what a client takes or refuses."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from moiety_client import errors
from moiety_client.exchange import Call
from moiety_shared.crypto.sealing import seal_result
from moiety_shared.messages.verified import VerifiedAnswer, record_context
from moiety_shared.messages.wire import Recipients, pack_result
from moiety_shared.plan.plan import Plan
from moiety_shared.protocols.verified import answers
from moiety_shared.protocols.verified.answers import PartyAnswer, RowKeys
from moiety_shared.protocols.verified.word import Word
from tests import plans
from tests.vectors.fixed import Seals, drawn, randomness
from tests.vectors.messages import DEALER, checked, sealed_call, told_of
from tests.vectors.numbers import Cases, texts

_ROWS, _FIRST = 2, 5
_WORD = Word()
Said = tuple[VerifiedAnswer, VerifiedAnswer]


def results() -> Cases:
    """Answers, what each party says in them, and what they join to. A client refuses `refused` by that error."""
    cases, calls = [], []
    kinds = {"a": plans.logits(), "b": plans.labels(), "c": plans.decision()}
    for what, plan in kinds.items():
        call = _call(f"verified {what}", plan)
        said = _said(what, call)
        body = _answer(what, call, said)
        calls.append((call, said, body))
        told = {
            "record_key": call.entry.record_key,
            "elements": texts(call.elements()),
            "said": [one.pack().hex() for one in said],
            "body": body.hex(),
            "joined": call.open(body).reshape(call.rows, -1).tolist(),
        }
        cases.append(told_of(call) | told)
    call, said, body = calls[0]
    refused = [{"case": 0, "body": _answer("a", call, lie(said)).hex(), "error": "CheatingDetected"} for lie in _LIES]
    undecided = _said("c", calls[2][0], np.array([[2], [0]]))
    refused += [
        {"case": 0, "body": body[:-1].hex(), "error": "ResultRejected"},
        {"case": 0, "body": _answer("a", call, (said[1], said[0])).hex(), "error": "ResultRejected"},
        {"case": 2, "body": _answer("c", calls[2][0], undecided).hex(), "error": "ResultRejected"},
    ]
    for case in refused:
        assert _raised(calls[case["case"]][0], bytes.fromhex(case["body"])) == case["error"], case
    return {"cases": cases, "refused": refused}


def _raised(call: Call, body: bytes) -> str | None:
    try:
        call.open(body)
    except errors.MoietyError as error:
        return type(error).__name__
    return None


def _call(what: str, plan: Plan) -> Call:
    call, _ = sealed_call(what, checked(plan), _ROWS, "", Seals.none(), Recipients.CLIENT)
    return call


def _said(what: str, call: Call, outputs: Any = None) -> Said:
    """What honest parties say, of outputs that a model of this plan may have."""
    plan, rows = call.entry.plan, call.rows
    kinds = {"labels": [[0, 1, 0, 2, 0]] * rows, "decision": [[1], [0]]}
    y = np.array(kinds.get(plan.output.kind, np.arange(rows * plan.output.size).reshape(rows, -1) * 37 - 100))
    y = y if outputs is None else outputs
    keys = [RowKeys(tuple(drawn(f"{what} row {p} {row}", 32) for row in range(rows))) for p in (0, 1)]
    x = call.elements().astype(np.int64) + sum(answers.input_mask(_WORD, k, plan.input.size) for k in keys)
    result = (y + sum(answers.output_mask(_WORD, k, plan.output.shape) for k in keys)) & 0xFFFFFFFF
    lease = drawn("lease", 16).hex()
    records = answers.records(record_context(call.entry.upload_id, lease), _FIRST, (keys[0], keys[1]))
    signed = tuple(map(DEALER.sign, records))
    opened = answers.digest(x & 0xFFFFFFFF)
    one, other = (PartyAnswer(opened, result, each) for each in keys)
    return VerifiedAnswer(lease, _FIRST, one), VerifiedAnswer(lease, _FIRST, other, signed)


def _answer(what: str, call: Call, said: Sequence[VerifiedAnswer]) -> bytes:
    with randomness(f"verified answer {what}", Seals.none()):
        contexts = [call.binding.context("result", party) for party in (0, 1)]
        sealed = [seal_result(call._keys[p], said[p].pack(), contexts[p]) for p in (0, 1)]
    return pack_result(call.binding.request_id, (sealed[0], sealed[1]))


# What a party that cheats could say


def _changed(party: int, **answer: Any) -> Callable[[Said], Said]:
    def lie(said: Said) -> Said:
        one, other = (
            each._replace(answer=each.answer._replace(**answer)) if p == party else each for p, each in enumerate(said)
        )
        return one, other

    return lie


def _placed(parties: tuple[int, ...], **place: Any) -> Callable[[Said], Said]:
    def lie(said: Said) -> Said:
        one, other = (each._replace(**place) if p in parties else each for p, each in enumerate(said))
        return one, other

    return lie


def _swapped(said: Said) -> Said:
    return said[0], said[1]._replace(signatures=said[1].signatures[::-1])


def _one_key_twice(said: Said) -> Said:
    (first, *_) = said[0].answer.keys.keys
    return _changed(0, keys=RowKeys((first, first)))(said)


_ELSE, _ZEROS = drawn("else", 32), np.zeros((_ROWS, plans.CLASSES), np.int64)
_LIES: tuple[Callable[[Said], Said], ...] = (
    *(_changed(party, opened=_ELSE) for party in (0, 1)),
    *(_changed(party, result=_ZEROS) for party in (0, 1)),
    *(_changed(party, keys=RowKeys((_ELSE, _ELSE))) for party in (0, 1)),
    *(_placed(parties, lease_id="00" * 16) for parties in ((0,), (1,), (0, 1))),
    *(_placed(parties, first_row=_FIRST + 1) for parties in ((0,), (1,), (0, 1))),
    _placed((1,), signatures=(bytes(64),) * _ROWS),
    _swapped,
    _one_key_twice,
)
