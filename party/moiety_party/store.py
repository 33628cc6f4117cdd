"""The model store keeps this party's part of each uploaded model, encrypted: w^, and the seed of its half of the masks.

Each model has a key of its own, kept under the role's storage key. The store wipes that key first when it deletes the
model, so that weights which a disk may still hold are noise. It writes the manifest last: a model without a manifest is
not there. All replicas of a party may share one store.
"""

import json
import re
import secrets
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from moiety_party.objects import Objects
from moiety_service.observability.logs import log
from moiety_service.startup import StartRefused
from moiety_shared.crypto.prg import SEED_BYTES, Stream
from moiety_shared.crypto.sealing import CHUNK_KEY_BYTES, Chunks
from moiety_shared.formats import MODEL, unsupported
from moiety_shared.messages.catalogue import Manifest
from moiety_shared.messages.upload import Tensors, Upload, cut, sealed_sizes
from moiety_shared.plan.plan import Plan
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.protocols.product import Weights
from moiety_shared.protocols.verified import graph as verified
from moiety_shared.protocols.verified.layer import VerifiedWeights

_NONCE, _TAG = 12, 16
_KEY_FILE, _WEIGHTS, _MANIFEST, _PLAN = "model.key", "weights.sealed", "manifest.json", "plan.json"
_WRITING = "writing"  # says since when the model arrives, in seconds since 1970; gone when the model is complete
_LEFT_OVERS = re.compile(r"[0-9a-f]{32}\.partial|waiting-[0-9a-f]{32}")  # release 0.1.0 left them: unfinished uploads
_WAITING = "shares.sealed"  # a file in a "waiting" folder
_NAME = re.compile(r"[0-9a-f]{32}")
_ABANDONED_SECONDS = 3600.0
_LIMITS = {
    _MANIFEST: 1 << 16,
    _PLAN: 1 << 25,
    _KEY_FILE: _NONCE + CHUNK_KEY_BYTES + SEED_BYTES + _TAG,
    _WRITING: 32,
}


class UnreadableModel(StartRefused):
    """A stored model was changed, or it belongs to another role or another storage key."""


@dataclass(frozen=True)
class Model:
    """A model ready to run at party p: the public plan, and its masked weights with p's shares of the masks."""

    manifest: Manifest
    plan: Plan
    weights: Mapping[str, Weights] = field(repr=False)
    upload: Upload | None = field(default=None, repr=False)
    """Where runs are verified: then each key makes other weights of it."""
    _online_bytes: dict[int, int] = field(default_factory=dict, init=False, repr=False, compare=False)  # by rows

    @property
    def upload_id(self) -> str:
        return self.manifest.upload_id

    def verified_weights(
        self, key: verified.PartyKey, own: Stream, sent: Mapping[str, verified.Corrections]
    ) -> dict[str, VerifiedWeights]:
        """The weights under this party's key of the upload: from the stream of that, and what the dealer sent bob."""
        upload = self.upload
        if upload is None:
            raise ValueError("the runs of this model are not verified")
        owner = Stream(upload.seed, "upload")
        return verified.weights_at(self.plan, key, upload.masked, owner, own, sent)

    def online_bytes(self, rows: int) -> int:
        """What each party sends to open the values of so many rows, in bytes. It is computed once."""
        if rows not in self._online_bytes:
            self._online_bytes[rows] = self.plan.cost(rows).online_bytes
        return self._online_bytes[rows]


