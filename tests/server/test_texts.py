"""Models of texts as their owner names them: ids or lines to calibrate on, a mask, a tokenizer; and what is refused."""

import re
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from moiety_server import sources
from moiety_server.catalogue import Catalogue
from moiety_server.compiler.compilation import outputs_of
from moiety_server.compiler.ir import NotServable
from moiety_server.records import records
from moiety_server.settings import ServerSettings
from moiety_server.uploads import Uploads
from moiety_shared.messages.catalogue import Entry
from moiety_shared.messages.tokens import SecretTokens, Tokens
from moiety_shared.problems import Problem
from tests import plans
from tests.client.tokens import TABLE, TOKENIZER, attached, tokens
from tests.compiler import test_tokens
from tests.compiler.test_tokens import PAD, WORDS, Mean, ids

MEAN, MASKED = (f"{test_tokens.__name__}:{name}" for name in ("Mean", "Masked"))


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Any]:
    """Writes calibration data of these arrays and returns the file."""

    def write(*alone: Any, **arrays: Any) -> Path:
        if alone:
            np.save(tmp_path / "ids.npy", np.asarray(alone[0]))
            return tmp_path / "ids.npy"
        np.savez(tmp_path / "ids.npz", **arrays)
        return tmp_path / "ids.npz"

    yield write


def test_a_table_is_published_and_all_else_is_not(file: Any) -> None:
    source = sources.load(MEAN, calibration=file(ids()))
    how = source.preprocessing
    assert isinstance(how, Tokens)
    assert (how.vocabulary, how.length, how.pad_id, how.tokenizer) == (WORDS, 6, None, None)
    (content,) = source.attached
    assert attached(content) == how.table and len(content) == WORDS * 6 * 2
    assert "The embedding of 40 ids x 6 values is published" in source.tells[0]
    assert "All other weights are secret" in source.tells[0]
    compiled = source.compile()
    assert compiled.plan.input.size == how.size and compiled.is_accurate
    looked_up = np.frombuffer(content, "<i2").reshape(WORDS, 6)[ids()] * how.step
    exact = Mean().eval()(ids()).detach().numpy()
    error = np.abs(outputs_of(compiled, torch.from_numpy(looked_up).float()) - exact).max()
    assert error < 0.01 * exact.std()


