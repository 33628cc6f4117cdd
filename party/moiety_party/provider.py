"""How a party talks to the crypto provider: leases, bundles, and the seeds of uploads."""

import base64
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass

import httpx
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from pydantic import ValidationError

from moiety_service.http import clients
from moiety_service.observability import tracing
from moiety_shared.crypto.channel import TAG_BYTES, bundle_cipher, lease_context, tags_cipher
from moiety_shared.crypto.prg import SEED_BYTES
from moiety_shared.crypto.sealing import PrivateKey
from moiety_shared.messages.leases import (
    BundleRequest,
    JoinRequest,
    LeaseRequest,
    LeaseResponse,
    RekeyRequest,
    UploadRequest,
    WordsRequest,
)
from moiety_shared.messages.statements import MOST_WORDS
from moiety_shared.plan.layers import Public
from moiety_shared.plan.plan import Plan
from moiety_shared.problems import Problem, ProblemType

_BUNDLE_TIMEOUT = httpx.Timeout(30, read=300)
"""In seconds. Between two reads the provider may deal a large layer."""
_MOST_WORDS = 2 * MOST_WORDS
"""In bytes. The provider measures what it hands over by the corrections of the same rows."""


@dataclass(frozen=True)
class LeaseGrant:
    """One party's side of a lease.

    `seed` is this party's, for all bundles of the lease; `check` keys the transcripts of its runs; `ticket` shows the
    lease to the provider, who alone can open it. Where runs are verified, `key_id` names the upload's key, and
    `key_seed` is this party's part of it.
    """

    lease_id: str
    upload_id: str
    rows: int
    ticket: str
    seed: bytes
    check: bytes
    key_id: str = ""
    key_seed: bytes = b""

    def __repr__(self) -> str:
        return f"LeaseGrant({self.lease_id})"


