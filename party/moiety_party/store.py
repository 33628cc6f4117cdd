"""The model store: this party's part of each uploaded model, on disk, visible only when complete."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from moiety_shared.plan import Plan
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.protocols.product import Weights
from moiety_shared.ring import Array


@dataclass(frozen=True)
class Model:
    """A model ready to run at party p: the public plan, and its masked weights with p's shares of the masks."""

    upload_id: str
    plan: Plan
    weights: Mapping[str, Weights] = field(repr=False)


class ModelStore:
    """One folder a model under `models/`. A folder is complete or it is not there."""

    def __init__(self, root: Path) -> None:
        self._root = root / "models"
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for leftover in self._root.glob("*.partial"):
            shutil.rmtree(leftover)
        self._models = {m.upload_id: m for m in map(self._read, sorted(self._root.iterdir()))}

    def __contains__(self, upload_id: str) -> bool:
        return upload_id in self._models

    def get(self, upload_id: str) -> Model:
        """Raises Problem UNKNOWN_MODEL."""
        if upload_id not in self._models:
            raise Problem(ProblemType.UNKNOWN_MODEL)
        return self._models[upload_id]

    def all(self) -> list[Model]:
        return list(self._models.values())

    def put(self, upload_id: str, plan: Plan, weights: Mapping[str, Weights]) -> Model:
        """Durable when this returns. Raises Problem UPLOAD_CONFLICT when the id is taken."""
        target, partial = self._root / upload_id, self._root / f"{upload_id}.partial"
        if upload_id in self or partial.exists():
            raise Problem(ProblemType.UPLOAD_CONFLICT)
        partial.mkdir(mode=0o700)
        tensors = {
            f"{layer}/{part}": np.ascontiguousarray(tensor)
            for layer, w in weights.items()
            for part, tensor in w._asdict().items()
            if tensor is not None
        }
        (partial / "plan.json").write_bytes(plan.canonical())
        save_file(tensors, partial / "weights.safetensors")
        for written in partial.iterdir():
            written.chmod(0o600)
            _sync(written)
        _sync(partial)
        partial.rename(target)
        _sync(self._root)
        self._models[upload_id] = Model(upload_id, plan, weights)
        return self._models[upload_id]

    @staticmethod
    def _read(folder: Path) -> Model:
        plan = Plan.model_validate(json.loads((folder / "plan.json").read_bytes()))
        parts: dict[str, dict[str, Array]] = {}
        for name, tensor in load_file(folder / "weights.safetensors").items():
            layer, part = name.split("/")
            parts.setdefault(layer, {})[part] = tensor
        weights = {layer: Weights(p.get("masked"), p.get("local"), p.get("bias")) for layer, p in parts.items()}
        return Model(folder.name, plan, weights)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
