"""A party's view of the crypto provider."""

import base64
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass

import httpx

from moiety_shared.plan import Plan
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.service import http

_BUNDLE_TIMEOUT = httpx.Timeout(30, read=300)
"""Seconds; between two reads the provider may deal a large layer."""


@dataclass(frozen=True)
class LeaseGrant:
    """One side of a lease: this party's seed for all bundles of it."""

    lease_id: str
    upload_id: str
    rows: int
    seed: bytes

    def __repr__(self) -> str:
        return f"LeaseGrant({self.lease_id})"


class Provider:
    """The provider's HTTP interface. Every failure is a Problem; no answer at all is PROVIDER_UNAVAILABLE."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def upload_seed(self, upload_id: str, plan: Plan) -> bytes:
        body = {"upload_id": upload_id, "plan": plan.model_dump(mode="json")}
        return base64.b64decode((await self._post("/v1/uploads", body))["seed"])

    async def forget_upload(self, upload_id: str) -> None:
        """The provider wipes the upload's seeds; nothing can be dealt for it any more."""
        try:
            http.check(await self._client.delete(f"/v1/uploads/{upload_id}"))
        except httpx.HTTPError as error:
            raise Problem(ProblemType.PROVIDER_UNAVAILABLE) from error

    async def open_lease(self, upload_id: str, rows: int) -> LeaseGrant:
        return self._grant(await self._post("/v1/leases", {"upload_id": upload_id, "rows": rows}))

    async def join_lease(self, lease_id: str) -> LeaseGrant:
        return self._grant(await self._post(f"/v1/leases/{lease_id}/join", {}))

    async def bundle(self, lease_id: str, number: int, sizes: Sequence[int]) -> AsyncGenerator[bytearray, None]:
        """The bundle in parts of `sizes` bytes, each as soon as it is here. It can be asked for once.

        Raises a Problem unless it is exactly that long; the announced length is checked before the body is read.
        """
        url = f"/v1/leases/{lease_id}/bundles/{number}"
        try:
            async with self._client.stream("POST", url, timeout=_BUNDLE_TIMEOUT) as response:
                if not response.is_success:
                    await response.aread()
                    http.check(response)
                if response.headers.get("content-length") != str(sum(sizes)):
                    raise Problem(ProblemType.MALFORMED, "a bundle has another length than its plan says")
                chunks = response.aiter_raw()
                rest = memoryview(b"")
                for size in sizes:
                    part, at = bytearray(size), 0
                    while at < size:
                        if not rest:
                            chunk: bytes = await anext(chunks, b"")
                            rest = memoryview(chunk)
                        if not rest:
                            raise Problem(ProblemType.MALFORMED, "a bundle was cut short")
                        taken = min(len(rest), size - at)
                        part[at : at + taken] = rest[:taken]
                        rest, at = rest[taken:], at + taken
                    yield part
                more: bytes = await anext(chunks, b"")
                if rest or more:
                    raise Problem(ProblemType.MALFORMED, "a bundle is longer than its plan says")
        except httpx.HTTPError as error:
            raise Problem(ProblemType.PROVIDER_UNAVAILABLE) from error

    async def _post(self, path: str, body: Mapping[str, object]) -> dict[str, str]:
        try:
            response = await self._client.post(path, json=body)
        except httpx.HTTPError as error:
            raise Problem(ProblemType.PROVIDER_UNAVAILABLE) from error
        answer: dict[str, str] = http.check(response).json()
        return answer

    @staticmethod
    def _grant(answer: dict[str, str]) -> LeaseGrant:
        return LeaseGrant(
            answer["lease_id"], answer["upload_id"], int(answer["rows"]), base64.b64decode(answer["seed"])
        )
