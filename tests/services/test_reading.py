"""Files that others made: .npy, safetensors, access files."""

import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.lib import format as npy
from safetensors.numpy import save

from moiety_client.core import read_access
from moiety_client.errors import AccessFileError
from moiety_server import sources, tensor_files
from moiety_server.compiler.ir import NotServable
from moiety_server.counts import open_count
from moiety_service import files
from moiety_shared.crypto.sealing import PrivateKey
from moiety_shared.messages.catalogue import Entry
from moiety_shared.messages.verified import count_bytes
from moiety_shared.messages.wire import OwnerCount
from moiety_shared.problems import Problem
from tests import plans
from tests.fuzz.targets import BINDING
from tests.memory import growth_below
from tests.vectors.messages import checked, entry


def header(text: str, version: tuple[int, int] = (1, 0), behind: bytes = b"") -> bytes:
    encoded = text.encode("latin-1")
    return npy.magic(*version) + len(encoded).to_bytes(2 if version == (1, 0) else 4, "little") + encoded + behind


def described(descr: str = "'<f4'", order: str = "False", shape: str = "(2,)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}}}\n"


def test_arrays_are_read_as_numpy_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    for array in (
        np.arange(24, dtype=np.uint8).reshape(2, 3, 4), np.asfortranarray(np.ones((3, 5))), np.array(3.5),
        np.array(["a", "bcd"]), np.zeros((0, 7)), np.arange(3, dtype=">i8"), np.array([True]), np.array([1j]),
    ):  # fmt: skip
        for version in ((1, 0), (2, 0)):
            with path.open("wb") as file:
                npy.write_array(file, array, version)
            read = files.array(path)
            assert read.dtype == array.dtype and np.array_equal(read, array)


WRONG: dict[str, bytes] = {
    "nothing": b"",
    "no .npy": b"PK\x03\x04" + bytes(100),
    "no header": b"\x93NUMPY\x01\x00",
    "a later version": header(described(), (9, 0), bytes(8)),
    "parentheses": header(described(shape="(" * 4000 + ")" * 4000)),
    "brackets": header(described(descr="[" * 4500)),
    "a header of a megabyte": header(described() + " " * (1 << 20), (2, 0), bytes(8)),
    "a header of four gigabytes": npy.magic(2, 0) + b"\xff" * 4,
    "minus signs": header("-" * 9000 + "1"),
    "code": header(described(shape="(__import__('os').getpid(),)")),
    "a shape beyond all memory": header(described(shape="(1000000000000, 1000000000000)"), behind=bytes(8)),
    "nothing, often": header(described(shape="(0, -1)")),
    "less than nothing": header(described(shape="(-1, -2)"), behind=bytes(8)),
    "cut short": header(described(), behind=bytes(7)),
    "too long": header(described(), behind=bytes(9)),
    "objects": header(described(descr="'|O'"), behind=bytes(16)),
    "records": header(described(descr="[('a', '<f4')]"), behind=bytes(8)),
    "arrays of arrays": header(described(descr="('<f4', (1000000000,))"), behind=bytes(8)),
    "bytes": header(described(descr="'|S4'"), behind=bytes(8)),
    "texts of nothing": header(described(descr="'<U0'", shape="(1000000000000,)")),
    "no type": header(described(descr="'<q9'"), behind=bytes(8)),
    "a type of another kind": header(described(descr="{}"), behind=bytes(8)),
    "times": header(described(descr="'<M8[s]'"), behind=bytes(16)),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_array_of_numbers_is_refused_before_memory_is_taken(tmp_path: Path, case: str) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(WRONG[case])
    with growth_below(100 << 20), pytest.raises(ValueError, match=r"header|holds"):
        files.array(path)
    with pytest.raises(NotServable, match=r"a\.npy cannot be read as calibration data \(its|a\.npy .* \(it holds"):
        tensor_files.read(path)


@pytest.mark.parametrize("case", WRONG)
def test_arrays_of_a_wrong_npz_file_are_refused(tmp_path: Path, case: str) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as members:
        members.writestr("a.npy", WRONG[case])
    with growth_below(100 << 20), pytest.raises(ValueError, match=r"header|holds"):
        files.arrays(path)
    with pytest.raises(NotServable, match=r"a\.npz cannot be read as calibration data"):
        tensor_files.read(path)


def test_arrays_of_an_npz_file_are_bounded_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "a.npz", one=np.zeros((2, 3)), two=np.ones(1 << 16))
    assert {name: a.shape for name, a in files.arrays(tmp_path / "a.npz").items()} == {"one": (2, 3), "two": (1 << 16,)}
    monkeypatch.setattr(files, "_MOST_TOGETHER", 1 << 19)
    with pytest.raises(ValueError, match="more than 524,288 bytes"):
        files.arrays(tmp_path / "a.npz")
    (tmp_path / "a.npz").write_bytes(b"PK no zip")
    with pytest.raises(ValueError, match=r"no \.npz file"):
        files.arrays(tmp_path / "a.npz")


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path(os.devnull), tmp_path / "missing"):
        for read in (lambda p: files.content(p, 100), files.array, tensor_files.tensors):
            with pytest.raises(OSError, match=r"regular|directory|No such"):
                read(path)
    (tmp_path / "file").write_bytes(bytes(100))
    assert files.content(tmp_path / "file", 100) == bytes(100)
    with pytest.raises(files.TooLarge, match="has 100 bytes, more than the limit of 99"):
        files.content(tmp_path / "file", 99)


