"""Every service's app, with nobody behind it."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import FastAPI

from moiety_client import sidecar
from moiety_client.settings import ClientSettings
from moiety_crypto_provider import app as provider
from moiety_crypto_provider.settings import ProviderSettings
from moiety_party import app as party
from moiety_party.settings import PartySettings
from moiety_server import app as server
from moiety_server.catalogue import Catalogue
from moiety_server.records import records
from moiety_server.settings import ServerSettings
from moiety_server.uploads import Uploads
from moiety_service.security.identity import Identity
from moiety_service.settings import ServiceSettings
from moiety_shared.messages.access import AccessFile
from moiety_shared.messages.catalogue import Entry, sign

NOWHERE = "http://127.0.0.1:9"


def a_party(role: str, folder: Path) -> PartySettings:
    return PartySettings(
        role=role,  # type: ignore[arg-type]
        data_dir=folder,
        provider_url=NOWHERE,
        peer_url=NOWHERE.replace("http", "ws"),
        transport="plain",
    )


def services(
    root: Path, entry: Entry, identities: dict[str, Identity]
) -> Iterator[tuple[str, FastAPI, ServiceSettings]]:
    owner = ServerSettings(data_dir=root / "server")
    with closing(records(owner)) as db:
        begun = Uploads(db).begin(entry.name)
        members = {"upload_id": begun.upload_id, "version": begun.version}
        Catalogue(db).add(entry.model_copy(update=members), Ed25519PrivateKey.generate())
    yield "server", server.build(owner, identities["server"]), owner
    for role in ("alice", "bob"):
        yield role, party.build(a_party(role, root / role), identities[role]), a_party(role, root / role)
    dealing = ProviderSettings(data_dir=root / "provider")
    yield "crypto_provider", provider.build(dealing, identities["crypto_provider"]), dealing
    access = root / "access.json"
    access.write_text(AccessFile(catalogue_url=NOWHERE, owner_key="").model_dump_json())
    local = ClientSettings(data_dir=root / "client", access_file=access, timeout=0.5)
    upstream = sidecar.Upstream.from_access(access, timeout=0.5)
    signed = sign(entry, Ed25519PrivateKey.generate())
    upstream._owner_key = signed.owner_key

    def catalogue_alone(request: httpx.Request) -> httpx.Response:
        if request.url.path == f"/v1/models/{entry.name}":
            return httpx.Response(200, text=signed.model_dump_json())
        raise httpx.ConnectError("nobody there", request=request)

    upstream._http = httpx.AsyncClient(transport=httpx.MockTransport(catalogue_alone))
    yield "client", sidecar.build(upstream, local), local
