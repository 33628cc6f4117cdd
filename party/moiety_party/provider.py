"""A party's view of the crypto provider."""

import base64
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
from cryptography.exceptions import InvalidTag
from pydantic import ValidationError

from moiety_service.http import clients
from moiety_service.observability import tracing
from moiety_shared.crypto.channel import TAG_BYTES, bundle_cipher, lease_context
from moiety_shared.crypto.prg import SEED_BYTES
from moiety_shared.crypto.sealing import PrivateKey
from moiety_shared.messages.leases import BundleRequest, JoinRequest, LeaseRequest, LeaseResponse, UploadRequest
from moiety_shared.plan.layers import Public
from moiety_shared.plan.plan import Plan
from moiety_shared.problems import Problem, ProblemType

_BUNDLE_TIMEOUT = httpx.Timeout(30, read=300)
"""Seconds; between two reads the provider may deal a large layer."""


@dataclass(frozen=True)
class LeaseGrant:
    """One side of a lease: this party's seed for all bundles of it, the key of its runs' transcripts, and the ticket by
    which the provider knows the lease again: only it can open that."""

    lease_id: str
    upload_id: str
    rows: int
    ticket: str
    seed: bytes
    check: bytes

    def __repr__(self) -> str:
        return f"LeaseGrant({self.lease_id})"