def safetensors(text: bytes, behind: bytes = b"", size: int | None = None) -> bytes:
    return (len(text) if size is None else size).to_bytes(8, "little") + text + behind


TENSORS: dict[str, bytes] = {
    "nothing": b"",
    "a header of all memory": safetensors(b"{}", size=1 << 62),
    "a header of a gigabyte": safetensors(b"{}", size=1 << 30),
    "a deep header": safetensors(b"[" * 100_000 + b"]" * 100_000),
    "a deep member": safetensors(b'{"a":' * 10_000 + b"1" + b"}" * 10_000),
    "a shape beyond all memory": safetensors(
        b'{"a":{"dtype":"F32","shape":[1000000000000,1000000000000],"data_offsets":[0,4]}}', bytes(4)
    ),
    "offsets beyond the file": safetensors(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[1000000,1000004]}}', bytes(4)
    ),
    "offsets that overlap": safetensors(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        bytes(4),
    ),
    "another type": safetensors(b'{"a":{"dtype":"\x1b[31m","shape":[1],"data_offsets":[0,4]}}', bytes(4)),
}


@pytest.mark.parametrize("case", TENSORS)
def test_what_is_no_safetensors_file_ends_in_a_line(tmp_path: Path, case: str) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(TENSORS[case])
    for read in (lambda: tensor_files.read(path), lambda: sources.load("mnist", weights=path)):
        with pytest.raises(NotServable) as caught:
            read()
        assert str(caught.value).isprintable() and len(str(caught.value)) < 500


def test_weights_of_another_network_end_in_a_line(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(save({"\x1b[31mevil" + "x" * 5000: np.ones(1)}))
    with pytest.raises(NotServable, match="does not fit the model") as caught:
        sources.load("mnist", weights=path)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "content",
    [b"[" * 100_000, b'{"token":' * 100_000, b"{}", b"\xff", b'{"token":"' + b"x" * (1 << 20) + b'"}', b"1" * 5000],
    ids=["deep", "deep members", "empty", "no text", "large", "a number without end"],
)
def test_what_is_no_access_file_ends_in_a_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "access.json"
    path.write_bytes(content)
    with pytest.raises(AccessFileError, match="ask the model's owner for one"):
        read_access(path)


def test_an_access_file_is_a_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "missing"):
        with pytest.raises(AccessFileError):
            read_access(path)


# A model of one's own


def test_a_models_function_may_import_its_neighbours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_model.py").write_text("def build():\n    from own_parts import net\n    return net()\n")
    (tmp_path / "own_parts.py").write_text("import torch\ndef net():\n    return torch.nn.Linear(4, 2)\n")
    np.save(tmp_path / "c.npy", np.ones((8, 4), dtype=np.float32))
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    model: Any = sources.load("own_model:build", calibration=Path("c.npy")).model
    assert isinstance(model, torch.nn.Linear) and sys.path == before
    with pytest.raises(NotServable, match="cannot be imported"):
        sources.load("own_model:other", calibration=Path("c.npy"))
    assert sys.path == before


# What a client hands on


def test_a_count_that_anybody_sealed_is_a_pair_of_shares_or_none() -> None:
    """The owner's sealing key is public: what is in the envelopes may be anything."""
    key = PrivateKey(bytes(range(96)))

    class Ring:
        def open(self, envelope: Any, context: bytes) -> bytes:
            return key.open(bytes(envelope), context)

    def opened(asked: Entry, *shares: bytes) -> int:
        one, other = (key.public.seal(s, BINDING.context("count", p)) for p, s in enumerate(shares))
        return open_count(Ring(), OwnerCount.unpack(OwnerCount(BINDING, (one, other)).pack()), asked)  # type: ignore[arg-type]

    plain, sure = entry(plans.count()), entry(checked(plans.count()))
    assert opened(plain, bytes([5, 0, 0, 0]), bytes([2, 0, 0, 0])) == 7
    for shares in ((b"", b""), (bytes(3), bytes(4)), (bytes(4), bytes(8)), (bytes(400), bytes(400))):
        with pytest.raises(Problem, match="does not hold two shares"):
            opened(plain, *shares)
        with pytest.raises(Problem, match="another length than its plan says"):
            opened(sure, *shares)
    with pytest.raises(Problem, match="does not hold together"):
        opened(sure, *(bytes(count_bytes(sure.plan, party)) for party in (0, 1)))
