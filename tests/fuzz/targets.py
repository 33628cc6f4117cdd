"""What reads bytes of others.

For each parser a function that either returns, having packed the value back into the same bytes, or raises one of the
errors that are documented for it.
"""

import io
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from PIL import Image
from pydantic import ValidationError

from moiety_client import pictures
from moiety_client.errors import InvalidInput
from moiety_party.lane import read_json
from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.onnx.graph import read_onnx
from moiety_server.compiler.tabular.reading import read_tabular
from moiety_service import files
from moiety_shared.crypto import tokens
from moiety_shared.crypto.handshake import Handshake
from moiety_shared.crypto.sealing import SEAL_OVERHEAD, PrivateKey, PublicKey, open_result, seal_result
from moiety_shared.crypto.signing import BadSignature, key_text
from moiety_shared.crypto.tokens import Grant, Quota
from moiety_shared.messages import wire
from moiety_shared.messages.catalogue import (
    Entry,
    Manifest,
    PartyEndpoint,
    Preprocessing,
    SignedEntry,
    SignedManifest,
    sign,
    sign_manifest,
)
from moiety_shared.messages.statements import Statement
from moiety_shared.messages.table import Column
from moiety_shared.messages.upload import Head
from moiety_shared.messages.verified import VerifiedAnswer, answer_lengths
from moiety_shared.messages.wire import Asked, Binding, Frame, FrameKind, OwnerCount, Request, Secret, Start
from moiety_shared.plan.plan import Plan
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.protocols.opening import Kind, Opening, combine, to_wire
from moiety_shared.protocols.sent import SentPiece
from moiety_shared.protocols.verified.answers import VOUCHER_BYTES, PartyAnswer, RowKeys
from tests import plans

CORPUS = Path(__file__).parent / "corpus"
ID, DIGEST = bytes(range(16)), bytes(range(32))
BINDING = Binding(DIGEST, ID, ID, DIGEST, 1_800_000_000)
PLAN = plans.logits()
KEY = PrivateKey(bytes(range(96)))
SIGNER = Ed25519PrivateKey.from_private_bytes(DIGEST)
ROWS = 2
ASKED = Asked(bytes(range(25)), "a.b.c", Request(BINDING, ROWS, (b"", b"for bob")))
START, SHARED = Start(ID.hex(), 7, (ASKED,)), Start(ID.hex(), 7, (ASKED, ASKED._replace(token="")))
REFUSAL = Problem(ProblemType.SEALED_FOR_ANOTHER)
_SENT = SentPiece(2, (DIGEST,) * 3), SentPiece(1, (DIGEST,))
STATEMENT = Statement(1, BINDING, ID.hex(), 7, _SENT, DIGEST, heard=_SENT[1:])
VERIFIED = plans.two_layers()
_WIRES = wire.result_bytes(PLAN, ROWS)


@dataclass(frozen=True)
class Target:
    """`read` takes the bytes; `refusals` are what it may raise; `seeds` make what it takes."""

    read: Callable[[bytes], object]
    refusals: tuple[type[Exception], ...]
    seeds: Callable[[], Iterator[bytes]]


def same(packed: bytes, raw: bytes) -> None:
    assert packed == raw, "what was read packs to other bytes"


def request(raw: bytes) -> None:
    same(Request.unpack(raw).pack(), raw)


def secret(raw: bytes) -> None:
    same(Secret.unpack(raw, BINDING, ROWS, 32).pack(), raw)


def handshake(raw: bytes) -> None:
    same(Handshake.unpack(raw).pack(), raw)


def result(raw: bytes) -> None:
    first, second = wire.unpack_result(raw, ID, PLAN, ROWS)
    same(wire.pack_result(ID, (bytes(first), bytes(second))), raw)


def owner_count(raw: bytes) -> None:
    same(OwnerCount.unpack(raw).pack(), raw)


def start(raw: bytes) -> None:
    same(wire.pack_start(wire.unpack_start(raw)), raw)


