"""A small model of token ids, of which two are its input: the entry, its files, and what a client should send."""

import hashlib
import json
from typing import Any

import numpy as np

from moiety_shared.fixed_point import RingArray
from moiety_shared.messages.catalogue import Entry
from moiety_shared.messages.tokens import Attachment, SecretTokens, Tokens
from tests.client.sdk.conftest import Paid

TABLE = np.array([[0, 0], [1, -2], [3, 4], [-5, 6], [7, -8]], dtype="<i2")
"""The values of five ids, in steps of a 16th, as the plan has them."""
WORDS = {"[PAD]": 0, "good": 1, "bad": 2, "film": 3, "[UNK]": 4}
TOKENIZER = json.dumps(
    {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": WORDS, "unk_token": "[UNK]"},
    }
).encode()


def attached(content: bytes) -> Attachment:
    return Attachment(digest=hashlib.sha256(content).hexdigest(), size=len(content))


def tokens(**how: Any) -> Tokens:
    members = {
        "length": 2,
        "vocabulary": 5,
        "width": 2,
        "step": 2.0**-4,
        "pad_id": 0,
        "table": attached(TABLE.tobytes()),
    }
    return Tokens.model_validate(members | how)


def serve(paid: Paid, *, tokenizer: bool = True, **how: Any) -> Entry:
    """Let the service have such a model in place of its own."""
    return _served(paid, tokens(tokenizer=attached(TOKENIZER) if tokenizer else None, **how), TABLE.tobytes())


def serve_secret(paid: Paid) -> Entry:
    """The same with a secret embedding, of whose ids two digits each are the input."""
    return _served(paid, SecretTokens(length=2, vocabulary=5, digits=(2, 4), pad_id=0, tokenizer=attached(TOKENIZER)))


def _served(paid: Paid, declared: Tokens | SecretTokens, *more: bytes) -> Entry:
    entry = paid.entries[0].model_copy(update={"preprocessing": declared})
    paid.entries = [entry]
    for content in (*more, TOKENIZER):
        path = f"/v1/models/{entry.name}/versions/{entry.version}/files/{attached(content).digest}"
        paid.files[path] = content
    return entry


def elements(*ids: tuple[int, int]) -> RingArray:
    """What a client sends of padded ids."""
    return TABLE[list(ids)].reshape(len(ids), -1).astype(np.int32)
