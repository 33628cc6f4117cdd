"""Real numbers as ring elements, and additive shares of them. This is the client's side, so it needs numpy only.

A real x becomes the ring element round(x * 2^f) mod 2^k, where f is its number of fractional bits.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from moiety_shared.crypto.prg import Stream

RingArray = npt.NDArray[Any]
"""int32 or int64."""


class NotEncodable(ValueError):
    """A value that the ring could only hold wrongly. The message never contains the value."""


def ring_dtype(ring_bits: int) -> type[np.int32] | type[np.int64]:
    return np.int32 if ring_bits <= 32 else np.int64


def encode(values: npt.ArrayLike, *, frac_bits: int, ring_bits: int, low: float, high: float) -> RingArray:
    """Compute round(values * 2^frac_bits), to nearest, as int32 (ring_bits <= 32) or int64.

    `low` and `high` bound the input as the model declares it, in real units. Raises NotEncodable for NaN, infinity, and
    any value outside the range.
    """
    real = np.asarray(values, dtype=np.float64)
    if max(abs(low), abs(high)) * 2.0**frac_bits >= 2.0 ** (ring_bits - 1):
        raise NotEncodable(f"the range {low} to {high} at {frac_bits} fractional bits overflows {ring_bits} bits")
    if not np.isfinite(real).all():
        raise NotEncodable("the input contains NaN or infinity")
    # Half a unit of tolerance: a range whose ends were rounded must still accept these ends.
    grace = 0.5 * 2.0**-frac_bits
    if real.size and (real.min() < low - grace or real.max() > high + grace):
        raise NotEncodable(f"the input has values outside the declared range {low:g} to {high:g}")
    encoded: RingArray = np.rint(real * 2.0**frac_bits).astype(ring_dtype(ring_bits))
    return encoded


def clipped(
    x: npt.NDArray[np.float64], low: float, high: float, own_low: float, own_high: float
) -> npt.NDArray[np.float64]:
    """Move to an end of the range what only the rounding of its own type took out of it.

    `own_low` and `own_high` are the ends as the type of the values has them. An end need not be a number of a half or
    single precision type: its nearest number there may lie outside, by half of the last place. Values further out stay
    as they are.
    """
    return np.where((x >= min(own_low, low)) & (x <= max(own_high, high)), x.clip(low, high), x)


def grid(low: float, high: float, frac_bits: int) -> tuple[int, int]:
    """The least and the largest ring element whose value lies in the range. Raises NotEncodable where there is none."""
    least, largest = math.ceil(low * 2.0**frac_bits), math.floor(high * 2.0**frac_bits)
    if least > largest:
        raise NotEncodable(f"no value of {frac_bits} fractional bits is in the input range {low:g} to {high:g}")
    return least, largest


def decode(elements: RingArray, *, scale: float) -> npt.NDArray[np.float64]:
    """Compute elements * scale, with the elements read as two's complement."""
    return elements.astype(np.float64) * scale


def split(elements: RingArray, stream: Stream, out: RingArray) -> None:
    """Write the share x - stream into `out`. The other share is the stream itself, so the stream's seed is enough to
    send it."""
    stream.fill("share", out)
    np.subtract(elements, out, out=out)


def finish(final: str, logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Apply the model's last function to outputs (n, ...). The functions of classes run over the first axis after the
    batch."""
    match final:
        case "none":
            return logits
        case "exp":
            return np.exp(logits)
        case "sigmoid" | "ovr":
            each = 0.5 * (1 + np.tanh(logits / 2))  # of no exponential, which would overflow
            return each if final == "sigmoid" else _divided(each)
        case "softmax" | "log_softmax":
            shifted = logits - logits.max(axis=1, keepdims=True)
            logarithms: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
            return logarithms if final == "log_softmax" else np.exp(logarithms)
        case _:
            raise ValueError(f"there is no function {final!r}")


def _divided(each: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Divide by the sum over the classes. Where all are 0, every class gets the same, as scikit-learn has it."""
    total = each.sum(axis=1, keepdims=True)
    shares: npt.NDArray[np.float64] = np.where(total > 0, each / np.where(total > 0, total, 1), 1 / each.shape[1])
    return shares


def join(one: RingArray, other: RingArray) -> RingArray:
    """Add two additive shares up to the ring element."""
    joined: RingArray = one + other
    return joined
