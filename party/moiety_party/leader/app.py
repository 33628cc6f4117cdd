"""alice's HTTP interface: the clients' predictions, and the owner's addresses."""

from functools import lru_cache

from fastapi import FastAPI, Request, Response
from opentelemetry.trace import Tracer

from moiety_party import owner
from moiety_party.capacity import request_rows
from moiety_party.leader.leader import Leader
from moiety_party.lifetime import Lifetime, create_party
from moiety_party.party import Party
from moiety_party.settings import PartySettings
from moiety_service.http import origins
from moiety_service.http.app import bearer, create_app
from moiety_service.observability import tracing
from moiety_service.security.identity import Identity
from moiety_shared.messages.wire import MEDIA_TYPE, request_bytes
from moiety_shared.problems import Problem

_PREDICTIONS = "/v1/predictions"


def build(settings: PartySettings, identity: Identity, tracer: Tracer = tracing.NOBODY) -> FastAPI:
    party = create_party(settings, identity, tracer)
    lifetime = Lifetime(party, lambda: Leader(party))

    @lru_cache(maxsize=1024)  # models: an upload's plan never changes, and each request asks
    def largest(upload_id: str) -> int:
        plan = party.store.get(upload_id).plan
        return request_bytes(plan, request_rows(settings, plan))

    def body_limit(path: str) -> int:
        if path != _PREDICTIONS:
            return owner.body_limit(party, path)
        return max((largest(model.upload_id) for model in party.store.all()), default=owner.body_limit(party, path))

    async def guard(request: Request) -> None:
        """Raises a Problem before a stranger's body is read: so is a batch of inputs."""
        origins.check(request, settings.origins)
        if request.scope["path"] == _PREDICTIONS:
            await _check_sender(party, bearer(request))
        else:
            owner.guard(party, request)

    app = create_app(
        "party alice",
        lifespan=lifetime.lifespan,
        body_limit=body_limit,
        ready=lifetime.ready,
        guard=guard,
        link=lambda path: "client" if path == _PREDICTIONS else "owner",
        origins=settings.origins,
        metrics=party.metrics,
        tracer=tracer,
    )
    app.include_router(owner.routes(party))

    async def predict(request: Request) -> Response:
        result, stats = await lifetime.role.predict(await request.body(), bearer(request))
        headers = {
            "moiety-rounds": str(stats.rounds),
            "moiety-online-bytes": str(stats.opening_bytes),
            "server-timing": f"rounds;dur={stats.seconds * 1e3:.3f}",
        }
        return Response(result, headers=headers, media_type=MEDIA_TYPE)

    app.busy(
        _PREDICTIONS,
        predict,
        summary="Make a private prediction, with a token from the model's owner unless the model is open",
        response_class=Response,
        openapi_extra={"security": [{"bearer": []}, {}]},
    )
    return app


async def _check_sender(party: Party, token: str | None) -> None:
    """Raises Problem UNAUTHORIZED unless the token, or none, lets its sender ask for one of the models."""
    try:
        party.admission.check_sender(party.store.all(), token)
    except Problem:
        if not party.state.shared:
            raise
        await party.replicas.look()  # for a model that reached another replica a moment ago
        party.admission.check_sender(party.store.all(), token)
