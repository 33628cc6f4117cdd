"""What goes wrong with messages: bits flip, ends are missing, parts come twice, lengths and numbers lie."""

import re

from hypothesis import strategies as st

_LENGTHS = (0, 1, 2, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)
_NUMBERS = (
    b"0",
    b"-1",
    b"1e999",
    b"1e308",
    b"NaN",
    b"-Infinity",
    b"2147483648",
    b"9" * 30,
    b"9" * 5000,
    b"0.5",
    b"null",
)
_TEXT = (b'"x"', b"[]", b"{}", b"[[[[]]]]", b'"\\ud800"', b'"\xff"', b"[" * 5000, b'{"a":' * 3000, b"true")


@st.composite
def mutated(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """One of the seeds with a few things wrong with it."""
    raw = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, 4))):
        raw = _once(draw, raw)
    return raw


def _once(draw: st.DrawFn, raw: bytes) -> bytes:
    at = draw(st.integers(0, len(raw)))
    end = draw(st.integers(at, min(len(raw), at + 64)))
    match draw(st.integers(0, 7)):
        case 0 if raw:
            bit = draw(st.integers(0, 8 * len(raw) - 1))
            return raw[: bit // 8] + bytes([raw[bit // 8] ^ 1 << bit % 8]) + raw[bit // 8 + 1 :]
        case 1:
            return raw[:at]
        case 2:
            return raw[:end] + raw[at:]
        case 3:
            return raw[:at] + raw[end:]
        case 4:
            width = draw(st.sampled_from((2, 4, 8)))
            return (
                raw[:at]
                + (draw(st.sampled_from(_LENGTHS)) % 2 ** (8 * width)).to_bytes(width, "little")
                + raw[at + width :]
            )
        case 5:
            return raw[:at] + draw(st.binary(max_size=16)) + raw[end:]
        case 6 if numbers := list(re.finditer(rb"-?\d+(\.\d+)?", raw)):
            where = draw(st.sampled_from(numbers))
            return raw[: where.start()] + draw(st.sampled_from(_NUMBERS)) + raw[where.end() :]
        case 7 if texts := list(re.finditer(rb'"[^"]*"', raw)):
            where = draw(st.sampled_from(texts))
            other = draw(st.sampled_from([*_TEXT, *(t.group() for t in texts[:40])]))
            return raw[: where.start()] + other + raw[where.end() :]
    return raw + draw(st.binary(max_size=8))