def test_a_secret_table_is_not_published(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(padding(TOKENIZER, length=6))
    (tmp_path / "texts.txt").write_text("good film\nBad bad film, bad\n")
    files = {"calibration": tmp_path / "texts.txt", "tokenizer": tmp_path / "tokenizer.json"}
    source = sources.load(MEAN, **files, secret_embedding=True)
    how = source.preprocessing
    assert isinstance(how, SecretTokens) and (how.vocabulary, how.length, how.pad_id) == (WORDS, 6, 0)
    assert source.attached == (files["tokenizer"].read_bytes(),) and how.files == (attached(source.attached[0]),)
    assert "The embedding of 40 ids x 6 values is secret" in source.tells[0]
    assert "how long a text is stays secret" in source.tells[0]
    exact = Mean().eval()(torch.tensor([[1, 3, 0, 0, 0, 0], [2, 2, 3, 4, 2, 0]])).detach().numpy()
    error = np.abs(outputs_of(source.compile(), source.calibration) - exact).max()  # type: ignore[arg-type]
    assert error < 0.01 * exact.std()


def test_a_mask_says_which_id_is_padding(file: Any) -> None:
    source = sources.load(MASKED, calibration=file(ids=ids(), attention_mask=(ids() != PAD).long()))
    how = source.preprocessing
    assert isinstance(how, Tokens) and how.pad_id == PAD
    assert "how long a text is stays secret" in source.tells[0]


def test_an_embedding_says_so_too(file: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Mean()
    model.word.padding_idx = 3
    monkeypatch.setattr(f"{test_tokens.__name__}.Mean", lambda: model)
    how = sources.load(MEAN, calibration=file(ids())).preprocessing
    assert isinstance(how, Tokens) and how.pad_id == 3


def padding(content: bytes, **how: Any) -> bytes:
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer.from_str(content.decode())
    made.enable_padding(pad_id=0, **how)
    return made.to_str().encode()  # type: ignore[no-any-return]


def test_lines_of_text_calibrate(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(padding(TOKENIZER, length=6))
    (tmp_path / "texts.txt").write_text("good film\n\nBad bad film, bad\nfilm\n")
    source = sources.load(MEAN, calibration=tmp_path / "texts.txt", tokenizer=tmp_path / "tokenizer.json")
    how = source.preprocessing
    assert isinstance(how, Tokens) and how.tokenizer == attached(source.attached[1]) and how.pad_id == 0
    expected = torch.tensor([[1, 3, 0, 0, 0, 0], [2, 2, 3, 4, 2, 0], [3, 0, 0, 0, 0, 0]])
    table = torch.from_numpy(np.frombuffer(source.attached[0], "<i2").reshape(WORDS, -1).copy()) * how.step
    assert torch.allclose(source.calibration, table[expected].float())  # type: ignore[arg-type]


def test_what_the_owner_has_to_mend(file: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, lines = tmp_path / "tokenizer.json", tmp_path / "texts.txt"
    good.write_bytes(TOKENIZER)
    (tmp_path / "bad.json").write_text("{}")
    lines.write_text("good film\nbad\n")
    mask = (ids() != PAD).long()
    cases: list[tuple[str, dict[str, Any], str]] = [
        (MEAN, {"calibration": file(ids()), "low": 0.0, "high": 1.0}, "ids of tokens have no --low and --high"),
        (MEAN, {"calibration": lines}, "name the model's tokenizer.json with --tokenizer"),
        (MEAN, {"calibration": lines, "tokenizer": tmp_path / "bad.json"}, "is no tokenizer.json"),
        (MEAN, {"calibration": lines, "tokenizer": tmp_path / "none.json"}, "cannot be read"),
        (MEAN, {"calibration": lines, "tokenizer": good}, "the tokenizer pads nothing"),
        ("lenet", {"tokenizer": good}, "--tokenizer is for models of torch that look ids"),
        ("lenet", {"secret_embedding": True}, "--secret-embedding is for models of torch that look ids"),
        ("a.onnx", {"calibration": file(ids())}, "name one as module:function, or pass floats"),
    ]
    for what, options, text in cases:
        with pytest.raises(NotServable, match=re.escape(text)):
            sources.load(what, **options)
    with pytest.raises(NotServable, match="has ids that are not below 40"):
        sources.load(MEAN, calibration=file(ids() + 20))
    for of_mask, text in ((mask * 2, "inputs ids"), (mask[:, :3], "another shape"), (1 - mask, "which one id")):
        with pytest.raises(NotServable, match=text):
            sources.load(MASKED, calibration=file(ids=ids(), attention_mask=of_mask))
    with pytest.raises(NotServable, match="which one id"):
        sources.load(MASKED, calibration=file(ids=ids() + 1, attention_mask=mask * 0 + 1))
    with pytest.raises(NotServable, match="takes token_type_ids beside the ids, and a table is looked up by one kind"):
        sources.load(MASKED, calibration=file(ids=ids(), token_type_ids=mask))
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(NotServable, match=r"pip install moiety\[text\]"):
        sources.load(MEAN, calibration=lines, tokenizer=good)


def test_files_are_beside_a_version_while_it_is_there(entry: Entry, tmp_path: Path) -> None:
    key, how = Ed25519PrivateKey.generate(), tokens(tokenizer=attached(TOKENIZER))
    with closing(records(ServerSettings(data_dir=tmp_path))) as db:
        catalogue, begun = Catalogue(db), Uploads(db).begin("small")
        members = {"name": "small", "version": begun.version, "upload_id": begun.upload_id}
        named = entry.model_copy(update={**members, "plan": plans.logits(), "preprocessing": how})
        catalogue.add(named, key, (TABLE.tobytes(), TOKENIZER))
        assert catalogue.attached("small", 1, how.table.digest) == TABLE.tobytes()
        for name, version, digest in (
            ("small", 2, how.table.digest),
            ("x", 1, how.table.digest),
            ("small", 1, "0" * 64),
        ):
            with pytest.raises(Problem):
                catalogue.attached(name, version, digest)
        catalogue.delete("small", 1, key)
        with pytest.raises(Problem):
            catalogue.attached("small", 1, how.table.digest)


@pytest.mark.parametrize("members", [{"digits": (2, 2)}, {"digits": (5,)}, {"digits": (1, 5)}, {"pad_id": 5}])
def test_an_entry_of_other_digits_is_refused(entry: Entry, members: dict[str, Any]) -> None:
    right = {"kind": "secret_tokens", "length": 2, "vocabulary": 5, "digits": (2, 4)}
    plan = entry.model_dump() | {"plan": plans.logits().model_dump()}
    Entry.model_validate(plan | {"preprocessing": right})
    with pytest.raises(ValueError, match=r"digits|padding|plan's input"):
        Entry.model_validate(plan | {"preprocessing": right | members})


@pytest.mark.parametrize("change", [{"width": 3}, {"pad_id": 5}, {"length": 3}])
def test_an_entry_of_other_sizes_is_refused(entry: Entry, change: dict[str, int]) -> None:
    members = tokens().model_dump() | change
    with pytest.raises(ValueError, match=r"size|padding|plan's input"):
        Entry.model_validate(entry.model_dump() | {"plan": plans.logits().model_dump(), "preprocessing": members})
