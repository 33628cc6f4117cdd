"""The owner's HTTP interface, from which clients read the published models."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

from fastapi import FastAPI, Response
from fastapi.concurrency import run_in_threadpool
from opentelemetry.trace import Tracer
from prometheus_client import CollectorRegistry, Gauge

from moiety_server import page
from moiety_server.catalogue import Catalogue
from moiety_server.records import records
from moiety_server.settings import ServerSettings
from moiety_service.http.app import create_app
from moiety_service.observability import tracing
from moiety_service.observability.logs import log, where
from moiety_service.observability.metrics import Metrics
from moiety_service.security.identity import Identity
from moiety_shared.messages.catalogue import Access, Entry, SignedEntry
from moiety_shared.plan.layers import Public
from moiety_shared.problems import Problem


class Summary(Public):
    """One line of the list of models."""

    name: str
    version: int
    description: str
    input_shape: tuple[int, ...]
    classes: tuple[str, ...]
    access: Access


class ServerMetrics(Metrics):
    """The metrics of the owner's catalogue, besides those of every service."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__("server", registry)
        self.models = Gauge("moiety_published_models", "Models that have an active version.", registry=registry)
        self.expiry = Gauge(
            "moiety_catalogue_entry_expiry_timestamp_seconds",
            "When the model's active entry expires, in seconds since 1970.",
            ["model"],
            registry=registry,
        )

    def published(self, entries: list[Entry]) -> None:
        """Record which models are active now."""
        self.models.set(len(entries))
        self.expiry.clear()
        for entry in entries:
            self.expiry.labels(entry.name).set(entry.expires)


_RENEW_SECONDS = 3600.0


@asynccontextmanager
async def renewing(catalogue: Catalogue, identity: Identity, metrics: ServerMetrics) -> AsyncIterator[None]:
    """Once an hour, from now on, sign anew each entry that has had half of its time, if the signing key is here."""

    async def renew() -> None:
        while True:
            try:
                if identity.signs:
                    for _ in await run_in_threadpool(catalogue.renew, identity.signing_key):
                        log().info("entry renewed")
                metrics.published([signed.entry for signed in await run_in_threadpool(catalogue.all)])
            except Problem as problem:
                log().warning("not renewed", problem=problem.kind.name)
            except Exception as error:
                log().error("not renewed", where=where(error))
            await asyncio.sleep(_RENEW_SECONDS)

    task = asyncio.create_task(renew())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def build(settings: ServerSettings, identity: Identity, tracer: Tracer = tracing.NOBODY) -> FastAPI:
    db = records(settings)
    catalogue = Catalogue(db)
    metrics = ServerMetrics(CollectorRegistry())
    metrics.certificate(identity, settings)

    async def ready() -> None:
        metrics.published([signed.entry for signed in await run_in_threadpool(catalogue.all)])

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        with closing(db):
            async with identity.keyring.wiping(), renewing(catalogue, identity, metrics):
                yield

    app = create_app(
        "model owner", lifespan=lifespan, ready=ready, origins=settings.origins, metrics=metrics, tracer=tracer
    )

    @app.get("/v1/models", summary="The published models")
    def models() -> list[Summary]:
        entries = [signed.entry for signed in catalogue.all()]
        return [
            Summary(
                name=e.name,
                version=e.version,
                description=e.description,
                input_shape=e.plan.input.shape,
                classes=e.classes,
                access=e.access,
            )
            for e in entries
        ]

    @app.get(
        "/v1/models/{name}", summary="The signed entry of a model's active version: all that a client needs to know"
    )
    def model(name: str) -> SignedEntry:
        return catalogue.get(name)

    @app.get("/v1/models/{name}/versions", summary="The version numbers of a model, in ascending order")
    def versions(name: str) -> list[int]:
        catalogue.get(name)
        return catalogue.versions(name)

    @app.get("/v1/models/{name}/versions/{version}", summary="The signed entry of one version of a model")
    def model_version(name: str, version: int) -> SignedEntry:
        return catalogue.get(name, version)

    @app.get(
        "/v1/models/{name}/versions/{version}/files/{digest}",
        summary="A file beside the entry of one version, which the entry names by its digest",
        response_class=Response,
    )
    def attached(name: str, version: int, digest: str) -> Response:
        return Response(catalogue.attached(name, version, digest), media_type="application/octet-stream")

    if settings.page:
        page.serve(app, catalogue, settings.alice_url)
    return app
