"""The whole service as its users meet it: five processes, HTTP, real digits, bad input, dying peers."""

import asyncio
import json
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import numpy as np
import pytest

from moiety_client import inputs
from moiety_client.client import Client
from moiety_client.errors import UnknownModel
from moiety_client.exchange import Call, Sealer
from moiety_local import mnist
from moiety_local.deployment import Deployment
from moiety_server.publication import upload_body
from moiety_service.http import clients
from moiety_service.security.identity import Identity
from moiety_shared.crypto.prg import new_seed
from moiety_shared.messages import wire
from moiety_shared.messages.access import AccessFile
from moiety_shared.messages.upload import Draws, MaskedModel
from moiety_shared.messages.wire import Binding, Request, Secret
from moiety_shared.problems import Problem, ProblemType
from tests.collector import Collector
from tests.envelopes import sealed

Digits = tuple[np.ndarray, np.ndarray]


def post(deployment: Deployment, body: bytes, seconds: float = 60, **headers: str) -> httpx.Response:
    with deployment.http("alice", timeout=seconds) as client:
        headers = {"authorization": f"Bearer {token(deployment)}"} | headers
        return client.post("/v1/predictions", content=body, headers=headers)


def token(deployment: Deployment) -> str:
    return AccessFile.model_validate_json(deployment.access_file.read_bytes()).token


def kind(response: httpx.Response) -> ProblemType:
    assert response.headers["content-type"] == "application/problem+json", response.text
    document = response.json()
    assert document["status"] == response.status_code and document["error"] and document["hint"]
    return Problem.from_document(document).kind


def call_for(client: Client, images: np.ndarray) -> Call:
    entry = client.model("mnist")
    return client.sealer(entry).call(inputs.encode(entry, images))


def still_serves(client: Client, digits: Digits) -> None:
    assert client.predict("mnist", digits[0][:4]).labels.tolist() == [7, 2, 1, 0]


# The main job


@pytest.mark.parametrize("rows", [1, 3, 128, 200])
def test_private_labels_equal_float_inference(client: Client, digits: Digits, rows: int) -> None:
    images = digits[0][:rows]
    answer = client.predict("mnist", images)
    expected = mnist.float_outputs(images)
    assert np.array_equal(answer.labels, expected.argmax(axis=1))
    assert np.abs(answer.outputs - expected).max() < 0.05
    cost = client.model("mnist").plan.cost(rows)
    assert (answer.rounds, answer.online_bytes) == (cost.rounds, cost.online_bytes), "formula and wire agree"


def test_canaries_come_with_a_published_model(client: Client, digits: Digits) -> None:
    assert len(client.model("mnist").canaries) == 16
    for images in (digits[0][:1], digits[0][:220]):
        answer = client.predict("mnist", images, canaries=5)
        assert np.array_equal(answer.labels, mnist.float_outputs(images).argmax(axis=1))


def test_more_images_than_a_request_takes(client: Client, digits: Digits) -> None:
    answer = client.predict("mnist", digits[0])
    assert np.array_equal(answer.labels, mnist.float_outputs(digits[0]).argmax(axis=1))
    assert (answer.labels == digits[1]).mean() > 0.97


def test_the_providers_bytes_are_those_of_the_formula(deployment: Deployment, client: Client, digits: Digits) -> None:
    """Of one model's bundles: the others of this deployment are let alone meanwhile."""
    entry = client.model("mnist")

    def received() -> tuple[int, int]:
        deployment.wait_full(entry.upload_id)
        state = deployment.party_state("bob", entry.upload_id)
        return int(str(state["bundle_rows"])), int(str(state["bundle_bytes"]))

    before = received()
    client.predict("mnist", digits[0])
    rows, size = (now - then for now, then in zip(received(), before, strict=True))
    assert rows > 0 and size == entry.plan.cost(rows).offline_bytes


