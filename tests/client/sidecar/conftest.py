"""A sidecar without processes: catalogue and parties answer in the clear, from one transport."""

import httpx
import pytest

from moiety_client.settings import ClientSettings
from moiety_client.sidecar import Upstream, build
from moiety_shared.crypto.sealing import PrivateKey
from moiety_shared.messages.catalogue import Entry, sign
from tests.asgi import InProcess
from tests.client.test_client import Parties


class Local(Parties):
    """The same with a list of models, a party that says whether it is ready, and its clock."""

    ready = True
    listed = '[{"name": "mnist"}]'

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/models":
            return httpx.Response(200, text=self.listed)
        if request.url.path == "/health/ready":
            return httpx.Response(200 if self.ready else 503, json={})
        answer = super().__call__(request)
        answer.headers["server-timing"] = "rounds;dur=1.500"
        answer.headers["moiety-online-bytes"] = "6699"
        return answer

    def sidecar(self, **settings: object) -> InProcess:
        upstream = Upstream("https://owner", owner_key=sign(self.entry, self.owner).owner_key, timeout=30)
        upstream._http = httpx.AsyncClient(transport=httpx.MockTransport(self))
        return InProcess(build(upstream, ClientSettings(**settings)))  # type: ignore[arg-type]


@pytest.fixture
def local(entry: Entry, party_keys: tuple[PrivateKey, PrivateKey]) -> Local:
    return Local(entry, party_keys)


@pytest.fixture
def sidecar(local: Local) -> InProcess:
    return local.sidecar()
