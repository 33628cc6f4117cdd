"""The published models, as files, and the HTTP interface that clients read them from."""

import os
from pathlib import Path

from fastapi import FastAPI

from moiety_server.settings import ServerSettings
from moiety_shared.catalogue import SignedEntry
from moiety_shared.layers import Public
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.service.app import create_app


class Summary(Public):
    """One line of the list of models."""

    name: str
    version: int
    description: str
    input_shape: tuple[int, ...]
    classes: tuple[str, ...]


class Catalogue:
    """One signed JSON file a model, replaced as a whole."""

    def __init__(self, root: Path) -> None:
        self._root = root / "catalogue"
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def get(self, name: str) -> SignedEntry:
        """Raises Problem UNKNOWN_MODEL."""
        found = {path.stem: path for path in self._root.glob("*.json")}.get(name)
        if found is None:
            raise Problem(ProblemType.UNKNOWN_MODEL, "the catalogue has no model of that name")
        return SignedEntry.model_validate_json(found.read_bytes())

    def all(self) -> list[SignedEntry]:
        return [SignedEntry.model_validate_json(p.read_bytes()) for p in sorted(self._root.glob("*.json"))]

    def next_version(self, name: str) -> int:
        return max((s.entry.version for s in self.all() if s.entry.name == name), default=0) + 1

    def put(self, signed: SignedEntry) -> None:
        target = self._root / f"{signed.entry.name}.json"
        partial = target.with_suffix(".partial")
        with partial.open("wb") as file:
            file.write(signed.model_dump_json().encode())
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)


def build(settings: ServerSettings) -> FastAPI:
    catalogue = Catalogue(settings.private_dir())
    app = create_app("model owner")

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
            )
            for e in entries
        ]

    @app.get("/v1/models/{name}", summary="All that a client must know of a model, signed")
    def model(name: str) -> SignedEntry:
        return catalogue.get(name)

    return app
