"""A publish may end anywhere: what it has uploaded is published, or wiped again, or named by `moiety uploads`."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from moiety_server import publication, sources
from moiety_server.compiler.compilation import Compiled
from moiety_server.owner import Owner
from moiety_server.publication import publish
from moiety_server.settings import ServerSettings
from moiety_service.security.identity import Identity
from moiety_shared.messages.catalogue import SignedEntry
from moiety_shared.messages.upload import HEADER_BYTES, Head
from moiety_shared.problems import PROBLEM_JSON, Problem, ProblemType

NAMES = ("alice", "bob")


class Killed(BaseException):
    """The owner's process is gone: nothing of it runs any more, no cleaning up either."""


@dataclass
class Party(httpx.BaseTransport):
    """What the owner sees of a party. `at_call` is told of each request, before and after it is done."""

    name: str
    key: str
    at_call: Callable[[str], None]
    models: dict[str, tuple[str, int]] = field(default_factory=dict)
    up: bool = True

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        what = f"{self.name} {request.method} {re.sub('[0-9a-f]{32}', 'ID', request.url.path)}"
        if not self.up:
            raise httpx.ConnectError("away", request=request)
        self.at_call(f"before {what}")
        answer = self._answer(request)
        self.at_call(f"after {what}")
        return answer

    def _answer(self, request: httpx.Request) -> httpx.Response:
        upload_id = request.url.path.rpartition("/")[2]
        match request.method, request.url.path:
            case "GET", "/v1/keys":
                return httpx.Response(200, json={"role": self.name, "sealing_key": self.key})
            case "GET", "/v1/models":
                held = [{"upload_id": at, "name": n, "version": v} for at, (n, v) in self.models.items()]
                return httpx.Response(200, json={"models": held})
            case "PUT", "/v1/revocations":
                return httpx.Response(204)
            case "PUT", _:
                raw = request.read()
                manifest = Head.unpack(raw[: HEADER_BYTES + Head.size(raw)]).manifest
                self.models[upload_id] = manifest.name, manifest.version
                return httpx.Response(201, json={})
            case "DELETE", _:
                self.models.pop(upload_id, None)
                return httpx.Response(204)
            case _ if upload_id in self.models:
                return httpx.Response(200, json={"state": "ready", "max_rows": 9})
            case _:
                problem = Problem(ProblemType.UNKNOWN_MODEL).document()
                return httpx.Response(404, json=problem, headers={"content-type": PROBLEM_JSON})


class World:
    """An owner and both parties."""

    def __init__(self, root: Path, identities: dict[str, Identity]) -> None:
        self.settings, self.identity = ServerSettings(data_dir=root), identities["server"]
        self.seen: list[str] = []
        self.at: Callable[[str], None] = lambda _: None
        self.parties = [Party(name, identities[name].keyring.public.text(), self._at_call) for name in NAMES]

    def _at_call(self, what: str) -> None:
        self.seen.append(what)
        self.at(what)

    @contextmanager
    def owner(self) -> Iterator[Owner]:
        """A process of the owner's."""
        made = Owner(self.settings, self.identity)
        made._clients = [httpx.Client(transport=p, base_url=f"http://{p.name}") for p in self.parties]
        try:
            yield made
        finally:
            made.close()

    def publish(self, compiled: Compiled) -> SignedEntry:
        with self.owner() as owner:
            return publish(owner, "m", compiled, preprocessing=None, classes=(), description="")

    def check(self) -> None:
        """Everything at a party is in the catalogue, or can be named and removed."""
        with self.owner() as owner:
            published = {entry.upload_id for entry in owner._entries()}
            left = owner.left_over()
            held = {upload_id for party in self.parties for upload_id in party.models}
            assert held <= published | {one.upload_id for one in left}
            for one in left:
                assert one.at == tuple(one.upload_id in party.models for party in self.parties)
                assert one.name == "m" and one.started
                owner.remove(one.upload_id)
            assert owner.left_over() == []
            assert {upload_id for party in self.parties for upload_id in party.models} == published
            for version in owner.catalogue.versions("m"):
                owner.catalogue.get("m", version)


@pytest.fixture(scope="module")
def compiled() -> Compiled:
    return sources.load("mnist").compile()