class ModelStore:
    """Keeps a folder for each model. It reads a complete model once and then holds it in memory."""

    def __init__(
        self,
        objects: Objects,
        storage_key: bytes,
        deleted: Collection[str] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Read all models, and wipe what is left of those `deleted` and of uploads that were abandoned half-way.

        A model that another release stored stays where it is, and is refused until its owner withdraws it. Raises
        UnreadableModel when a stored model cannot be opened with this key, StartRefused when the store does not answer.
        """
        self._objects, self._storage_key, self._clock = objects, storage_key, clock
        self._models: dict[str, Model] = {}
        self._refused: dict[str, Problem] = {}  # stored by another release
        self._dropped: set[str] = set()
        try:
            for name in objects.folders():
                if _LEFT_OVERS.fullmatch(name) or (_NAME.fullmatch(name) and not self._is_wanted(name, deleted)):
                    self._wipe(name)
        except Problem as problem:
            raise StartRefused(
                f"the store at {objects} does not answer ({type(problem.__cause__).__name__}): check that it runs"
            ) from None

    def _is_wanted(self, name: str, deleted: Collection[str]) -> bool:
        return name not in deleted and (self.load(name) or self._is_arriving(name))

    def __contains__(self, upload_id: str) -> bool:
        """Whether the model is here, even if another release stored it."""
        return upload_id in self._models or upload_id in self._refused

    def get(self, upload_id: str) -> Model:
        """Raises Problem UNKNOWN_MODEL, or UNSUPPORTED_VERSION for a model that another release stored."""
        if upload_id in self._refused:
            raise Problem(ProblemType.UNSUPPORTED_VERSION, self._refused[upload_id].detail)
        if upload_id not in self._models:
            raise Problem(ProblemType.UNKNOWN_MODEL)
        return self._models[upload_id]

    def all(self) -> list[Model]:
        """The models that can be served."""
        return list(self._models.values())

    def refused(self) -> list[str]:
        """The uploads that another release stored. They cannot be served, and must be published again."""
        return list(self._refused)

    def put(self, upload: Upload) -> None:
        """Store a model. It is durable when this returns, and nothing is left of it when this fails.

        Raises Problem UPLOAD_CONFLICT when the id is taken.
        """
        upload_id, objects, plan = upload.manifest.upload_id, self._objects, upload.plan
        if upload_id in self or objects.files(upload_id):
            raise Problem(ProblemType.UPLOAD_CONFLICT)
        public = {_MANIFEST: _stored(upload.manifest), _PLAN: plan.canonical()}
        key = secrets.token_bytes(CHUNK_KEY_BYTES)
        chunks = Chunks(key, _context(public, _WEIGHTS))
        try:
            objects.write(upload_id, _WRITING, [f"{self._clock():.0f}".encode()])
            objects.write(upload_id, _PLAN, [public[_PLAN]])
            sealed = _seal(self._storage_key, key + upload.seed, _context(public, _KEY_FILE))
            objects.write(upload_id, _KEY_FILE, [sealed])
            objects.write(upload_id, _WEIGHTS, (chunks.seal(piece) for piece in cut(plan, upload.masked)))
            objects.publish(upload_id, _MANIFEST, public[_MANIFEST])
        except (OSError, Problem):
            self._wipe(upload_id)
            raise
        objects.remove(upload_id, _WRITING)
        self._add(upload)

    def load(self, upload_id: str) -> bool:
        """Read a model that another replica may have stored. Returns whether it is there.

        Raises UnreadableModel when it cannot be opened with this key.
        """
        try:
            manifest = self._objects.read(upload_id, _MANIFEST, _LIMITS[_MANIFEST])
        except FileNotFoundError:
            return False
        except ValueError as error:
            raise self._unreadable(upload_id, error) from None
        try:
            self._add(self._read(upload_id, manifest))
        except Problem as problem:
            if problem.kind is not ProblemType.UNSUPPORTED_VERSION:
                raise
            if upload_id not in self._dropped:
                self._refused[upload_id] = problem
            log().error("refused", upload=upload_id, problem=problem.kind.name)
        return True

    def _add(self, upload: Upload) -> None:
        if (upload_id := upload.manifest.upload_id) not in self._dropped:
            if upload.plan.verified:
                self._models[upload_id] = Model(upload.manifest, upload.plan, {}, upload)
            else:
                self._models[upload_id] = Model(upload.manifest, upload.plan, upload.weights())

    def drop(self, upload_id: str) -> None:
        """Serve a model no more, even if a thread is reading it now. Runs under way keep what they hold in memory."""
        self._dropped.add(upload_id)
        self._models.pop(upload_id, None)
        self._refused.pop(upload_id, None)

    def delete(self, upload_id: str) -> None:
        """Wipe a model, its key first. May be repeated."""
        self.drop(upload_id)
        self._wipe(upload_id)

    def _wipe(self, upload_id: str) -> None:
        files = self._objects.files(upload_id)
        for file in (_KEY_FILE, _WAITING):
            if file in files:
                self._objects.overwrite(upload_id, file)
        for file in sorted(files, key=_WRITING.__eq__):  # that one last: it says that the rest can go
            self._objects.remove(upload_id, file)
        self._objects.remove_folder(upload_id)

    def _is_arriving(self, name: str) -> bool:
        """Whether somebody may still be writing the model: it was begun less than `_ABANDONED_SECONDS` ago.

        Raises UnreadableModel when the model was complete once.
        """
        try:
            since = float(self._objects.read(name, _WRITING, _LIMITS[_WRITING]))
        except (FileNotFoundError, ValueError) as error:
            raise self._unreadable(name, error) from None
        return self._clock() < since + _ABANDONED_SECONDS

    def _read(self, upload_id: str, manifest_json: bytes) -> Upload:
        """Read a model from its folder.

        Raises Problem UNSUPPORTED_VERSION when another release stored it, UnreadableModel when it cannot be opened.
        """
        objects = self._objects
        try:
            manifest = _read_manifest(manifest_json)
            public = {_MANIFEST: manifest_json, _PLAN: objects.read(upload_id, _PLAN, _LIMITS[_PLAN])}
            plan = Plan.model_validate_json(public[_PLAN])
            sealed = objects.read(upload_id, _KEY_FILE, _LIMITS[_KEY_FILE])
            opened = _open(self._storage_key, sealed, _context(public, _KEY_FILE))
            if upload_id != manifest.upload_id:
                raise ValueError("not the upload that its name says")
            chunks = Chunks(opened[:CHUNK_KEY_BYTES], _context(public, _WEIGHTS))
            tensors = Tensors(plan)
            for piece in objects.pieces(upload_id, _WEIGHTS, sealed_sizes(plan)):
                tensors.add(chunks.open(piece))
            return Upload(manifest, plan, opened[CHUNK_KEY_BYTES:], tensors.done())
        except (OSError, ValueError, InvalidTag) as error:
            raise self._unreadable(upload_id, error) from None
        except Problem as problem:
            if problem.kind is ProblemType.MALFORMED:  # a chunk
                raise self._unreadable(upload_id, problem) from None
            raise

    def _unreadable(self, upload_id: str, error: Exception) -> UnreadableModel:
        return UnreadableModel(
            f"cannot open {self._objects}/{upload_id} ({type(error).__name__}): somebody changed it, or storage.key is "
            "not the key that encrypted it. Restore it from a backup, or remove the folder and publish the model again"
        )


def _stored(manifest: Manifest) -> bytes:
    """The manifest as it is stored, with the number of the folder's format."""
    return json.dumps({"format": MODEL, "manifest": manifest.model_dump(mode="json")}).encode()


def _read_manifest(raw: bytes) -> Manifest:
    """Read a stored manifest. Release 0.1.0 wrote no format's number.

    Raises Problem UNSUPPORTED_VERSION for another number, ValueError for anything else that is wrong.
    """
    read = json.loads(raw)
    found = read.get("format", 1) if isinstance(read, dict) else None
    if found != MODEL:
        raise unsupported("a stored model", found, MODEL)
    return Manifest.model_validate(read["manifest"])


def _context(public: Mapping[str, bytes], name: str) -> bytes:
    """What a sealed file is bound to: its name, and the public files beside it."""
    return b"\0".join((b"moiety/v1 at rest", name.encode(), *public.values()))


def _seal(key: bytes, content: bytes, context: bytes) -> bytes:
    nonce = secrets.token_bytes(_NONCE)
    return nonce + AESGCM(key).encrypt(nonce, content, context)


def _open(key: bytes, sealed: bytes, context: bytes) -> bytes:
    return AESGCM(key).decrypt(sealed[:_NONCE], memoryview(sealed)[_NONCE:], context)
