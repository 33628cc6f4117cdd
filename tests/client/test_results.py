"""What comes back, by the kind of output: labels, counts and what a model does last, over real runs in one process."""

import asyncio
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from moiety_client import client as sdk
from moiety_client import exchange, inputs, tasks
from moiety_client.client import Client
from moiety_client.errors import InvalidInput, LabelsOnly
from moiety_client.settings import ClientSettings
from moiety_client.sidecar import Upstream, build
from moiety_shared.crypto.prg import Stream, new_seed
from moiety_shared.crypto.sealing import PrivateKey, seal_result
from moiety_shared.messages.catalogue import Entry, PartyEndpoint, Preprocessing, sign
from moiety_shared.messages.wire import Request, pack_result
from moiety_shared.plan.plan import Plan
from moiety_shared.protocols import graph
from moiety_shared.protocols.opening import lockstep
from moiety_shared.ring import Array
from tests import plans
from tests.asgi import InProcess
from tests.envelopes import opened
from tests.protocols.running import Run, bundle, prepare

Keys = tuple[PrivateKey, PrivateKey]


class Service:
    """The catalogue and both parties, who run the protocol, as one httpx transport."""

    def __init__(self, plan: Plan, keys: Keys) -> None:
        self.keys, self.run, self.owner = keys, Run(plan, plans.weights()), Ed25519PrivateKey.generate()
        names = ("alice", "bob")
        self.entry = Entry(
            name="small",
            version=3,
            upload_id="00" * 16,
            plan=plan,
            parties=tuple(  # type: ignore[arg-type]
                PartyEndpoint(name=n, url="https://p", sealing_key=k.public.text())
                for n, k in zip(names, keys, strict=True)
            ),
            max_rows=100,
            **plans.TERM,  # type: ignore[arg-type]
        )
        self.results: list[list[Array]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.startswith("/v1/models/"):
            return httpx.Response(200, text=sign(self.entry, self.owner).model_dump_json())
        return httpx.Response(200, content=self.compute(request.content), headers={"moiety-rounds": "9"})

    def compute(self, body: bytes) -> bytes:
        request, plan = Request.unpack(body), self.entry.plan
        request.check(plan, self.entry.max_rows)
        rows, binding, run = request.rows, request.binding, self.run
        secrets = [opened(key, request, plan, p)[1] for p, key in enumerate(self.keys)]
        shape = (rows, plan.input.shared_size)
        shares = (
            np.frombuffer(secrets[0].share, dtype=np.int32).reshape(shape),
            Stream(bytes(secrets[1].share), "input").words("share", shape, np.int32),
        )
        seeds = [new_seed() for _ in range(2)]
        dealt = bundle(plan, rows, run.masks, seeds)
        slices = [
            graph.evaluate_slices(plan, p, shares[p], prepare(plan, p, rows, seeds[p], dealt, w), w)
            for p, w in enumerate(run.models)
        ]
        outputs = [lockstep(*pair) for pair in zip(*slices, strict=True)]
        leaving = [graph.given_out(plan, np.concatenate([one[p] for one in outputs])) for p in (0, 1)]
        self.results.append([np.frombuffer(share, np.uint8) for share in leaving])
        sealed = [seal_result(secrets[p].result_key, leaving[p], binding.context("result", p)) for p in (0, 1)]
        return pack_result(binding.request_id, (sealed[0], sealed[1]))

    def client(self) -> Client:
        made = Client("https://owner", owner_key=sign(self.entry, self.owner).owner_key)
        made._http = httpx.Client(transport=httpx.MockTransport(self))
        return made

    def async_client(self) -> Upstream:
        made = Upstream("https://owner", owner_key=sign(self.entry, self.owner).owner_key)
        made._http = httpx.AsyncClient(transport=httpx.MockTransport(self))
        return made


def real(x: Array) -> np.ndarray:
    return x / 16.0


@pytest.fixture(scope="module")
def x() -> Array:
    return plans.random_inputs(230)


@pytest.fixture(scope="module")
def order(x: Array) -> np.ndarray:
    """Classes from the best score down, ties to the lower one."""
    return np.argsort(-plans.scores(x), axis=1, kind="stable")


def test_labels_come_in_order_and_outputs_do_not_come(party_keys: Keys, x: Array, order: np.ndarray) -> None:
    service = Service(plans.labels(top=3), party_keys)
    answer = service.client().predict("small", real(x))
    assert np.array_equal(answer.labels, order[:, 0]) and np.array_equal(answer.top, order[:, :3])
    assert answer.names[:2] == [str(n) for n in order[:2, 0]]
    with pytest.raises(LabelsOnly, match="read `labels` or `top`"):
        _ = answer.outputs
    for alice, bob in service.results:
        assert set(np.unique(alice ^ bob)) == {0, 1, 2, 3}, "ranks and nothing else"


@pytest.mark.parametrize("final", ["none", "softmax", "log_softmax"])
def test_outputs_are_what_the_model_would_give(party_keys: Keys, x: Array, order: np.ndarray, final: str) -> None:
    answer = Service(plans.logits(final), party_keys).client().predict("small", real(x))
    expected = plans.scores(x) / 16.0
    if final != "none":
        expected = expected - expected.max(axis=1, keepdims=True)
        expected = expected - np.log(np.exp(expected).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(answer.outputs, np.exp(expected) if final == "softmax" else expected, atol=1e-12)
    assert np.array_equal(answer.labels, order[:, 0])
    if final == "none":
        assert np.array_equal(answer.top, order)


def test_of_an_evaluation_only_the_count_leaves(party_keys: Keys, x: Array, order: np.ndarray) -> None:
    service = Service(plans.count(), party_keys)
    truth = np.where(np.arange(len(x)) % 3 == 0, (order[:, 0] + 1) % plans.CLASSES, order[:, 0])
    answer = service.client().evaluate("small", real(x), truth)
    hits = order[:, 0] == truth
    assert (answer.correct, answer.total, answer.rounds) == (hits.sum(), len(x), 9)
    assert answer.accuracy == hits.mean()
    counts = [int((a.view(np.int32) + b.view(np.int32))[0]) for a, b in service.results]
    assert counts == [hits[at : at + 100].sum() for at in (0, 100, 200)], "one number for each request"
    assert all(len(share) == 4 for shares in service.results for share in shares)

    async def twin() -> sdk.Evaluation:
        async with service.async_client() as client:
            return await client.evaluate("small", real(x[0]), 3)

    assert asyncio.run(twin()).correct == int(order[0, 0] == 3)


def test_of_a_total_nothing_but_the_sum_is_joined(party_keys: Keys, x: Array, monkeypatch: pytest.MonkeyPatch) -> None:
    joined: list[np.ndarray] = []

    def joining(plan: Plan, shares: tuple[Array, Array]) -> np.ndarray:
        joined.append(exchange.joined(plan, shares))
        return joined[-1]

    monkeypatch.setattr(tasks, "joined", joining)
    service = Service(plans.totals(), party_keys)
    expected = plans.scores(x).sum(axis=0) / 16.0
    assert np.array_equal(service.client().total("small", real(x)), expected)
    assert len(service.results) == 3 and len(joined) == 1, "three requests, of which none is opened by itself"
    assert all(len(share) == 4 * plans.CLASSES for shares in service.results for share in shares)

    async def twin() -> np.ndarray:
        async with service.async_client() as client:
            return await client.total("small", real(x[:7]))

    assert np.array_equal(asyncio.run(twin()), plans.scores(x[:7]).sum(axis=0) / 16.0)
    with pytest.raises(InvalidInput, match="call predict"):
        Service(plans.logits(), party_keys).client().total("small", real(x[:1]))


def test_labels_are_shared_like_the_input(party_keys: Keys, x: Array) -> None:
    entry = Service(plans.count(), party_keys).entry
    elements = inputs.encode_labelled(entry, real(x[:3]), [0, 4, 2])
    assert np.array_equal(elements[:, : plans.SIZE], x[:3])
    assert elements[:, plans.SIZE :].tolist() == [[0], [4], [2]]
    assert elements.nbytes == 3 * entry.plan.input_row_bytes


@pytest.mark.parametrize(
    "truth",
    [[0], [0, 1, 2], [0, 5], [-1, 0], [0.0, 1.0], ["0", "1"], [[0, 1]], [True, False], None],
    ids=str,
)
def test_labels_that_do_not_fit_are_refused_before_anything_is_sent(party_keys: Keys, x: Array, truth: object) -> None:
    service = Service(plans.count(), party_keys)
    with pytest.raises(InvalidInput, match="label"):
        service.client().evaluate("small", real(x[:2]), truth)  # type: ignore[arg-type]
    assert not service.results


@pytest.mark.parametrize("shape", [(3, 4, 5), (60,)])
def test_coloured_pictures_and_floats_of_any_rank_encode_alike(party_keys: Keys, shape: tuple[int, ...]) -> None:
    plan = plans.logits()
    wide = plan.input.model_copy(update={"shape": shape, "frac_bits": 9})
    how = Preprocessing(channels=3, size=(4, 5), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    update = {"plan": plan.model_copy(update={"input": wide}), "preprocessing": how}
    entry = Service(plan, party_keys).entry.model_copy(update=update)
    pixels = (np.arange(2 * 60) * 37 % 256).astype(np.uint8).reshape(2, 4, 5, 3)
    floats = np.moveaxis((pixels / 255 - how.mean) / how.std, -1, 1).reshape(2, *shape)
    encoded = inputs.encode(entry, pixels)
    assert encoded.shape == (2, 60) and np.abs(encoded - inputs.encode(entry, floats)).max() <= 1
    assert np.array_equal(inputs.encode(entry, pixels[0]), encoded[:1])
    for wrong in (pixels[..., :1], pixels.reshape(2, 3, 4, 5), floats[:, :-1]):
        with pytest.raises(InvalidInput):
            inputs.encode(entry, wrong)
    smaller = plan.model_copy(update={"input": wide.model_copy(update={"shape": (48,)})})
    anew = {"plan": smaller, "preprocessing": how.model_copy(update={"size": (4, 4)})}
    with pytest.raises(InvalidInput, match="pictures of another size now"):
        inputs.encode_rows(entry.model_copy(update=anew), inputs.rows(entry, pixels))


def test_a_model_is_asked_for_what_it_is_published_for(party_keys: Keys, x: Array) -> None:
    with pytest.raises(InvalidInput, match="call evaluate"):
        Service(plans.count(), party_keys).client().predict("small", real(x))
    for plan in (plans.logits(), plans.labels()):
        with pytest.raises(InvalidInput, match="call predict"):
            inputs.encode_labelled(Service(plan, party_keys).entry, real(x[:1]), [0])


@pytest.fixture
def rest(party_keys: Keys) -> Iterator[list[InProcess]]:
    """The sidecars of a model that gives logits, labels, a count."""
    made = []
    for plan in (plans.logits("softmax"), plans.labels(), plans.count()):
        made.append(InProcess(build(Service(plan, party_keys).async_client(), ClientSettings())))
    yield made


def test_the_sidecar_names_and_gives_what_the_model_gives(rest: list[InProcess], x: Array, order: np.ndarray) -> None:
    tensor = {"name": "input", "shape": [2, 4], "datatype": "FP64", "data": real(x[:2]).tolist()}
    for app, names in zip(rest, (["label", "output", "probability"], ["labels", "top"], []), strict=True):
        stated = app.get("/v2/models/small").json()["outputs"]
        assert [output["name"] for output in stated] == names
        answer = app.post("/v2/models/small/infer", json={"inputs": [tensor]})
        if not names:
            assert answer.status_code == 422 and "call evaluate" in answer.json()["detail"]
            continue
        outputs = answer.json()["outputs"]
        for given, described in zip(outputs, stated, strict=True):
            assert (given["name"], given["datatype"]) == (described["name"], described["datatype"])
            assert given["shape"] == [2, *described["shape"][1:]] and len(given["data"]) == np.prod(given["shape"])
        assert outputs[0]["data"] == order[:2, 0].tolist() and outputs[0]["datatype"] == "INT64"
    labels, top = rest[1].post("/v2/models/small/infer", json={"inputs": [tensor]}).json()["outputs"]
    assert top == {"name": "top", "shape": [2, 2], "datatype": "INT64", "data": order[:2, :2].ravel().tolist()}
    assert labels["data"] == order[:2, 0].tolist()
