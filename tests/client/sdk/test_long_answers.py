"""Clients and the owner read no more of an answer than it may have, whoever sends it."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from moiety_client.errors import CatalogueUnavailable, ServiceUnavailable
from moiety_server.owner import Owner
from moiety_server.settings import ServerSettings
from moiety_service.http import clients
from moiety_service.security.identity import Identity
from moiety_shared.messages.wire import Recipients, answer_bytes, result_bytes
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.protocols.verified import layout
from tests import plans
from tests.client.sdk.conftest import Asking
from tests.floods import PART, Flood

PROBLEM = 1 << 16


def flooding(asking: Asking, *, path: str, status: int = 200) -> list[Flood]:
    """From now on the service answers with floods at such paths. Returns them, as they come."""
    floods, transport = list[Flood](), asking.client._http._transport
    assert isinstance(transport, httpx.MockTransport)
    right: Callable[[httpx.Request], httpx.Response] = transport.handler  # type: ignore[assignment]

    def wrong(request: httpx.Request) -> httpx.Response:
        if path not in request.url.path:
            return right(request)
        floods.append(Flood())
        return httpx.Response(status, stream=floods[-1])

    asking.client._http._transport = httpx.MockTransport(wrong)
    return floods


@pytest.mark.parametrize("status", [200, 500])
def test_a_party_cannot_flood_a_client(asking: Asking, status: int) -> None:
    floods = flooding(asking, path="/v1/predictions", status=status)
    with pytest.raises(ServiceUnavailable, match="AnswerTooLong"):
        asking.predict("small", plans.random_inputs(2) / 16.0)
    assert floods and all(flood.taken == PART for flood in floods)


def test_a_catalogue_cannot_flood_a_client(asking: Asking) -> None:
    floods = flooding(asking, path="/v1/models")
    for ask in (asking.models, lambda: asking.model("small")):
        with pytest.raises(CatalogueUnavailable, match="AnswerTooLong"):
            ask()
    assert [flood.taken for flood in floods] == [(1 << 26) + PART] * 2


@pytest.mark.parametrize("party", [0, 1])
def test_a_party_cannot_flood_the_owner(tmp_path: Path, identities: dict[str, Identity], party: int) -> None:
    flood = Flood()
    with closing(Owner(ServerSettings(data_dir=tmp_path), identities["server"])) as owner:
        owner._clients[party]._transport = httpx.MockTransport(lambda _: httpx.Response(200, stream=flood))
        with pytest.raises(Problem, match="AnswerTooLong") as caught:
            owner.call(party, "GET", "/v1/keys")
    assert caught.value.kind is ProblemType.PEER_UNAVAILABLE and flood.taken == PART


@pytest.mark.parametrize("most", [100_000, 10])
def test_an_answer_may_have_all_the_bytes_that_it_may_have(most: int) -> None:
    """A problem has room in place of a short one. What is packed could be any number of bytes."""
    limit = max(most, PROBLEM)

    def read(client: httpx.Client | httpx.AsyncClient, count: int, encoding: str = "identity") -> int:
        half = count // 2
        parts = [bytes(half), b"", bytes(count - half)]

        class Body(Flood):
            def __iter__(self) -> Iterator[bytes]:
                return iter(parts)

        answer = httpx.Response(200, stream=Body(), headers={"content-encoding": encoding})
        client._transport = httpx.MockTransport(lambda _: answer)
        how = {"extensions": clients.at_most(most)}
        if isinstance(client, httpx.Client):
            return len(client.get("http://a/", **how).content)  # type: ignore[arg-type]
        return len(asyncio.run(client.get("http://a/", **how)).content)  # type: ignore[arg-type]

    for client in (clients.client(""), clients.async_client(""), clients.asyncio_client("")):
        assert client.headers["accept-encoding"] == "identity"
        assert read(client, limit) == limit
        for count, encoding in ((limit + 1, "identity"), (100, "gzip")):
            with pytest.raises(clients.AnswerTooLong):
                read(client, count, encoding)


def test_the_longest_answer_is_that_of_bobs_most_vouchers() -> None:
    plan, sure = plans.logits(), layout.verified(plans.logits())
    assert answer_bytes(plan, 3, Recipients.CLIENT) == 28 + 2 * result_bytes(plan, 3)
    assert answer_bytes(sure, 3, Recipients.CLIENT) == 28 + 2 * result_bytes(sure, 3) + 3 * 328
