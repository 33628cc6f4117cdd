"""Texts and ids of tokens, in the forms that people have them, and how the client looks them up in the model's table.

text                             the client makes ids of it, if the model's owner published a tokenizer
list of whole numbers            the ids of one input
array, torch tensor              the ids of one input, or (n, length) of several
.npy file, .txt file             a Path of ids (n, length), or of texts, one on each line
list, pandas Series              of any of these

The client pads shorter inputs to the model's length. Nobody but the client learns how long they were. Where the table
is secret, the parties look up what the client shares of the ids.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moiety_client.errors import InvalidInput
from moiety_service import files
from moiety_service.tokenizer import MISSING, TextTokenizer
from moiety_shared import fixed_point
from moiety_shared.fixed_point import RingArray
from moiety_shared.messages.tokens import SecretTokens, Tokens
from moiety_shared.plan.plan import Plan

Ids = npt.NDArray[np.int64]
TXT, _NPY = ".txt", ".npy"
_MOST = 1 << 30  # bytes of a file of texts


@dataclass(frozen=True)
class TokenRows:
    """Inputs one after another, each a text or its ids, (any length,)."""

    items: tuple[str | Ids, ...]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, rows: slice) -> "TokenRows":
        return TokenRows(self.items[rows])

    @classmethod
    def joined(cls, parts: "Sequence[TokenRows]") -> "TokenRows":
        """Put rows that follow each other into one object."""
        return cls(tuple(item for part in parts for item in part.items))


def read(given: Any) -> TokenRows:
    """Read one input or several. `given` has any of the forms that this module's text lists.

    Raises InvalidInput, whose text never contains a value.
    """
    if isinstance(given, TokenRows):
        return given
    if isinstance(given, str):
        return TokenRows((given,))
    if isinstance(given, Path):
        return _file(given)
    if _is_pandas("Series", given) or (isinstance(given, np.ndarray) and given.dtype.kind in "OU"):
        given = given.tolist()
    if isinstance(given, list | tuple) and any(not isinstance(one, int | np.integer) for one in given):
        return TokenRows.joined([read(one) for one in given])
    ids = np.asarray(given.detach().cpu().numpy() if hasattr(given, "detach") else given)
    if ids.dtype.kind not in "iu" or ids.ndim not in (1, 2) or not ids.size:
        raise InvalidInput("pass texts, or ids of tokens: whole numbers, a list for each input or an array (n, length)")
    return TokenRows(tuple(np.atleast_2d(ids.astype(np.int64))))


def _file(path: Path) -> TokenRows:
    try:
        if path.suffix.lower() == _NPY:
            return read(files.array(path))
        if path.suffix.lower() == TXT:
            lines = files.content(path, _MOST).decode().splitlines()
            return TokenRows(tuple(line for line in lines if line.strip()))
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from None
    except InvalidInput:
        raise
    except ValueError as error:
        raise InvalidInput(f"{path} cannot be read: {error}") from None
    raise InvalidInput(f"{path} holds neither ids (.npy) nor lines of text (.txt), which the model takes")


def _is_pandas(kind: str, given: Any) -> bool:
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(given, getattr(pandas, kind))


@dataclass(frozen=True)
class Vocabulary:
    """What a client needs of a model that takes ids: the files of the table, unless that is secret, and of the
    tokenizer, if there is one."""

    how: Tokens | SecretTokens
    table: bytes
    tokenizer: bytes | None

    @classmethod
    def of(cls, how: Tokens | SecretTokens, files: Sequence[bytes]) -> "Vocabulary":
        """Make it of the files beside the catalogue entry, whose digests are right."""
        return cls(how, files[0] if isinstance(how, Tokens) else b"", files[-1] if how.tokenizer else None)

    def encode(self, rows: TokenRows, plan: Plan, start: int) -> RingArray:
        """Look rows up and encode them as ring elements, (n, input size). `start` is the place of the first among all
        of a call. Raises InvalidInput."""
        values, takes = self._values(self._ids(rows, start)).reshape(len(rows), -1), plan.input
        return fixed_point.encode(
            values, frac_bits=takes.frac_bits, ring_bits=plan.ring_bits, low=takes.low, high=takes.high
        )

    def _values(self, ids: Ids) -> npt.NDArray[Any]:
        """Return what is shared of ids: the table's rows, or digits."""
        if isinstance(self.how, SecretTokens):
            return self.how.split(ids)
        table = np.frombuffer(self.table, dtype="<i2").reshape(self.how.vocabulary, self.how.width)
        values: npt.NDArray[Any] = table[ids] * self.how.step
        return values

    def _ids(self, rows: TokenRows, start: int) -> Ids:
        """Return the ids, (n, length)."""
        how, texts = self.how, [item for item in rows.items if isinstance(item, str)]
        made = iter(self._of_texts(texts) if texts else ())
        items = [next(made) if isinstance(item, str) else item for item in rows.items]
        lengths = np.array([len(item) for item in items])
        _refuse(np.flatnonzero(lengths == 0), start, "has no ids: leave it out")
        _refuse(np.flatnonzero(lengths > how.length), start, f"has more than {how.length} ids: shorten it")
        if how.pad_id is None:
            _refuse(
                np.flatnonzero(lengths < how.length), start, f"has fewer than {how.length} ids: the model pads none"
            )
        ids = np.full((len(items), how.length), how.pad_id or 0)
        for row, item in zip(ids, items, strict=True):
            row[: len(item)] = item
        wrong = np.argwhere((ids < 0) | (ids >= how.vocabulary))
        if len(wrong):
            row, place = wrong[0].tolist()
            text = f"place {place} is no id: ids are whole numbers from 0 to {how.vocabulary - 1}"
            _refuse(np.unique(wrong[:, 0]), start, text, place, ids[row, place].item())
        return ids

    def _of_texts(self, texts: Sequence[str]) -> list[list[int]]:
        if self.tokenizer is None:
            raise InvalidInput("the model takes ids of tokens and no texts: its owner published no tokenizer")
        return self._tokenizer.ids(texts)

    @cached_property
    def _tokenizer(self) -> TextTokenizer:
        try:
            return TextTokenizer(self.tokenizer or b"")
        except ImportError:
            raise InvalidInput(MISSING) from None
        except ValueError as error:
            raise InvalidInput(f"the model's tokenizer: {error}: tell its owner") from None


def _refuse(
    rows: npt.NDArray[np.intp], start: int, what: str, place: int | None = None, value: int | None = None
) -> None:
    """Raise InvalidInput if there are such rows."""
    if len(rows):
        more = f" (and {len(rows) - 1} more rows)" if len(rows) > 1 else ""
        column = None if place is None else (place,)
        at = (rows + start).tolist()
        comma = "" if place is None else ","
        raise InvalidInput(f"row {at[0]}{comma} {what}{more}", rows=at, column=column, value=value)
