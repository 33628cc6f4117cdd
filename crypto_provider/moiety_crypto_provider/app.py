"""The provider's HTTP interface. Only alice and bob may talk to it."""

import asyncio
import base64
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, suppress
from typing import Annotated

import torch
from fastapi import Depends, FastAPI, Path, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from opentelemetry.trace import Tracer
from prometheus_client import CollectorRegistry

from moiety_crypto_provider.issuer import Issuer, Lease
from moiety_crypto_provider.ledger import Ledger
from moiety_crypto_provider.metrics import ProviderMetrics
from moiety_crypto_provider.settings import ProviderSettings
from moiety_service import memory
from moiety_service.database import location
from moiety_service.http.app import bearer, create_app, documented_bearer
from moiety_service.observability import tracing
from moiety_service.observability.logs import log
from moiety_service.security.identity import Identity
from moiety_shared.crypto.channel import lease_context
from moiety_shared.crypto.sealing import PublicKey
from moiety_shared.messages import upload
from moiety_shared.messages.catalogue import Hex16
from moiety_shared.messages.leases import (
    BundleRequest,
    JoinRequest,
    LeaseRequest,
    LeaseResponse,
    RekeyRequest,
    UploadRequest,
    WordsRequest,
)
from moiety_shared.problems import Problem, ProblemType

_PLAN_BYTES, _SMALL_BYTES = 1 << 25, 1 << 20
_LOOK_SECONDS = 600.0  # seconds between two searches for leases that are too old


def _grant(lease: Lease, seeds: bytes, party: int, key: str, ticket: bytes) -> LeaseResponse:
    context = lease_context(party, lease.lease_id, lease.upload_id, lease.rows, ticket, lease.key_id)
    sealed = PublicKey.from_text(key).seal(seeds, context)
    texts = {name: base64.b64encode(raw).decode() for name, raw in (("seeds", sealed), ("ticket", ticket))}
    named = {"lease_id": lease.lease_id, "upload_id": lease.upload_id, "key_id": lease.key_id or None}
    return LeaseResponse(rows=lease.rows, **named, **texts)


def _streamed(length: int, content: Iterator[bytes]) -> StreamingResponse:
    return StreamingResponse(content, headers={"content-length": str(length)}, media_type="application/octet-stream")