def test_many_clients_at_once(deployment: Deployment, client: Client, digits: Digits) -> None:
    client.model("mnist")
    expected = mnist.float_outputs(digits[0][:64]).argmax(axis=1)

    def one(i: int) -> bool:
        with deployment.client() as mine:
            at = i % 8 * 8
            return bool((mine.predict("mnist", digits[0][at : at + 8]).labels == expected[at : at + 8]).all())

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(one, range(24)))


def test_the_async_client_does_the_same(deployment: Deployment, client: Client, digits: Digits) -> None:
    async def run() -> list[int]:
        async with deployment.async_client() as twin:
            answers = await asyncio.gather(*(twin.predict("mnist", digits[0][i]) for i in range(6)))
            return [int(answer.labels[0]) for answer in answers]

    assert asyncio.run(run()) == [7, 2, 1, 0, 4, 1]


def test_the_sidecar_speaks_the_open_inference_protocol(deployment: Deployment, digits: Digits) -> None:
    deployment.wait("client")
    with deployment.http("client", timeout=60) as rest:
        assert rest.get("/v2/models/mnist").json()["inputs"][0]["shape"] == [-1, 784]
        tensor = {"name": "input", "shape": [2, 28, 28], "datatype": "UINT8", "data": digits[0][:2].ravel().tolist()}
        answer = rest.post("/v2/models/mnist/infer", json={"id": "x", "inputs": [tensor]}).json()
        assert answer["outputs"][0] == {"name": "label", "shape": [2], "datatype": "INT64", "data": [7, 2]}
        bad = rest.post("/v2/models/mnist/infer", json={"inputs": [tensor | {"shape": [2, 28, 27]}]})
        assert kind(bad) is ProblemType.INVALID_INPUT
        assert kind(rest.get("/v2/models/other")) is ProblemType.UNKNOWN_MODEL


def test_everything_is_ready(deployment: Deployment) -> None:
    for role in ("alice", "bob", "crypto_provider", "server", "client"):
        deployment.wait(role, "/health/ready")


# Requests happen once


def test_a_repeated_request_gets_the_stored_result(deployment: Deployment, client: Client, digits: Digits) -> None:
    call = call_for(client, digits[0][:2])
    first, second = post(deployment, call.body), post(deployment, call.body)
    assert first.content == second.content and first.is_success
    assert call.open(second.content).argmax(axis=1).tolist() == [7, 2]


def test_racing_copies_run_once(deployment: Deployment, client: Client, digits: Digits) -> None:
    call = call_for(client, digits[0][:2])
    with ThreadPoolExecutor(10) as threads:
        answers = list(threads.map(lambda _: post(deployment, call.body).content, range(20)))
    assert len(set(answers)) == 1


def test_the_same_id_with_other_content_is_refused(deployment: Deployment, client: Client, digits: Digits) -> None:
    call = call_for(client, digits[0][:2])
    assert post(deployment, call.body).is_success
    other = Request.unpack(call_for(client, digits[0][2:4]).body)
    binding = replace(other.binding, request_id=call.binding.request_id)
    assert kind(post(deployment, replace(other, binding=binding).pack())) is ProblemType.REQUEST_CONFLICT
    still_serves(client, digits)


# Bad input


def resealed(client: Client, party: int, **change: object) -> bytes:
    """A request whose envelope for one party holds something else than it should."""
    entry = client.model("mnist")
    keys = Sealer(entry)._keys
    binding = Binding(entry.plan.digest, bytes.fromhex(entry.upload_id), wire.new_id(), new_seed(), int(time.time()))
    shares = [bytes(wire.share_bytes(entry.plan, 0, 1)), new_seed()]
    envelopes = []
    for p in (0, 1):
        secret = Secret(binding.request_id, new_seed(), 1, shares[p])
        begun = client._holder.handshake(binding.time, p)
        sealed_for, context = p, binding.context("input", p)
        if p == party:
            secret = replace(secret, **change.get("secret", {}))  # type: ignore[arg-type]
            sealed_for = int(str(change.get("sealed_for", p)))
            context = bytes(change.get("context", context))  # type: ignore[call-overload]
        envelopes.append(sealed(keys[sealed_for], begun, p, secret.pack(), context))
    return Request(binding, 1, (envelopes[0], envelopes[1])).pack()


