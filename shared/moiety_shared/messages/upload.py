"""A model upload: what the owner sends to one party, and how that party reads it, piece by piece.

The owner draws the weights' masks s = [s]_0 + [s]_1 as two seeds, afresh for every upload. Both parties get w^ = w + s.
Each party gets the seed of its own half, and the crypto provider gets both seeds and nothing else. One body holds, in
this order:

    header             MUP3, and the lengths of the next two
    manifest           what the owner signed, JSON
    plan               its canonical JSON
    dealer's envelope  both seeds, sealed to the crypto provider: the party hands it on, and cannot open it
    own envelope       `Keys`, sealed to the party
    w^                 tensor by tensor as the plan names them, in chunks under the key of the own envelope

A party checks w^ against the digest in the manifest, which includes a nonce. The provider knows s, and gets neither
digest nor nonce: with the digest of w + s it could test guesses of w.
"""

import hashlib
import hmac
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from pydantic import ValidationError

from moiety_shared.crypto.prg import SEED_BYTES, Stream, new_seed
from moiety_shared.crypto.sealing import CHUNK_KEY_BYTES, CHUNK_OVERHEAD, SEAL_OVERHEAD, Chunks, PublicKey
from moiety_shared.crypto.signing import BadSignature
from moiety_shared.formats import UPLOAD, check_magic
from moiety_shared.messages.catalogue import Manifest, SignedManifest
from moiety_shared.messages.wire import malformed
from moiety_shared.plan.layers import ring_dtype
from moiety_shared.plan.plan import Plan
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.protocols import graph, product
from moiety_shared.protocols.product import Weights
from moiety_shared.ring import Array

CHUNK_BYTES = 1 << 20
"""How much of w^ a party opens, hashes and stores at a time."""
NONCE_BYTES = 32
HEADER_BYTES = 12
_HEADER = struct.Struct("<4sII")  # magic, lengths of the manifest and of the plan
_MANIFEST_BYTES, _PLAN_BYTES = 1 << 16, 1 << 25
_DEALER_ENVELOPE = SEAL_OVERHEAD + 2 * SEED_BYTES
_OWN_ENVELOPE = SEAL_OVERHEAD + SEED_BYTES + NONCE_BYTES + CHUNK_KEY_BYTES


class Keys(NamedTuple):
    """What only this party can open: the seed of its half of the masks, the digest's nonce, and the key of the
    chunks."""

    seed: bytes
    nonce: bytes
    key: bytes

    @classmethod
    def unpack(cls, raw: bytes) -> "Keys":
        """Raises Problem MALFORMED for another length."""
        if len(raw) != SEED_BYTES + NONCE_BYTES + CHUNK_KEY_BYTES:
            raise malformed("the sealed part of an upload has the wrong length")
        return cls(raw[:SEED_BYTES], raw[SEED_BYTES:-CHUNK_KEY_BYTES], raw[-CHUNK_KEY_BYTES:])


@dataclass(frozen=True, repr=False)
class Draws:
    """The secrets that the owner draws for one upload, and for no other."""

    seeds: tuple[bytes, bytes]
    nonce: bytes
    keys: tuple[bytes, bytes]

    @classmethod
    def fresh(cls) -> "Draws":
        first, second, nonce, *keys = (new_seed() for _ in range(5))
        return cls((first, second), nonce, (keys[0], keys[1]))

    def of(self, party: int) -> Keys:
        return Keys(self.seeds[party], self.nonce, self.keys[party])


def context(plan: Plan, upload_id: bytes, recipient: str) -> bytes:
    """The context that binds an upload's envelope. `recipient` is "0" or "1" for a party, or "dealer"."""
    return f"moiety/v1 upload {recipient}\0".encode() + plan.digest + upload_id


# The owner


