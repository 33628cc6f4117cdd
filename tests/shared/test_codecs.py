"""Numbers, streams, plans, envelopes, messages: what goes in comes out, and everything else is refused."""

import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from moiety_shared import fixed_point
from moiety_shared.crypto.prg import Stream, new_seed
from moiety_shared.crypto.sealing import SEAL_OVERHEAD, PrivateKey, open_result, seal_result
from moiety_shared.crypto.signing import BadSignature
from moiety_shared.fixed_point import NotEncodable
from moiety_shared.messages import wire
from moiety_shared.messages.catalogue import Entry, SignedEntry, sign
from moiety_shared.messages.wire import Binding, Frame, FrameKind, Request, Secret
from moiety_shared.plan.plan import Plan
from moiety_shared.problems import Problem, ProblemType

FINITE = st.floats(-100, 100, allow_nan=False)


@given(st.lists(FINITE, min_size=1, max_size=20), st.integers(0, 20))
def test_encoding_is_to_nearest(values: list[float], frac_bits: int) -> None:
    encoded = fixed_point.encode(values, frac_bits=frac_bits, ring_bits=32, low=-100, high=100)
    assert np.abs(fixed_point.decode(encoded, scale=2.0**-frac_bits) - values).max() <= 2.0 ** -(frac_bits + 1)


@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=20), st.binary(min_size=32, max_size=32))
def test_shares_join(elements: list[int], seed: bytes) -> None:
    x = np.array(elements, dtype=np.int32)
    share = np.empty_like(x)
    fixed_point.split(x, Stream(seed, "input"), share)
    other = Stream(seed, "input").words("share", x.shape, x.dtype)
    assert np.array_equal(fixed_point.join(share, other), x)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 3.1, -2.1, 1e300])
def test_what_the_ring_would_hold_wrongly_is_refused(bad: float) -> None:
    with pytest.raises(NotEncodable) as caught:
        fixed_point.encode([0.5, bad], frac_bits=10, ring_bits=32, low=-2, high=3)
    assert str(bad) not in str(caught.value) or bad in (float("inf"), float("nan"))


def test_a_range_that_overflows_is_refused() -> None:
    with pytest.raises(NotEncodable, match="overflows"):
        fixed_point.encode([0.0], frac_bits=30, ring_bits=32, low=-2, high=3)


def test_streams_differ_by_seed_address_and_name() -> None:
    seed = new_seed()
    words = [
        Stream(seed, "a", 1).words("x", (8,), np.int64).tobytes(),
        Stream(seed, "a", "1").words("x", (8,), np.int64).tobytes(),
        Stream(seed, "a").at(1).words("y", (8,), np.int64).tobytes(),
        Stream(seed, "a1").words("x", (8,), np.int64).tobytes(),
        Stream(new_seed(), "a", 1).words("x", (8,), np.int64).tobytes(),
    ]
    assert len(set(words)) == len(words)
    assert Stream(seed, "a").at(1).words("x", (8,), np.int64).tobytes() == words[0]


def test_a_name_is_drawn_once() -> None:
    stream = Stream(new_seed())
    stream.words("x", (1,), np.int32)
    with pytest.raises(ValueError, match="already drawn"):
        stream.words("x", (1,), np.int32)


def test_long_streams_continue_where_the_short_ones_end() -> None:
    seed = new_seed()
    long = Stream(seed).words("x", (300_001,), np.uint8)
    assert np.array_equal(long[:10], Stream(seed).words("x", (10,), np.uint8))
    assert len(np.unique(long[: 1 << 18])) == 256 and long[1 << 18 :].any()
    assert not np.array_equal(long[:1000], long[1 << 18 : (1 << 18) + 1000])


# Plans


