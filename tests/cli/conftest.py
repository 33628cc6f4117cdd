"""The commands in this process, with a service behind them that a test can break."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from moiety_service.cli.main import build
from moiety_service.http import clients
from moiety_shared.crypto.sealing import PrivateKey
from moiety_shared.messages.access import AccessFile
from moiety_shared.messages.catalogue import Preprocessing, sign
from tests import plans
from tests.client.sdk.conftest import Paid

Run = Callable[..., Result]
HOW = Preprocessing(channels=1, size=(2, 2), mean=(0.5,), std=(0.0625,))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs a command in an empty folder; no MOIETY_* but what the test sets."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    app = build()

    def command(*arguments: Any) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return command


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, party_keys: tuple[PrivateKey, PrivateKey]) -> Paid:
    """A model of pictures 2 x 2 of five classes; the access file for it is in place."""
    paid = Paid(plans.logits(), party_keys)
    update = {"preprocessing": HOW, "classes": ("ant", "bee", "cat", "dog", "[emu]")}
    paid.entries = [paid.entry.model_copy(update=update)]
    access = AccessFile(catalogue_url="https://owner", owner_key=sign(paid.entry, paid.owner).owner_key)
    (tmp_path / "access.json").write_text(access.model_dump_json())
    monkeypatch.setenv("MOIETY_CLIENT_ACCESS_FILE", str(tmp_path / "access.json"))
    monkeypatch.setenv("MOIETY_CLIENT_TIMEOUT", "0.5")

    def client(base_url: str, **_: Any) -> httpx.Client:
        return httpx.Client(base_url=base_url, transport=httpx.MockTransport(paid))

    monkeypatch.setattr(clients, "client", client)
    return paid
