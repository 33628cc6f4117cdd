"""The owner's HTTP interface: the published models, which clients read from it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from opentelemetry.trace import Tracer
from prometheus_client import CollectorRegistry, Gauge

from moiety_server.catalogue import Catalogue
from moiety_server.records import records
from moiety_server.settings import ServerSettings
from moiety_shared.catalogue import Access, SignedEntry
from moiety_shared.layers import Public
from moiety_shared.service import tracing
from moiety_shared.service.app import create_app
from moiety_shared.service.identity import Identity
from moiety_shared.service.metrics import Metrics


class Summary(Public):
    """One line of the list of models."""

    name: str
    version: int
    description: str
    input_shape: tuple[int, ...]
    classes: tuple[str, ...]
    access: Access


class ServerMetrics(Metrics):
    """What the owner's catalogue counts besides what every service does."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__("server", registry)
        self.models = Gauge("moiety_published_models", "Models that have an active version.", registry=registry)


def build(
    settings: ServerSettings,
    identity: Identity,
    metrics: ServerMetrics | None = None,
    tracer: Tracer = tracing.NOBODY,
) -> FastAPI:
    db = records(settings)
    catalogue = Catalogue(db)
    metrics = metrics or ServerMetrics(CollectorRegistry())

    async def ready() -> None:
        metrics.models.set(len(await run_in_threadpool(catalogue.all)))

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        with closing(db):
            async with identity.keyring.wiping():
                yield

    app = create_app("model owner", lifespan=lifespan, ready=ready, metrics=metrics, tracer=tracer)

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

    @app.get("/v1/models/{name}", summary="All that a client must know of a model, signed: its active version")
    def model(name: str) -> SignedEntry:
        return catalogue.get(name)

    @app.get("/v1/models/{name}/versions", summary="The versions of a model, rising")
    def versions(name: str) -> list[int]:
        catalogue.get(name)
        return catalogue.versions(name)

    @app.get("/v1/models/{name}/versions/{version}", summary="The same of one version")
    def model_version(name: str, version: int) -> SignedEntry:
        return catalogue.get(name, version)

    return app
