"""A role's sealing keys: replaced without a pause, and gone when their time is over."""

import asyncio
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

import pytest
from structlog.testing import capture_logs

from moiety_service.security import keyring as keyring_module
from moiety_service.security import keys
from moiety_service.security.identity import LINKS, BadIdentity, Identity
from moiety_service.security.keyring import Keyring
from moiety_shared.crypto.sealing import PrivateKey
from moiety_shared.messages.catalogue import Entry
from moiety_shared.problems import Problem, ProblemType
from tests.apps import services
from tests.asgi import listening


@pytest.fixture
def root(tmp_path: Path) -> Path:
    keys.init(tmp_path / "keys", {})
    return tmp_path / "keys"


def test_old_sealing_keys_are_accepted_for_a_while(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = Identity.load(root / "alice", "alice").keyring
    first = ring.public
    envelope = first.seal(b"for alice", b"context")
    assert ring.open(envelope, b"context") == b"for alice"
    second = Keyring(root / "alice" / "sealing").rotate(timedelta(days=7))  # by another process
    assert ring.public == second != first
    assert ring.open(envelope, b"context") == b"for alice"
    assert ring.open(second.seal(b"new", b"context"), b"context") == b"new"

    monkeypatch.setattr(keyring_module, "datetime", Later)
    with pytest.raises(Problem) as caught:
        ring.open(envelope, b"context")
    assert caught.value.kind is ProblemType.KEY_RETIRED
    assert ring.open(second.seal(b"new", b"context"), b"context") == b"new"
    Keyring(root / "alice" / "sealing").rotate(timedelta(0))
    assert not (root / "alice" / "sealing" / f"{first.key_id}.json").exists(), "what is over is deleted"


class Later(datetime):
    """Eight days on."""

    @classmethod
    def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
        return datetime.now(UTC) + timedelta(days=8)


def zeros_of(opened: dict[str, BinaryIO]) -> set[str]:
    """Which of the files hold zeros alone by now, whatever has become of their names."""
    return {name for name, file in opened.items() if file.seek(0) == 0 and not any(file.read())}


async def until(true: Callable[[], bool]) -> None:
    while not true():  # noqa: ASYNC110  files have no events
        await asyncio.sleep(0.01)


def test_a_retired_sealing_key_is_wiped_while_the_service_runs(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = root / "alice" / "sealing"
    ring = Identity.load(root / "alice", "alice").keyring
    first = ring.public
    monkeypatch.setattr(keyring_module, "WIPE_SECONDS", 0.01)
    with ExitStack() as stack:
        opened = {"drawn": stack.enter_context((folder / f"{first.key_id}.json").open("rb"))}
        second = Keyring(folder).rotate(timedelta(days=7))
        assert zeros_of(opened) == {"drawn"}, "the file that was replaced held the key as well"
        for key in (first, second):
            opened[key.key_id] = stack.enter_context((folder / f"{key.key_id}.json").open("rb"))

        async def run() -> None:
            async with ring.wiping():
                await until(lambda: ring.public == second)
                assert {first.key_id, second.key_id} == {path.stem for path in folder.iterdir()}
                monkeypatch.setattr(keyring_module, "datetime", Later)
                await until(lambda: {second.key_id} == {path.stem for path in folder.iterdir()})

        asyncio.run(run())
        assert zeros_of(opened) == {"drawn", first.key_id}
    assert list(ring._pairs) == [second.key_id], "nor is it in memory"


def test_a_retired_sealing_key_is_wiped_at_a_start(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a service, and by `moiety keys rotate`; also what a process that was killed has only renamed."""
    folder = root / "bob" / "sealing"
    first = Keyring(folder).public
    second = Keyring(folder).rotate(timedelta(days=7))
    monkeypatch.setattr(keyring_module, "datetime", Later)
    for begun in (False, True):
        path = folder / f"{first.key_id}.json"
        content = path.read_bytes()
        with path.open("rb") as opened:
            if begun:
                path.rename(path.with_suffix(".wiping"))

            async def start() -> None:
                async with Identity.load(root / "bob", "bob").keyring.wiping():
                    await until(lambda: len(list(folder.iterdir())) == 1)

            asyncio.run(start())
            assert not any(opened.read())
        path.touch(0o600)
        path.write_bytes(content)
    third = Keyring(folder).rotate(timedelta(days=70))
    assert {path.stem for path in folder.iterdir()} == {second.key_id, third.key_id}


def test_a_retired_key_that_cannot_be_wiped_is_forgotten_and_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where secrets are mounted read-only."""
    folder = root / "bob" / "sealing"
    ring = Keyring(folder)
    first = ring.public
    Keyring(folder).rotate(timedelta(0))

    def refusing(self: Path, target: Path) -> Path:
        raise PermissionError(target)

    monkeypatch.setattr(Path, "replace", refusing)
    monkeypatch.setattr(keyring_module, "WIPE_SECONDS", 0.01)
    rounds: list[None] = []
    wipe = Keyring.wipe

    def counting(self: Keyring) -> None:
        rounds.append(None)
        wipe(self)

    monkeypatch.setattr(Keyring, "wipe", counting)

    async def run() -> None:
        async with ring.wiping():
            await until(lambda: len(rounds) > 3)

    with capture_logs() as logged:
        asyncio.run(run())
    assert [line["event"] for line in logged] == ["a retired sealing key stays on the disk"]
    assert first.key_id not in ring._pairs


def test_an_envelope_to_a_stranger_is_refused(root: Path) -> None:
    ring = Identity.load(root / "alice", "alice").keyring
    with pytest.raises(Problem) as caught:
        ring.open(PrivateKey.generate().public.seal(b"x", b""), b"")
    assert caught.value.kind is ProblemType.KEY_RETIRED


def test_every_service_wipes_the_keys_of_its_role(root: Path, tmp_path: Path, entry: Entry) -> None:
    identities = {role: Identity.load(root / role, role) for role in LINKS}
    seen = []
    for role, app, settings in services(tmp_path, entry, identities):
        folder = root / role / "sealing"
        if folder.is_dir():
            seen.append(role)
            made = Keyring(folder).rotate(timedelta(0))
            assert len(list(folder.iterdir())) == 2
            with listening(app, settings):
                asyncio.run(until(lambda: len(list(folder.iterdir())) == 1))  # noqa: B023
            assert identities[role].keyring.public == made
    assert {"alice", "bob", "server"} <= set(seen)


def test_the_providers_key_reaches_the_owner_by_hand(root: Path) -> None:
    owner, provider = Identity.load(root / "server", "server"), root / "crypto_provider"
    assert owner.provider_key == Identity.load(provider, "crypto_provider").keyring.public
    made = keys.rotate(provider, timedelta(days=7))
    assert owner.provider_key != made, "nobody else puts it there"
    keys.pin(provider, root / "server")
    assert owner.provider_key == made
    (root / "server" / "provider.pub").write_text("no key")
    with pytest.raises(BadIdentity, match=r"provider\.pub is not a sealing key: copy sealing\.pub from"):
        _ = owner.provider_key


def test_folders_of_the_first_release_are_completed(root: Path) -> None:
    provider, owner = root / "crypto_provider", root / "server"
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    keys.complete(root)
    assert before == {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}, "nothing is missing"
    shutil.rmtree(provider / "sealing")
    (provider / "sealing.pub").unlink()
    (owner / "provider.pub").unlink()
    with pytest.raises(BadIdentity, match="moiety keys rotate"):
        Identity.load(provider, "crypto_provider")
    with pytest.raises(BadIdentity, match=r"provider\.pub is missing"):
        _ = Identity.load(owner, "server").provider_key
    keys.complete(root)
    assert Identity.load(owner, "server").provider_key == Identity.load(provider, "crypto_provider").keyring.public
    assert not [path for path in root.rglob("*") if path.stat().st_mode & 0o077 and path.suffix != ".pem"]
