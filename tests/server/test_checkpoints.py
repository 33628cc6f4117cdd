"""Folders that Hugging Face's library saved, and state dicts of torchvision's: they answer as they did there."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torchvision import models

from moiety_server import sources
from moiety_server.checkpoints import folder, state_dicts
from moiety_server.checkpoints.names import NAMES
from moiety_server.compiler.compilation import outputs_of
from moiety_server.compiler.ir import NotServable
from moiety_shared.messages.catalogue import Preprocessing
from moiety_shared.messages.tokens import Tokens

SAVED = Path(__file__).parent / "checkpoints"
"""`python -m tests.server.checkpoints` makes them."""


def expected(kind: str) -> tuple[dict[str, Tensor], Tensor]:
    """The inputs of a folder's model, and what Hugging Face's code answered."""
    found = load_file(SAVED / kind / "expected.safetensors")
    return {name: values for name, values in found.items() if name != "outputs"}, found["outputs"]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A copy of the folder of DistilBERT, to be changed."""
    return Path(shutil.copytree(SAVED / "distilbert", tmp_path / "Small"))


def changed(path: Path, **members: Any) -> None:
    config = json.loads((path / "config.json").read_text()) | members
    (path / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("kind", NAMES)
def test_a_folder_answers_as_in_the_library_that_saved_it(kind: str) -> None:
    inputs, outputs = expected(kind)
    with torch.inference_mode():
        found = folder.read(SAVED / kind).module(**inputs)
    assert torch.allclose(found, outputs, atol=1e-4 * float(outputs.abs().max()))


@pytest.mark.parametrize("kind", ["distilbert", "vit"])
def test_a_folder_is_published(kind: str, tmp_path: Path) -> None:
    inputs, outputs = expected(kind)
    (given,) = inputs.values()
    file = tmp_path / "inputs.safetensors"
    save_file({"given": given}, file)
    source = sources.load(str(SAVED / kind), calibration=file)
    compiled = source.compile()
    assert isinstance(source.calibration, Tensor)
    answers = outputs_of(compiled, source.calibration)
    assert np.abs(answers - outputs.numpy()).max() < 0.02 * float(outputs.std())
    assert source.name == kind and source.description in (
        "DistilBertForSequenceClassification",
        "ViTForImageClassification",
    )
    assert source.classes == (("no", "yes", "perhaps") if kind == "distilbert" else ())
    if kind == "distilbert":
        assert isinstance(source.preprocessing, Tokens) and source.preprocessing.pad_id == 0


def test_the_tokenizer_of_a_folder_is_used(saved: Path, tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = {"[PAD]": 0, "good": 1, "bad": 2, "film": 3, "[UNK]": 4}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(saved / "tokenizer.json"))
    (tmp_path / "texts.txt").write_text("good film\nbad\nbad bad film and bad film\n")
    source = sources.load(str(saved), calibration=tmp_path / "texts.txt")
    how = source.preprocessing
    assert isinstance(how, Tokens) and how.tokenizer is not None and (how.length, how.pad_id) == (6, 0)
    assert source.attached[1] == (saved / "tokenizer.json").read_bytes()


def test_pictures_are_prepared_as_the_folder_says(tmp_path: Path) -> None:
    path = Path(shutil.copytree(SAVED / "vit", tmp_path / "vit"))
    np.save(tmp_path / "x.npy", np.zeros((2, 3, 8, 8), np.float32))
    how: dict[str, Any] = {"size": {"height": 8, "width": 8}, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.5] * 3}
    (path / "preprocessor_config.json").write_text(json.dumps(how | {"resample": 3}))
    found = sources.load(str(path), calibration=tmp_path / "x.npy")
    assert found.preprocessing == Preprocessing(
        channels=3, size=(8, 8), mean=(0.1, 0.2, 0.3), std=(0.5, 0.5, 0.5), interpolation="bicubic"
    )
    assert (found.low, found.high) == (pytest.approx(-0.6), pytest.approx(1.8))
    (path / "preprocessor_config.json").write_text(json.dumps(how | {"do_center_crop": True}))
    assert sources.load(str(path), calibration=tmp_path / "x.npy").preprocessing is None


