"""Both clients under the same tests, and a service that counts what it was paid for."""

import asyncio
import json
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import httpx
import pytest

from moiety_client.answers import Prediction
from moiety_client.client import AsyncClient, Client
from moiety_shared.crypto.sealing import PrivateKey
from moiety_shared.messages.catalogue import Entry, sign
from moiety_shared.messages.wire import Request
from moiety_shared.plan.plan import Plan
from moiety_shared.problems import PROBLEM_JSON, Problem, ProblemType
from tests import plans
from tests.client.test_results import Service

Keys = tuple[PrivateKey, PrivateKey]


class Paid(Service):
    """Runs a request once, as the parties do: again under the same id it is the answer from before, for nothing.

    `before` and `after` it computes something may go wrong: the front of the list is what happens to the next request.
    """

    def __init__(self, plan: Plan, keys: Keys) -> None:
        super().__init__(plan, keys)
        self.entries: list[Entry] = [self.entry]
        self.files: dict[str, bytes] = {}
        self.asked: list[Request] = []
        self.paid = 0
        self.before: list[Exception | Problem | None] = []
        self.after: list[Exception | None] = []
        self._done: dict[bytes, tuple[bytes, bytes]] = {}

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/models":
            return httpx.Response(200, text=json.dumps([{"name": entry.name} for entry in self.entries]))
        if "/files/" in request.url.path:
            content = self.files.get(request.url.path)
            return httpx.Response(200, content=content) if content else _refusal(Problem(ProblemType.UNKNOWN_MODEL))
        if request.url.path.startswith("/v1/models/"):
            found = [e for e in self.entries if request.url.path.endswith("/" + e.name)]
            if not found:
                return _refusal(Problem(ProblemType.UNKNOWN_MODEL))
            return httpx.Response(200, text=sign(found[0], self.owner).model_dump_json())
        asked = Request.unpack(request.content)
        self.asked.append(asked)
        served = [entry for entry in self.entries if bytes.fromhex(entry.upload_id) == asked.binding.upload_id]
        if not served:
            return _refusal(Problem(ProblemType.UNKNOWN_MODEL))
        self.entry = served[0]
        if (problem := _go_wrong(self.before, request)) is not None:
            return _refusal(problem)
        digest, answer = self._done.get(asked.binding.request_id, (b"", b""))
        if not answer:
            digest, answer = asked.binding.request_digest, self.compute(request.content)
            self._done[asked.binding.request_id] = digest, answer
            self.paid += asked.rows
        if digest != asked.binding.request_digest:
            return _refusal(Problem(ProblemType.REQUEST_CONFLICT))
        _go_wrong(self.after, request)
        return httpx.Response(200, content=answer, headers={"moiety-rounds": "9", "moiety-online-bytes": "7"})

    def asking(self, kind: str, timeout: float = 2) -> "Asking":
        key = sign(self.entry, self.owner).owner_key
        transport = httpx.MockTransport(self)
        if kind == "sync":
            client = Client("https://owner", owner_key=key, timeout=timeout)
            client._http._transport = transport
            return Asking(client)
        twin = AsyncClient("https://owner", owner_key=key, timeout=timeout)
        twin._http._transport = transport
        return Asking(twin)


def _go_wrong(what: list[Any], request: httpx.Request) -> Problem | None:
    """What goes wrong next: a problem to answer with, an error to raise, or nothing."""
    wrong = what.pop(0) if what else None
    if isinstance(wrong, httpx.HTTPError):
        wrong.request = request
        raise wrong
    return wrong


def _refusal(problem: Problem) -> httpx.Response:
    headers = {"content-type": PROBLEM_JSON}
    return httpx.Response(problem.kind.status, content=json.dumps(problem.document()), headers=headers)


class Asking:
    """A client of either kind, called alike."""

    def __init__(self, client: Client | AsyncClient) -> None:
        self.client = client

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.client, name)
        if isinstance(self.client, Client):
            return method
        return lambda *args, **options: asyncio.run(method(*args, **options))

    def stream(self, *args: Any, first: int | None = None, **options: Any) -> list[Prediction]:
        """All parts, or the first so many, after which the run is left."""
        taken: list[Prediction] = []
        self.into(taken, *args, first=first, **options)
        return taken

    def into(self, taken: list[Prediction], *args: Any, first: int | None = None, **options: Any) -> None:
        """The same; what came before something went wrong is in `taken`."""
        if isinstance(self.client, Client):
            parts = self.client.stream(*args, **options)
            taken.extend(islice(parts, first)) if first else [taken.append(part) for part in parts]
            parts.close()  # type: ignore[attr-defined]
            return

        async def run() -> None:
            parts = self.client.stream(*args, **options)  # type: ignore[union-attr]
            try:
                async for part in parts:  # type: ignore[union-attr]
                    taken.append(part)
                    if len(taken) == first:
                        return
            finally:
                await parts.aclose()  # type: ignore[union-attr]

        asyncio.run(run())


@pytest.fixture
def paid(party_keys: Keys) -> Paid:
    return Paid(plans.logits(), party_keys)


@pytest.fixture(params=["sync", "async"])
def asking(request: pytest.FixtureRequest, paid: Paid) -> Iterator[Asking]:
    yield paid.asking(request.param)
