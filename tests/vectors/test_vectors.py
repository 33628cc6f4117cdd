"""The vectors are what the Python client makes now, and no changed byte passes."""

import json
from typing import Any

import numpy as np
import pytest

from moiety_client.errors import ResultRejected
from moiety_client.exchange import Call
from moiety_shared.crypto.prg import Stream
from moiety_shared.crypto.sealing import PrivateKey
from moiety_shared.crypto.signing import key_from_text
from moiety_shared.messages import verified
from moiety_shared.messages.wire import Binding
from moiety_shared.plan.plan import Plan
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.protocols.verified.answers import VOUCHER_BYTES, CheckFailed
from tests.vectors import messages
from tests.vectors.files import FOLDER, made
from tests.vectors.fixed import KEYS

_STEP = 29  # every byte would take half a minute


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return found


def flipped(raw: bytes) -> list[bytes]:
    """Copies with one changed bit each: of the first 200 bytes, the last 40, and every so many between."""
    places = {*range(min(200, len(raw))), *range(0, len(raw), _STEP), *range(max(len(raw) - 40, 0), len(raw))}
    return [raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :] for at in sorted(places)]


def test_the_vectors_are_what_this_version_makes() -> None:
    found = made()
    assert {path.name for path in FOLDER.iterdir()} == {path.name for path in found}
    old = [path.name for path, text in found.items() if path.read_text() != text]
    assert not old, "the format has changed: run python -m tests.vectors, and say so in docs/spec/client.md"


def test_no_changed_byte_of_an_entry_passes() -> None:
    (case, *_) = read("entries")["cases"]
    for raw in flipped(case["text"].encode()):
        text = raw.decode(errors="replace")
        assert messages.believed(case | {"text": text}) is not None, text


def test_no_changed_byte_of_a_request_passes() -> None:
    for case in read("requests")["cases"]:
        plan, body = Plan.model_validate_json(case["plan"]), bytes.fromhex(case["body"])
        alice, seed = messages.read_request(body, plan)
        assert (alice.hex(), seed.hex()) == (case["alice_share"], case["seed"])
        for raw in flipped(body):
            with pytest.raises(Problem):
                messages.read_request(raw, plan)


def test_no_changed_byte_of_a_seal_passes() -> None:
    for case in read("seals")["cases"]:
        key = next(key for key in KEYS if key.public.text() == case["public_key"])
        sealed, info = bytes.fromhex(case["sealed"]), bytes.fromhex(case["info"])
        assert key.open(sealed, info).hex() == case["message"]
        for raw in flipped(sealed):
            _not_opened(key, raw, info)
        for other in flipped(info):
            _not_opened(key, sealed, other)


def _not_opened(key: PrivateKey, sealed: bytes, info: bytes) -> None:
    with pytest.raises(Problem) as caught:
        key.open(sealed, info)
    assert caught.value.kind is ProblemType.SEALED_FOR_ANOTHER


def test_no_changed_byte_of_a_result_passes() -> None:
    for case in read("results")["cases"]:
        call, body = _call(case), bytes.fromhex(case["body"])
        assert call.open(body).reshape(case["rows"], -1).tolist() == case["joined"]
        for raw in flipped(body):
            with pytest.raises(ResultRejected):
                call.open(raw)


def test_no_changed_byte_or_other_length_of_what_a_verified_run_says_passes() -> None:
    for case in read("verified")["cases"]:
        plan, x = Plan.model_validate_json(case["plan"]), np.array(case["elements"], np.int64).reshape(case["rows"], -1)
        said, dealer = [bytes.fromhex(one) for one in case["said"]], key_from_text(case["record_key"])
        accepted = verified.accept(said, x, plan, case["upload_id"], dealer)
        expected = np.array(case["joined"]) / (plan.output.scale if plan.output.kind == "logits" else 1)
        assert np.array_equal(accepted, expected)
        for party, whole in enumerate(said):
            longer = (whole + b"\0", whole + bytes(VOUCHER_BYTES) * case["rows"])
            lies = [(raw, CheckFailed) for raw in flipped(whole)] + [(raw, Problem) for raw in (whole[:-1], *longer)]
            for raw, error in lies:
                with pytest.raises(error):
                    verified.accept(
                        [raw if p == party else one for p, one in enumerate(said)], x, plan, case["upload_id"], dealer
                    )


def _call(case: dict[str, Any]) -> Call:
    plan = Plan.model_validate_json(case["plan"])
    entry = messages.entry(plan)
    names = (bytes.fromhex(case[name]) for name in ("upload_id", "request_id", "request_digest"))
    binding = Binding(plan.digest, *names, case["time"])
    one, other = (bytes.fromhex(key) for key in case["result_keys"])
    nothing = Stream(bytes(32)).words("none", (0,), "i4")
    return Call(entry, binding, case["rows"], b"", nothing, b"", (one, other))