def build(settings: ProviderSettings, identity: Identity, tracer: Tracer = tracing.NOBODY) -> FastAPI:
    """Make the app. Torch gets one thread: two dealers side by side are faster than one dealer on two cores."""
    torch.set_num_threads(1)
    memory.return_large_blocks()
    metrics = ProviderMetrics(CollectorRegistry())
    metrics.certificate(identity, settings)
    ledger = Ledger(location(settings, identity.role, "ledger.sqlite"), identity.storage_key)
    issuer = Issuer(ledger, settings.max_bundle_bytes, settings.lease_hours * 3600, metrics)

    async def end_old_leases() -> None:
        while True:
            with suppress(Problem):  # the database does not answer: the next search tries again
                await run_in_threadpool(issuer.end_old_leases)
            await asyncio.sleep(_LOOK_SECONDS)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        with closing(ledger):
            looking = asyncio.create_task(end_old_leases())
            try:
                async with identity.keyring.wiping():
                    yield
            finally:
                looking.cancel()
                await asyncio.gather(looking, return_exceptions=True)

    def caller(request: Request) -> int:
        """0 for alice, 1 for bob. This compares both credentials every time."""
        presented = bearer(request)
        is_alice = identity.accepts("alice", presented)
        is_bob = identity.accepts("bob", presented)
        if not (is_alice or is_bob):
            raise Problem(ProblemType.UNAUTHORIZED)
        return int(is_bob)

    async def guard(request: Request) -> None:
        """Refuse strangers before their bodies are read: a plan is large."""
        if request.url.path.startswith("/v1/"):
            caller(request)

    async def ready() -> None:
        await run_in_threadpool(issuer.check)

    app = create_app(
        "crypto provider",
        lifespan=lifespan,
        ready=ready,
        link=lambda _: "party",
        metrics=metrics,
        tracer=tracer,
        body_limit=lambda path: _PLAN_BYTES if path == "/v1/uploads" else _SMALL_BYTES,
        guard=guard,
    )
    Caller = Annotated[int, Depends(caller)]
    of_parties = [documented_bearer()]

    def open_envelope(envelope: bytes, bound: bytes) -> bytes:
        try:
            return identity.keyring.open(envelope, bound)
        except Problem as problem:
            if problem.kind is ProblemType.KEY_RETIRED:
                raise Problem(ProblemType.PROVIDER_KEY_RETIRED) from None
            raise

    def only(party: int, who: int) -> None:
        if who != party:
            raise Problem(ProblemType.FORBIDDEN, "only the other party may do this")

    @app.post(
        "/v1/uploads",
        status_code=204,
        dependencies=of_parties,
        summary="Register the seeds of an upload's weight masks",
    )
    def register_upload(body: UploadRequest, who: Caller) -> None:
        bound = upload.context(body.plan, bytes.fromhex(body.upload_id), "dealer")
        seeds = upload.open_seeds(open_envelope(body.envelope(), bound))
        issuer.register_upload(body.upload_id, body.plan, seeds)
        log().info("upload", upload=body.upload_id)

    @app.delete("/v1/uploads/{upload_id}", status_code=204, dependencies=of_parties, summary="Wipe an upload's seeds")
    def forget_upload(upload_id: Hex16, who: Caller) -> None:
        issuer.forget_upload(upload_id)
        log().info("forgotten", upload=upload_id)

    @app.post(
        "/v1/uploads/{upload_id}/rekey",
        status_code=204,
        dependencies=of_parties,
        summary="Draw the key of an upload's verified runs anew",
    )
    def rekey(upload_id: Hex16, body: RekeyRequest, who: Caller) -> None:
        issuer.rekey(upload_id, body.key_id)
        log().info("rekeyed", upload=upload_id)

    @app.post("/v1/leases", dependencies=of_parties, summary="Open a lease, as alice, and get her seed")
    def open_lease(body: LeaseRequest, who: Caller) -> LeaseResponse:
        only(0, who)
        lease, ticket = issuer.open_lease(body.upload_id, body.rows)
        log().info("lease opened", lease=lease.lease_id, upload=lease.upload_id, rows=lease.rows)
        return _grant(lease, issuer.seeds(lease, 0), 0, body.key, ticket)

    @app.post("/v1/leases/{lease_id}/join", dependencies=of_parties, summary="Join a lease, once, as bob")
    def join_lease(lease_id: str, body: JoinRequest, who: Caller) -> LeaseResponse:
        only(1, who)
        lease = issuer.join_lease(lease_id, body.sealed())
        return _grant(lease, issuer.seeds(lease, 1), 1, body.key, body.sealed())

    @app.delete("/v1/leases/{lease_id}", status_code=204, dependencies=of_parties, summary="Wipe a lease's key")
    def end_lease(lease_id: Hex16, who: Caller) -> None:
        issuer.end_lease(lease_id)
        log().info("lease ended", lease=lease_id)

    @app.post(
        "/v1/leases/{lease_id}/bundles/{number}",
        dependencies=of_parties,
        summary="Get one bundle of corrections, once, as bob",
        response_class=StreamingResponse,
    )
    def bundle(
        lease_id: str, number: Annotated[int, Path(ge=0, le=1 << 31)], body: BundleRequest, who: Caller
    ) -> StreamingResponse:
        only(1, who)
        return _streamed(*issuer.bundle(lease_id, body.sealed(), number))

    @app.post(
        "/v1/leases/{lease_id}/tags",
        dependencies=of_parties,
        summary="Get the tags of the weights, for verified runs, as bob",
        response_class=StreamingResponse,
    )
    def tags(lease_id: str, body: BundleRequest, who: Caller) -> StreamingResponse:
        only(1, who)
        return _streamed(*issuer.tags(lease_id, body.sealed()))

    @app.post(
        "/v1/leases/{lease_id}/words",
        dependencies=of_parties,
        summary="Get one's own words of some rows, sealed to the owner, for an audit",
        response_class=Response,
    )
    def words(lease_id: Hex16, body: WordsRequest, who: Caller) -> Response:
        challenge = bytes.fromhex(body.challenge)
        sealed = issuer.words(lease_id, body.sealed(), who, body.first_row, body.rows, challenge)
        log().info("words", lease=lease_id, rows=body.rows)
        return Response(sealed, media_type="application/octet-stream")

    return app