@pytest.fixture
def w(tmp_path: Path, identities: dict[str, Identity], monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(publication.canaries, "choose", lambda *_: ())
    return World(tmp_path, identities)


def test_a_publish_that_is_interrupted_anywhere_leaves_nothing(w: World, compiled: Compiled) -> None:
    """Ctrl-C, and a party's refusal, before and after each call to a party; then the next publish comes through."""
    assert w.publish(compiled).entry.version == 1
    calls, version = list(w.seen), 1
    assert len(calls) > 12 and "after alice PUT /v1/models/ID" in calls
    for number, expected in enumerate(calls):
        for reason in (KeyboardInterrupt(), Problem(ProblemType.STATE_UNAVAILABLE)):

            def stops(what: str, at: int = number + 1, reason: BaseException = reason) -> None:
                if len(w.seen) == at:
                    w.at = lambda _: None
                    raise reason

            w.seen.clear()
            w.at = stops
            with pytest.raises(type(reason)):
                w.publish(compiled)
            assert w.seen[number] == expected
            version += "GET /v1/keys" not in expected or number > 4  # what was begun has had its number
            held = [set(party.models) for party in w.parties]
            with w.owner() as owner:
                assert held[0] == held[1] == {entry.upload_id for entry in owner._entries()}
                assert owner.left_over() == []
    with w.owner() as owner:
        assert owner.catalogue.versions("m") == [1]
    assert w.publish(compiled).entry.version == version + 1
    w.check()


def test_a_publish_whose_process_is_killed_leaves_what_can_be_named(
    w: World, compiled: Compiled, monkeypatch: pytest.MonkeyPatch
) -> None:
    w.publish(compiled)
    calls = len(w.seen)
    monkeypatch.setattr(Owner, "remove", dies := _only_by_hand(Owner.remove))
    for number in range(calls):

        def stops(_: str, at: int = number + 1) -> None:
            if len(w.seen) == at:
                raise Killed

        w.seen.clear()
        w.at = stops
        with pytest.raises(Killed):
            w.publish(compiled)
        w.at = lambda _: None
        dies.by_hand = True
        w.check()
        dies.by_hand = False
    w.publish(compiled)
    w.check()


class _only_by_hand:  # noqa: N801  stands for a method
    def __init__(self, remove: Callable[[Owner, str], None]) -> None:
        self.remove, self.by_hand = remove, False

    def __get__(self, owner: Owner, _: object = None) -> Callable[[str], None]:
        def removes(upload_id: str) -> None:
            if not self.by_hand:
                raise Killed
            self.remove(owner, upload_id)

        return removes


@pytest.mark.parametrize("away", [0, 1])
def test_a_publish_that_ends_while_a_party_is_away_is_removed_later(w: World, compiled: Compiled, away: int) -> None:
    def goes(what: str) -> None:
        if what == "after alice PUT /v1/models/ID":
            w.parties[away].up = False
            raise KeyboardInterrupt

    w.at = goes
    with pytest.raises(KeyboardInterrupt):
        w.publish(compiled)
    w.at = lambda _: None
    with w.owner() as owner:
        (left,) = owner.left_over()
        assert left.at[away] is None and left.version == 1
        with suppress(Problem):
            owner.remove(left.upload_id)
        assert len(owner.left_over()) == 1, "a party still has it"
    w.parties[away].up = True
    w.check()
    assert w.publish(compiled).entry.version == 2


def test_an_upload_that_the_owner_forgot_is_found_at_the_parties(w: World, compiled: Compiled) -> None:
    """The owner's database was restored from a backup."""
    w.parties[1].models["ab" * 16] = ("lost", 7)
    with w.owner() as owner:
        (left,) = owner.left_over()
        assert (left.name, left.version, left.started, left.at) == ("lost", 7, None, (False, True))
        owner.remove(left.upload_id)
    assert not w.parties[1].models
    signed = w.publish(compiled)
    with w.owner() as owner:
        assert owner.left_over() == []
        with pytest.raises(Problem, match="moiety withdraw m 1"):
            owner.remove(signed.entry.upload_id)
        owner.withdraw("m", 1)
        assert owner.left_over() == [] and not w.parties[0].models


def test_an_upload_that_is_withdrawn_meanwhile_is_not_published(w: World, compiled: Compiled) -> None:
    def withdrawn(what: str) -> None:
        if what == "after bob GET /v1/models/ID":
            w.at = lambda _: None
            with w.owner() as other:
                (left,) = other.left_over()
                other.remove(left.upload_id)

    w.at = withdrawn
    with pytest.raises(Problem) as caught:
        w.publish(compiled)
    assert caught.value.kind is ProblemType.UPLOAD_CONFLICT
    w.check()


def test_two_publishes_at_once(w: World, compiled: Compiled) -> None:
    """The second comes and goes while the first uploads: both are there, and clients have the newer one."""
    versions: list[int] = []

    def another(what: str) -> None:
        if what == "before alice PUT /v1/models/ID":
            w.at = lambda _: None
            versions.append(w.publish(compiled).entry.version)

    w.at = another
    versions.append(w.publish(compiled).entry.version)
    assert versions == [2, 1]
    with w.owner() as owner:
        assert owner.catalogue.versions("m") == [1, 2] and owner.catalogue.active("m") == 2
    w.check()


def test_a_publish_tells_the_bytes_that_were_sent() -> None:
    told: list[tuple[str, int, int]] = []
    body = publication._counted([b"ab", memoryview(b"c")], 3, "uploading", lambda *said: told.append(said))
    assert list(body) == [b"ab", b"c"]
    assert told == [("uploading", 0, 3), ("uploading", 2, 3), ("uploading", 3, 3)]
