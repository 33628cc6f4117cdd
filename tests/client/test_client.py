"""The client without a network: what it refuses before sending, what it accepts as an answer."""

import json
import warnings

import httpx
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from moiety_client import inputs
from moiety_client.client import Client
from moiety_client.errors import (
    CatalogueError,
    InvalidInput,
    RequestRefused,
    ResultRejected,
    ServiceUnavailable,
    UnknownModel,
    UntrustedEntry,
)
from moiety_client.exchange import Sealer
from moiety_shared import fixed_point
from moiety_shared.crypto.sealing import PrivateKey, seal_result
from moiety_shared.messages.catalogue import Entry, sign
from moiety_shared.messages.wire import Request, pack_result
from moiety_shared.problems import PROBLEM_JSON, Problem, ProblemType
from tests.envelopes import opened

Keys = tuple[PrivateKey, PrivateKey]
Digits = tuple[np.ndarray, np.ndarray]


class Parties:
    """Both parties and the catalogue as one httpx transport; computes a fixed output in the clear."""

    def __init__(self, entry: Entry, keys: Keys) -> None:
        self.entry, self.keys, self.owner = entry, keys, Ed25519PrivateKey.generate()
        self.answers: list[Problem | Exception | None] = []
        self.bodies: list[bytes] = []
        self.outputs = np.rint(np.arange(10) / entry.plan.output.scale).astype(np.int32)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.startswith("/v1/models/"):
            if not request.url.path.endswith("/" + self.entry.name):
                return self.problem(Problem(ProblemType.UNKNOWN_MODEL))
            return httpx.Response(200, text=sign(self.entry, self.owner).model_dump_json())
        self.bodies.append(request.content)
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, Problem):
            return self.problem(answer)
        if answer is not None:
            raise answer
        return httpx.Response(200, content=self.compute(request.content), headers={"moiety-rounds": "5"})

    def problem(self, problem: Problem) -> httpx.Response:
        return httpx.Response(
            problem.kind.status, content=json.dumps(problem.document()), headers={"content-type": PROBLEM_JSON}
        )

    def compute(self, body: bytes) -> bytes:
        request = Request.unpack(body)
        request.check(self.entry.plan, self.entry.max_rows)
        sealed = []
        for party, key in enumerate(self.keys):
            _, secret = opened(key, request, self.entry.plan, party)
            shares = [np.tile(self.outputs, (request.rows, 1)) - 5, np.full((request.rows, 10), 5, dtype=np.int32)]
            content = shares[party].astype(np.int32).tobytes()
            sealed.append(seal_result(secret.result_key, content, request.binding.context("result", party)))
        return pack_result(request.binding.request_id, (sealed[0], sealed[1]))

    def client(self, timeout: float = 30, **options: object) -> Client:
        owner_key = sign(self.entry, self.owner).owner_key
        client = Client("https://owner", owner_key=owner_key, timeout=timeout, **options)  # type: ignore[arg-type]
        client._http = httpx.Client(transport=httpx.MockTransport(self))
        return client


@pytest.fixture
def parties(entry: Entry, party_keys: Keys) -> Parties:
    return Parties(entry, party_keys)


def test_a_prediction_is_decoded_at_the_plans_scale(parties: Parties, digits: Digits) -> None:
    answer = parties.client().predict("mnist", digits[0][:3])
    assert np.array_equal(answer.outputs, np.tile(np.arange(10.0), (3, 1)))
    assert answer.labels.tolist() == [9, 9, 9] and answer.names == ["9"] * 3 and answer.rounds == 5


def test_large_inputs_go_in_several_requests(parties: Parties, digits: Digits) -> None:
    parties.entry = parties.entry.model_copy(update={"max_rows": 100})
    assert len(parties.client().predict("mnist", digits[0][:250]).labels) == 250
    assert [Request.unpack(body).rows for body in parties.bodies] == [100, 100, 50]


def test_the_input_is_nowhere_in_what_is_sent(parties: Parties, digits: Digits) -> None:
    parties.client().predict("mnist", digits[0][:1])
    encoded = inputs.encode(parties.entry, digits[0][:1]).tobytes()
    row = encoded[28 * 14 * 4 : 28 * 15 * 4]
    assert row not in parties.bodies[0] and digits[0][0, 14].tobytes() not in parties.bodies[0]


def test_both_shares_are_needed_and_each_is_fresh(entry: Entry, digits: Digits) -> None:
    sealer, x = Sealer(entry), inputs.encode(entry, digits[0][:1])
    one, two = sealer.call(x), sealer.call(x)
    assert np.array_equal(fixed_point.join(one.alice_share, one.bob_share()), x)
    assert not np.array_equal(one.alice_share, two.alice_share) and one.bob_seed != two.bob_seed
    assert one.binding.request_digest != two.binding.request_digest


