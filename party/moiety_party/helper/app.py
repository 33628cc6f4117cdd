"""bob's HTTP interface: the link to alice, and the owner's addresses."""

from fastapi import FastAPI, Request, WebSocket
from opentelemetry.trace import Tracer

from moiety_party import owner
from moiety_party.helper.helper import Helper
from moiety_party.lane import ServerLink
from moiety_party.lifetime import Lifetime, create_party
from moiety_party.settings import PartySettings
from moiety_service.http.app import create_app
from moiety_service.http.websocket import link_of
from moiety_service.observability import tracing
from moiety_service.security.identity import Identity


def build(settings: PartySettings, identity: Identity, tracer: Tracer = tracing.NOBODY) -> FastAPI:
    party = create_party(settings, identity, tracer)
    lifetime = Lifetime(party, lambda: Helper(party, app.state.drain))

    async def guard(request: Request) -> None:
        owner.guard(party, request)

    app = create_app(
        "party bob",
        lifespan=lifetime.lifespan,
        body_limit=lambda path: owner.body_limit(party, path),
        ready=lifetime.ready,
        guard=guard,
        link=lambda _: "owner",
        metrics=party.metrics,
        tracer=tracer,
    )
    app.include_router(owner.routes(party))

    @app.websocket("/v1/peer")
    async def peer(socket: WebSocket) -> None:
        """The link between the parties, under alice's credential: frames of `moiety_shared/messages/wire.py`."""
        scheme, _, credential = socket.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not identity.accepts("alice", credential):
            await socket.close(4401)
            return
        helper = lifetime.role
        await socket.accept()
        await helper.serve(link_of(socket.scope) or ServerLink(socket))

    return app
