"""The published models, as files, and the HTTP interface that clients read them from."""

import os
from pathlib import Path

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from opentelemetry.trace import Tracer
from prometheus_client import CollectorRegistry, Gauge

from moiety_server.settings import ServerSettings
from moiety_shared.catalogue import Access, SignedEntry
from moiety_shared.layers import Public
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.service import tracing
from moiety_shared.service.app import create_app
from moiety_shared.service.metrics import Metrics

_ACTIVE = "active"


class Summary(Public):
    """One line of the list of models."""

    name: str
    version: int
    description: str
    input_shape: tuple[int, ...]
    classes: tuple[str, ...]
    access: Access


class Catalogue:
    """A folder for each model: one signed JSON file a version, and the number of the active one."""

    def __init__(self, root: Path) -> None:
        self._root = root / "catalogue"
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def get(self, name: str, version: int | None = None) -> SignedEntry:
        """A version, or the active one. Raises Problem UNKNOWN_MODEL."""
        found = version if version is not None else self.active(name)
        if found is None or found not in self.versions(name):
            raise Problem(ProblemType.UNKNOWN_MODEL, "the catalogue has no model of that name and version")
        return SignedEntry.model_validate_json(self._file(name, found).read_bytes())

    def names(self) -> list[str]:
        return sorted(path.name for path in self._root.iterdir())

    def all(self) -> list[SignedEntry]:
        """The active version of every model."""
        return [self.get(name) for name in self.names() if self.active(name) is not None]

    def versions(self, name: str) -> list[int]:
        """Rising. Empty for a name that is not there."""
        if name not in self.names():
            return []
        return sorted(int(path.stem) for path in (self._root / name).glob("*.json"))

    def active(self, name: str) -> int | None:
        """The version that clients get who ask for none."""
        if name not in self.names() or not (self._root / name / _ACTIVE).exists():
            return None
        return int((self._root / name / _ACTIVE).read_text())

    def next_version(self, name: str) -> int:
        return max(self.versions(name), default=0) + 1

    def put(self, signed: SignedEntry) -> None:
        """Add a version, or replace it by one that names new keys."""
        (self._root / signed.entry.name).mkdir(mode=0o700, exist_ok=True)
        _write(self._file(signed.entry.name, signed.entry.version), signed.model_dump_json().encode())

    def activate(self, name: str, version: int) -> None:
        """What clients get from now on. Raises Problem UNKNOWN_MODEL."""
        self.get(name, version)
        _write(self._root / name / _ACTIVE, str(version).encode())

    def delete(self, name: str, version: int) -> None:
        """Forget a version; the newest that is left is active if it was this one."""
        active = self.active(name)
        self._file(name, version).unlink()
        left = self.versions(name)
        if not left:
            (self._root / name / _ACTIVE).unlink(missing_ok=True)
            (self._root / name).rmdir()
        elif active == version:
            self.activate(name, left[-1])

    def _file(self, name: str, version: int) -> Path:
        return self._root / name / f"{version}.json"


def _write(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


class ServerMetrics(Metrics):
    """What the owner's catalogue counts besides what every service does."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__("server", registry)
        self.models = Gauge("moiety_published_models", "Models that have an active version.", registry=registry)


def build(settings: ServerSettings, metrics: ServerMetrics | None = None, tracer: Tracer = tracing.NOBODY) -> FastAPI:
    catalogue = Catalogue(settings.private_dir())
    metrics = metrics or ServerMetrics(CollectorRegistry())

    async def ready() -> None:
        try:
            metrics.models.set(len(await run_in_threadpool(catalogue.all)))
        except (OSError, ValueError) as error:
            raise Problem(ProblemType.CATALOGUE_UNAVAILABLE, "its files cannot be read") from error

    app = create_app("model owner", ready=ready, metrics=metrics, tracer=tracer)

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
