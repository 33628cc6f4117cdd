"""Both clients: the same methods, the catalogue, evaluations, and what they raise."""

import asyncio
import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from moiety_client import errors
from moiety_client.client import AsyncClient, Client
from moiety_client.errors import AccessFileError, CatalogueError, InvalidInput, MoietyError, UnknownModel
from moiety_client.telemetry import Telemetry
from moiety_service.security import keys
from moiety_shared.crypto.possession import private_pem, public_from_pem
from moiety_shared.crypto.sealing import PrivateKey
from moiety_shared.messages.access import AccessFile
from moiety_shared.messages.wire import Request
from moiety_shared.problems import Problem, ProblemType
from tests import plans
from tests.client.sdk.conftest import Asking, Paid
from tests.client.test_results import real

Keys = tuple[PrivateKey, PrivateKey]
X = plans.random_inputs(43)
INPUTS, SCORES = real(X), plans.scores(X) / 16.0
BEST = SCORES.argmax(axis=1)


def test_the_twins_have_the_same_methods() -> None:
    def public(kind: type) -> dict[str, list[tuple[str, object]]]:
        methods = {n: m for n, m in vars(kind).items() if not n.startswith("_") and n != "from_access"}
        return {
            name: [(p.name, p.default) for p in inspect.signature(method).parameters.values()]
            for name, method in methods.items()
        }

    assert public(Client) == public(AsyncClient)
    assert {"predict", "stream", "evaluate", "total", "models", "names", "model", "close"} == set(public(Client))


def test_the_catalogue_is_listed_verified(asking: Asking, paid: Paid) -> None:
    other = paid.entry.model_copy(update={"name": "other", "version": 1})
    paid.entries.append(other)
    assert asking.models() == [paid.entry, other]
    paid.entries = []
    assert asking.models() == []
    with pytest.raises(UnknownModel, match="Ask the catalogue which models there are"):
        asking.model("small", refresh=True)


def test_a_model_that_is_withdrawn_while_the_list_is_read_is_left_out(paid: Paid) -> None:
    asking = paid.asking("sync")
    listing = paid.__call__

    def withdrawing(request: httpx.Request) -> httpx.Response:
        answer = listing(request)
        if request.url.path == "/v1/models":
            return httpx.Response(200, text=json.dumps([{"name": "gone"}, {"name": "small"}]))
        return answer

    asking.client._http = httpx.Client(transport=httpx.MockTransport(withdrawing))  # type: ignore[union-attr]
    assert asking.models() == [paid.entry]


def test_a_model_describes_itself(paid: Paid, party_keys: Keys) -> None:
    classes = tuple(f"class{i}" for i in range(20))
    text = paid.entry.model_copy(update={"classes": classes, "description": "five scores"}).describe()
    assert "five scores" in text and "inputs of shape 4, from -8 to 8" in text and "5 outputs for each" in text
    assert "class11, ... (20 in all)" in text and "class12" not in text
    assert f"{paid.entry.plan.rounds} rounds; each party sends {paid.entry.plan.cost(1).online_bytes:,} bytes" in text
    assert "2 likeliest labels" in Paid(plans.labels(), party_keys).entry.describe()
    assert "one count for all" in Paid(plans.count(), party_keys).entry.describe()


# Evaluations


@pytest.mark.parametrize("kind", ["logits", "labels", "count"])
@pytest.mark.parametrize("client", ["sync", "async"])
def test_an_evaluation_is_right_however_it_is_done(party_keys: Keys, kind: str, client: str) -> None:
    truth = np.where(np.arange(43) % 4 == 0, (BEST + 1) % 5, BEST)
    result = Paid(getattr(plans, kind)(), party_keys).asking(client).evaluate("small", INPUTS, truth)
    assert (result.correct, result.total, result.rounds) == (32, 43, 9)
    assert result.accuracy == 32 / 43 and str(result) == "32 of 43 right (74.42%)"
    if kind == "count":
        assert result.prediction is None and result.right is None, "nothing is known of each"
    else:
        assert np.array_equal(result.prediction.labels, BEST)
        assert np.array_equal(result.right, truth == BEST)


def test_labels_may_be_names(asking: Asking, paid: Paid) -> None:
    names = ("cat", "dog", "emu", "fox", "gnu")
    paid.entries = [paid.entry.model_copy(update={"classes": names})]
    result = asking.evaluate("small", INPUTS, [names[i] for i in BEST])
    assert result.accuracy == 1 and result.prediction.names[0] == names[BEST[0]]
    with pytest.raises(InvalidInput, match="not one of the model's 5 classes"):
        asking.evaluate("small", INPUTS, ["yak"] * 43)


@pytest.mark.parametrize("labels", [[0] * 42, [0] * 42 + [5], [-1] * 43, [0.5] * 43, ["cat"] * 43, None], ids=str)
def test_labels_that_do_not_fit_cost_nothing(asking: Asking, paid: Paid, labels: object) -> None:
    with pytest.raises(InvalidInput, match="label"):
        asking.evaluate("small", INPUTS, labels)
    assert not paid.asked


