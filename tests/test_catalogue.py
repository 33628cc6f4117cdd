"""The owner's records: versions of models, which is active, tokens issued and revoked; on both kinds of database."""

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import SecretStr
from sqlalchemy import URL

from moiety_server.app import build
from moiety_server.catalogue import Catalogue
from moiety_server.records import SCHEMA, entries, records
from moiety_server.settings import ServerSettings
from moiety_server.tokens import Issued, new_grant
from moiety_server.uploads import Upload, Uploads
from moiety_shared.catalogue import Entry, SignedEntry, sign
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.service.database import Database
from moiety_shared.service.identity import Identity
from moiety_shared.tokens import Grant
from tests import plans
from tests.asgi import InProcess

KEY = Ed25519PrivateKey.generate()


@pytest.fixture
def settings(tmp_path: Path, database: URL) -> ServerSettings:
    return ServerSettings(data_dir=tmp_path, database_url=SecretStr(database.render_as_string(hide_password=False)))


@pytest.fixture
def db(settings: ServerSettings) -> Iterator[Database]:
    with closing(records(settings)) as made:
        yield made


@pytest.fixture
def signed(entry: Entry) -> dict[int, SignedEntry]:
    """Versions of a small model."""
    small = entry.model_copy(update={"plan": plans.logits(), "name": "small", "preprocessing": None, "classes": ()})
    return {version: sign(small.model_copy(update={"version": version}), KEY) for version in (1, 2, 3)}


def add(db: Database, signed: SignedEntry, begun: Upload | None = None, *, activate: bool = True) -> SignedEntry:
    """Its entry in the catalogue, as a publish puts it there: under an upload that is on record."""
    begun = begun or Uploads(db).begin(signed.entry.name)
    members = {"upload_id": begun.upload_id, "version": begun.version}
    made = sign(signed.entry.model_copy(update=members), KEY)
    Catalogue(db).add(made, activate=activate)
    return made


def a_grant(subject: str) -> Grant:
    return new_grant(subject, models=["*"], outputs=["logits"], days=1, rows_per_day=None)


def test_versions_of_a_model(
    db: Database, signed: dict[int, SignedEntry], settings: ServerSettings, identities: dict[str, Identity]
) -> None:
    catalogue = Catalogue(db)
    assert catalogue.names() == [] and catalogue.active("small") is None
    for version in (1, 2, 3):
        signed[version] = add(db, signed[version], activate=False)
    assert catalogue.all() == [] and catalogue.versions("small") == [1, 2, 3]
    catalogue.activate("small", 2)
    assert catalogue.get("small") == signed[2] and catalogue.all() == [signed[2]]
    with pytest.raises(Problem) as caught:
        catalogue.activate("small", 4)
    assert caught.value.kind is ProblemType.UNKNOWN_MODEL and catalogue.active("small") == 2
    changed = sign(signed[2].entry.model_copy(update={"description": "new keys"}), KEY)
    assert catalogue.replace(changed)
    with InProcess(build(settings, identities["server"])) as served:
        assert served.get("/v1/models/small").json() == changed.model_dump(mode="json")
        assert served.get("/v1/models/small/versions/3").json()["entry"]["version"] == 3
        for path in ("none", "%00", "small%00", "small/versions/99999999999999999999", "small/versions/-1"):
            assert served.get(f"/v1/models/{path}").status_code == 404, path
    catalogue.delete("small", 1)
    assert catalogue.active("small") == 2
    catalogue.delete("small", 2)
    assert catalogue.active("small") == 3, "the newest that is left"
    catalogue.delete("small", 3)
    assert catalogue.names() == [] and catalogue.active("small") is None
    for version in (0, 3, 1 << 31, 1 << 70):
        with pytest.raises(Problem) as caught:
            catalogue.activate("small", version)
        assert caught.value.kind is ProblemType.UNKNOWN_MODEL


def test_two_publishes_get_two_versions_and_no_number_is_given_twice(db: Database) -> None:
    uploads = Uploads(db)
    with ThreadPoolExecutor(4) as threads:
        begun = list(threads.map(lambda _: Uploads(db).begin("small"), range(8)))
    assert sorted(upload.version for upload in begun) == list(range(1, 9))
    assert len({upload.upload_id for upload in begun}) == 8
    uploads.wiped(begun[7].upload_id)
    assert uploads.begin("small").version == 9, "though its upload came to nothing"
    assert uploads.begin("other").version == 1


