"""A hostile catalogue: it holds every entry that the owner ever signed, and serves whichever it likes."""

import json
import multiprocessing
import threading
import time
import warnings
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from moiety_client import core
from moiety_client.client import AsyncClient, Client
from moiety_client.errors import CatalogueError, ExpiredEntry, StateFileError, UntrustedEntry
from moiety_client.state import StateFile
from moiety_shared.crypto.signing import key_text
from moiety_shared.messages.catalogue import Entry, SignedEntry, sign
from tests import plans

OWNER, OTHER = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
KEY = key_text(OWNER.public_key())


class Catalogue:
    """Serves what it is told to; every name gets the same."""

    def __init__(self, entry: Entry) -> None:
        update = {"plan": plans.logits(), "name": "small", "preprocessing": None, "classes": (), "revision": 7}
        self.entry = entry.model_copy(update=update)
        self.serve(self.entry)

    def serve(self, entry: Entry, key: Ed25519PrivateKey = OWNER, **change: object) -> SignedEntry:
        self.served = sign(entry.model_copy(update=change), key)
        return self.served

    def __call__(self, _: httpx.Request) -> httpx.Response:
        return httpx.Response(200, text=self.served.model_dump_json())

    def client(self, owner_key: str = KEY, state: Path | None = None) -> Client:
        made = Client("https://owner", owner_key=owner_key, state=state)
        made._http = httpx.Client(transport=httpx.MockTransport(self))
        return made

    def look(self, client: Client) -> Entry:
        return client.model("small", refresh=True)


@pytest.fixture
def catalogue(entry: Entry) -> Catalogue:
    return Catalogue(entry)


