"""The model store: this party's part of each uploaded model, encrypted, visible only when complete.

A model has a key of its own, kept under the role's storage key. Deleting it wipes that key first: what may be left of
the weights on some disk is noise then. Its manifest is written last: a model without one is not there. All replicas of
a party may share one store.
"""

import math
import re
import secrets
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from safetensors.numpy import load, save

from moiety_party.masking import read_shares
from moiety_party.objects import Objects
from moiety_shared.catalogue import Manifest
from moiety_shared.plan import Plan
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.protocols.product import Weights
from moiety_shared.ring import Array
from moiety_shared.service.starting import StartRefused
from moiety_shared.wire import malformed

_NONCE, _KEY_BYTES, _TAG = 12, 32, 16
_KEY_FILE, _MANIFEST, _PLAN = "model.key", "manifest.json", "plan.json"
_WRITING = "writing"  # since when, in seconds since 1970: a model that is still arriving
_PARTIAL = ".partial"  # how release 0.1.0 marked one
_NAME = re.compile(rf"[0-9a-f]{{32}}({re.escape(_PARTIAL)})?")
_ABANDONED_SECONDS = 3600.0
_LIMITS = {_MANIFEST: 1 << 16, _PLAN: 1 << 25, _KEY_FILE: _NONCE + _KEY_BYTES + _TAG, _WRITING: 32}
_HEADER_BYTES = 1 << 12  # of a safetensors file with one tensor
_ELEMENT_BYTES = 8  # at most
_WAITING, _SHARES = (
    "waiting-",
    "shares.sealed",
)  # a folder's prefix: halves of uploads that the leader has not asked for
MAX_WAITING = 4
"""More halves of uploads do not wait: an older one gives way, and its owner publishes again."""


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
    """A folder for each model. What is complete is read once and stays in memory."""

    def __init__(
        self,
        objects: Objects,
        storage_key: bytes,
        deleted: Collection[str] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Reads all models but those `deleted`, of which the rest is wiped, as is what was abandoned half-way.

        Raises UnreadableModel when a stored model cannot be opened with this key, StartRefused when nothing answers.
        """
        self._objects, self._storage_key, self._clock = objects, storage_key, clock
        self._models: dict[str, Model] = {}
        try:
            for name in filter(_NAME.fullmatch, objects.folders()):
                half = name.endswith(_PARTIAL)
                if half or name in deleted or not (self.load(name) or self._is_arriving(name)):
                    self._wipe(name)
        except Problem as problem:
            raise StartRefused(f"the store at {objects} does not answer ({type(problem.__cause__).__name__})") from None

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
        upload_id, objects = model.upload_id, self._objects
        if model.upload_id in self or objects.files(upload_id):
            raise Problem(ProblemType.UPLOAD_CONFLICT)
        objects.write(upload_id, _WRITING, f"{self._clock():.0f}".encode())
        key = secrets.token_bytes(_KEY_BYTES)
        public = {_MANIFEST: model.manifest.model_dump_json().encode(), _PLAN: model.plan.canonical()}
        objects.write(upload_id, _PLAN, public[_PLAN])
        objects.write(upload_id, _KEY_FILE, _seal(self._storage_key, key, _context(public, _KEY_FILE)))
        for layer, weights in model.weights.items():
            for part, tensor in weights._asdict().items():
                if tensor is not None:
                    name = f"{layer}.{part}"
                    content = _seal(key, save({part: tensor}), _context(public, name))
                    objects.write(upload_id, f"{name}.sealed", content)
        objects.publish(upload_id, _MANIFEST, public[_MANIFEST])
        objects.remove(upload_id, _WRITING)
        self._models[upload_id] = model

    def load(self, upload_id: str) -> bool:
        """Read a model that is there since another replica put it. Returns whether it is. Raises UnreadableModel."""
        try:
            manifest = self._objects.read(upload_id, _MANIFEST, _LIMITS[_MANIFEST])
        except FileNotFoundError:
            return False
        except ValueError as error:
            raise self._unreadable(upload_id, error) from None
        self._models[upload_id] = self._read(upload_id, manifest)
        return True

    def put_waiting(self, manifest: Manifest, plan: Plan, shares: Mapping[str, Array]) -> None:
        """bob's half of an upload, for whichever replica the leader asks. Raises Problem UPLOAD_CONFLICT."""
        objects, name = self._objects, _WAITING + manifest.upload_id
        waiting = [folder for folder in objects.folders() if folder.startswith(_WAITING)]
        if name in waiting:
            raise Problem(ProblemType.UPLOAD_CONFLICT)
        for folder in waiting[: max(len(waiting) + 1 - MAX_WAITING, 0)]:
            self._wipe_waiting(folder)
        public = {_MANIFEST: manifest.model_dump_json().encode(), _PLAN: plan.canonical()}
        objects.write(name, _PLAN, public[_PLAN])
        objects.write(name, _SHARES, _seal(self._storage_key, save(dict(shares)), _context(public, _SHARES)))
        objects.publish(name, _MANIFEST, public[_MANIFEST])

    def take_waiting(self, upload_id: str) -> tuple[Manifest, Plan, dict[str, Array]]:
        """It waits no more. Raises Problem UPLOAD_INCOMPLETE when it does not, MALFORMED when it was changed."""
        objects, name = self._objects, _WAITING + upload_id
        try:
            public = {file: objects.read(name, file, _LIMITS[file]) for file in (_MANIFEST, _PLAN)}
            manifest = Manifest.model_validate_json(public[_MANIFEST])
            plan = Plan.model_validate_json(public[_PLAN])
            most = sum(math.prod(shape) * _ELEMENT_BYTES + _HEADER_BYTES for _, shape in plan.weights())
            sealed = objects.read(name, _SHARES, most + _HEADER_BYTES)
            raw = _open(self._storage_key, sealed, _context(public, _SHARES))
        except FileNotFoundError:
            raise Problem(ProblemType.UPLOAD_INCOMPLETE) from None
        except (ValueError, InvalidTag):
            raise malformed("what waited in the store was changed there") from None
        self._wipe_waiting(name)
        if manifest.upload_id != upload_id:
            raise malformed("what waited in the store is another upload")
        return manifest, plan, read_shares(plan, raw)

    def _wipe_waiting(self, folder: str) -> None:
        if _SHARES in self._objects.files(folder):
            self._objects.overwrite(folder, _SHARES)
        self._objects.remove_folder(folder)

    def drop(self, upload_id: str) -> None:
        """Serve it no more. Runs under way keep what they hold in memory."""
        self._models.pop(upload_id, None)

    def delete(self, upload_id: str) -> None:
        """Gone when this returns, its key first. May be repeated."""
        self.drop(upload_id)
        self._wipe(upload_id)

    def _wipe(self, upload_id: str) -> None:
        files = self._objects.files(upload_id)
        if _KEY_FILE in files:
            self._objects.overwrite(upload_id, _KEY_FILE)
        for file in sorted(files, key=_WRITING.__eq__):  # that last: who is interrupted knows how to go on
            self._objects.remove(upload_id, file)
        self._objects.remove_folder(upload_id)

    def _is_arriving(self, name: str) -> bool:
        """Whether somebody may still be writing it; not if it was abandoned. Raises UnreadableModel when it was
        complete once."""
        try:
            since = float(self._objects.read(name, _WRITING, _LIMITS[_WRITING]))
        except (FileNotFoundError, ValueError) as error:
            raise self._unreadable(name, error) from None
        return self._clock() < since + _ABANDONED_SECONDS

    def _read(self, upload_id: str, manifest_json: bytes) -> Model:
        objects = self._objects
        try:
            public = {_MANIFEST: manifest_json, _PLAN: objects.read(upload_id, _PLAN, _LIMITS[_PLAN])}
            manifest = Manifest.model_validate_json(manifest_json)
            plan = Plan.model_validate_json(public[_PLAN])
            sealed_key = objects.read(upload_id, _KEY_FILE, _LIMITS[_KEY_FILE])
            key = _open(self._storage_key, sealed_key, _context(public, _KEY_FILE))
            expected = _parts(plan)
            names = {file.removesuffix(".sealed") for file in objects.files(upload_id) if file.endswith(".sealed")}
            if upload_id != manifest.upload_id or names != set(expected):
                raise ValueError("not the files of its plan")
            parts: dict[str, dict[str, Array]] = {}
            for name in sorted(names):
                raw = objects.read(upload_id, f"{name}.sealed", expected[name])
                layer, _, part = name.rpartition(".")
                (tensor,) = load(_open(key, raw, _context(public, name))).items()
                if tensor[0] != part:
                    raise ValueError("not the tensor of its name")
                parts.setdefault(layer, {})[part] = tensor[1]
            weights = {layer: Weights(p.get("masked"), p.get("local"), p.get("bias")) for layer, p in parts.items()}
        except (OSError, ValueError, InvalidTag) as error:
            raise self._unreadable(upload_id, error) from None
        except Problem as problem:
            if problem.kind is ProblemType.UNSUPPORTED_VERSION:
                raise UnreadableModel(f"{objects}/{upload_id}: {problem}. {problem.kind.hint}") from None
            raise
        return Model(manifest, plan, weights)

    def _unreadable(self, upload_id: str, error: Exception) -> UnreadableModel:
        return UnreadableModel(
            f"{self._objects}/{upload_id} cannot be opened ({type(error).__name__}): it was changed, or storage.key is "
            "another. Restore it from a backup, or remove the folder and publish the model again"
        )


def _parts(plan: Plan) -> dict[str, int]:
    """What there is of each layer, "layer.part", and how many bytes its file has at most."""
    of = {"weight": ("masked", "local"), "bias": ("bias",)}
    spare = _HEADER_BYTES + _NONCE + _TAG
    return {
        f"{layer}.{part}": math.prod(shape) * _ELEMENT_BYTES + spare
        for (layer, _, kind), shape in ((name.rpartition("."), shape) for name, shape in plan.weights())
        for part in of[kind]
    }


def _context(public: Mapping[str, bytes], name: str) -> bytes:
    """What a sealed file is bound to: its place, and the public files beside it."""
    return b"\0".join((b"moiety/v1 at rest", name.encode(), *public.values()))


def _seal(key: bytes, content: bytes, context: bytes) -> bytes:
    nonce = secrets.token_bytes(_NONCE)
    return nonce + AESGCM(key).encrypt(nonce, content, context)


def _open(key: bytes, sealed: bytes, context: bytes) -> bytes:
    return AESGCM(key).decrypt(sealed[:_NONCE], memoryview(sealed)[_NONCE:], context)
