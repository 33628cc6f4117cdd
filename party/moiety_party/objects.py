"""Where a store keeps its bytes: files in a folder, or objects in any storage that fsspec reaches, such as S3.

Names are `folder/file`. `publish` is atomic in every kind of storage; nothing else is.
"""

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from pydantic import SecretStr

from moiety_service.startup import StartRefused
from moiety_shared.problems import Problem, ProblemType

_BLOCK_BYTES = 1 << 24  # what is read from a remote store, or sent to it, at a time


class Objects(Protocol):
    """Files in folders.

    Every method raises FileNotFoundError for a file that is not there, and Problem STATE_UNAVAILABLE when the storage
    does not answer.
    """

    def folders(self) -> list[str]:
        """The names of all folders, whatever they hold."""

    def files(self, folder: str) -> list[str]:
        """The names of a folder's files. Empty when there is no such folder."""

    def read(self, folder: str, file: str, limit: int) -> bytes:
        """Read a file. Raises ValueError, and reads nothing, when it has more than `limit` bytes."""

    def pieces(self, folder: str, file: str, sizes: Iterable[int]) -> Iterator[bytes]:
        """Read a file in pieces of these sizes. Raises ValueError, and reads nothing, unless they make the whole."""

    def write(self, folder: str, file: str, content: Iterable[bytes]) -> None:
        """Write a file from pieces. It is durable when this returns."""

    def publish(self, folder: str, file: str, content: bytes) -> None:
        """Write a file that is there as a whole or not at all, and never before what was written beside it earlier.

        It is durable when this returns.
        """

    def overwrite(self, folder: str, file: str) -> None:
        """Write zeros over a file."""

    def remove(self, folder: str, file: str) -> None:
        """Remove a file, if it is there."""

    def remove_folder(self, folder: str) -> None:
        """Remove a folder, and whatever is still in it."""


def objects(url: SecretStr | None, folder: Path) -> Objects:
    """The objects at the URL, or in the folder if there is no URL. Raises StartRefused if the URL cannot be used."""
    if url is None:
        return Folder(folder / "models")
    scheme, _, rest = url.get_secret_value().partition("://")
    if scheme == "file" and rest.startswith("/"):
        return Folder(Path(rest) / "models")
    return Remote(url)


class Folder:
    """Objects as files of mode 0600, in folders of mode 0700."""

    def __init__(self, root: Path) -> None:
        self._root = root
        for path in (root.parent, root):  # the mode is for the last one alone
            path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def __str__(self) -> str:
        return str(self._root)

    def folders(self) -> list[str]:
        return sorted(path.name for path in self._root.iterdir() if path.is_dir())

    def files(self, folder: str) -> list[str]:
        return [path.name for path in (self._root / folder).glob("*")]

    def read(self, folder: str, file: str, limit: int) -> bytes:
        with (self._root / folder / file).open("rb") as opened:
            _check_size(os.fstat(opened.fileno()).st_size, limit)
            return opened.read(limit)

    def pieces(self, folder: str, file: str, sizes: Iterable[int]) -> Iterator[bytes]:
        sizes = list(sizes)
        with (self._root / folder / file).open("rb") as opened:
            _check_length(os.fstat(opened.fileno()).st_size, sizes)
            for size in sizes:
                yield opened.read(size)

    def write(self, folder: str, file: str, content: Iterable[bytes]) -> None:
        (self._root / folder).mkdir(mode=0o700, exist_ok=True)
        _write(self._root / folder / file, content)

    def publish(self, folder: str, file: str, content: bytes) -> None:
        _write(self._root / folder / f"{file}.partial", [content])
        _sync(self._root / folder)
        (self._root / folder / f"{file}.partial").rename(self._root / folder / file)
        _sync(self._root / folder)
        _sync(self._root)

    def overwrite(self, folder: str, file: str) -> None:
        with (self._root / folder / file).open("r+b") as opened:
            opened.write(bytes(os.fstat(opened.fileno()).st_size))
            opened.flush()
            os.fsync(opened.fileno())

    def remove(self, folder: str, file: str) -> None:
        (self._root / folder / file).unlink(missing_ok=True)

    def remove_folder(self, folder: str) -> None:
        shutil.rmtree(self._root / folder, ignore_errors=True)
        _sync(self._root)