def test_a_withdrawn_number_is_not_given_to_other_weights(db: Database, signed: dict[int, SignedEntry]) -> None:
    catalogue = Catalogue(db)
    for version in (1, 2):
        add(db, signed[version])
    catalogue.delete("small", 2)
    assert Uploads(db).begin("small").version == 3
    assert [upload.version for upload in Uploads(db).unfinished()] == [3], "what is published or wiped is not"


def test_who_publishes_last_does_not_put_an_older_version_before_a_newer(
    db: Database, signed: dict[int, SignedEntry]
) -> None:
    catalogue = Catalogue(db)
    one, two = (Uploads(db).begin("small") for _ in range(2))
    add(db, signed[2], begun=two)
    add(db, signed[1], begun=one)
    assert catalogue.active("small") == 2
    catalogue.activate("small", 1)  # rolled back
    add(db, signed[3])
    assert catalogue.active("small") == 3


def test_what_was_withdrawn_stays_so(db: Database, signed: dict[int, SignedEntry]) -> None:
    """Whoever else had just read it: `refresh`, `activate`, a publish."""
    catalogue, uploads = Catalogue(db), Uploads(db)
    read = add(db, signed[1])
    catalogue.delete("small", 1)
    assert not catalogue.replace(read) and catalogue.versions("small") == []
    with pytest.raises(Problem):
        catalogue.activate("small", 1)
    assert catalogue.active("small") is None
    begun = uploads.begin("small")
    uploads.wiped(begun.upload_id)
    with pytest.raises(Problem) as caught:
        add(db, signed[2], begun=begun)
    assert caught.value.kind is ProblemType.UPLOAD_CONFLICT and catalogue.names() == []


def test_uploads_of_the_first_release_are_on_record(tmp_path: Path, signed: dict[int, SignedEntry]) -> None:
    """Its databases had no such table: what the catalogue names is taken over, so that its numbers are taken."""
    url = URL.create("sqlite", database=str(tmp_path / "server.sqlite"))
    with closing(Database(url, replace(SCHEMA, migrations=only(tmp_path, "server_0001.py")))) as old, old.write() as to:
        values = {"name": "small", "version": 3, "signed": signed[3].model_dump_json()}
        to.execute(entries.insert().values(**values))
    with closing(Database(url, SCHEMA)) as db:
        assert Uploads(db).unfinished() == [] and Uploads(db).begin("small").version == 4
        Catalogue(db).delete("small", 3)
        assert Uploads(db).begin("small").version == 5


def only(root: Path, name: str) -> Path:
    """A folder with that migration alone."""
    folder = root / "migrations"
    folder.mkdir()
    shutil.copy(SCHEMA.migrations / name, folder)
    return folder


def test_tokens_are_on_record_in_their_order(db: Database, settings: ServerSettings) -> None:
    issued, made = Issued(db), [a_grant(name) for name in ("b", "a", "c")]
    texts = [issued.issue(grant, KEY) for grant in made]
    issued.revoke([made[1].token_id, "x", made[1].token_id])
    with closing(records(settings)) as again:
        assert Issued(again).grants() == made
        assert Issued(again).revoked() == [made[1].token_id, "x"]
    files = b"".join(path.read_bytes() for path in settings.data_dir.rglob("*") if path.is_file())
    assert not [text for text in texts if text.encode() in files], "never a token"


def test_files_of_the_first_release_are_read_in_once(settings: ServerSettings, signed: dict[int, SignedEntry]) -> None:
    root, made = settings.private_dir(), [a_grant(name) for name in ("b", "a")]
    folder = root / "catalogue" / "small"
    folder.mkdir(parents=True)
    for version in (1, 2):
        (folder / f"{version}.json").write_text(signed[version].model_dump_json())
    (folder / "active").write_text("1")
    (root / "tokens.jsonl").write_text("".join(json.dumps(grant.model_dump(mode="json")) + "\n" for grant in made))
    (root / "revoked").write_text("x\n")
    with closing(records(settings)) as db:
        catalogue = Catalogue(db)
        assert catalogue.versions("small") == [1, 2] and catalogue.get("small") == signed[1]
        assert Issued(db).grants() == made and Issued(db).revoked() == ["x"]
        catalogue.delete("small", 1)
    with closing(records(settings)) as db:
        assert Catalogue(db).versions("small") == [2] and Issued(db).grants() == made
    assert (root / "catalogue.imported" / "small" / "active").exists()