class MaskedModel:
    """One upload's w^ = w + s. It is computed piece by piece each time it is needed, because a model is large."""

    def __init__(self, upload_id: str, plan: Plan, weights: Mapping[str, Array], draws: Draws) -> None:
        """`weights` are the plan's tensors, in its ring. `draws` must be fresh: they serve one model alone."""
        self.upload_id, self.plan, self.draws = upload_id, plan, draws
        self._weights = weights

    def digests(self, party: int) -> dict[str, str]:
        """The digests in a party's manifest, of what comes with it."""
        return {
            "plan_digest": self.plan.digest.hex(),
            "weights_digest": self._digest,
            "seed_digest": seed_digest(self.draws.seeds[party]),
        }

    def body(
        self, manifest: SignedManifest, own: PublicKey, dealer: PublicKey
    ) -> tuple[int, Iterator[bytes | memoryview]]:
        """Return the length and the content of the body for the manifest's party, whose sealing key is `own`."""
        plan, party, upload = self.plan, manifest.manifest.party, bytes.fromhex(self.upload_id)
        texts = manifest.model_dump_json().encode(), plan.canonical()
        keys = self.draws.of(party)
        head = (
            _HEADER.pack(UPLOAD, *map(len, texts)),
            *texts,
            dealer.seal(b"".join(self.draws.seeds), context(plan, upload, "dealer")),
            own.seal(b"".join(keys), context(plan, upload, str(party))),
        )

        def content() -> Iterator[bytes | memoryview]:
            yield b"".join(head)
            chunks = Chunks(keys.key)
            for piece in self.pieces():
                yield chunks.seal(piece)

        return sum(map(len, head)) + sum(sealed_sizes(plan)), content()

    @cached_property
    def _digest(self) -> str:
        digest = _hash(self.upload_id, self.plan, self.draws.nonce)
        for piece in self.pieces():
            digest.update(piece)
        return digest.hexdigest()

    def pieces(self) -> Iterator[memoryview]:
        """Yield w^ in the chunks of `piece_sizes`."""
        ring = graph.ring_of(self.plan)
        streams = [Stream(seed, "upload") for seed in self.draws.seeds]
        most = CHUNK_BYTES // ring.dtype().itemsize
        for name, shape in self.plan.weights():
            layer, _, part = name.rpartition(".")
            halves = (stream.at(layer).pieces(part, math.prod(shape), ring.dtype, most) for stream in streams)
            weight, at = self._weights[name].reshape(-1), 0
            for one, other in zip(*halves, strict=True):
                masked = product.mask_weight(ring, weight[at : at + one.size], (one, other))
                yield masked.view(np.uint8).data
                at += one.size


# The party


@dataclass(frozen=True, repr=False)
class Head:
    """The part of the body before w^, read, with its signature and the plan's digest checked."""

    signed: SignedManifest
    plan: Plan
    dealer_envelope: bytes
    own_envelope: bytes

    @property
    def manifest(self) -> Manifest:
        return self.signed.manifest

    def pack(self) -> bytes:
        texts = self.signed.model_dump_json().encode(), self.plan.canonical()
        header = _HEADER.pack(UPLOAD, *map(len, texts))
        return b"".join((header, *texts, self.dealer_envelope, self.own_envelope))

    @staticmethod
    def size(header: bytes | bytearray) -> int:
        """Return how many bytes of the head follow its first `HEADER_BYTES`. Raises a Problem for anything but an
        upload."""
        if len(header) < HEADER_BYTES:
            raise malformed("the upload is shorter than its header")
        magic, manifest, plan = _HEADER.unpack_from(header)
        check_magic(magic, UPLOAD, "a model upload")
        if manifest > _MANIFEST_BYTES or plan > _PLAN_BYTES:
            raise malformed("the manifest or the plan is larger than allowed")
        return int(manifest) + int(plan) + _DEALER_ENVELOPE + _OWN_ENVELOPE

    @classmethod
    def unpack(cls, raw: bytes | bytearray) -> "Head":
        """Raises a Problem unless `raw` is exactly one head."""
        if len(raw) != HEADER_BYTES + cls.size(raw):
            raise malformed("the model upload was cut short")
        _, first, second = _HEADER.unpack_from(raw)
        ends = HEADER_BYTES + first, HEADER_BYTES + first + second
        texts = bytes(raw[HEADER_BYTES : ends[0]]), bytes(raw[ends[0] : ends[1]])
        try:
            signed, plan = SignedManifest.model_validate_json(texts[0]), Plan.model_validate_json(texts[1])
            manifest = signed.verify()
        except BadSignature as error:
            raise malformed(str(error)) from None
        except ValidationError as error:
            raise malformed(f"the manifest or the plan is not valid: {error.error_count()} errors") from None
        if (signed.model_dump_json().encode(), plan.canonical()) != texts:
            raise malformed("the manifest or the plan is not in its canonical form")
        if manifest.plan_digest != plan.digest.hex():
            raise malformed("the manifest belongs to another plan")
        rest = bytes(raw[ends[1] :])
        return cls(signed, plan, rest[:_DEALER_ENVELOPE], rest[_DEALER_ENVELOPE:])


@dataclass(frozen=True, repr=False)
class Upload:
    """All that a party has of a checked upload: w^ by "layer.weight", and the seed of its half of the masks."""

    manifest: Manifest
    plan: Plan
    seed: bytes
    masked: Mapping[str, Array]

    def weights(self) -> dict[str, Weights]:
        """The weights in the form that the protocols take."""
        return graph.weights_at(self.plan, self.manifest.party, self.masked, Stream(self.seed, "upload"))