def outcomes(raw: bytes) -> None:
    read = wire.unpack_outcomes(raw, 2)
    if not any(isinstance(outcome, Problem) for outcome in read):  # a document may have been written in other ways
        same(wire.pack_outcomes(read), raw)


def statement(raw: bytes) -> None:
    same(Statement.unpack(raw).pack(), raw)


def frame(raw: bytes) -> None:
    read = Frame.unpack(raw)
    same(read.pack(), raw)
    if read.kind in (FrameKind.HELLO, FrameKind.FAILED):
        Problem.from_document(read_json(read)).document()


def upload(raw: bytes) -> None:
    same(Head.unpack(raw).pack(), raw)


@contextmanager
def of_another_version() -> Iterator[None]:
    """Around the reading of a document: the only problem that it knows."""
    try:
        yield
    except Problem as problem:
        assert problem.kind is ProblemType.UNSUPPORTED_VERSION, problem
        raise


def plan(raw: bytes) -> None:
    with of_another_version():
        read = Plan.model_validate_json(raw)
    again = Plan.model_validate_json(read.canonical())
    assert again == read and again.digest == read.digest
    assert read.cost(3).rounds == read.rounds and read.slice_rows >= 1
    assert read.bundle_row_bytes >= 0 and read.output_bytes(2) > 0 and read.last_reader is not None
    assert all(size > 0 for _, shape in read.weights() for size in shape)


def entry(raw: bytes) -> None:
    with of_another_version():
        signed = SignedEntry.model_validate_json(raw)
    assert signed.verify(_OWNER) == _entry().entry, "an entry that was not signed"


def envelope(raw: bytes) -> None:
    assert KEY.open(raw, b"context") == b"message", "an envelope that was not sealed"


def result_envelope(raw: bytes) -> None:
    assert open_result(DIGEST, raw, b"context") == b"message", "a result that was not sealed"


def verified_answer(raw: bytes) -> None:
    party = int(len(raw) not in answer_lengths(VERIFIED, 0, ROWS))
    same(VerifiedAnswer.unpack(raw, party, ROWS, VERIFIED.output.shape).pack(), raw)


def _verified_answers() -> Iterator[bytes]:
    keys, result = RowKeys((DIGEST,) * ROWS), np.arange(ROWS * 3).reshape(ROWS, 3)
    for vouchers in ((), (bytes(VOUCHER_BYTES),), (bytes(VOUCHER_BYTES),) * ROWS):
        yield VerifiedAnswer(ID.hex(), 7, PartyAnswer(DIGEST, result, keys), vouchers).pack()


def sealing_key(raw: bytes) -> None:
    key = PublicKey.from_text(raw.decode("latin-1"))
    try:
        key.seal(b"", b"")
    except ValueError as error:
        raise AssertionError("a key that seals nothing") from error


def bits(raw: bytes) -> None:
    share = np.arange(77, dtype=np.uint8).reshape(7, 11) & 1
    opened = combine(Opening(share, Kind.BITS), raw)
    assert opened.shape == share.shape and opened.max() <= 1
    same(to_wire(Opening(opened ^ share, Kind.BITS)).tobytes()[:9], raw[:9])


def words(raw: bytes) -> None:
    opened = combine(Opening(np.arange(33, dtype=np.uint8), Kind.WORDS), raw)
    same((opened ^ np.arange(33, dtype=np.uint8)).tobytes(), raw)


def _entry() -> SignedEntry:
    key = KEY.public.text()
    parties = (
        PartyEndpoint(name="alice", url="http://a", sealing_key=key),
        PartyEndpoint(name="bob", url="http://b", sealing_key=key),
    )
    named = {"name": "m", "version": 1, "upload_id": ID.hex(), "classes": ("a", "b")}
    made = Entry.model_validate(named | {"plan": PLAN, "parties": parties, "max_rows": 4} | plans.TERM)
    return sign(made, SIGNER)


_OWNER = _entry().owner_key


def _all_plans() -> Iterator[bytes]:
    for made in (plans.logits(), plans.labels(), plans.count(), plans.branches()):
        yield made.canonical()
    yield every_layer().canonical()