def test_only_a_count_can_be_the_owners(asking: Asking, party_keys: Keys) -> None:
    with pytest.raises(InvalidInput, match="leave reveal_to out"):
        asking.evaluate("small", INPUTS, BEST, reveal_to="owner")
    with pytest.raises(InvalidInput, match="client, owner or both"):
        asking.evaluate("small", INPUTS, BEST, reveal_to="everybody")
    with pytest.raises(InvalidInput, match="call total"):
        Paid(plans.totals(), party_keys).asking("sync").evaluate("small", INPUTS, BEST)


# Repetitions


def test_only_the_same_request_is_sent_again(asking: Asking, paid: Paid) -> None:
    paid.before = [Problem(ProblemType.OVERLOADED), httpx.ConnectError("no")]
    paid.after = [httpx.ReadTimeout("slow")]
    assert np.array_equal(asking.predict("small", INPUTS[:3]).outputs, SCORES[:3])
    assert len(paid.asked) == 4 and len({(a.binding, bytes(a.envelopes[0])) for a in paid.asked}) == 1
    assert paid.paid == 3


def test_a_request_that_is_too_old_is_made_anew_once(asking: Asking, paid: Paid) -> None:
    old = Problem(ProblemType.REQUEST_EXPIRED, "its time is 900 seconds behind alice's clock")
    paid.before = [Problem(ProblemType.PEER_UNAVAILABLE), old]
    assert np.array_equal(asking.predict("small", INPUTS).outputs, SCORES)
    ids = [asked.binding.request_id for asked in paid.asked]
    assert ids[0] == ids[1] != ids[2] and paid.paid == len(INPUTS)
    assert len({asked.binding.request_digest for asked in paid.asked}) == 2, "nothing of it is used again"
    paid.before, paid.asked = [old] * 9, []
    with pytest.raises(errors.WrongClock, match=r"900 seconds behind alice's clock.*set it"):
        asking.predict("small", INPUTS)
    assert len(paid.asked) == 2


def test_it_waits_no_longer_than_it_may(paid: Paid) -> None:
    given: list[float] = []

    def slow(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            given.append(request.extensions["timeout"]["read"])
            raise httpx.ReadTimeout("slow", request=request)
        return paid(request)

    asking = paid.asking("sync", timeout=0.4)
    asking.client._http = httpx.Client(transport=httpx.MockTransport(slow))  # type: ignore[union-attr]
    with pytest.raises(errors.ServiceUnavailable, match="Try again shortly"):
        asking.predict("small", INPUTS[:1])
    assert len(given) > 1 and given == sorted(given, reverse=True) and given[-1] < given[0] <= 0.4, "what is left"


# What it raises


def test_the_tree_of_errors_is_the_one_that_is_drawn() -> None:
    drawn: dict[str, str] = {}
    above = {0: ""}
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"^([│├└─ ]*)([A-Z]\w+)", line)
        if found and hasattr(errors, found[2]):
            depth = len(found[1]) // 4
            drawn[found[2]] = above[depth - 1] if depth else ""
            above[depth] = found[2]
    made = {
        name: kind
        for name, kind in vars(errors).items()
        if inspect.isclass(kind) and issubclass(kind, MoietyError) and kind is not errors.FromProblem
    }
    assert set(made) == set(drawn) and len(drawn) > 12
    for name, parent in drawn.items():
        assert not parent or issubclass(made[name], made[parent]), name
        assert all(not issubclass(made[name], made[other]) or other in _ancestors(name, drawn) for other in drawn), name


def _ancestors(name: str, drawn: dict[str, str]) -> list[str]:
    return [name, *(_ancestors(drawn[name], drawn) if drawn[name] else [])]


@pytest.mark.parametrize("kind", list(ProblemType))
def test_every_refusal_says_what_to_do(kind: ProblemType) -> None:
    assert str(errors.from_problem(Problem(kind, "because"))).endswith(f"because. {kind.hint}")


def test_an_access_file_that_is_none_says_whom_to_ask(tmp_path: Path) -> None:
    file = tmp_path / "access.json"
    wrong = ["{}", "no json", json.dumps({"catalogue_url": "https://o", "owner_key": "k", "ca": "no certificate"})]
    for text in (None, *wrong):
        if text is not None:
            file.write_text(text)
        for kind in (Client, AsyncClient):
            with pytest.raises(AccessFileError, match="ask the"):
                kind.from_access(file)


