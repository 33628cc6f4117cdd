"""This version reads what released versions wrote, or refuses it by its number."""

import shutil
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from moiety_client.answers import Prediction
from moiety_client.core import read_access
from moiety_client.journal import RunJournal
from moiety_party.objects import objects
from moiety_party.store import ModelStore
from moiety_service.security.keyring import Keyring
from moiety_shared.problems import Problem, ProblemType
from tests.fuzz import targets
from tests.fuzz.targets import TARGETS
from tests.party.test_store import stored

ROOT = Path(__file__).parent
STORAGE_KEY = bytes(range(7, 39))
SEALED = b"a share of an input", b"context"
TOKEN = "head.claims.signature"
_OF_THE_PEER_PROTOCOL, _OF_OTHERS = {"start", "frame", "bits", "words"}, {"array", "onnx_file", "picture", "table_file"}
MESSAGES = sorted(set(TARGETS) - _OF_THE_PEER_PROTOCOL - _OF_OTHERS)
RELEASES = sorted(path.name for path in ROOT.iterdir() if (path / "messages").is_dir())


@pytest.fixture(params=RELEASES)
def release(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of what it wrote, with the modes it had: git keeps none."""
    folder = tmp_path / str(request.param)
    shutil.copytree(ROOT / str(request.param), folder)
    for path in folder.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    return folder


def a_run(path: Path, first: int) -> list[Prediction]:
    """Four batches: `first` of them are answered, or known from an earlier run."""
    entry = targets._entry().entry
    journal, answers = RunJournal(path), []
    for number in range(4):
        elements = np.full((2, 4), number, np.int32)
        known = journal.known(entry, 2, elements)
        if known is not None:
            answers.append(known)
        elif number < first:
            values = np.arange(10.0).reshape(2, 5) + number
            journal.keep(elements, Prediction(entry.plan.output, values, entry.classes, 3, 1000, 0.5))
    journal.close()
    return answers


def test_this_version_is_among_them() -> None:
    assert version("moiety") in RELEASES, "python -m tests.compat writes it"


@pytest.mark.parametrize("name", MESSAGES)
def test_messages_are_read_or_refused_by_their_number(release: Path, name: str) -> None:
    folder = release / "messages" / name
    kept = sorted(folder.iterdir()) if folder.is_dir() else []  # what it did not know yet, it did not write
    assert kept or release.name != version("moiety")
    for path in kept:
        try:
            TARGETS[name].read(path.read_bytes())
        except Problem as problem:
            assert problem.kind is ProblemType.UNSUPPORTED_VERSION, path
            assert release.name != version("moiety"), path


def test_a_stored_model_is_read_or_refused_by_its_number(release: Path) -> None:
    upload = stored()
    store = ModelStore(objects(None, release), STORAGE_KEY)
    upload_id = upload.manifest.upload_id
    try:
        read = store.get(upload_id)
    except Problem as problem:
        assert problem.kind is ProblemType.UNSUPPORTED_VERSION and "a stored model of version" in problem.detail
        assert release.name != version("moiety") and store.all() == [] and store.refused() == [upload_id]
        store.delete(upload_id)
        assert not (release / "models" / upload_id).exists(), "its owner can withdraw it"
        return
    assert read.plan.digest == upload.plan.digest and read.manifest.upload_id == upload_id
    for part, tensor in upload.weights()["l"]._asdict().items():
        assert np.array_equal(getattr(read.weights["l"], part), tensor)


def test_sealing_keys_open_what_was_sealed_to_them(release: Path) -> None:
    keyring = Keyring(release / "sealing")
    message, context = SEALED
    envelope = (release / "envelope").read_bytes()
    assert keyring.open(envelope, context) == message
    assert keyring.public.key_id != envelope[:8].hex(), "it is the older of two"


def test_an_access_file_is_read(release: Path) -> None:
    read = read_access(release / "access-file.json")
    assert read == {"catalogue_url": "https://owner.example", "owner_key": "k", "ca": "PEM", "token": TOKEN, "key": ""}


def test_an_interrupted_run_goes_on(release: Path) -> None:
    answers = a_run(release / "run.jsonl", first=0)
    assert [answer.outputs[0, 0] for answer in answers] == [0, 1]
