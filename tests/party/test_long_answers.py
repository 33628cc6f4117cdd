"""A party reads no more of what the crypto provider answers than it may be."""

import asyncio
from collections.abc import Awaitable, Callable

import httpx
import pytest

from moiety_party.provider import LeaseGrant, Provider
from moiety_service.http import clients
from moiety_shared.messages.statements import MOST_WORDS
from moiety_shared.problems import Problem, ProblemType
from tests import plans
from tests.floods import PART, Flood

ID, SIZES = "ab" * 16, (3 * PART, PART)
GRANT = LeaseGrant(ID, ID, 8, "", bytes(32), bytes(32))


async def bundle(provider: Provider) -> None:
    async for _ in provider.bundle(GRANT, 0, SIZES):
        pass


Ask = Callable[[Provider], Awaitable[object]]
ASKED: dict[str, tuple[Ask, int]] = {
    "register": (lambda p: p.register(ID, plans.logits(), b"envelope"), 0),
    "forget": (lambda p: p.forget_upload(ID), 0),
    "rekey": (lambda p: p.rekey(ID, ID), 0),
    "open": (lambda p: p.open_lease(ID, 8), 0),
    "join": (lambda p: p.join_lease(ID, ""), 0),
    "end": (lambda p: p.end_lease(ID), 0),
    "check": (lambda p: p.check(), 0),
    "words": (lambda p: p.words(ID, "", 0, 1, ID), 2 * MOST_WORDS),
    "tags": (lambda p: p.tags(GRANT, SIZES), sum(SIZES)),
    "bundle": (bundle, sum(SIZES)),
}


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize("asked", ASKED)
def test_the_crypto_provider_cannot_flood_a_party(asked: str, status: int) -> None:
    (ask, most), flood = ASKED[asked], Flood()

    async def run() -> None:
        async with clients.asyncio_client("http://provider") as client:
            client._transport = httpx.MockTransport(lambda _: httpx.Response(status, stream=flood))
            with pytest.raises(Problem) as caught:
                await ask(Provider(client))
        malformed = status == 200 and asked in ("tags", "bundle")  # their length is announced, and looked at first
        assert caught.value.kind is (ProblemType.MALFORMED if malformed else ProblemType.PROVIDER_UNAVAILABLE)
        assert flood.taken == (0 if malformed else most + PART)

    asyncio.run(run())