class Arrival:
    """An upload's w^ as it arrives. It opens each chunk, hashes it, and puts it where it will stay."""

    def __init__(self, head: Head, keys: Keys) -> None:
        """Raises Problem MALFORMED when the seed is not the one that the owner signed for."""
        manifest = head.manifest
        if not hmac.compare_digest(seed_digest(keys.seed), manifest.seed_digest):
            raise malformed("the seed does not match the manifest")
        self._manifest, self._plan, self._seed = manifest, head.plan, keys.seed
        self._digest = _hash(manifest.upload_id, head.plan, keys.nonce)
        self._chunks, self._tensors = Chunks(keys.key), Tensors(head.plan)

    def add(self, sealed: bytes | bytearray) -> None:
        """Take the next chunk, which has the next size of `sealed_sizes`. Raises Problem MALFORMED when the chunk was
        changed."""
        piece = self._chunks.open(sealed)
        self._digest.update(piece)
        self._tensors.add(piece)

    def finish(self) -> Upload:
        """Return the upload after the last chunk. Raises Problem MALFORMED unless it is what the owner signed."""
        if not hmac.compare_digest(self._digest.hexdigest(), self._manifest.weights_digest):
            raise malformed("the weights do not match the manifest")
        return Upload(self._manifest, self._plan, self._seed, self._tensors.done())


class Tensors:
    """A plan's tensors in one block of memory, filled from its beginning."""

    def __init__(self, plan: Plan) -> None:
        self._plan, dtype = plan, ring_dtype(plan.ring_bits)
        self._flat = np.empty(sum(math.prod(shape) for _, shape in plan.weights()), dtype=dtype)
        self._bytes, self._at = self._flat.view(np.uint8), 0

    def add(self, piece: bytes) -> None:
        """Take the next bytes, in chunks of any size."""
        self._bytes[self._at : self._at + len(piece)] = np.frombuffer(piece, np.uint8)
        self._at += len(piece)

    def done(self) -> dict[str, Array]:
        """Return views by "layer.weight". Raises ValueError when some are missing."""
        if self._at != self._bytes.size:
            raise ValueError("the tensors are incomplete")
        tensors, at = {}, 0
        for name, shape in self._plan.weights():
            tensors[name] = self._flat[at : at + math.prod(shape)].reshape(shape)
            at += math.prod(shape)
        return tensors


def piece_sizes(plan: Plan) -> Iterator[int]:
    """Yield the bytes of each chunk of w^. Each tensor begins with a chunk of its own."""
    element = np.dtype(ring_dtype(plan.ring_bits)).itemsize
    for _, shape in plan.weights():
        size = math.prod(shape) * element
        yield from (min(CHUNK_BYTES, size - at) for at in range(0, size, CHUNK_BYTES))


def sealed_sizes(plan: Plan) -> Iterator[int]:
    """Yield the bytes of each chunk of w^ as it is sent, sealed."""
    return (size + CHUNK_OVERHEAD for size in piece_sizes(plan))


def cut(plan: Plan, masked: Mapping[str, Array]) -> Iterator[memoryview]:
    """Yield w^ in the chunks of `piece_sizes`."""
    for name, _ in plan.weights():
        raw = np.ascontiguousarray(masked[name]).reshape(-1).view(np.uint8).data
        yield from (raw[at : at + CHUNK_BYTES] for at in range(0, len(raw), CHUNK_BYTES))


def seed_digest(seed: bytes) -> str:
    """Return a digest that tells which seed it is. A seed is 32 random bytes, so nobody can find it from the digest."""
    return hashlib.sha256(b"moiety/v1 upload seed\0" + seed).hexdigest()


def open_seeds(opened: bytes) -> tuple[bytes, bytes]:
    """Split the content of the dealer's envelope into both seeds. Raises Problem MALFORMED for another length."""
    if len(opened) != 2 * SEED_BYTES:
        raise Problem(ProblemType.MALFORMED, "the part sealed for the provider has the wrong length")
    return opened[:SEED_BYTES], opened[SEED_BYTES:]


def _hash(upload_id: str, plan: Plan, nonce: bytes) -> "hashlib._Hash":
    """H(upload, plan, nonce, ...), to which the caller adds w^. Each part has a fixed length."""
    return hashlib.sha256(b"moiety/v1 masked weights\0" + bytes.fromhex(upload_id) + plan.digest + nonce)