class Remote:
    """Objects below a URL. Each is there as a whole or not at all."""

    def __init__(self, url: SecretStr) -> None:
        """Raises StartRefused for a URL that nothing here can reach. No error quotes the URL: it may hold a secret."""
        scheme = url.get_secret_value().partition("://")[0]
        try:
            from fsspec.core import url_to_fs

            self._files, root = url_to_fs(url.get_secret_value(), use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise StartRefused(
                f"cannot use the store's URL ({type(error).__name__}): give one that fsspec supports, such as "
                f"s3://bucket/alice, and install what fsspec needs for {scheme[:20]!r}"
            ) from None
        self._name, self._root = f"{scheme}://", f"{root.rstrip('/')}/models"

    def __str__(self) -> str:
        return self._name

    def folders(self) -> list[str]:
        return sorted(path.rstrip("/").rpartition("/")[2] for path in self._list(self._root))

    def files(self, folder: str) -> list[str]:
        return [path.rpartition("/")[2] for path in self._list(f"{self._root}/{folder}")]

    def read(self, folder: str, file: str, limit: int) -> bytes:
        path = self._path(folder, file)
        with _answering():
            size = int(self._files.info(path)["size"])
        _check_size(size, limit)
        with _answering():
            content: bytes = self._files.cat_file(path, start=0, end=size)
        return content

    def pieces(self, folder: str, file: str, sizes: Iterable[int]) -> Iterator[bytes]:
        path, sizes = self._path(folder, file), list(sizes)
        with _answering():
            length = int(self._files.info(path)["size"])
        _check_length(length, sizes)
        with _answering(), self._files.open(path, "rb", block_size=_BLOCK_BYTES) as opened:
            for size in sizes:
                yield opened.read(size)

    def write(self, folder: str, file: str, content: Iterable[bytes]) -> None:
        with _answering(), self._files.open(self._path(folder, file), "wb", block_size=_BLOCK_BYTES) as opened:
            for piece in content:
                opened.write(piece)

    def publish(self, folder: str, file: str, content: bytes) -> None:
        with _answering():
            self._files.pipe_file(self._path(folder, file), content)

    def overwrite(self, folder: str, file: str) -> None:
        path = self._path(folder, file)
        with _answering():
            self._files.pipe_file(path, bytes(int(self._files.info(path)["size"])))

    def remove(self, folder: str, file: str) -> None:
        with contextlib.suppress(FileNotFoundError), _answering():
            self._files.rm_file(self._path(folder, file))

    def remove_folder(self, folder: str) -> None:
        for file in self.files(folder):
            self.remove(folder, file)

    def _list(self, path: str) -> list[str]:
        try:
            with _answering():
                self._files.invalidate_cache()
                names: list[str] = self._files.ls(path, detail=False)
        except FileNotFoundError:
            return []
        return [name for name in names if name.rstrip("/") != path]

    def _path(self, folder: str, file: str) -> str:
        return f"{self._root}/{folder}/{file}"


@contextmanager
def _answering() -> Iterator[None]:
    """Raises STATE_UNAVAILABLE for any error but FileNotFoundError. No text of the storage's own is passed on."""
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:
        raise Problem(ProblemType.STATE_UNAVAILABLE) from error


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise ValueError("larger than allowed")


def _check_length(length: int, sizes: Iterable[int]) -> None:
    if length != sum(sizes):
        raise ValueError("not of the expected length")


def _write(path: Path, content: Iterable[bytes]) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as opened:
        opened.writelines(content)
        opened.flush()
        os.fsync(opened.fileno())


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
