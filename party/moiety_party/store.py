"""The model store: this party's part of each uploaded model, on disk, visible only when complete."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from moiety_shared.plan import Plan, ring_dtype
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.protocols.linear import Weights
from moiety_shared.ring import Array


@dataclass(frozen=True)
class Model:
    """A model ready to run at party p: the public plan, and its masked weights with p's shares of the masks."""

    upload_id: str
    plan: Plan
    weights: Mapping[str, Weights] = field(repr=False)


def read_shares(plan: Plan, raw: bytes) -> dict[str, Array]:
    """Weight shares out of a safetensors blob. Raises MALFORMED unless names, shapes, type are the plan's."""
    expected = dict(plan.weights())
    try:
        tensors = load(raw)
    except (SafetensorError, ValueError, KeyError) as error:
        raise Problem(ProblemType.MALFORMED, "the weights are not a safetensors file") from error
    if {name: tuple(t.shape) for name, t in tensors.items()} != expected:
        raise Problem(ProblemType.MALFORMED, "the weights' names or shapes are not those of the plan")
    if any(t.dtype != ring_dtype(plan.ring_bits) for t in tensors.values()):
        raise Problem(ProblemType.MALFORMED, "the weights are not ring elements of the plan's size")
    return tensors


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
        if upload_id in self:
            raise Problem(ProblemType.UPLOAD_CONFLICT)
        partial.mkdir(mode=0o700)
        tensors = {
            f"{layer}/{part}": np.ascontiguousarray(tensor)
            for layer, w in weights.items()
            for part, tensor in w._asdict().items()
            if tensor is not None
        }
        for name, content in (("plan.json", plan.canonical()), ("weights.safetensors", save(tensors))):
            _write(partial / name, content)
        _sync(partial)
        partial.rename(target)
        _sync(self._root)
        self._models[upload_id] = Model(upload_id, plan, weights)
        return self._models[upload_id]

    @staticmethod
    def _read(folder: Path) -> Model:
        plan = Plan.model_validate(json.loads((folder / "plan.json").read_bytes()))
        parts: dict[str, dict[str, Array]] = {}
        for name, tensor in load((folder / "weights.safetensors").read_bytes()).items():
            layer, part = name.split("/")
            parts.setdefault(layer, {})[part] = tensor
        weights = {layer: Weights(p["masked"], p["local"], p.get("bias")) for layer, p in parts.items()}
        return Model(folder.name, plan, weights)


def _write(path: Path, content: bytes) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
