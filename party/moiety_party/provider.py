"""A party's view of the crypto provider."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass

import httpx

from moiety_shared.plan import Plan
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.service import http


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

    async def open_lease(self, upload_id: str, rows: int) -> LeaseGrant:
        return self._grant(await self._post("/v1/leases", {"upload_id": upload_id, "rows": rows}))

    async def join_lease(self, lease_id: str) -> LeaseGrant:
        return self._grant(await self._post(f"/v1/leases/{lease_id}/join", {}))

    async def bundle(self, lease_id: str, number: int, length: int) -> bytearray:
        """Exactly `length` bytes, or a Problem; the announced length is checked before the body is read."""
        content = bytearray(length)
        at = 0
        try:
            url = f"/v1/leases/{lease_id}/bundles/{number}"
            async with self._client.stream("POST", url) as response:
                if not response.is_success:
                    await response.aread()
                    http.check(response)
                if response.headers.get("content-length") != str(length):
                    raise Problem(ProblemType.MALFORMED, "a bundle has another length than its plan says")
                async for chunk in response.aiter_raw():
                    content[at : at + len(chunk)] = chunk
                    at += len(chunk)
        except httpx.HTTPError as error:
            raise Problem(ProblemType.PROVIDER_UNAVAILABLE) from error
        if at != length or len(content) != length:
            raise Problem(ProblemType.MALFORMED, "a bundle was cut short")
        return content

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
