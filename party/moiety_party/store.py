"""The model store: this party's part of each uploaded model, encrypted on disk, visible only when complete.

A model has a key of its own, kept under the role's storage key. Deleting it wipes that key first: what may be left of
the weights on some disk is noise then.
"""

import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from safetensors.numpy import load, save

from moiety_shared.catalogue import Manifest
from moiety_shared.plan import Plan
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.protocols.product import Weights
from moiety_shared.ring import Array
from moiety_shared.service.starting import StartRefused

_NONCE, _KEY_BYTES = 12, 32
_KEY_FILE = "model.key"


class UnreadableModel(StartRefused):
    """A stored model was changed, or is another role's or key's."""


@dataclass(frozen=True)
class Model:
    """A model ready to run at party p: the public plan, and its masked weights with p's shares of the masks."""

    manifest: Manifest
    plan: Plan
    weights: Mapping[str, Weights] = field(repr=False)

    @property
    def upload_id(self) -> str:
        return self.manifest.upload_id


class ModelStore:
    """One folder a model under `models/`. A folder is complete or it is not there."""

    def __init__(self, root: Path, storage_key: bytes) -> None:
        """Raises UnreadableModel when a stored model cannot be opened with this key."""
        self._storage_key = storage_key
        self._root = root / "models"
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for leftover in self._root.glob("*.partial"):
            _wipe(leftover)
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

    def put(self, model: Model) -> None:
        """Durable when this returns. Raises Problem UPLOAD_CONFLICT when the id is taken."""
        target, partial = self._root / model.upload_id, self._root / f"{model.upload_id}.partial"
        if model.upload_id in self or partial.exists():
            raise Problem(ProblemType.UPLOAD_CONFLICT)
        partial.mkdir(mode=0o700)
        key = secrets.token_bytes(_KEY_BYTES)
        public = {"manifest.json": model.manifest.model_dump_json().encode(), "plan.json": model.plan.canonical()}
        for name, content in public.items():
            _write(partial / name, content)
        _write(partial / _KEY_FILE, _seal(self._storage_key, key, _context(public, _KEY_FILE)))
        for layer, weights in model.weights.items():
            for part, tensor in weights._asdict().items():
                if tensor is not None:
                    name = f"{layer}.{part}"
                    _write(partial / f"{name}.sealed", _seal(key, save({part: tensor}), _context(public, name)))
        _sync(partial)
        partial.rename(target)
        _sync(self._root)
        self._models[model.upload_id] = model

    def delete(self, upload_id: str) -> None:
        """Gone when this returns, its key first. Runs under way keep what they hold in memory."""
        if self._models.pop(upload_id, None) is not None:
            _wipe(self._root / upload_id)
            _sync(self._root)

    def _read(self, folder: Path) -> Model:
        try:
            public = {name: (folder / name).read_bytes() for name in ("manifest.json", "plan.json")}
            manifest = Manifest.model_validate_json(public["manifest.json"])
            plan = Plan.model_validate_json(public["plan.json"])
            key = _open(self._storage_key, (folder / _KEY_FILE).read_bytes(), _context(public, _KEY_FILE))
            parts: dict[str, dict[str, Array]] = {}
            for path in folder.glob("*.sealed"):
                layer = path.stem.rpartition(".")[0]
                parts.setdefault(layer, {}).update(load(_open(key, path.read_bytes(), _context(public, path.stem))))
            found = {f"{layer}.{part}" for layer, tensors in parts.items() for part in tensors}
            if folder.name != manifest.upload_id or found != _parts(plan):
                raise ValueError("not the files of its plan")
            weights = {layer: Weights(p.get("masked"), p.get("local"), p.get("bias")) for layer, p in parts.items()}
        except (OSError, ValueError, InvalidTag) as error:
            raise UnreadableModel(
                f"{folder} cannot be opened ({type(error).__name__}): it was changed, or storage.key is another. "
                "Restore it from a backup, or remove the folder and publish the model again"
            ) from None
        return Model(manifest, plan, weights)


def _parts(plan: Plan) -> set[str]:
    """What there is of each layer: "layer.part"."""
    of = {"weight": ("masked", "local"), "bias": ("bias",)}
    names = (name.rpartition(".") for name, _ in plan.weights())
    return {f"{layer}.{part}" for layer, _, kind in names for part in of[kind]}


def _context(public: Mapping[str, bytes], name: str) -> bytes:
    """What a sealed file is bound to: its place, and the public files beside it."""
    return b"\0".join((b"moiety/v1 at rest", name.encode(), *public.values()))


def _seal(key: bytes, content: bytes, context: bytes) -> bytes:
    nonce = secrets.token_bytes(_NONCE)
    return nonce + AESGCM(key).encrypt(nonce, content, context)


def _open(key: bytes, sealed: bytes, context: bytes) -> bytes:
    return AESGCM(key).decrypt(sealed[:_NONCE], memoryview(sealed)[_NONCE:], context)


def _write(path: Path, content: bytes) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _wipe(folder: Path) -> None:
    key = folder / _KEY_FILE
    if key.exists():
        with key.open("r+b") as file:
            file.write(bytes(key.stat().st_size))
            file.flush()
            os.fsync(file.fileno())
    shutil.rmtree(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