class Provider:
    """Calls the provider over HTTP. Every failure is a Problem: PROVIDER_UNAVAILABLE if there is no answer at all."""

    def __init__(
        self, client: httpx.AsyncClient, link_bytes: Callable[[int, int], None] = lambda _sent, _got: None
    ) -> None:
        """`link_bytes` is called with the bytes that were sent and received."""
        self._client = client
        self._link_bytes = link_bytes

    async def register(self, upload_id: str, plan: Plan, envelope: bytes) -> None:
        """Hand on the owner's envelope to the provider, with the seeds of the weights' masks. May be repeated.

        Raises UPLOAD_CONFLICT when the other party handed on others, or the upload was deleted.
        """
        seeds = base64.b64encode(envelope).decode()
        await self._post("/v1/uploads", UploadRequest(upload_id=upload_id, plan=plan, seeds=seeds))

    async def forget_upload(self, upload_id: str) -> None:
        """Have the provider wipe the upload's seeds, so that nothing can be dealt for it any more."""
        await self._delete(f"/v1/uploads/{upload_id}")

    async def rekey(self, upload_id: str, key_id: str) -> None:
        """Have the provider draw the key of an upload's verified runs anew, under that name. May be repeated."""
        await self._post(f"/v1/uploads/{upload_id}/rekey", RekeyRequest(key_id=key_id))

    async def open_lease(self, upload_id: str, rows: int) -> LeaseGrant:
        """alice opens a lease, whose bundles have `rows` rows each."""
        grant = await self._lease("/v1/leases", 0, lambda key: LeaseRequest(upload_id=upload_id, rows=rows, key=key))
        if grant.upload_id != upload_id:
            raise Problem(ProblemType.PROVIDER_UNAVAILABLE, "it opened a lease for another model")
        return grant

    async def join_lease(self, lease_id: str, ticket: str) -> LeaseGrant:
        """bob joins the lease that alice opened, by the ticket that she got."""
        return await self._lease(f"/v1/leases/{lease_id}/join", 1, lambda key: JoinRequest(ticket=ticket, key=key))

    async def end_lease(self, lease_id: str) -> None:
        """Have the provider wipe the lease's key, so that nothing can be dealt under it any more. May be repeated."""
        await self._delete(f"/v1/leases/{lease_id}")

    async def check(self) -> None:
        """Raises PROVIDER_UNAVAILABLE unless the provider answers and can do its work."""
        try:
            clients.check(await self._client.get("/health/ready"))
        except httpx.HTTPError as error:
            raise Problem(ProblemType.PROVIDER_UNAVAILABLE) from error

    async def bundle(self, grant: LeaseGrant, number: int, sizes: Sequence[int]) -> AsyncGenerator[bytearray, None]:
        """Fetch a bundle, and yield parts of `sizes` bytes as they arrive. The provider issues each bundle once.

        Raises a Problem unless the bundle is exactly that long, and at its end unless it is what was dealt: use nothing
        of it before. The announced length is checked before the body is read.
        """
        cipher = bundle_cipher(grant.seed, grant.lease_id, number)
        async with aclosing(self._parts(grant, f"bundles/{number}", cipher, sizes)) as parts:
            async for part in parts:
                yield part

    async def tags(self, grant: LeaseGrant, sizes: Sequence[int]) -> list[bytearray]:
        """Fetch the tags of an upload's weights, for verified runs, in parts of these sizes. Raises what `bundle`
        does."""
        cipher = tags_cipher(grant.seed, grant.lease_id)
        return [part async for part in self._parts(grant, "tags", cipher, sizes)]

    async def words(self, lease_id: str, ticket: str, first_row: int, rows: int, challenge: str) -> bytes:
        """Fetch the words of this party's own that dealt some rows, sealed to the upload's owner for this challenge."""
        body = WordsRequest(ticket=ticket, first_row=first_row, rows=rows, challenge=challenge)
        return (await self._post(f"/v1/leases/{lease_id}/words", body, most=_MOST_WORDS)).content

    async def _parts(
        self, grant: LeaseGrant, path: str, cipher: "Cipher[modes.GCM]", sizes: Sequence[int]
    ) -> AsyncGenerator[bytearray, None]:
        """Fetch what the provider sealed for this lease, and yield parts of `sizes` bytes as they arrive."""
        url = f"/v1/leases/{grant.lease_id}/{path}"
        decryptor = cipher.decryptor()
        body = BundleRequest(ticket=grant.ticket).model_dump(mode="json")
        try:
            async with self._client.stream(
                "POST",
                url,
                json=body,
                timeout=_BUNDLE_TIMEOUT,
                headers=tracing.outgoing(),
                extensions=clients.at_most(sum(sizes) + TAG_BYTES),
            ) as response:
                if not response.is_success:
                    await response.aread()
                    clients.check(response)
                if response.headers.get("content-length") != str(sum(sizes) + TAG_BYTES):
                    raise Problem(ProblemType.MALFORMED, "a bundle's length does not match its plan")
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
                    raise Problem(ProblemType.MALFORMED, "a bundle is longer than its plan allows")
        except InvalidTag:
            raise Problem(ProblemType.MALFORMED, "a bundle was changed in transit") from None
        except httpx.HTTPError as error:
            raise Problem(ProblemType.PROVIDER_UNAVAILABLE) from error

    async def _delete(self, path: str) -> None:
        try:
            clients.check(await self._client.delete(path, headers=tracing.outgoing()))
        except httpx.HTTPError as error:
            raise Problem(ProblemType.PROVIDER_UNAVAILABLE) from error

    async def _post(self, path: str, body: Public, most: int = 0) -> httpx.Response:
        asked = body.model_dump(mode="json")
        try:
            response = await self._client.post(
                path, json=asked, headers=tracing.outgoing(), extensions=clients.at_most(most)
            )
            self._link_bytes(len(response.request.content), len(response.content))
        except httpx.HTTPError as error:
            raise Problem(ProblemType.PROVIDER_UNAVAILABLE) from error
        return clients.check(response)

    async def _lease(self, path: str, party: int, request: Callable[[str], Public]) -> LeaseGrant:
        """Open or join a lease. `request` makes the body, given the public key to which the provider seals its answer.

        The private key exists only during this call.
        """
        key = PrivateKey.generate()
        try:
            response = await self._post(path, request(key.public.text()))
        except (Problem, ValidationError) as error:  # a ticket comes from the peer: it may be no ticket at all
            if isinstance(error, Problem) and error.kind is not ProblemType.INVALID_INPUT:
                raise
            detail = "it does not understand the request: check that it runs the same release"
            raise Problem(ProblemType.PROVIDER_UNAVAILABLE, detail) from error
        with _unchanged():
            answer = LeaseResponse.model_validate_json(response.content)
            lease_id, upload_id, rows = answer.lease_id, answer.upload_id, answer.rows
            ticket, sealed = (base64.b64decode(text, validate=True) for text in (answer.ticket, answer.seeds))
            try:
                context = lease_context(party, lease_id, upload_id, rows, ticket, answer.key_id or "")
                seeds = key.open(sealed, context)
            except Problem as problem:
                raise ValueError("sealed for another lease") from problem
            seed, check, rest = seeds[:SEED_BYTES], seeds[SEED_BYTES : 2 * SEED_BYTES], seeds[2 * SEED_BYTES :]
            return LeaseGrant(lease_id, upload_id, rows, answer.ticket, seed, check, answer.key_id or "", rest)


@contextmanager
def _unchanged() -> Iterator[None]:
    """An answer that was changed on its way is as good as none: PROVIDER_UNAVAILABLE."""
    try:
        yield
    except (ValueError, OverflowError) as error:
        raise Problem(ProblemType.PROVIDER_UNAVAILABLE, "its answer was changed in transit") from error
