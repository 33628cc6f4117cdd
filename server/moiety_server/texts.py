"""Models of texts: from a torch module and ids of tokens to what is compiled, and to what clients look ids up in."""

import hashlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from moiety_server.compiler import eager, ir
from moiety_server.compiler.embedding import Digits
from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.origin import shown
from moiety_server.compiler.tokens import AWAY
from moiety_server.compiler.trace import trace_ids
from moiety_server.source import ModelSource
from moiety_server.tensor_files import Calibration
from moiety_service import files
from moiety_service.tokenizer import MISSING, TextTokenizer
from moiety_shared.messages.tokens import MOST_ATTACHED, Attachment, SecretTokens, TokenIds, Tokens

_LARGEST = (1 << 15) - 1  # of int16
_KINDS = ("type", "segment")  # token_type_ids are zeros and ones as well, and no mask
_MOST_TEXTS = 1 << 26  # bytes of a file of lines: calibration takes a few dozen


class PublishedTokenizer(Protocol):
    """What is read of a tokenizer.json that is published: the file, how many ids it knows, and the id of padding."""

    @property
    def content(self) -> bytes: ...
    @property
    def size(self) -> int: ...
    @property
    def pad_id(self) -> int | None: ...


@dataclass(frozen=True)
class ShippedTokenizer:
    """A tokenizer.json that this package made, so it need not be read. By default it pads nothing."""

    content: bytes
    size: int
    pad_id: int | None = None


