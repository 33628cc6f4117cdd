"""A party's share of a model at rest: complete or not there, unreadable without the role's key, wiped when deleted."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from moiety_party.store import Model, ModelStore, UnreadableModel
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.protocols.product import Weights
from tests import plans
from tests.test_admission import a_model

KEY, OTHER = bytes(range(32)), bytes(range(1, 33))
MARKER = b"a share of weights"


def stored() -> Model:
    weights = {
        name: Weights(np.frombuffer(MARKER * 4, np.int32).copy(), np.arange(6, dtype=np.int32), np.ones(5, np.int32))
        for name in ("l",)
    }
    return Model(a_model().manifest, plans.logits(), weights)


def flip(path: Path, at: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


def test_what_was_put_is_there_after_a_restart_and_nobody_else_reads_it(tmp_path: Path) -> None:
    model = stored()
    ModelStore(tmp_path, KEY).put(model)
    again = ModelStore(tmp_path, KEY).get(model.upload_id)
    assert again.manifest == model.manifest and again.plan == model.plan
    for part, tensor in model.weights["l"]._asdict().items():
        assert np.array_equal(getattr(again.weights["l"], part), tensor)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 6 and not [p for p in files if MARKER in p.read_bytes()]
    assert not [p for p in tmp_path.rglob("*") if p.stat().st_mode & 0o077]
    with pytest.raises(UnreadableModel, match=r"storage\.key"):
        ModelStore(tmp_path, OTHER)


def test_a_changed_file_is_noticed(tmp_path: Path) -> None:
    ModelStore(tmp_path / "good", KEY).put(stored())
    names = [path.relative_to(tmp_path / "good") for path in (tmp_path / "good").rglob("*") if path.is_file()]
    for index, name in enumerate(names):
        for at in (0, -1):
            folder = tmp_path / f"changed{index}{at}"
            shutil.copytree(tmp_path / "good", folder)
            flip(folder / name, at)
            with pytest.raises(UnreadableModel):
                ModelStore(folder, KEY)
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "good", folder)
        (folder / name).unlink()
        with pytest.raises(UnreadableModel):
            ModelStore(folder, KEY)


def test_shares_of_one_model_are_not_taken_for_anothers(tmp_path: Path) -> None:
    ModelStore(tmp_path / "a", KEY).put(stored())
    ModelStore(tmp_path / "b", KEY).put(stored())
    (folder,) = (tmp_path / "b" / "models").iterdir()
    for path in (tmp_path / "a" / "models" / folder.name).glob("*.sealed"):
        shutil.copy(path, folder / path.name)
    with pytest.raises(UnreadableModel):
        ModelStore(tmp_path / "b", KEY)


def test_half_a_model_is_not_there(tmp_path: Path) -> None:
    store = ModelStore(tmp_path, KEY)
    store.put(stored())
    (folder,) = (tmp_path / "models").iterdir()
    folder.rename(folder.with_suffix(".partial"))
    assert ModelStore(tmp_path, KEY).all() == [] and list((tmp_path / "models").iterdir()) == []


def test_a_deleted_model_is_gone_and_its_key_was_wiped_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, model = ModelStore(tmp_path, KEY), stored()
    store.put(model)
    with pytest.raises(Problem) as caught:
        store.put(model)
    assert caught.value.kind is ProblemType.UPLOAD_CONFLICT
    kept = tmp_path / "what a thief finds"
    monkeypatch.setattr(shutil, "rmtree", lambda folder: shutil.copytree(folder, kept))
    store.delete(model.upload_id)
    assert not any((kept / "model.key").read_bytes()), "nothing but zeros"
    monkeypatch.undo()
    assert model.upload_id not in store