@pytest.mark.parametrize("party", [0, 1], ids=["alice", "bob"])
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"sealed_for": "other"}, ProblemType.KEY_RETIRED),
        ({"context": b"another model's"}, ProblemType.SEALED_FOR_ANOTHER),
        ({"secret": {"request_id": bytes(16)}}, ProblemType.MALFORMED),
        ({"secret": {"rows": 2}}, ProblemType.MALFORMED),
        ({"secret": {"share": b"short"}}, ProblemType.MALFORMED),
        ({}, None),
    ],
)
def test_wrong_envelopes(
    deployment: Deployment, client: Client, digits: Digits, party: int, change: dict, expected: ProblemType | None
) -> None:
    if change.get("sealed_for") == "other":
        change = change | {"sealed_for": 1 - party}
    answer = post(deployment, resealed(client, party, **change))
    if expected is None:
        assert answer.is_success, "the helper of this test makes good requests too"
    else:
        assert kind(answer) is expected
    still_serves(client, digits)


def test_garbage_and_cut_requests(deployment: Deployment, client: Client, digits: Digits) -> None:
    body = call_for(client, digits[0][:1]).body
    flipped = bytearray(body)
    flipped[-5] ^= 1
    cases = [
        (b"", ProblemType.MALFORMED),
        (b"garbage" * 100, ProblemType.MALFORMED),
        (body[:-1], ProblemType.MALFORMED),
        (body + b"x", ProblemType.MALFORMED),
        (body[:4] + bytes(16) + body[20:], ProblemType.UNKNOWN_MODEL),
        (body[:20] + bytes(32) + body[52:], ProblemType.UNKNOWN_MODEL),
        (bytes(flipped), ProblemType.SEALED_FOR_ANOTHER),
        (rows_of(body, 2), ProblemType.MALFORMED),
        (rows_of(body, 0), ProblemType.INVALID_INPUT),
        (rows_of(body, 201), ProblemType.TOO_LARGE),
        (rows_of(body, 2**32 - 1), ProblemType.TOO_LARGE),
    ]
    for changed, expected in cases:
        assert kind(post(deployment, changed)) is expected
    still_serves(client, digits)


def rows_of(body: bytes, rows: int) -> bytes:
    return replace(Request.unpack(body), rows=rows).pack()


def test_oversized_compressed_and_chunked_bodies_are_not_read(
    deployment: Deployment, client: Client, digits: Digits
) -> None:
    limit = wire.request_bytes(client.model("mnist").plan, 200)
    assert kind(post(deployment, bytes(limit + 1))) is ProblemType.TOO_LARGE
    assert kind(post(deployment, b"x", **{"content-encoding": "gzip"})) is ProblemType.ENCODING_REFUSED
    assert kind(post(deployment, iter([b"x"]))) is ProblemType.LENGTH_REQUIRED  # type: ignore[arg-type]
    still_serves(client, digits)


def test_unknown_models_and_addresses(deployment: Deployment, client: Client) -> None:
    with pytest.raises(UnknownModel):
        client.predict("other", np.zeros((1, 784)))
    with deployment.http("alice") as alice:
        assert kind(alice.get("/v1/nothing")) is ProblemType.NOT_FOUND
        assert kind(alice.get("/v1/predictions")) is ProblemType.METHOD_NOT_ALLOWED
        assert kind(alice.get("/v1/models/" + "0" * 32)) is ProblemType.UNAUTHORIZED


# Uploads


