"""Every role's app, built as its command builds it, in a folder that is thrown away. Nobody listens."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from fastapi import FastAPI

from moiety_client import sidecar
from moiety_client.settings import ClientSettings
from moiety_crypto_provider import app as provider
from moiety_crypto_provider.settings import ProviderSettings
from moiety_party import app as party
from moiety_party.settings import PartySettings
from moiety_server import app as server
from moiety_server.settings import ServerSettings
from moiety_service.security import keys
from moiety_service.security.identity import Identity
from moiety_shared.messages.access import AccessFile


@contextmanager
def apps() -> Iterator[dict[str, FastAPI]]:
    """By the name of their page."""
    with TemporaryDirectory() as folder:
        root = Path(folder)
        keys.init(root / "keys", {})
        access = root / "access.json"
        access.write_text(AccessFile(catalogue_url="https://owner.example", owner_key="").model_dump_json())

        def identity(role: str) -> Identity:
            return Identity.load(root / "keys" / role, role)

        yield {
            "owner": server.build(ServerSettings(data_dir=root / "server"), identity("server")),
            "alice": party.build(PartySettings(role="alice", data_dir=root / "alice"), identity("alice")),
            "bob": party.build(PartySettings(role="bob", data_dir=root / "bob"), identity("bob")),
            "crypto-provider": provider.build(ProviderSettings(data_dir=root / "dealer"), identity("crypto_provider")),
            "sidecar": sidecar.build(sidecar.Upstream.from_access(access), ClientSettings(data_dir=root / "client")),
        }