def every_layer() -> Plan:
    """A plan with one layer of each kind that the others do not have."""
    opened = {"input": "c", "shape": [4, 6, 6], "shift": 4, "opened_bits": 16}
    compared = opened | {"range_bits": 14}
    wave = [{"cosine": 700, "sine": -20, "table_bits": 10}, {"cosine": 0, "sine": 5, "table_bits": 3}]
    layers: list[dict[str, object]] = [
        {"op": "reshape", "name": "r", "input": "x", "shape": [72], "to": [2, 6, 6]},
        {"op": "open", "name": "o", "input": "r", "shape": [2, 6, 6]},
        {"op": "conv", "name": "c", "input": "o", "shape": [2, 6, 6], "out_channels": 4, "kernel": [3, 3]}
        | {"padding": [1, 1], "dilation": [1, 1], "groups": 2},
        {"op": "truncate", "name": "t"} | opened,
        {"op": "relu", "name": "relu", "hinges": [0, 96]} | compared,
        {"op": "max_pool", "name": "pool", "kernel": [2, 2], "stride": [2, 2], "output_size": [3, 3]} | compared,
        {"op": "truncate", "name": "lifted", "input": "pool", "shape": [4, 3, 3], "shift": 0, "opened_bits": 16},
        {"op": "table", "name": "table", "values": [list(range(16)), [0] * 16]} | opened | {"opened_bits": 4},
        {"op": "waves", "name": "waves", "word_bits": 32, "constant": -3, "waves": wave} | opened | {"opened_bits": 9},
        {"op": "truncate", "name": "dulled", "input": "waves", "shape": [4, 6, 6], "shift": 15, "opened_bits": 17},
        {"op": "exp2", "name": "exp2", "word_bits": 40, "octave_bits": 3, "span_bits": 5, "top": 8}
        | {"height_bits": 17, "table_bits": 14}
        | opened
        | {"opened_bits": 7},
        {"op": "truncate", "name": "blunt", "input": "exp2", "shape": [4, 6, 6], "shift": 19, "opened_bits": 17},
        {
            "op": "pieces",
            "name": "pieces",
            "word_bits": 40,
            "function": "log2",
            "frac_bits": 5,
            "lowest": 40,
            "degree": 3,
        }
        | {"degree": 3, "piece_bits": 4, "value_bits": 12, "table_bits": 9}
        | opened
        | {"opened_bits": 9},
        {"op": "truncate", "name": "whittled", "input": "pieces", "shape": [4, 6, 6], "shift": 23, "opened_bits": 17},
        {"op": "normalise", "name": "n", "hinges": [16, 256]} | compared | {"opened_bits": 60},
        {"op": "bias", "name": "bias", "input": "t", "shape": [4, 6, 6], "bias_shape": [4, 1, 1]},
        {"op": "sum_pool", "name": "sp", "input": "t", "shape": [4, 6, 6], "kernel": [2, 2], "stride": [2, 2]},
        {"op": "concat", "name": "cat", "inputs": ["sp", "lifted"], "shapes": [[4, 3, 3]] * 2, "axis": 0},
        {"op": "slice", "name": "s", "input": "cat", "shape": [8, 3, 3], "axis": 0, "start": 1, "stop": 8, "step": 2},
        {"op": "pad", "name": "p", "input": "s", "shape": [4, 3, 3], "before": [0, 1, 0], "after": [0, 0, 1]},
        {"op": "upsample", "name": "u", "input": "p", "shape": [4, 4, 4], "factors": [2, 1]},
        {"op": "take", "name": "k", "input": "u", "shape": [4, 8, 4], "axis": 2, "places": [[3, 0, 1, 1], [0, 1, 2, 3]]}
        | {"factors": [[2, 1, -1, 4], [1, 1, 1, 1]]},
        {"op": "permute", "name": "turned", "input": "k", "shape": [4, 8, 4], "order": [2, 0, 1]},
        {"op": "keep", "name": "kept", "input": "turned", "shape": [4, 4, 8], "keys": "a7", "keys_shape": [8]},
        {"op": "sum", "name": "total", "input": "kept", "shape": [4, 4, 8], "axes": [0, 2]},
    ]
    asked = {"name": "x", "shape": [72], "frac_bits": 4, "low": -8, "high": 8}
    output = {"wire": "total", "shape": [4], "kind": "logits"}
    return Plan.model_validate({"ring_bits": 64, "input": asked, "layers": layers, "output": output})


