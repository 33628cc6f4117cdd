"""The published models, and the HTTP interface that clients read them from."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from opentelemetry.trace import Tracer
from prometheus_client import CollectorRegistry, Gauge
from sqlalchemy import Connection, Select, Table, delete, select, update

from moiety_server.records import active, entries, records
from moiety_server.settings import ServerSettings
from moiety_shared.catalogue import Access, SignedEntry
from moiety_shared.layers import Public
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.service import tracing
from moiety_shared.service.app import create_app
from moiety_shared.service.database import Database, insert_new
from moiety_shared.service.metrics import Metrics


class Summary(Public):
    """One line of the list of models."""

    name: str
    version: int
    description: str
    input_shape: tuple[int, ...]
    classes: tuple[str, ...]
    access: Access


class Catalogue:
    """Versions of models, each a signed entry, and which of them is active."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def get(self, name: str, version: int | None = None) -> SignedEntry:
        """A version, or the active one. Raises Problem UNKNOWN_MODEL."""
        with self._db.read() as db:
            found = {row.version: row.signed for row in db.execute(_of(entries, name))}
            chosen = version if version is not None else self.active(name)
        if chosen not in found:
            raise Problem(ProblemType.UNKNOWN_MODEL, "the catalogue has no model of that name and version")
        return SignedEntry.model_validate_json(found[chosen])

    def names(self) -> list[str]:
        with self._db.read() as db:
            return list(db.execute(select(entries.c.name).distinct().order_by(entries.c.name)).scalars())

    def all(self) -> list[SignedEntry]:
        """The active version of every model."""
        same = (entries.c.name == active.c.name) & (entries.c.version == active.c.version)
        with self._db.read() as db:
            found = db.execute(select(entries.c.signed).join(active, same).order_by(entries.c.name)).scalars().all()
        return [SignedEntry.model_validate_json(signed) for signed in found]

    def versions(self, name: str) -> list[int]:
        """Rising. Empty for a name that is not there."""
        with self._db.read() as db:
            return sorted(row.version for row in db.execute(_of(entries, name)))

    def active(self, name: str) -> int | None:
        """The version that clients get who ask for none."""
        with self._db.read() as db:
            row = db.execute(_of(active, name)).one_or_none()
        return row.version if row is not None else None

    def next_version(self, name: str) -> int:
        return max(self.versions(name), default=0) + 1

    def put(self, signed: SignedEntry) -> None:
        """Add a version, or replace it by one that names new keys."""
        key, text = {"name": signed.entry.name, "version": signed.entry.version}, signed.model_dump_json()
        with self._db.write() as db:
            if not insert_new(db, entries, {**key, "signed": text}):
                db.execute(update(entries).filter_by(**key).values(signed=text))

    def activate(self, name: str, version: int) -> None:
        """What clients get from now on. Raises Problem UNKNOWN_MODEL."""
        self.get(name, version)
        with self._db.write() as db:
            _activate(db, name, version)

    def delete(self, name: str, version: int) -> None:
        """Forget a version; the newest that is left is active if it was this one."""
        with self._db.write() as db:
            db.execute(delete(entries).filter_by(name=name, version=version))
            was_active = db.execute(delete(active).filter_by(name=name, version=version)).rowcount == 1
            left = [row.version for row in db.execute(_of(entries, name))]
            if was_active and left:
                _activate(db, name, max(left))


def _of(table: Table, name: str) -> Select[Any]:
    """A model's rows; none for what cannot be a name, which PostgreSQL need not see."""
    return select(table).where(table.c.name == (name if name.isprintable() else ""))


def _activate(db: Connection, name: str, version: int) -> None:
    if not insert_new(db, active, {"name": name, "version": version}):
        db.execute(update(active).filter_by(name=name).values(version=version))


class ServerMetrics(Metrics):
    """What the owner's catalogue counts besides what every service does."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__("server", registry)
        self.models = Gauge("moiety_published_models", "Models that have an active version.", registry=registry)


def build(settings: ServerSettings, metrics: ServerMetrics | None = None, tracer: Tracer = tracing.NOBODY) -> FastAPI:
    db = records(settings)
    catalogue = Catalogue(db)
    metrics = metrics or ServerMetrics(CollectorRegistry())

    async def ready() -> None:
        metrics.models.set(len(await run_in_threadpool(catalogue.all)))

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        try:
            yield
        finally:
            db.close()

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