def test_a_key_of_ones_own_is_read_from_its_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By argument, by setting, or out of the access file; in that file's place, and not where others read it."""
    access, file, public = tmp_path / "access.json", tmp_path / "client.pem", tmp_path / "client.pub"
    keys.client(file, public)
    access.write_text(AccessFile(catalogue_url="https://o", owner_key="k", token="t").model_dump_json())
    own = public_from_pem(public.read_bytes())

    def held(**options: Any) -> Any:
        with Client.from_access(access, **options) as client:
            return client._holder.key and client._holder.key.public_key()

    assert held() is None and held(key=file) == held(key=file.read_text()) == own
    monkeypatch.setenv("MOIETY_CLIENT_KEY_FILE", str(file))
    assert held() == own
    other = Ed25519PrivateKey.generate()
    access.write_text(
        AccessFile(catalogue_url="https://o", owner_key="k", token="t", key=private_pem(other)).model_dump_json()
    )
    assert held() == other.public_key() and held(key=file) == own
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o640)
    with pytest.raises(AccessFileError, match="chmod go-rwx"):
        held(key=file)
    for wrong in (public, tmp_path / "missing", public.read_text(), "x"):
        with pytest.raises(AccessFileError, match=r"Ed25519|chmod"):
            held(key=wrong)
    assert "PRIVATE" not in repr(AccessFile.model_validate_json(access.read_bytes()))


def test_a_catalogue_that_does_not_answer_says_what_to_look_at() -> None:
    with Client("http://127.0.0.1:9", owner_key="k", timeout=2) as client:
        for call in (lambda: client.model("mnist"), client.models):
            with pytest.raises(CatalogueError, match="check that the model owner's server runs"):
                call()

    async def twin() -> None:
        async with AsyncClient("http://127.0.0.1:9", owner_key="k", timeout=2) as client:
            await client.models()

    with pytest.raises(CatalogueError, match="server runs"):
        asyncio.run(twin())
    with pytest.raises(errors.InsecureAddress, match="https://"):
        Client("http://example.org")


# What goes wrong on the way


def over(asking: Asking, answer: Callable[[httpx.Request], httpx.Response]) -> None:
    """From now on the client's requests are answered so."""
    transport = httpx.MockTransport(answer)
    is_sync = isinstance(asking.client, Client)
    asking.client._http = httpx.Client(transport=transport) if is_sync else httpx.AsyncClient(transport=transport)


def test_an_outage_may_be_long(paid: Paid, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses grow to what the service asks for, and no further: not out of a float either."""
    pauses: list[float] = []
    monkeypatch.setattr("moiety_client.client.time.sleep", pauses.append)
    paid.before = [Problem(ProblemType.PARTY_UNAVAILABLE, retry_after=3)] * 1100
    answer = paid.asking("sync", timeout=86400).predict("small", INPUTS)
    assert len(answer) == 43 and len(pauses) == 1100 and pauses == sorted(pauses)
    assert pauses[:3] == [0.05, 0.1, 0.2] and set(pauses[10:]) == {3.0}


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("given_up", [KeyboardInterrupt(), SystemExit(), asyncio.CancelledError()])
def test_a_call_that_is_given_up_counts_as_cancelled(paid: Paid, kind: str, given_up: BaseException) -> None:
    counts: list[str] = []
    asking = paid.asking(kind)
    asking.client._telemetry = Telemetry(ended=counts.append)

    def giving_up(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            paid.asked.append(Request.unpack(request.content))
            raise given_up
        return paid(request)

    transport = httpx.MockTransport(giving_up)
    asking.client._http = (
        httpx.Client(transport=transport) if kind == "sync" else httpx.AsyncClient(transport=transport)
    )
    with pytest.raises(type(given_up)):
        asking.predict("small", INPUTS)
    assert counts == ["cancelled"] and len(paid.asked) == 1


def test_a_task_that_is_cancelled_counts_once_and_at_once(paid: Paid) -> None:
    counts: list[str] = []
    client = paid.asking("async").client
    client._telemetry = Telemetry(ended=counts.append)

    async def run() -> None:
        asked = asyncio.Event()

        async def never(request: httpx.Request) -> httpx.Response:
            if request.method == "POST":
                asked.set()
                await asyncio.sleep(60)
            return paid(request)

        client._http = httpx.AsyncClient(transport=httpx.MockTransport(never))
        task = asyncio.create_task(client.predict("small", INPUTS))  # type: ignore[arg-type]
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert counts == ["cancelled"], "when it is cancelled, not when what it left is collected"

    asyncio.run(run())


@pytest.mark.parametrize("said", ["9" * 5000, "-1", "1e3", " 7", "\u0667", "1_0", "", "nine"])
def test_what_alice_counts_is_a_number_or_not_said(asking: Asking, paid: Paid, said: str) -> None:
    """A proxy on the way may write anything into a header."""

    def counting(request: httpx.Request) -> httpx.Response:
        answer = paid(request)
        if request.method == "POST":
            told = [(b"moiety-rounds", said.encode()), (b"moiety-online-bytes", b"7")]
            return httpx.Response(200, content=answer.content, headers=told)
        return answer

    over(asking, counting)
    answer = asking.predict("small", INPUTS)
    assert (answer.rounds, answer.online_bytes) == (0, 7) and np.array_equal(answer.outputs, SCORES)