def test_a_plan_has_one_text_and_one_digest(entry: Entry) -> None:
    plan = entry.plan
    again = Plan.model_validate_json(plan.canonical())
    assert again == plan and again.digest == plan.digest and again.canonical() == plan.canonical()
    assert again.model_copy(update={"ring_bits": 64}).canonical() != plan.canonical()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "two"}, "format"),
        ({"ring_bits": 33}, "ring_bits"),
        ({"surprise": 1}, "surprise"),
        ({"output": {"wire": "nowhere", "shape": [10]}}, "output"),
        ({"output": {"wire": "input", "shape": [783]}}, "another size"),
        ({"output": {"wire": "input", "shape": [784], "kind": "labels"}}, "given out as labels"),
        ({"input": {"shape": [784], "frac_bits": 40, "low": -1, "high": 1}}, "fit the ring"),
        ({"input": {"shape": [783], "frac_bits": 9, "low": -1, "high": 1}}, "other shapes"),
        ({"input": {"shape": [784], "frac_bits": 9, "low": 1, "high": 1}}, "range is empty"),
    ],
)
def test_impossible_plans_are_refused(entry: Entry, change: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Plan.model_validate(entry.plan.model_dump() | change)


# Envelopes


def test_an_envelope_opens_for_one_key_in_one_context(party_keys: tuple[PrivateKey, PrivateKey]) -> None:
    alice, bob = party_keys
    sealed = alice.public.seal(b"share", b"context")
    assert alice.open(sealed, b"context") == b"share"
    assert len(sealed) == len(b"share") + SEAL_OVERHEAD
    for key, envelope, context in [
        (bob, sealed, b"context"),
        (alice, sealed, b"other"),
        (alice, sealed[:-1], b"context"),
        (alice, b"", b"context"),
        *((alice, flip(sealed, bit), b"context") for bit in range(0, 8 * len(sealed), 601)),
    ]:
        with pytest.raises(Problem) as caught:
            key.open(envelope, context)
        assert caught.value.kind is ProblemType.SEALED_FOR_ANOTHER


def flip(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << (bit % 8)
    return bytes(changed)


def test_a_result_opens_with_its_key_only() -> None:
    key = new_seed()
    sealed = seal_result(key, b"result", b"context")
    assert open_result(key, sealed, b"context") == b"result"
    again = seal_result(key, b"result", b"context")
    assert again[12:] != sealed[12:], "a repeated run must not repeat the key stream"
    for other, text, context in ((new_seed(), sealed, b"context"), (key, sealed, b"other"), (key, b"", b"context")):
        with pytest.raises(Problem):
            open_result(other, text, context)


def test_an_entry_is_trusted_by_its_signature(entry: Entry) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    signed = sign(entry, Ed25519PrivateKey.generate())
    read = SignedEntry.model_validate_json(signed.model_dump_json())
    assert read.verify(signed.owner_key) == entry
    other = sign(entry, Ed25519PrivateKey.generate())
    changed = read.model_copy(update={"entry": entry.model_copy(update={"max_rows": 7})})
    for wrong in (
        lambda: read.verify(other.owner_key),
        lambda: changed.verify(signed.owner_key),
        lambda: read.verify(""),
    ):
        with pytest.raises(BadSignature):
            wrong()


# Messages

IDS = st.binary(min_size=16, max_size=16)
DIGESTS = st.binary(min_size=32, max_size=32)
BINDINGS = st.builds(Binding, DIGESTS, IDS, IDS, DIGESTS, st.integers(0, 2**64 - 1))


@given(BINDINGS, st.integers(0, 2**32 - 1), st.tuples(st.binary(max_size=99), st.binary(max_size=99)))
def test_requests_survive_packing(binding: Binding, rows: int, envelopes: tuple[bytes, bytes]) -> None:
    body = Request(binding, rows, envelopes).pack()
    read = Request.unpack(body)
    assert read.binding == binding and read.rows == rows and tuple(map(bytes, read.envelopes)) == envelopes
    for cut in (body[:-1], body + b"x", body[: len(body) // 2], b""):
        with pytest.raises(Problem):
            Request.unpack(cut)


@given(st.sampled_from(FrameKind), st.binary(max_size=99), st.integers(0, 65535))
def test_frames_survive_packing(kind: FrameKind, payload: bytes, number: int) -> None:
    packed = Frame(kind, payload, number).pack()
    read = Frame.unpack(packed)
    assert (read.kind, bytes(read.payload), read.number) == (kind, payload, number)
    with pytest.raises(Problem):
        Frame.unpack(packed + b"x")
    with pytest.raises(Problem):
        Frame.unpack(packed[:-1])


@given(st.binary(max_size=300))
def test_garbage_is_malformed_and_nothing_else(raw: bytes) -> None:
    for read in (Request.unpack, Frame.unpack, wire.unpack_start, lambda raw: wire.unpack_outcomes(raw, 2)):
        try:
            read(raw)
        except Problem as problem:
            assert problem.kind is ProblemType.MALFORMED


def test_an_unknown_frame_kind_is_refused() -> None:
    with pytest.raises(Problem):
        Frame.unpack(struct.pack("<BxHI", 200, 0, 0))


def test_a_secret_belongs_to_its_request(entry: Entry) -> None:
    binding = Binding(b"p" * 32, b"u" * 16, b"r" * 16, b"d" * 32, 7)
    packed = Secret(b"r" * 16, b"k" * 32, 2, b"s" * 32).pack()
    assert Secret.unpack(packed, binding, 2, 32).share == b"s" * 32
    for rows, size, id_ in ((3, 32, b"r"), (2, 31, b"r"), (2, 32, b"x")):
        with pytest.raises(Problem):
            Secret.unpack(packed, replace(binding, request_id=id_ * 16), rows, size)
    assert "k" * 8 not in repr(Secret(b"r" * 16, b"k" * 32, 2, b"s" * 32))


def test_problems_survive_their_documents() -> None:
    for kind in ProblemType:
        problem = Problem(kind, "detail")
        document = problem.document("id")
        assert document["error"] and document["type"].startswith("urn:moiety:error:")
        read = Problem.from_document(document)
        assert (read.kind, read.detail) == (kind, "detail")
    assert len({kind.urn for kind in ProblemType}) == len(ProblemType)
    assert Problem.from_document(["no"]).kind is ProblemType.INTERNAL
    assert Problem.from_document({"type": "urn:moiety:error:from-the-future"}).kind is ProblemType.INTERNAL