def test_half_a_model_is_not_served(deployment: Deployment, client: Client, digits: Digits) -> None:
    entry = client.model("mnist")
    upload_id = "ab" * 16
    with deployment.http("alice", credential_of="server") as alice:
        body = half_upload(deployment, client, 0, upload_id)
        for broken in (body[:-9], body[:99], body[:-1] + bytes([body[-1] ^ 1])):
            assert kind(alice.put(f"/v1/models/{upload_id}", content=broken)) is ProblemType.MALFORMED
        assert kind(alice.get(f"/v1/models/{upload_id}")) is ProblemType.UNKNOWN_MODEL
        assert alice.put(f"/v1/models/{upload_id}", content=body).status_code == 201
        assert kind(alice.put(f"/v1/models/{upload_id}", content=body)) is ProblemType.UPLOAD_CONFLICT
        assert alice.get(f"/v1/models/{upload_id}").json()["state"] == "preparing", "bob does not have it"
        still_serves(client, digits)
        assert alice.delete(f"/v1/models/{upload_id}").status_code == 204
        assert kind(alice.put(f"/v1/models/{upload_id}", content=body)) is ProblemType.UPLOAD_CONFLICT, "never again"
        assert kind(alice.put(f"/v1/models/{entry.upload_id}", content=body)) is ProblemType.UPLOAD_CONFLICT
        assert kind(alice.get(f"/v1/models/{upload_id}")) is ProblemType.UNKNOWN_MODEL
        assert kind(alice.put("/v1/models/..%2f..", content=body)) in (ProblemType.NOT_FOUND, ProblemType.INVALID_INPUT)
    credential = (deployment.root / "keys" / "server" / "present" / "alice").read_text()
    with clients.client(deployment.url("bob"), credential=credential, ca=deployment.ca) as bob:
        assert kind(bob.put(f"/v1/models/{upload_id}", content=body)) is ProblemType.UNAUTHORIZED
    still_serves(client, digits)


def half_upload(deployment: Deployment, client: Client, party: int, upload_id: str) -> bytes:
    """What the owner sends to one party, of a model of zeros."""
    plan, identity = client.model("mnist").plan, Identity.load(deployment.root / "keys" / "server", "server")
    masked = MaskedModel(
        upload_id, plan, {name: np.zeros(shape, np.int32) for name, shape in plan.weights()}, Draws.fresh()
    )
    keys = Sealer(client.model("mnist"))._keys[party], identity.provider_key
    _, body = upload_body(masked, {"name": "zeros", "version": 1}, party, identity.signing_key, *keys)
    return b"".join(body)


# Dying peers


def test_a_killed_helper_is_a_clear_error_within_seconds_and_no_lasting_one(
    deployment: Deployment, client: Client, digits: Digits
) -> None:
    still_serves(client, digits)
    deployment.stop_role("bob", signal.SIGKILL)
    try:
        call = call_for(client, digits[0][:1])
        answer = post(deployment, call.body, seconds=20)
        assert kind(answer) is ProblemType.PEER_UNAVAILABLE
        assert int(answer.headers["retry-after"]) > 0
    finally:
        deployment.start_role("bob")
        deployment.wait("bob")
    still_serves(client, digits)
    assert call.open(post(deployment, call.body).content).argmax() == 7, "the failed request may be sent again"


def test_a_helper_that_dies_in_the_middle_of_runs(deployment: Deployment, client: Client, digits: Digits) -> None:
    expected = mnist.float_outputs(digits[0][:200]).argmax(axis=1)

    def load(i: int) -> bool:
        with deployment.client(timeout=60) as mine:
            return all((mine.predict("mnist", digits[0][:200]).labels == expected).all() for _ in range(6))

    with ThreadPoolExecutor(3) as threads:
        running = [threads.submit(load, i) for i in range(3)]
        time.sleep(0.3)
        deployment.stop_role("bob", signal.SIGKILL)
        deployment.start_role("bob")
        assert all(run.result() for run in running), "retried, and never wrong"


@pytest.mark.parametrize("role", ["alice", "crypto_provider"])
def test_a_restarted_role_takes_up_its_work(deployment: Deployment, client: Client, digits: Digits, role: str) -> None:
    still_serves(client, digits)
    deployment.stop_role(role, signal.SIGKILL)
    deployment.start_role(role)
    deployment.wait(role)
    for _ in range(4):
        answer = client.predict("mnist", digits[0][:200])
        assert np.array_equal(answer.labels, mnist.float_outputs(digits[0][:200]).argmax(axis=1))