def test_pictures_and_floats_encode_alike(entry: Entry, digits: Digits) -> None:
    pixels = digits[0][:4]
    floats = (pixels.reshape(4, 784).astype(np.float32) / np.float32(255) - np.float32(0.1307)) / np.float32(0.3081)
    expected = inputs.encode(entry, floats)
    assert np.array_equal(inputs.encode(entry, pixels), expected)
    assert np.array_equal(inputs.encode(entry, pixels[..., None]), expected)
    assert np.array_equal(inputs.encode(entry, pixels[0]), expected[:1])


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((2, 27, 28), np.uint8),
        np.zeros((0, 28, 28), np.uint8),
        np.zeros((28,), np.uint8),
        np.zeros((2, 783)),
        np.zeros((1, 2, 784)),
        np.full((1, 784), np.nan),
        np.full((1, 784), np.inf),
        np.full((1, 784), 2.9),
        np.full((1, 784), -0.5),
        np.zeros((1, 784), np.complex64),
        np.array([["x"] * 784]),
        np.array(3.0),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_sent(parties: Parties, bad: np.ndarray) -> None:
    with pytest.raises(InvalidInput):
        parties.client().predict("mnist", bad)
    assert not parties.bodies


def test_it_comes_back_later_with_the_same_request(parties: Parties, digits: Digits) -> None:
    parties.answers = [Problem(ProblemType.RANDOMNESS_EXHAUSTED), httpx.ConnectError("no"), None]
    for answer in parties.answers:
        if isinstance(answer, httpx.ConnectError):
            answer.request = httpx.Request("POST", "http://alice")
    assert parties.client().predict("mnist", digits[0][:1]).labels.tolist() == [9]
    assert len(set(parties.bodies)) == 1 and len(parties.bodies) == 3


def test_it_does_not_repeat_what_was_refused(parties: Parties, digits: Digits) -> None:
    parties.answers = [Problem(ProblemType.REQUEST_CONFLICT)]
    with pytest.raises(RequestRefused) as caught:
        parties.client().predict("mnist", digits[0][:1])
    assert caught.value.problem.kind is ProblemType.REQUEST_CONFLICT and len(parties.bodies) == 1


def test_it_gives_up_at_the_time_limit(parties: Parties, digits: Digits) -> None:
    parties.answers = [Problem(ProblemType.PEER_UNAVAILABLE)] * 1000
    with pytest.raises(ServiceUnavailable):
        parties.client(timeout=1).predict("mnist", digits[0][:1])


def test_a_republished_model_is_looked_up_again(parties: Parties, digits: Digits) -> None:
    client = parties.client()
    client.predict("mnist", digits[0][:1])
    parties.answers = [Problem(ProblemType.UNKNOWN_MODEL)]
    parties.entry = parties.entry.model_copy(update={"upload_id": "11" * 16, "version": 2})
    client.predict("mnist", digits[0][:1])
    assert Request.unpack(parties.bodies[-1]).binding.upload_id == b"\x11" * 16
    parties.answers = [Problem(ProblemType.UNKNOWN_MODEL)] * 2
    with pytest.raises(UnknownModel):
        client.predict("mnist", digits[0][:1])


def test_only_the_pinned_owner_is_believed(parties: Parties) -> None:
    with pytest.raises(UnknownModel):
        parties.client().model("other")
    client = parties.client()
    parties.owner = Ed25519PrivateKey.generate()
    with pytest.raises(UntrustedEntry):
        client.model("mnist")
    client._owner_key = ""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        client.model("mnist")
    assert "owner_key" in str(caught[0].message)
    client._http = httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(200, text="<html>")))
    with pytest.raises(CatalogueError):
        client.model("mnist", refresh=True)


def test_a_changed_or_foreign_answer_is_rejected(parties: Parties, entry: Entry, digits: Digits) -> None:
    x = inputs.encode(entry, digits[0][:2])
    call, other = Sealer(entry).call(x), Sealer(entry).call(x)
    answer = parties.compute(call.body)
    assert call.open(answer).shape == (2, 10)
    for wrong in (answer[:-1], answer + b"x", b"", parties.compute(other.body), *flipped(answer)):
        with pytest.raises(ResultRejected):
            call.open(wrong)


def flipped(answer: bytes) -> list[bytes]:
    changed = []
    for at in range(0, len(answer), 7):
        copy = bytearray(answer)
        copy[at] ^= 1
        changed.append(bytes(copy))
    return changed
