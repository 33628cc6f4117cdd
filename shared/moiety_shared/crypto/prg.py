"""Streams of pseudo-random words: AES-128-CTR under keys that HKDF-SHA256 derives from a 32-byte seed.

The address of a stream says where it is used (lease, bundle, layer), and a name says what for. So the dealer and a
party that hold the same seed expand the same words without talking. Every (address, name) has a key of its own.
"""

import math
import secrets
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

SEED_BYTES = 32
_BLOCK = 16  # bytes that the cipher yields at a time
_ZEROS = memoryview(bytes(1 << 18))  # counter mode encrypts zeros; a quarter MiB of them stays in the cache


def new_seed() -> bytes:
    """Draw 32 bytes from the operating system's generator."""
    return secrets.token_bytes(SEED_BYTES)


class Stream:
    """The words that one seed yields at one address. Each name can be drawn once."""

    def __init__(self, seed: bytes, *address: str | int) -> None:
        if len(seed) != SEED_BYTES:
            raise ValueError(f"a seed has {SEED_BYTES} bytes")
        self._seed = seed
        self._address = address
        self._drawn: set[str] = set()

    def at(self, *address: str | int) -> "Stream":
        """The stream of the same seed, one level further down the address."""
        return Stream(self._seed, *self._address, *address)

    def words(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Draw uniform words of `dtype`, an integer type. Raises ValueError when the name was drawn before."""
        out = np.empty(shape, dtype=dtype)
        self.fill(name, out)
        return out

    def rows(self, name: str, first: int, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Draw rows of what `words` would return, from row `first` on, without those before them: shape is
        (rows, ...)."""
        out = np.empty(shape, dtype=dtype)
        block, rest = divmod(first * math.prod(shape[1:]) * out.itemsize, _BLOCK)
        encryptor = self._encryptor(name, block)
        encryptor.update(_ZEROS[:rest])
        _fill(encryptor, out)
        return out

    def fill(self, name: str, out: npt.NDArray[Any]) -> None:
        """Write what `words` would return into an existing contiguous array."""
        _fill(self._encryptor(name), out)

    def pieces(self, name: str, count: int, dtype: npt.DTypeLike, most: int) -> Iterator[npt.NDArray[Any]]:
        """Yield `count` uniform words in order, at most `most` at a time, so that they need not all be in memory."""
        encryptor = self._encryptor(name)
        for start in range(0, count, most):
            out = np.empty(min(most, count - start), dtype=dtype)
            _fill(encryptor, out)
            yield out

    def _encryptor(self, name: str, block: int = 0) -> CipherContext:
        if name in self._drawn:
            raise ValueError(f"{name!r} was already drawn from this stream")
        self._drawn.add(name)
        return _cipher(self._seed, _info(*self._address, name), block)


def fill_each(seeds: Sequence[bytes], rows: npt.NDArray[Any], name: str, *address: str | int) -> None:
    """Write into each row what a fresh `Stream(seed, *address)` yields under this name, for its own seed. Quicker than
    so many streams."""
    info = _info(*address, name)
    for seed, row in zip(seeds, rows, strict=True):
        _fill(_cipher(seed, info), row)


def _info(*parts: str | int) -> bytes:
    # Each part carries its type and length: no two addresses encode alike.
    return b"moiety/v1 stream" + b"".join(
        (b"i" if isinstance(part, int) else b"s") + len(text := str(part).encode()).to_bytes(4, "little") + text
        for part in parts
    )


def _cipher(seed: bytes, info: bytes, block: int = 0) -> CipherContext:
    key = HKDFExpand(SHA256(), 16, info).derive(seed)
    return Cipher(algorithms.AES128(key), modes.CTR(block.to_bytes(_BLOCK, "big"))).encryptor()


def _fill(encryptor: CipherContext, out: npt.NDArray[Any]) -> None:
    """Write the next words into a contiguous array."""
    target = out.reshape(-1).view(np.uint8).data
    for start in range(0, len(target), len(_ZEROS)):
        part = target[start : start + len(_ZEROS)]
        encryptor.update_into(_ZEROS[: len(part)], part)