class OwnTokenizer(TextTokenizer):
    """The owner's tokenizer.json. `content` is the file. Raises NotServable."""

    def __init__(self, path: Path, pad_id: int | None = None) -> None:
        """`pad_id` is the id of padding, where the file names none."""
        try:
            self.content = files.content(path, MOST_ATTACHED)
            super().__init__(self.content)
        except ImportError:
            raise NotServable(MISSING) from None
        except OSError as error:
            raise NotServable(f"{shown(path.name)} cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise NotServable(f"{shown(path.name)}: {error}") from None
        if self.pad_id is None:
            self.pad_id = pad_id

    def lines(self, path: Path) -> Tensor:
        """Return the ids of a file's lines, (n, length): the file's own length, or that of the longest line."""
        try:
            texts = files.content(path, _MOST_TEXTS).decode().splitlines()
        except OSError as error:
            raise NotServable(f"{shown(path.name)} cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise NotServable(f"{shown(path.name)} is no text in UTF-8: {error}") from None
        found = [ids for ids in self.ids([text for text in texts if text.strip()]) if ids]
        if not found:
            raise NotServable(f"{shown(path.name)} has no line of text")
        length = self.length or max(map(len, found))
        if max(map(len, found)) > length:
            raise NotServable(f"{shown(path.name)} has a line of more than {length} tokens, the tokenizer's own length")
        if self.pad_id is None and min(map(len, found)) < length:
            raise NotServable("the tokenizer pads nothing. Instead: enable_padding(pad_id=...), and save it anew")
        return torch.tensor([ids + [self.pad_id or 0] * (length - len(ids)) for ids in found])


def of_module(
    name: str,
    module: nn.Module,
    given: Calibration,
    tokenizer: PublishedTokenizer | None = None,
    output: str = "",
    secret: bool = False,
) -> ModelSource:
    """Trace a model of token ids, (n, length), and perhaps of a mask of their padding, by the names of its arguments.

    The table in which ids are looked up is published, or it is one of the secret weights. Raises NotServable.
    """
    named = {_first(module): given} if isinstance(given, Tensor) else dict(given)
    name_of_ids, mask = _told_apart(named)
    ids = named[name_of_ids]
    pad_id = _padding(module, ids, named.get(mask), tokenizer)
    floats = {one: values.float() if one == mask else values for one, values in named.items()}
    graph, table = trace_ids(module, floats, mask, pad_id, output, secret)
    vocabulary = len(table.values)
    if tokenizer and tokenizer.size > vocabulary:
        raise NotServable(f"the tokenizer has {tokenizer.size:,} tokens, and the embedding {vocabulary:,}")
    files = (tokenizer.content,) if tokenizer else ()
    known = {
        "length": ids.shape[1],
        "vocabulary": vocabulary,
        "pad_id": pad_id,
        "tokenizer": _attachment(tokenizer.content) if tokenizer else None,
    }
    source = _secret(graph, table.values, ids, known) if secret else _published(graph, table.values, ids, known)
    assert isinstance(source.calibration, Tensor)  # noqa: S101  ids are one input
    if eager.answers_otherwise(module, floats, graph, source.calibration):
        raise NotServable(
            f"the model: answers otherwise when {'' if secret else 'its table of ids has 16 bits, and '}padding has a "
            f"bias of -{AWAY:g} where it has minus infinity. Instead: scale down what is large in the embedding or the "
            "scores"
        )
    return replace(source, name=name, attached=(*source.attached, *files), output=output)


def _published(graph: ir.Graph, values: Tensor, ids: Tensor, known: Mapping[str, Any]) -> ModelSource:
    """Publish the table, (vocabulary, width), with 16 bits for each value. `known` is what is declared of all ids."""
    step = float(values.abs().max()) / _LARGEST or 1.0
    whole = np.rint(values.numpy() / step).astype("<i2")
    looked_up = torch.from_numpy(whole).double() * step
    if whole.nbytes > MOST_ATTACHED:
        raise NotServable(f"the table of ids has {whole.nbytes:,} bytes, more than {MOST_ATTACHED:,}")
    content = whole.tobytes()
    how = Tokens(width=whole.shape[1], step=step, table=_attachment(content), **known)
    told = (
        f"The embedding of {how.vocabulary:,} ids x {how.width} values is published ({how.table.size:,} bytes): "
        "whoever can read the catalogue gets it, because clients look their ids up by themselves. All other weights "
        f"are secret; --secret-embedding keeps this one as well. {_of_length(how)}"
    )
    low, high = float(looked_up.min()), float(looked_up.max())
    return ModelSource("", graph, looked_up[ids].float(), low, high, how, tells=(told,), attached=(content,))


def _secret(graph: ir.Graph, values: Tensor, ids: Tensor, known: Mapping[str, Any]) -> ModelSource:
    """Leave the table, (vocabulary, width), in the graph, whose input are the ids' digits."""
    digits = Digits.of(*values.shape)
    how = SecretTokens(digits=digits.values, **known)
    told = (
        f"The embedding of {how.vocabulary:,} ids x {values.shape[1]} values is secret, as all weights are: the "
        f"parties look ids up. Everybody learns its size. {_of_length(how)}"
    )
    rows = torch.from_numpy(how.split(ids.numpy())).float()
    return ModelSource("", graph, rows, 0.0, float(digits.largest), how, tells=(told,))


def _attachment(content: bytes) -> Attachment:
    return Attachment(digest=hashlib.sha256(content).hexdigest(), size=len(content))


def _of_length(how: TokenIds) -> str:
    kept = "so how long a text is stays secret" if how.pad_id is not None else "so all texts have one length"
    return f"Every input has {how.length} places, {kept}."


def _first(module: nn.Module) -> str:
    return next(iter(inspect.signature(module.forward).parameters), "ids")


def _told_apart(given: Mapping[str, Tensor]) -> tuple[str, str]:
    """Return the names of the ids, and of the mask or "". A mask has zeros and ones alone. Raises NotServable."""
    if kinds := [name for name in given if len(given) > 1 and any(word in name for word in _KINDS)]:
        raise NotServable(
            f"the model: takes {shown(', '.join(kinds))} beside the ids, and a table is looked up by one kind of ids. "
            "Instead: give it a default in forward, as where all tokens are of the first type"
        )
    masks = [name for name, values in given.items() if len(given) > 1 and bool(((values == 0) | (values == 1)).all())]
    ids = [name for name, values in given.items() if name not in masks and not values.is_floating_point()]
    if len(ids) != 1 or len(masks) > 1 or len(given) > 2:
        raise NotServable(
            f"the model: takes the inputs {shown(', '.join(given))}, where one of ids is served, and one mask of zeros "
            "and ones beside it. Instead: give the others defaults in forward"
        )
    if len({values.shape for values in given.values()}) > 1:
        raise NotServable("the calibration data has a mask of another shape than the ids")
    return ids[0], masks[0] if masks else ""


def _padding(module: nn.Module, ids: Tensor, mask: Tensor | None, tokenizer: PublishedTokenizer | None) -> int | None:
    """Return the id of padding: where the mask is 0, or as the embedding or the tokenizer states it. Raises
    NotServable."""
    embeddings = [one for one in module.modules() if isinstance(one, nn.Embedding)]
    stated = {one.padding_idx for one in embeddings if one.padding_idx is not None}
    if mask is not None and bool((mask == 0).any()):
        stated = set(ids[mask == 0].tolist())
    if not stated and tokenizer is not None and tokenizer.pad_id is not None:
        stated = {tokenizer.pad_id}
    if len(stated) > 1 or (mask is not None and not stated):
        raise NotServable(
            "the calibration data does not show which one id is padding. Instead: give some rows that are padded, with "
            "a mask that is 0 there"
        )
    pad_id = next(iter(stated), None)
    if mask is not None and not torch.equal(ids.ne(-1 if pad_id is None else pad_id), mask != 0):
        raise NotServable(f"the mask of the calibration data is not 0 where the id is {pad_id}, and 1 elsewhere")
    return pad_id
