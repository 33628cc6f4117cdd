"""A party's HTTP interface: clients' predictions and the owner's uploads, and at bob the peer link."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import torch
from fastapi import Depends, FastAPI, Path, Request, Response, WebSocket
from opentelemetry.trace import Tracer
from prometheus_client import CollectorRegistry

from moiety_party.helper.helper import Helper
from moiety_party.lane import ServerLink
from moiety_party.leader.leader import Leader
from moiety_party.metrics import PartyMetrics
from moiety_party.party import Party
from moiety_party.settings import PartySettings
from moiety_service import memory
from moiety_service.http.app import bearer, create_app, documented_bearer
from moiety_service.observability import tracing
from moiety_service.observability.logs import log
from moiety_service.security.identity import Identity
from moiety_shared.messages.parties import HeldModel, HeldModels, ModelState, PublicKeys, Revocations
from moiety_shared.messages.wire import MEDIA_TYPE, request_bytes
from moiety_shared.problems import Problem, ProblemType

_OWNER = "server"
UploadId = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$")]
_PREDICTIONS, _MODELS, _REVOCATIONS = "/v1/predictions", "/v1/models/", "/v1/revocations"
_SMALL, _REVOCATION_BYTES = 1 << 16, 1 << 19


def build(settings: PartySettings, identity: Identity, tracer: Tracer = tracing.NOBODY) -> FastAPI:
    """The app of one party. One torch thread each: two cores carry several processes."""
    torch.set_num_threads(1)
    memory.keep_freed_pages()
    metrics = PartyMetrics(settings.role, CollectorRegistry())
    metrics.certificate(identity, settings)
    party = Party(settings, identity, metrics=metrics, tracer=tracer)
    role: Leader | Helper | None = None

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        nonlocal role
        role = Leader(party) if settings.role == "alice" else Helper(party, app.state.drain)
        try:
            async with identity.keyring.wiping():
                yield
        finally:
            await role.close()
            await party.close()

    def running() -> Leader | Helper:
        if role is None:
            raise Problem(ProblemType.OVERLOADED, "starting")
        return role

    async def ready() -> None:
        await running().ready()

    def body_limit(path: str) -> int:
        if path == _PREDICTIONS:
            sizes = [request_bytes(m.plan, party.max_rows(m.plan)) for m in party.store.all()]
            return max(sizes, default=_SMALL)
        if path == _REVOCATIONS:
            return _REVOCATION_BYTES
        return settings.max_upload_bytes if path.startswith(_MODELS) else _SMALL

    def owner(request: Request) -> None:
        if not identity.accepts(_OWNER, bearer(request)):
            raise Problem(ProblemType.UNAUTHORIZED)

    async def guard(request: Request) -> None:
        """Strangers' bodies are not read: a model is large, and so are many inputs."""
        if request.url.path.startswith((_MODELS, _REVOCATIONS)):
            owner(request)
        elif request.url.path == _PREDICTIONS:
            await sender(bearer(request))

    async def sender(token: str | None) -> None:
        try:
            party.admission.check_sender(party.store.all(), token)
        except Problem:
            if not party.state.shared:
                raise
            await party.replicas.look()  # for a model that reached another replica a moment ago
            party.admission.check_sender(party.store.all(), token)

    app = create_app(
        f"party {settings.role}",
        lifespan=lifespan,
        body_limit=body_limit,
        ready=ready,
        guard=guard,
        link=lambda path: "client" if path == _PREDICTIONS else "owner",
        metrics=metrics,
        tracer=tracer,
    )

    of_owner = [documented_bearer(), Depends(owner)]

    @app.get("/v1/keys", summary="This party's public sealing key")
    async def keys() -> PublicKeys:
        return PublicKeys(role=settings.role, sealing_key=identity.keyring.public.text())

    @app.get("/v1/models", dependencies=of_owner, summary="Which uploads are here")
    async def held_models() -> HeldModels:
        await party.replicas.look()
        manifests = [model.manifest for model in party.store.all()]
        served = [HeldModel(upload_id=m.upload_id, name=m.name, version=m.version) for m in manifests]
        refused = [HeldModel(upload_id=upload_id) for upload_id in party.store.refused()]
        return HeldModels(models=(*served, *refused))

    @app.put("/v1/models/{upload_id}", status_code=201, dependencies=of_owner, summary="A model, masked")
    async def put_model(upload_id: UploadId, request: Request) -> dict[str, str]:
        with party.audit.event("upload", subject=_OWNER, upload=upload_id):
            await party.receive(upload_id, request.stream(), int(request.headers.get("content-length", "0")))
        log().info("upload", upload=upload_id)
        return {"upload_id": upload_id, "state": "stored"}

    @app.delete("/v1/models/{upload_id}", status_code=204, dependencies=of_owner, summary="Wipe a model's share")
    async def delete_model(upload_id: UploadId) -> None:
        with party.audit.event("delete", subject=_OWNER, upload=upload_id):
            await party.delete_model(upload_id)
        log().info("deleted", upload=upload_id)

    @app.put(_REVOCATIONS, status_code=204, dependencies=of_owner, summary="Revoke clients' tokens")
    async def revoke(body: Revocations) -> None:
        with party.audit.event("revoke", subject=_OWNER, rows=len(body.token_ids)):
            await party.away(party.state.revoke, body.token_ids)

    @app.get("/v1/models/{upload_id}", dependencies=of_owner, summary="How an upload is doing")
    async def model_state(upload_id: UploadId) -> ModelState:
        model = await party.replicas.model(upload_id)
        pools = party.pools_of(upload_id)
        return ModelState(
            upload_id=model.upload_id,
            state="ready" if party.is_prepared(upload_id) else "preparing",
            max_rows=party.max_rows(model.plan),
            rows_ready=sum(pool.stock for pool in pools),
            pool_full=bool(pools) and all(pool.full for pool in pools),
            bundle_rows=party.bundle_rows,
            bundle_bytes=party.bundle_bytes,
        )

    if settings.role == "alice":

        @app.post(
            _PREDICTIONS,
            summary="A private prediction, under a token of the model's owner unless the model is open",
            response_class=Response,
            openapi_extra={"security": [{"bearer": []}, {}]},
        )
        async def predict(request: Request) -> Response:
            leader = running()
            assert isinstance(leader, Leader)  # noqa: S101  alice's role is Leader
            result, stats = await leader.predict(await request.body(), bearer(request))
            headers = {
                "moiety-rounds": str(stats.rounds),
                "moiety-online-bytes": str(stats.opening_bytes),
                "server-timing": f"rounds;dur={stats.seconds * 1e3:.3f}",
            }
            return Response(result, headers=headers, media_type=MEDIA_TYPE)

    else:

        @app.websocket("/v1/peer")
        async def peer(socket: WebSocket) -> None:
            """The link between the parties, under alice's credential: frames of `moiety_shared/messages/wire.py`."""
            scheme, _, credential = socket.headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not identity.accepts("alice", credential):
                await socket.close(4401)
                return
            helper = running()
            assert isinstance(helper, Helper)  # noqa: S101  bob's role is Helper
            await socket.accept()
            await helper.serve(ServerLink(socket))

    return app