@pytest.fixture(params=["memory", "file"])
def state(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path / "seen.json" if request.param == "file" else None


def refused(catalogue: Catalogue, client: Client, said: str, kind: type[Exception] = UntrustedEntry) -> None:
    with pytest.raises(kind, match=said):
        catalogue.look(client)


def test_an_older_entry_is_refused_and_a_rollback_is_not(catalogue: Catalogue, state: Path | None) -> None:
    client, old = catalogue.client(state=state), catalogue.served
    assert catalogue.look(client).revision == 7
    catalogue.serve(catalogue.entry, version=2, revision=8)
    assert catalogue.look(client).version == 2
    catalogue.served = old
    refused(catalogue, client, "revision 7, not 8")
    assert client.model("small").version == 2, "what it had stays good"
    catalogue.serve(catalogue.entry, version=1, revision=9)
    assert catalogue.look(client).version == 1, "the owner activated it again"
    assert catalogue.look(client).version == 1, "the same again is no older one"


def test_another_models_entry_is_refused(catalogue: Catalogue) -> None:
    catalogue.serve(catalogue.entry, name="other", revision=99)
    client = catalogue.client()
    refused(catalogue, client, "gave model 'other' for 'small'")
    assert client.model("other").name == "other"
    catalogue.serve(catalogue.entry)
    assert catalogue.look(client).revision == 7, "names are counted apart"


def test_a_version_that_is_not_active_is_refused(catalogue: Catalogue) -> None:
    """Published with --no-activate, or rolled back from and refreshed since: signed later than the active one."""
    client = catalogue.client()
    catalogue.look(client)
    catalogue.serve(catalogue.entry, version=2, revision=8, active=False)
    refused(catalogue, client, "not the active one")
    catalogue.serve(catalogue.entry)
    assert catalogue.look(client).revision == 7, "and does not count as seen"


def test_an_expired_entry_is_refused_and_read_again_when_it_expires(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    client = catalogue.client()
    catalogue.serve(catalogue.entry, issued=int(now) - 100, expires=int(now) - 1)
    refused(catalogue, client, "expired at .* `moiety refresh`", ExpiredEntry)
    first = catalogue.serve(catalogue.entry, issued=int(now), expires=int(now) + 1000)
    assert client.model("small") == first.entry
    catalogue.serve(catalogue.entry, revision=8)
    assert client.model("small") == first.entry, "it is read once"
    monkeypatch.setattr(core.time, "time", lambda: now + 2000)
    assert client.model("small").revision == 8
    catalogue.served = first
    refused(catalogue, catalogue.client(), "expired at", ExpiredEntry)


def test_what_others_signed_is_refused(catalogue: Catalogue) -> None:
    client = catalogue.client()
    good = catalogue.served
    catalogue.serve(catalogue.entry, OTHER, revision=99)
    refused(catalogue, client, "not signed by the owner's key")
    catalogue.served = good.model_copy(update={"entry": good.entry.model_copy(update={"revision": 99})})
    refused(catalogue, client, "not signed by the owner's key")
    catalogue.served = good
    assert catalogue.look(client).revision == 7


def test_the_first_key_is_trusted_once_something_is_signed_with_it(catalogue: Catalogue, state: Path | None) -> None:
    """A forged answer, or one that is refused for another reason, must not lock the true owner out."""
    client, good = catalogue.client("", state), catalogue.served
    forged = good.model_copy(update={"owner_key": key_text(OTHER.public_key())})
    other = sign(good.entry.model_copy(update={"name": "other"}), OTHER)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for catalogue.served in (forged, other):
            refused(catalogue, client, r"not signed|gave model")
        catalogue.served = good
        assert catalogue.look(client) == good.entry
    catalogue.serve(good.entry, OTHER, revision=99)
    refused(catalogue, client, "not signed")
    if state is not None:  # and by whoever comes later
        refused(catalogue, catalogue.client("", state), "not signed")


def test_the_asynchronous_client_looks_as_closely(catalogue: Catalogue, tmp_path: Path) -> None:
    import asyncio

    async def run() -> None:
        async with AsyncClient("https://owner", owner_key=KEY, state=tmp_path / "seen.json") as client:
            client._http = httpx.AsyncClient(transport=httpx.MockTransport(catalogue))
            await client.model("small")
            catalogue.serve(catalogue.entry, revision=6)
            with pytest.raises(UntrustedEntry, match="revision 6, not 7"):
                await client.model("small", refresh=True)

    asyncio.run(run())


# The file


def test_the_file_is_named_by_the_setting_and_shared(
    catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "seen.json"
    monkeypatch.setenv("MOIETY_CLIENT_STATE", str(path))
    catalogue.look(catalogue.client())
    assert path.stat().st_mode & 0o777 == 0o600
    assert json.loads(path.read_text())["revisions"] == {KEY: {"small": 7}}
    catalogue.serve(catalogue.entry, revision=6)
    refused(catalogue, catalogue.client(), "revision 6, not 7")
    monkeypatch.delenv("MOIETY_CLIENT_STATE")
    assert catalogue.look(catalogue.client()).revision == 6, "who remembers nothing can be shown it until it expires"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 2}', '{"revisions": {"k": {"m": "x"}}}'])
def test_another_file_is_refused_and_left_alone(catalogue: Catalogue, tmp_path: Path, text: str) -> None:
    path = tmp_path / "seen.json"
    path.write_text(text)
    refused(catalogue, catalogue.client(state=path), "MOIETY_CLIENT_STATE", StateFileError)
    assert path.read_text() == text
    refused(catalogue, catalogue.client(state=tmp_path / "none" / "seen.json"), "MOIETY_CLIENT_STATE", StateFileError)


def test_a_refused_entry_leaves_the_file_as_it_was(catalogue: Catalogue, tmp_path: Path) -> None:
    path = tmp_path / "seen.json"
    catalogue.look(catalogue.client(state=path))
    before = path.read_text()
    for change in ({"revision": 6}, {"name": "other"}, {"active": False}, {"expires": 1_700_000_001}):
        catalogue.serve(catalogue.entry, **change)
        with pytest.raises(CatalogueError):
            catalogue.look(catalogue.client(state=path))
    assert path.read_text() == before


def _see(path: Path, first: int) -> None:
    """One of several who write: names of its own, and one name of all."""
    for at in range(20):
        with StateFile(path).changing() as seen:
            revisions = seen.revisions.setdefault("owner", {})
            revisions[f"model {first + at}"] = 1
            revisions["all"] = revisions.get("all", 0) + 1


def test_nothing_is_lost_between_processes_and_threads(tmp_path: Path) -> None:
    path = tmp_path / "seen.json"
    context = multiprocessing.get_context("spawn")
    writers: list[threading.Thread | multiprocessing.process.BaseProcess] = [
        *(context.Process(target=_see, args=(path, 1000 * n)) for n in range(2)),
        *(threading.Thread(target=_see, args=(path, 1000 * n)) for n in (7, 8)),
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    with StateFile(path).changing() as seen:
        assert seen.revisions["owner"]["all"] == 80 and len(seen.revisions["owner"]) == 81