class Provider:
    """The provider's HTTP interface. Every failure is a Problem; no answer at all is PROVIDER_UNAVAILABLE."""

    def __init__(
        self, client: httpx.AsyncClient, link_bytes: Callable[[int, int], None] = lambda _sent, _got: None
    ) -> None:
        """`link_bytes` is told the bytes that were sent and received."""
        self._client = client
        self._link_bytes = link_bytes

    async def register(self, upload_id: str, plan: Plan, envelope: bytes) -> None:
        """Hand on the seeds of the weights' masks, which the owner sealed to the provider. May be repeated.

        Raises UPLOAD_CONFLICT when the other party handed on others, or the upload was deleted.
        """
        seeds = base64.b64encode(envelope).decode()
        await self._post("/v1/uploads", UploadRequest(upload_id=upload_id, plan=plan, seeds=seeds))

    async def forget_upload(self, upload_id: str) -> None:
        """The provider wipes the upload's seeds; nothing can be dealt for it any more."""
        await self._delete(f"/v1/uploads/{upload_id}")

    async def open_lease(self, upload_id: str, rows: int) -> LeaseGrant:
        grant = await self._lease("/v1/leases", 0, lambda key: LeaseRequest(upload_id=upload_id, rows=rows, key=key))
        if grant.upload_id != upload_id:
            raise Problem(ProblemType.PROVIDER_UNAVAILABLE, "it opened a lease for another model")
        return grant

    async def join_lease(self, lease_id: str, ticket: str) -> LeaseGrant:
        return await self._lease(f"/v1/leases/{lease_id}/join", 1, lambda key: JoinRequest(ticket=ticket, key=key))

    async def end_lease(self, lease_id: str) -> None:
        """The provider wipes the lease's key; nothing more can be dealt under it. May be repeated."""
        await self._delete(f"/v1/leases/{lease_id}")

    async def check(self) -> None:
        """Raises PROVIDER_UNAVAILABLE unless it answers, and can do its work."""
        try:
            clients.check(await self._client.get("/health/ready"))
        except httpx.HTTPError as error:
            raise Problem(ProblemType.PROVIDER_UNAVAILABLE) from error

    async def bundle(self, grant: LeaseGrant, number: int, sizes: Sequence[int]) -> AsyncGenerator[bytearray, None]:
        """The bundle in parts of `sizes` bytes, each as soon as it is here. It can be asked for once.

        Raises a Problem unless it is exactly that long, and at its end unless it is what was dealt: nothing of it may
        be used before. The announced length is checked before the body is read.
        """
        url = f"/v1/leases/{grant.lease_id}/bundles/{number}"
        decryptor = bundle_cipher(grant.seed, grant.lease_id, number).decryptor()
        body = BundleRequest(ticket=grant.ticket).model_dump(mode="json")
        try:
            async with self._client.stream(
                "POST", url, json=body, timeout=_BUNDLE_TIMEOUT, headers=tracing.outgoing()
            ) as response:
                if not response.is_success:
                    await response.aread()
                    clients.check(response)
                if response.headers.get("content-length") != str(sum(sizes) + TAG_BYTES):
                    raise Problem(ProblemType.MALFORMED, "a bundle has another length than its plan says")
                chunks = response.aiter_raw()
                rest = memoryview(b"")
                for index, size in enumerate((*sizes, TAG_BYTES)):
                    part, at = bytearray(size), 0
                    while at < size:
                        if not rest:
                            chunk: bytes = await anext(chunks, b"")
                            rest = memoryview(chunk)
                        if not rest:
                            raise Problem(ProblemType.MALFORMED, "a bundle was cut short")
                        taken = min(len(rest), size - at)
                        if index < len(sizes):
                            decryptor.update_into(rest[:taken], memoryview(part)[at : at + taken])
                        else:
                            part[at : at + taken] = rest[:taken]
                        rest, at = rest[taken:], at + taken
                    if index < len(sizes):
                        yield part
                    else:
                        decryptor.finalize_with_tag(bytes(part))
                more: bytes = await anext(chunks, b"")
                self._link_bytes(0, response.num_bytes_downloaded)
                if rest or more:
                    raise Problem(ProblemType.MALFORMED, "a bundle is longer than its plan says")
        except InvalidTag:
            raise Problem(ProblemType.MALFORMED, "a bundle was changed on its way") from None
        except httpx.HTTPError as error:
            raise Problem(ProblemType.PROVIDER_UNAVAILABLE) from error

    async def _delete(self, path: str) -> None:
        try:
            clients.check(await self._client.delete(path, headers=tracing.outgoing()))
        except httpx.HTTPError as error:
            raise Problem(ProblemType.PROVIDER_UNAVAILABLE) from error

    async def _post(self, path: str, body: Public) -> httpx.Response:
        try:
            response = await self._client.post(path, json=body.model_dump(mode="json"), headers=tracing.outgoing())
            self._link_bytes(len(response.request.content), len(response.content))
        except httpx.HTTPError as error:
            raise Problem(ProblemType.PROVIDER_UNAVAILABLE) from error
        return clients.check(response)

    async def _lease(self, path: str, party: int, request: Callable[[str], Public]) -> LeaseGrant:
        """`request` makes the body, given the public key that the answer is sealed to. The private key is let go of
        when this returns."""
        key = PrivateKey.generate()
        try:
            response = await self._post(path, request(key.public.text()))
        except (Problem, ValidationError) as error:  # a ticket comes from the peer: it may be no ticket at all
            if isinstance(error, Problem) and error.kind is not ProblemType.INVALID_INPUT:
                raise
            detail = "it does not understand what it is asked: is it of the same release?"
            raise Problem(ProblemType.PROVIDER_UNAVAILABLE, detail) from error
        with _unchanged():
            answer = LeaseResponse.model_validate_json(response.content)
            lease_id, upload_id, rows = answer.lease_id, answer.upload_id, answer.rows
            ticket, sealed = (base64.b64decode(text, validate=True) for text in (answer.ticket, answer.seeds))
            try:
                seeds = key.open(sealed, lease_context(party, lease_id, upload_id, rows, ticket))
            except Problem as problem:
                raise ValueError("sealed for something else") from problem
            return LeaseGrant(lease_id, upload_id, rows, answer.ticket, seeds[:SEED_BYTES], seeds[SEED_BYTES:])


@contextmanager
def _unchanged() -> Iterator[None]:
    """What the provider never said is as good as nothing said."""
    try:
        yield
    except (ValueError, OverflowError) as error:
        raise Problem(ProblemType.PROVIDER_UNAVAILABLE, "its answer was changed on the way") from error