def test_without_its_provider_a_party_says_so_and_recovers(
    deployment: Deployment, client: Client, digits: Digits
) -> None:
    deployment.stop_role("crypto_provider", signal.SIGKILL)
    try:
        problem = None
        for _ in range(12):  # what is in stock is still served
            answer = post(deployment, call_for(client, digits[0][:128]).body)
            if not answer.is_success:
                problem = kind(answer)
                break
        assert problem in (ProblemType.PROVIDER_UNAVAILABLE, ProblemType.RANDOMNESS_EXHAUSTED)
    finally:
        deployment.start_role("crypto_provider")
        deployment.wait("crypto_provider")
    still_serves(client, digits)


# Secrets


def test_no_secret_is_written_anywhere(
    deployment: Deployment, client: Client, digits: Digits, collector: Collector
) -> None:
    """Markers in inputs, credentials and shares; then every log, file, metric and span of every role is searched."""
    marked = np.full((1, 784), 1.2345678, dtype=np.float64)
    with deployment.http("client", timeout=60) as rest:
        tensor = {"name": "input", "shape": [1, 784], "datatype": "FP64", "data": marked.ravel().tolist()}
        assert rest.post("/v2/models/mnist/infer", json={"inputs": [tensor]}).is_success
        answers = [
            rest.post("/v2/models/mnist/infer", json={"inputs": [tensor | {"data": [[98765.4321] * 784]}]}),
            rest.post("/v2/models/mnist/infer", json={"inputs": [tensor | {"datatype": "98765.4321"}]}),
            rest.post("/v2/models/mnist/infer", content=b'{"inputs": 98765.4321'),
        ]
        assert [kind(answer) for answer in answers] == [ProblemType.INVALID_INPUT] * 3
        assert not any("98765" in answer.text for answer in answers)
    call, trace = call_for(client, digits[0][:1]), "ab" * 16
    post(deployment, call.body, traceparent=f"00-{trace}-{'cd' * 8}-01", baggage="patient=98765.4321")
    keys = deployment.root / "keys"
    private = [p.read_bytes() for p in keys.rglob("*") if p.is_file() and {"present", "sealing"} & set(p.parts)]
    private += [p.read_bytes() for p in (*keys.rglob("key.pem"), *keys.rglob("*.key"), *keys.rglob("signing.pem"))]
    assert len(private) == 19, "credentials, sealing keys, TLS keys, storage keys, the CA and the signing key"
    secrets_ = [b"1.2345678", b"98765.4321", token(deployment).encode(), *private]
    encoded = inputs.encode(client.model("mnist"), digits[0][:1])
    raw = [encoded.tobytes()[1600:1700], call.bob_seed, call._keys[0], call._keys[1], digits[0][0, 14].tobytes()]
    weights = mnist.model_folder() / "mnist.safetensors"
    raw.append(weights.read_bytes()[200_000:200_064])
    texts = [s.hex().encode() for s in raw] + [json.dumps(list(call.bob_seed)).encode()]
    time.sleep(0.2)
    searched = 0
    for path in deployment.root.rglob("*"):
        if path.is_file() and keys not in path.parents and path != deployment.access_file:
            # In a process of its own: SQLite's locks are gone once a process closes any file of its database.
            content = subprocess.run(["cat", path], capture_output=True, check=True).stdout
            searched += len(content)
            assert not [s for s in (*secrets_, *raw, *texts) if s in content], path
    assert searched > 1_000_000, "the logs and the shares at rest were really read"
    collector.wait_for(trace, "cd" * 8, {"moiety-alice": "POST /v1/predictions", "moiety-bob": "run"})
    told = list(collector.bodies)
    for role in deployment.metrics_ports:
        with httpx.Client(base_url=deployment.metrics_url(role)) as operator:
            told.append(operator.get("/metrics").content)
            assert b"moiety_build_info" in told[-1]
    assert not [s for text in told for s in (*secrets_, *raw, *texts, b"local") if s in text], "nor the subject's name"
    for path in (deployment.access_file, *keys.rglob("*"), *deployment.root.glob("*/*")):
        assert path.stat().st_mode & 0o077 == 0 or path.name == "log", path
