"""The shipped language model: what it learnt, what it is made of, and that parties score what float inference does."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from moiety_server import sources
from moiety_server.compiler.compilation import encode_rows
from moiety_server.compiler.ir import NotServable
from moiety_server.zoo import characters, samples
from moiety_shared.messages.tokens import Tokens
from tests.protocols.running import Run

BEGUN = ("Return a list of", "def f(x):\n    " + "a long line of text " * 4, "#")


def shipped() -> characters.CharacterGPT:
    model = characters.CharacterGPT()
    model.load_state_dict(load_file(samples.FOLDER / f"{characters.NAME}.safetensors"))
    return model.eval()


def padded(text: str) -> list[int]:
    return characters.ids_of((characters.BEFORE + text)[-characters.LENGTH :]).tolist()


def test_it_is_trained_on_other_text() -> None:
    given, following = characters.contexts(characters.text_of(characters.HELD_OUT), 400)
    assert given.shape == (400, characters.LENGTH)
    assert characters.accuracy(shipped(), given, following) > 0.5


def test_a_character_depends_on_none_behind_it() -> None:
    model, ids = shipped(), torch.tensor([padded(BEGUN[1])])
    everywhere = model.everywhere(ids)
    assert torch.allclose(everywhere[:, -1], model(ids), atol=1e-4)
    assert torch.allclose(
        model.everywhere(torch.cat([ids[:, :40], ids[:, :24]], 1))[:, :40], everywhere[:, :40], atol=1e-4
    )


def test_training_learns() -> None:
    given = characters.ids_of("ab" * 600)
    model = characters.train(given, epochs=8)
    assert characters.accuracy(model, *characters.contexts(given, 20)) == 1
    assert all(torch.equal(one, one.half().float()) for one in model.state_dict().values())


def test_the_tokenizer_takes_the_end_of_a_text() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer.from_str(characters.tokenizer().decode())
    for text in (*BEGUN, "caf\u00e9 \U0001f600"):
        assert made.encode(text).ids == padded(text)


@pytest.mark.long
def test_parties_score_as_in_float() -> None:
    source = sources.load(characters.NAME)
    how = source.preprocessing
    assert isinstance(how, Tokens) and (how.length, how.vocabulary, how.pad_id) == (64, 96, None)
    assert how.tokenizer is not None and "".join(source.classes) == characters.ALPHABET
    compiled = source.compile()
    assert compiled.agreement == 1 and compiled.relative_error < 0.02
    ids = torch.tensor([padded(text) for text in BEGUN])
    table = np.frombuffer(source.attached[0], "<i2").reshape(how.vocabulary, how.width) * how.step
    rows = encode_rows(compiled.plan, torch.from_numpy(table[ids]).float())
    got = Run(compiled.plan, compiled.weights).assert_bit_exact(rows) * compiled.plan.output.scale
    with torch.inference_mode():
        exact = shipped()(ids).double().numpy()
    assert np.abs(got - exact).max() < 0.02 * exact.std()
    assert (got.argmax(1) == exact.argmax(1)).all()


def test_a_python_without_source_files_needs_calibration_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(characters, "SHOWN", ("none.py",))
    with pytest.raises(NotServable, match="give contexts of 64 ids with --calibration"):
        sources.load(characters.NAME)
