"""A party's share of a model at rest: complete or not there, unreadable without the role's key, wiped when deleted."""

import errno
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
from moto.server import ThreadedMotoServer
from pydantic import SecretStr

from moiety_party.objects import Objects, Remote, objects
from moiety_party.store import ModelStore, UnreadableModel
from moiety_service.startup import StartRefused
from moiety_shared.messages import upload
from moiety_shared.messages.upload import Upload
from moiety_shared.plan.plan import Plan
from moiety_shared.problems import Problem, ProblemType
from tests import plans
from tests.party.test_admission import a_model

KEY, OTHER = bytes(range(32)), bytes(range(1, 33))
ID = "0" * 32
MARKER = b"a share of weights"
SEED = bytes(range(32, 64))


def stored(plan: Plan | None = None) -> Upload:
    """An upload whose masked weights can be told from noise."""
    plan = plan or plans.logits()
    raw = np.frombuffer(MARKER * 80, np.int32)
    masked = {name: np.resize(raw, shape) for name, shape in plan.weights()}
    return Upload(a_model().manifest, plan, SEED, masked)


def flip(path: Path, at: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


def in_folder(root: Path, key: bytes = KEY) -> ModelStore:
    """The store that a party with this data folder has, as of release 0.1.0."""
    return ModelStore(objects(None, root), key)


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The endpoint of a server that speaks S3."""
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture(params=["folder", "file", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Objects:
    """Where models are kept: the test runs once on each kind."""
    urls = {"folder": None, "file": f"file://{tmp_path}/there", "memory": f"memory://{tmp_path}"}
    if request.param == "s3":
        made = {"ENDPOINT_URL": request.getfixturevalue("s3"), "ACCESS_KEY_ID": "alice", "SECRET_ACCESS_KEY": "secret"}
        for name, value in made.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        bucket = f"bucket-{secrets.token_hex(8)}"
        fsspec.filesystem("s3").mkdir(bucket)
        urls["s3"] = f"s3://{bucket}/alice"
    url = urls[request.param]
    return objects(SecretStr(url) if url else None, tmp_path)


def content(place: Objects) -> dict[str, bytes]:
    """All that lies there, by name."""
    return {
        f"{folder}/{file}": place.read(folder, file, 1 << 20)
        for folder in place.folders()
        for file in place.files(folder)
    }


def test_what_was_put_is_there_after_a_restart_and_nobody_else_reads_it(place: Objects, tmp_path: Path) -> None:
    upload = stored()
    ModelStore(place, KEY).put(upload)
    again = ModelStore(place, KEY).get(ID)
    assert again.manifest == upload.manifest and again.plan == upload.plan
    for part, tensor in upload.weights()["l"]._asdict().items():
        assert np.array_equal(getattr(again.weights["l"], part), tensor)
    there = content(place)
    assert len(there) >= 4 and not [name for name, raw in there.items() if MARKER in raw or SEED in raw]
    assert not [p for p in tmp_path.rglob("*") if p.stat().st_mode & 0o077]
    with pytest.raises(UnreadableModel, match=r"storage\.key"):
        ModelStore(place, OTHER)


def test_what_other_replicas_put_and_deleted(place: Objects) -> None:
    here, there = ModelStore(place, KEY), ModelStore(place, KEY)
    assert not there.load(ID) and ID not in there
    here.put(stored())
    with pytest.raises(Problem) as caught:
        there.put(stored())
    assert caught.value.kind is ProblemType.UPLOAD_CONFLICT
    assert there.load(ID) and ID in there
    there.drop(ID)
    assert there.load(ID) and ID not in there, "it was being read while it was deleted"
    there.delete(ID)
    here.delete(ID)
    assert content(place) == {} and not ModelStore(place, KEY).all()
    ModelStore(place, KEY).put(stored())
    assert not ModelStore(place, KEY, deleted={ID}).all(), "an old copy of a deleted model came back"
    assert content(place) == {}


def test_a_model_is_there_when_its_manifest_is(place: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that ends at any write leaves nothing that is served; what it left is wiped an hour later."""
    now, total = 1000.0, len(seen_writes(place, monkeypatch))
    assert total >= 5
    for last in range(total):
        left = last

        def dies(write: object, *arguments: object) -> None:
            nonlocal left
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
            write(*arguments)  # type: ignore[operator]

        with monkeypatch.context() as patch:
            for name in ("write", "publish"):
                original = getattr(place, name)
                patch.setattr(place, name, lambda *a, original=original: dies(original, *a))
            with pytest.raises(KeyboardInterrupt):
                ModelStore(place, KEY, clock=lambda: now).put(stored())
        if last:
            assert ModelStore(place, KEY, clock=lambda: now + 3599).all() == [] and content(place)
        assert ModelStore(place, KEY, clock=lambda: now + 3601).all() == [] and content(place) == {}


def seen_writes(place: Objects, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names that storing a model writes, in order; the last one alone is published."""
    names: list[str] = []
    with monkeypatch.context() as patch:
        for kind in ("write", "publish"):
            original = getattr(place, kind)
            patch.setattr(place, kind, lambda *a, o=original, k=kind: (names.append(f"{k} {a[1]}"), o(*a)))
        store = ModelStore(place, KEY)
        store.put(stored())
    assert names[-1] == "publish manifest.json" and not [name for name in names[:-1] if "publish" in name]
    store.delete(ID)
    return names


def test_nothing_is_read_that_is_larger_than_it_may_be(place: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    ModelStore(place, KEY).put(stored())
    (folder,) = place.folders()
    for file in place.files(folder):
        raw = place.read(folder, file, 1 << 20)
        with pytest.raises(ValueError, match="larger"):
            place.read(folder, file, len(raw) - 1)
        place.write(folder, file, [raw, bytes(1 << 26 if file == "plan.json" else 1 << 17)])
        with monkeypatch.context() as patch:
            patch.setattr("moiety_party.objects._check_size", refuse_large)
            with pytest.raises(UnreadableModel, match="ValueError"):
                ModelStore(place, KEY)
        place.write(folder, file, [raw])
    assert len(ModelStore(place, KEY).all()) == 1


def refuse_large(size: int, limit: int) -> None:
    """The check itself, and that it was made against a limit of the file's own."""
    assert limit <= 1 << 25
    if size > limit:
        raise ValueError("larger")


def test_a_store_that_does_not_answer_is_said_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    place = Remote(SecretStr(f"memory://{tmp_path}"))
    store = ModelStore(place, KEY)
    store.put(stored())

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("marker-4711")

    for name in ("ls", "info", "cat_file", "pipe_file"):
        monkeypatch.setattr(fsspec.get_filesystem_class("memory"), name, broken)
    with pytest.raises(StartRefused, match="does not answer") as refused:
        ModelStore(place, KEY)
    with pytest.raises(Problem) as caught:
        ModelStore.load(store, ID)
    assert caught.value.kind is ProblemType.STATE_UNAVAILABLE
    assert "4711" not in f"{refused.value} {caught.value}"
    for url in ("nowhere://key:marker-4711@bucket", "marker-4711://x"):
        with pytest.raises(StartRefused, match="fsspec") as refused:
            objects(SecretStr(url), tmp_path)
        assert "key:marker-4711" not in str(refused.value)


def test_a_changed_file_is_noticed(tmp_path: Path) -> None:
    in_folder(tmp_path / "good").put(stored())
    names = [path.relative_to(tmp_path / "good") for path in (tmp_path / "good").rglob("*") if path.is_file()]
    for index, name in enumerate(names):
        for at in (0, -1):
            folder = tmp_path / f"changed{index}{at}"
            shutil.copytree(tmp_path / "good", folder)
            flip(folder / name, at)
            with pytest.raises(UnreadableModel):
                in_folder(folder)
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "good", folder)
        (folder / name).unlink()
        with pytest.raises(UnreadableModel):
            in_folder(folder)


def test_shares_of_one_model_are_not_taken_for_anothers(tmp_path: Path) -> None:
    in_folder(tmp_path / "a").put(stored())
    in_folder(tmp_path / "b").put(stored())
    (folder,) = (tmp_path / "b" / "models").iterdir()
    for path in (tmp_path / "a" / "models" / folder.name).glob("*.sealed"):
        shutil.copy(path, folder / path.name)
    with pytest.raises(UnreadableModel):
        in_folder(tmp_path / "b")


def test_what_release_0_1_0_left_half_written_is_not_there(tmp_path: Path) -> None:
    in_folder(tmp_path).put(stored())
    (folder,) = (tmp_path / "models").iterdir()
    folder.rename(folder.with_suffix(".partial"))
    (tmp_path / "models" / "an operator's own").mkdir()
    assert in_folder(tmp_path).all() == []
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["an operator's own"]


def test_a_deleted_model_is_gone_and_its_key_was_wiped_first(place: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ModelStore(place, KEY)
    store.put(stored())
    with pytest.raises(Problem) as caught:
        store.put(stored())
    assert caught.value.kind is ProblemType.UPLOAD_CONFLICT
    found: dict[str, bytes] = {}
    remove = place.remove
    monkeypatch.setattr(
        place, "remove", lambda *name: (found.update(content(place) if not found else {}), remove(*name))
    )
    store.delete(ID)
    assert len(found) >= 4 and not any(found[f"{ID}/model.key"]), "what a thief finds: nothing but zeros"
    assert ID not in store and content(place) == {}


def test_an_upload_that_cannot_be_stored_leaves_nothing(place: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk, at each write in turn."""
    for last in range(len(seen_writes(place, monkeypatch))):
        left = last

        def full(write: object, *arguments: object) -> None:
            nonlocal left
            if left == 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            left -= 1
            write(*arguments)  # type: ignore[operator]

        store = ModelStore(place, KEY)
        with monkeypatch.context() as patch:
            for name in ("write", "publish"):
                original = getattr(place, name)
                patch.setattr(place, name, lambda *a, original=original: full(original, *a))
            with pytest.raises(OSError, match="No space"):
                store.put(stored())
        assert ID not in store and content(place) == {}


def put(root: Path) -> Path:
    """The folder of a model that was put there."""
    in_folder(root).put(stored())
    (folder,) = (root / "models").iterdir()
    return folder


def rewritten(folder: Path, name: str, old: str, new: str) -> None:
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new))


def test_chunks_are_not_taken_for_one_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "CHUNK_BYTES", 16)
    folder = put(tmp_path)
    in_folder(tmp_path)
    raw = (folder / "weights.sealed").read_bytes()
    (folder / "weights.sealed").write_bytes(raw[32:64] + raw[:32] + raw[64:])
    with pytest.raises(UnreadableModel):
        in_folder(tmp_path)


def test_what_release_0_1_0_left_waiting_is_wiped(tmp_path: Path) -> None:
    """Halves of uploads whose other half never came."""
    folder = tmp_path / "models" / f"waiting-{ID}"
    folder.mkdir(parents=True)
    for name in ("plan.json", "shares.sealed", "manifest.json"):
        (folder / name).write_bytes(MARKER)
    assert in_folder(tmp_path).all() == [] and not folder.exists()


def test_nobody_is_let_in_by_another_manifest(tmp_path: Path) -> None:
    folder = put(tmp_path)
    rewritten(folder, "manifest.json", '"access": "token"', '"access": "open"')
    with pytest.raises(UnreadableModel):
        in_folder(tmp_path)


def test_a_model_is_not_served_under_another_id(tmp_path: Path) -> None:
    folder = put(tmp_path)
    folder.rename(folder.with_name("1" * 32))
    with pytest.raises(UnreadableModel):
        in_folder(tmp_path)


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        ("plan.json", '"format":4', '"format":5', "a plan of version 5, but this release reads version 4"),
        ("manifest.json", '"format": 3', '"format": 4', "model of version 4, but this release reads version 3"),
        ("manifest.json", '"format": 3, ', "", "model of version 1, but this release reads version 3"),
    ],
)
def test_a_model_of_another_release_is_refused_by_its_number(
    tmp_path: Path, file: str, old: str, new: str, says: str
) -> None:
    """The party serves its other models meanwhile, and the owner may withdraw this one."""
    folder = put(tmp_path)
    rewritten(folder, file, old, new)
    store = in_folder(tmp_path)
    assert store.all() == [] and store.refused() == [ID] and ID in store
    with pytest.raises(Problem, match=says) as caught:
        store.get(ID)
    assert caught.value.kind is ProblemType.UNSUPPORTED_VERSION
    store.delete(ID)
    assert not folder.exists() and ID not in store
