"""Vectors of verified runs: what each party says of its rows, and what a client takes or refuses."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from moiety_client import errors
from moiety_client.exchange import Call
from moiety_shared.crypto.sealing import seal_result
from moiety_shared.messages.verified import VerifiedAnswer, vouchers
from moiety_shared.messages.wire import Recipients, pack_result
from moiety_shared.plan.plan import Plan
from moiety_shared.protocols.verified import answers
from moiety_shared.protocols.verified.answers import VOUCHED_ROWS, VOUCHER_BYTES, PartyAnswer, RowKeys
from moiety_shared.protocols.verified.word import Word
from tests import plans
from tests.vectors.fixed import Seals, drawn, randomness
from tests.vectors.messages import DEALER, checked, sealed_call, told_of
from tests.vectors.numbers import Cases, texts

_ROWS, _FIRST, _LEASE = 2, 13, drawn("lease", 16).hex()
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
    count = (lambda each: (), lambda each: (*each, each[0]))  # none, and more than rows
    refused += [
        {"case": 0, "body": _answer("a", call, _vouchers(change)(said)).hex(), "error": "ResultRejected"}
        for change in count
    ]
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


def _said(what: str, call: Call, given: Any = None) -> Said:
    """What honest parties say, of outputs that a model of this plan may have."""
    plan, rows = call.entry.plan, call.rows
    kinds = {"labels": [[0, 1, 0, 2, 0]] * rows, "decision": [[1], [0]]}
    y = np.array(kinds.get(plan.output.kind, np.arange(rows * plan.output.size).reshape(rows, -1) * 37 - 100))
    y = y if given is None else given
    keys = [RowKeys(tuple(drawn(f"{what} row {p} {row}", 32) for row in range(rows))) for p in (0, 1)]
    inputs, outputs = zip(*(each.masks(_WORD, plan.input.size, plan.output.shape) for each in keys), strict=True)
    opened = answers.digest((call.elements().astype(np.int64) + sum(inputs)) & 0xFFFFFFFF)
    one, other = (PartyAnswer(opened, (y + sum(outputs)) & 0xFFFFFFFF, each) for each in keys)
    vouched = _vouched(call, _LEASE, answers.records((keys[0], keys[1])), apart=what == "a")
    return VerifiedAnswer(_LEASE, _FIRST, one), VerifiedAnswer(_LEASE, _FIRST, other, vouched)


def _vouched(call: Call, lease: str, records: list[bytes], first: int = _FIRST, *, apart: bool) -> tuple[bytes, ...]:
    """The dealer's vouchers for two rows: in the second group of a bundle, behind another row; or `apart`, at the end
    of a bundle and at the beginning of the next."""
    others = [drawn(f"record {number}", 32) for number in range(VOUCHED_ROWS + 1)]
    bundles = (
        [(first, records[:1]), (first + 1, records[1:])] if apart else [(first - len(others), [*others, *records])]
    )
    upload = call.entry.upload_id
    return tuple(vouchers(DEALER, upload, lease, start, rows)[-1] for start, rows in bundles)


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


def _vouchers(change: Callable[[tuple[bytes, ...]], tuple[bytes, ...]]) -> Callable[[Said], Said]:
    return lambda said: (said[0], said[1]._replace(vouchers=change(said[1].vouchers)))


def _of_others(vouchers: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Each signature behind the row and the records of the other voucher."""
    return tuple(one[:-64] + other[-64:] for one, other in zip(vouchers, vouchers[::-1], strict=True))


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
    _vouchers(lambda each: (bytes(VOUCHER_BYTES),) * len(each)),
    _vouchers(lambda each: each[:1]),
    _vouchers(_of_others),
    _one_key_twice,
)