def test_a_mask_of_padding_may_be_beside_the_ids(saved: Path, tmp_path: Path) -> None:
    ids = expected("distilbert")[0]["input_ids"].numpy()
    for mask, fits in ((ids != 0, True), (ids != 1, False)):
        np.savez(tmp_path / "x.npz", input_ids=ids, attention_mask=mask.astype(np.int64))
        if fits:
            assert isinstance(sources.load(str(saved), calibration=tmp_path / "x.npz").preprocessing, Tokens)
            continue
        with pytest.raises(NotServable, match="attention_mask is not 0 where"):
            sources.load(str(saved), calibration=tmp_path / "x.npz")


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({"model_type": "llama"}, "config.json: Input tag 'llama'"),
        (
            {"architectures": ["DistilBertForMaskedLM"]},
            "holds DistilBertForMaskedLM, and of this kind DistilBertForSeq",
        ),
        ({"activation": "quick_gelu"}, "activation: Input should be 'gelu'"),
        ({"dim": -1}, "dim: Input should be greater"),
        ({"n_heads": 3}, "do not divide"),
        ({"hidden_dim": 32}, "model.safetensors does not fit config.json"),
        ({"dim": 1 << 20, "hidden_dim": 1 << 20}, "model.safetensors does not fit config.json"),  # 4 TB a matrix
        ({"problem_type": "multi_label_classification"}, "several labels at once"),
        ({"id2label": {"0": "a", "2": "b"}}, "numbers its classes otherwise"),
    ],
)
def test_a_folder_of_another_kind_is_refused(saved: Path, members: dict[str, Any], text: str) -> None:
    changed(saved, **members)
    with pytest.raises(NotServable, match=re.escape(text)):
        folder.read(saved)


def test_other_tensors_are_refused_by_name(saved: Path) -> None:
    weights = load_file(saved / "model.safetensors")
    save_file(weights | {"distilbert.embeddings.position_ids": torch.arange(10)[None]}, saved / "model.safetensors")
    folder.read(saved)
    save_file(weights | {"distilbert.extra.weight": torch.zeros(2)}, saved / "model.safetensors")
    with pytest.raises(NotServable, match=r"has a tensor distilbert\.extra\.weight"):
        folder.read(saved)
    (saved / "model.safetensors").rename(saved / "pytorch_model.bin")
    with pytest.raises(NotServable, match=r"Small has no model\.safetensors"):
        folder.read(saved)


def test_more_ids_than_the_model_has_places_are_refused(saved: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", np.ones((2, 11), np.int64))
    with pytest.raises(NotServable, match="takes 10 ids at most, and the calibration data has 11"):
        sources.load(str(saved), calibration=tmp_path / "ids.npy")


@pytest.mark.parametrize(
    ("name", "options", "wrapper"),
    [("squeezenet1_1", {"num_classes": 7}, "module."), ("googlenet", {"num_classes": 4, "aux_logits": False}, "")],
)
def test_a_state_dict_of_torchvision_says_how_many_classes_there_are(
    name: str, options: dict[str, Any], wrapper: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = models.get_model(name, **options, **({"init_weights": False} if name == "googlenet" else {})).eval()
    x = torch.rand(2, 3, 64, 64)
    np.save(tmp_path / "x.npy", x.numpy())
    save_file({wrapper + key: tensor for key, tensor in model.state_dict().items()}, tmp_path / "w.safetensors")
    source = sources.load(f"torchvision:{name}", weights=tmp_path / "w.safetensors", calibration=tmp_path / "x.npy")
    assert isinstance(source.model, torch.nn.Module) and source.classes == ()
    with torch.inference_mode():
        assert torch.equal(source.model(x), model(x))


def test_names_of_older_densenets_are_known() -> None:
    model = models.densenet121(num_classes=3)
    own = model.state_dict()
    older = {re.sub(r"(denselayer\d+\.(?:norm|conv))", r"\1.", name): tensor for name, tensor in own.items()}
    assert set(older) != set(own) and set(state_dicts.unwrapped(older, model)) == set(own)


def test_weights_that_are_a_pickle_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((2, 3, 64, 64), np.float32))
    for what in ("torchvision:squeezenet1_1", "torchvision:resnet18"):
        with pytest.raises(NotServable, match=r"w\.pth is a pickle"):
            sources.load(what, weights=tmp_path / "w.pth", calibration=tmp_path / "x.npy")
