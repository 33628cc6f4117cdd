"""The input of a model of texts, as the Open Inference Protocol v2 has it: BYTES are texts in UTF-8, of shape (n) or
(n, 1) and as they are in JSON too; whole numbers are ids of tokens, (length) or (n, length)."""

from collections.abc import Sequence

import numpy as np

from moiety_client import tokens
from moiety_client.sidecar import columns, tensors
from moiety_client.sidecar.messages import RequestInput, TensorMetadata
from moiety_client.sidecar.tensors import BYTES, refused
from moiety_client.tokens import TokenRows
from moiety_shared.messages.tokens import TokenIds


def metadata(how: TokenIds) -> tuple[TensorMetadata, ...]:
    """Describe the input: texts if the model's owner published a tokenizer, else ids."""
    told = {"length": how.length, "vocabulary": how.vocabulary}
    told |= {} if how.pad_id is None else {"pad_id": how.pad_id}
    if how.tokenizer is not None:
        return (TensorMetadata(name="text", datatype=BYTES, shape=(-1,), parameters=told),)
    return (TensorMetadata(name="ids", datatype="INT64", shape=(-1, how.length), parameters=told),)


def read(inputs: Sequence[RequestInput], binary: memoryview) -> TokenRows:
    """Read the input of a request. Raises Problem, whose text never contains a value."""
    if len(inputs) != 1:
        raise refused("check: inputs: the model takes one, of texts (BYTES) or of ids of tokens (INT64)")
    ((tensor, piece),) = tensors.pieces(inputs, binary)
    if tensor.datatype == BYTES:
        texts = columns.values(tensor, piece).tolist()
        if not texts or not all(isinstance(text, str) for text in texts):
            raise refused(f"the values of {tensor.name!r} are not all texts")
        return TokenRows(tuple(texts))
    if tensor.datatype[:1] not in ("I", "U"):
        raise refused(f"the model takes texts (BYTES) or ids of tokens (INT64), and no {tensor.datatype}")
    ids = np.asarray(tensors.read(tensor, piece))
    if ids.ndim not in (1, 2) or not ids.size:
        raise refused("ids of tokens have the shape (length), or (n, length)")
    return tokens.read(ids)