def _frames() -> Iterator[bytes]:
    yield Frame(FrameKind.OPENING, b"payload", 3).pack()
    yield Frame(FrameKind.HELLO, json.dumps({"version": 2, "boot": "ab"}).encode()).pack()
    yield Frame(FrameKind.FAILED, json.dumps({"type": "urn:moiety:error:internal", "detail": "x"}).encode()).pack()


def _requests() -> Iterator[bytes]:
    made = Request(BINDING, ROWS, (b"for alice", b"for bob"))
    yield made.pack()
    yield replace(made, envelopes=(b"", b"")).pack()


def _manifest() -> SignedManifest:
    key = Ed25519PrivateKey.from_private_bytes(DIGEST)
    manifest = Manifest(
        upload_id=ID.hex(),
        name="small",
        version=1,
        party=0,
        plan_digest=PLAN.digest.hex(),
        weights_digest=DIGEST.hex(),
        seed_digest=DIGEST.hex(),
        owner_key=key_text(key.public_key()),
    )
    return sign_manifest(manifest, key)


def _head() -> Head:
    return Head(_manifest(), PLAN, bytes(SEAL_OVERHEAD + 64), bytes(SEAL_OVERHEAD + 96))


def token(raw: bytes) -> None:
    tokens.verify(raw.decode(errors="replace"), _manifest().manifest.owner_key)


def _tokens() -> Iterator[bytes]:
    key = Ed25519PrivateKey.from_private_bytes(DIGEST)
    yield tokens.issue(Grant(token_id=ID.hex(), subject="me", expires=2, quota=Quota(rows=3, seconds=4)), key).encode()


@contextmanager
def as_file(raw: bytes, name: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(raw)
        yield path


def array(raw: bytes) -> None:
    with as_file(raw, "a.npy") as path:
        assert files.array(path).nbytes < len(raw)


def _arrays() -> Iterator[bytes]:
    for made in (np.arange(12, dtype=np.uint8).reshape(3, 4), np.array(["a", "b"]), np.asfortranarray(np.ones((2, 3)))):
        np.save(into := io.BytesIO(), made)
        yield into.getvalue()


def picture(raw: bytes) -> None:
    assert pictures.read(raw, _PICTURES).shape == (8, 8)


_PICTURES = Preprocessing(channels=1, size=(8, 8), mean=(0.5,), std=(0.5,))


def _pictures() -> Iterator[bytes]:
    for form in pictures.FORMATS:
        Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(into := io.BytesIO(), form)
        yield into.getvalue()


def onnx_file(raw: bytes) -> None:
    with as_file(raw, "m.onnx") as path:
        read_onnx(path)


def table_file(raw: bytes) -> None:
    with as_file(raw, "m.onnx") as path:
        read_tabular(path, [Column(name=name, kind="number", low=-4, high=4) for name in ("a", "b", "c")])


def _tables() -> Iterator[bytes]:
    info = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 3]) for name in "xy"]
    imports = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("ai.onnx.ml", 3)]
    scaler = onnx.helper.make_node("Scaler", ["x"], ["s"], domain="ai.onnx.ml", offset=[1.0], scale=[2.0])
    linear = onnx.helper.make_node(
        "LinearRegressor", ["s"], ["y"], domain="ai.onnx.ml", coefficients=[1.0, 2.0, 3.0], intercepts=[4.0]
    )
    trees = onnx.helper.make_node(
        "TreeEnsembleRegressor", ["s"], ["y"], domain="ai.onnx.ml", n_targets=1, post_transform="NONE",
        nodes_treeids=[0, 0, 0], nodes_nodeids=[0, 1, 2], nodes_featureids=[1, 0, 0], nodes_values=[0.5, 0.0, 0.0],
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"], nodes_truenodeids=[1, 0, 0], nodes_falsenodeids=[2, 0, 0],
        target_treeids=[0, 0], target_nodeids=[1, 2], target_ids=[0, 0], target_weights=[1.0, 2.0],
    )  # fmt: skip
    for last in (linear, trees):
        graph = onnx.helper.make_graph([scaler, last], "g", info[:1], info[1:])
        yield onnx.helper.make_model(graph, opset_imports=imports, ir_version=8).SerializeToString()


