"""alice and the catalogue with certificates of an authority that others trust as well, as where pages call them."""

import shutil
from pathlib import Path

import httpx
import pytest

from moiety_client.client import Client
from moiety_local import mnist
from moiety_local.deployment import Deployment
from moiety_service.http import clients
from moiety_service.security import keys
from moiety_shared.messages.access import AccessFile

_PUBLIC = ("alice", "server")  # whom clients call


@pytest.mark.long
def test_another_authority_certifies_what_clients_reach(tmp_path: Path) -> None:
    """The owner calls alice under one authority and bob under the other. A client needs the public one alone."""
    deployment = Deployment(tmp_path / "site")
    ours, public = deployment.root / "keys", tmp_path / "public"
    keys.init(public, {})
    for role in _PUBLIC:
        for name in ("cert.pem", "key.pem"):
            shutil.copy(public / role / "tls" / name, ours / role / "tls" / name)
    root = (public / "ca" / "ca.pem").read_text()
    for trusting in (ours / "server" / "tls" / "ca.pem", ours / "ca" / "ca.pem"):
        trusting.write_text(trusting.read_text() + root)
    with deployment:
        deployment.publish("mnist")
        access = AccessFile.model_validate_json(deployment.access_file.read_bytes())
        alone = deployment.root / "public.json"
        alone.touch(mode=0o600)
        alone.write_text(access.model_copy(update={"ca": root}).model_dump_json())
        pictures, _ = mnist.test_images(8, None)
        with Client.from_access(alone) as client:
            labels = client.predict("mnist", pictures).labels
        assert (labels == mnist.float_outputs(pictures).argmax(axis=1)).all()
        for role in deployment.roles:
            with clients.client(deployment.url(role), ca=public / "ca" / "ca.pem") as http:
                if role in _PUBLIC:
                    assert http.get("/health/live").is_success
                elif role != "client":
                    with pytest.raises(httpx.ConnectError):
                        http.get("/health/live")
