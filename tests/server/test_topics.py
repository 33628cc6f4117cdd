"""The shipped classifier of texts: what it learnt, what it is made of, and that parties label as float inference
does."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from moiety_server import sources
from moiety_server.compiler.compilation import encode_rows
from moiety_server.compiler.ir import NotServable
from moiety_server.zoo import docstrings, samples, topics
from moiety_shared.messages.tokens import Tokens
from tests.protocols.running import Run

FILE = samples.FOLDER / f"{topics.NAME}.safetensors"
KNOWN = topics.words_in(FILE)
TEXTS = ("Open a socket, and read what the server sends.", "a, b: C-d 42 \u00e9t\u00e9 \U0001f600", "", "the " * 40)


def shipped() -> topics.TopicEncoder:
    model = topics.TopicEncoder(len(KNOWN))
    model.load_state_dict(load_file(FILE))
    return model.eval()


def test_it_is_trained_on_other_texts() -> None:
    """One docstring of five is held out, whichever Python runs."""
    both = [set(topics.texts(topics.SHOWN, held_out=each)) for each in (False, True)]
    assert 3 < len(both[0]) / len(both[1]) < 6 and both[0].isdisjoint(both[1])
    assert topics.accuracy(shipped(), list(both[1]), KNOWN) > 0.6


def test_every_topic_has_texts_of_its_own() -> None:
    places = [place for named in topics.TOPICS.values() for place in named.split()]
    assert len(set(places)) == len(places)
    assert {topic for _, topic in topics.texts(topics.SHOWN, held_out=False)} == set(range(len(topics.TOPICS)))


def test_training_learns(tmp_path: Path) -> None:
    given = [(f"{word} {other}", topic) for topic, word in enumerate(("read", "add")) for other in ("it", "them")] * 32
    known = topics.vocabulary(text for text, _ in given)
    assert list(known) == ["[PAD]", "[UNK]", "add", "it", "read", "them"]
    model = topics.train(given, known, epochs=4)
    assert topics.accuracy(model, given, known) == 1
    topics.save(model, known, tmp_path / "made.safetensors")
    assert topics.words_in(tmp_path / "made.safetensors") == known
    source = sources.load(topics.NAME, weights=tmp_path / "made.safetensors")
    assert isinstance(source.preprocessing, Tokens) and source.preprocessing.vocabulary == 6


def test_the_tokenizer_takes_the_first_words_of_a_text() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer.from_str(topics.tokenizer(KNOWN).decode())
    for text in TEXTS:
        assert made.encode(text).ids == topics.ids_of(text, KNOWN)


def test_what_does_not_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file(load_file(FILE), tmp_path / "wordless.safetensors")
    with pytest.raises(NotServable, match="names no words"):
        sources.load(topics.NAME, weights=tmp_path / "wordless.safetensors")
    save_file(load_file(FILE), tmp_path / "few.safetensors", metadata={"words": "[PAD] [UNK] the"})
    with pytest.raises(NotServable, match="does not fit"):
        sources.load(topics.NAME, weights=tmp_path / "few.safetensors")

    def none(places: object) -> None:
        raise FileNotFoundError("no source files")

    monkeypatch.setattr(docstrings, "read", none)
    with pytest.raises(NotServable, match="give texts of 32 ids with --calibration"):
        sources.load(topics.NAME)


@pytest.mark.long
def test_parties_label_all_held_out_texts_as_in_float() -> None:
    """99.8 % of them at least, by the evaluator that is bit for bit what parties compute."""
    source = sources.load(topics.NAME)
    how = source.preprocessing
    assert isinstance(how, Tokens) and (how.length, how.vocabulary, how.pad_id) == (32, 2048, 0)
    assert source.classes == tuple(topics.TOPICS)
    compiled = source.compile()
    assert compiled.agreement == 1 and compiled.relative_error < 0.01
    ids = torch.tensor([topics.ids_of(text, KNOWN) for text, _ in topics.texts(held_out=True)])
    assert len(ids) > 400
    table = np.frombuffer(source.attached[0], "<i2").reshape(how.vocabulary, how.width) * how.step
    run = Run(compiled.plan, compiled.weights)
    with torch.inference_mode():
        exact = torch.cat([shipped()(some) for some in torch.split(ids, 64)]).double().numpy()
    parts = [
        run.assert_bit_exact(encode_rows(compiled.plan, torch.from_numpy(table[some.numpy()]).float()))
        for some in torch.split(ids, 64)
    ]
    got = np.concatenate(parts) * compiled.plan.output.scale
    assert np.abs(got - exact).max() < 0.01 * exact.std()
    assert (got.argmax(1) == exact.argmax(1)).mean() >= 0.998