def _models() -> Iterator[bytes]:
    info = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 4]) for name in "xy"]
    weights = [
        onnx.numpy_helper.from_array(np.ones(shape, dtype=np.float32), name)
        for name, shape in (("w", (4, 4)), ("b", 4))
    ]
    shape = onnx.numpy_helper.from_array(np.array([-1, 4]), "s")
    nodes = [
        onnx.helper.make_node("Gemm", ["x", "w", "b"], ["h"], transB=1),
        onnx.helper.make_node("Constant", [], ["s"], value=shape),
        onnx.helper.make_node("Reshape", ["h", "s"], ["r"]),
        onnx.helper.make_node("Relu", ["r"], ["y"]),
    ]
    graph = onnx.helper.make_graph(nodes, "g", info[:1], info[1:], weights)
    imports = [onnx.helper.make_opsetid("", 17)]
    yield onnx.helper.make_model(graph, opset_imports=imports, ir_version=8).SerializeToString()


TARGETS: dict[str, Target] = {
    "request": Target(request, (Problem,), _requests),
    "secret": Target(secret, (Problem,), lambda: iter([Secret(ID, DIGEST, ROWS, DIGEST).pack()])),
    "handshake": Target(handshake, (Problem,), lambda: iter([Handshake(DIGEST, 7).pack()])),
    "result": Target(result, (Problem,), lambda: iter([wire.pack_result(ID, (bytes(_WIRES), bytes(_WIRES)))])),
    "verified_answer": Target(verified_answer, (Problem,), _verified_answers),
    "owner_count": Target(owner_count, (Problem,), lambda: iter([OwnerCount(BINDING, (b"one", b"two")).pack()])),
    "start": Target(start, (Problem,), lambda: iter([wire.pack_start(START), wire.pack_start(SHARED)])),
    "outcomes": Target(
        outcomes,
        (Problem,),
        lambda: iter([wire.pack_outcomes([b"a result", b""]), wire.pack_outcomes([REFUSAL, b"a result"])]),
    ),
    "statement": Target(statement, (Problem,), lambda: iter([STATEMENT.pack()])),
    "frame": Target(frame, (Problem,), _frames),
    "upload": Target(upload, (Problem,), lambda: iter([_head().pack()])),
    "token": Target(token, (Problem,), _tokens),
    "plan": Target(plan, (ValidationError, Problem), _all_plans),
    "entry": Target(
        entry, (ValidationError, BadSignature, Problem), lambda: iter([_entry().model_dump_json().encode()])
    ),
    "envelope": Target(envelope, (Problem,), lambda: iter([KEY.public.seal(b"message", b"context")])),
    "result_envelope": Target(result_envelope, (Problem,), lambda: iter([seal_result(DIGEST, b"message", b"context")])),
    "sealing_key": Target(sealing_key, (ValueError,), lambda: iter([KEY.public.text().encode()])),
    "bits": Target(bits, (ValueError,), lambda: iter([bytes(10)])),
    "array": Target(array, (ValueError,), _arrays),
    "picture": Target(picture, (InvalidInput,), _pictures),
    "onnx_file": Target(onnx_file, (NotServable,), _models),
    "table_file": Target(table_file, (NotServable,), _tables),
    "words": Target(words, (ValueError,), lambda: iter([bytes(33)])),
}


def check(target: Target, raw: bytes) -> bool:
    """Whether it was taken. Any error but a documented one goes through."""
    try:
        target.read(raw)
    except target.refusals:
        return False
    return True


def corpus(name: str) -> list[bytes]:
    """What was kept: valid messages, and what once broke a parser."""
    return [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]
