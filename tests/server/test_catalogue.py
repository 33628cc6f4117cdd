"""The owner's records: versions of models, which is active, tokens issued and revoked; on both kinds of database."""

import asyncio
import json
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from prometheus_client import CollectorRegistry
from pydantic import SecretStr
from sqlalchemy import URL

from moiety_server.app import ServerMetrics, build, renewing
from moiety_server.catalogue import Catalogue
from moiety_server.counts import counted_model
from moiety_server.records import SCHEMA, entries, records, revisions
from moiety_server.settings import ServerSettings
from moiety_server.tokens import Issued, new_grant
from moiety_server.uploads import UploadRecord, Uploads
from moiety_service.database import Database
from moiety_service.security.identity import Identity
from moiety_shared.crypto.signing import key_text
from moiety_shared.crypto.tokens import Grant
from moiety_shared.messages.catalogue import Entry, SignedEntry, sign
from moiety_shared.messages.wire import OwnerCount
from moiety_shared.problems import Problem, ProblemType
from tests import plans
from tests.asgi import InProcess
from tests.clock import Clock
from tests.fuzz.targets import BINDING

KEY = Ed25519PrivateKey.generate()
DAY = 86400
EXPIRY = "moiety_catalogue_entry_expiry_timestamp_seconds"


@pytest.fixture
def settings(tmp_path: Path, database: URL) -> ServerSettings:
    return ServerSettings(data_dir=tmp_path, database_url=SecretStr(database.render_as_string(hide_password=False)))


@pytest.fixture
def db(settings: ServerSettings) -> Iterator[Database]:
    with closing(records(settings)) as made:
        yield made


@pytest.fixture
def versions(entry: Entry) -> dict[int, Entry]:
    """Of a small model; none of them active."""
    update = {"plan": plans.logits(), "name": "small", "preprocessing": None, "classes": (), "active": False}
    return {version: entry.model_copy(update=update | {"version": version}) for version in (1, 2, 3)}


def add(
    db: Database, entry: Entry, begun: UploadRecord | None = None, *, activate: bool = True, clock: Clock | None = None
) -> SignedEntry:
    """In the catalogue, as a publish puts it there: under an upload that is on record."""
    begun = begun or Uploads(db).begin(entry.name)
    members = {"upload_id": begun.upload_id, "version": begun.version, "active": activate}
    return Catalogue(db, clock or time.time).add(entry.model_copy(update=members), KEY)


def a_grant(subject: str) -> Grant:
    return new_grant(subject, models=["*"], outputs=["logits"], days=1, rows_per_day=None)


def test_whether_a_count_was_checked_says_the_entry_of_its_version(db: Database, versions: dict[int, Entry]) -> None:
    """Be that active or not. Of one that is withdrawn, nothing says it any more."""
    catalogue, (first, second) = Catalogue(db), (Uploads(db).begin("small") for _ in range(2))
    for begun, entry in ((first, versions[1]), (second, versions[2])):
        add(db, entry, begun)
    count = OwnerCount(replace(BINDING, upload_id=bytes.fromhex(first.upload_id)), (b"", b""))
    assert catalogue.active("small") == second.version != first.version
    assert counted_model(catalogue, "small", count).upload_id == first.upload_id
    catalogue.delete("small", first.version, KEY)
    with pytest.raises(Problem, match="withdrawn"):
        counted_model(catalogue, "small", count)


def test_versions_of_a_model(
    db: Database, versions: dict[int, Entry], settings: ServerSettings, identities: dict[str, Identity]
) -> None:
    catalogue = Catalogue(db)
    assert catalogue.names() == [] and catalogue.active("small") is None
    for version in (1, 2, 3):
        add(db, versions[version], activate=False)
    assert catalogue.all() == [] and catalogue.versions("small") == [1, 2, 3]
    catalogue.activate("small", 2, KEY)
    assert catalogue.get("small").verify(key_text(KEY.public_key())).version == 2
    assert catalogue.all() == [catalogue.get("small")] and catalogue.get("small").entry.active
    with pytest.raises(Problem) as caught:
        catalogue.activate("small", 4, KEY)
    assert caught.value.kind is ProblemType.UNKNOWN_MODEL and catalogue.active("small") == 2
    with InProcess(build(settings, identities["server"])) as served:
        assert served.get("/v1/models/small").json() == catalogue.get("small").model_dump(mode="json")
        assert served.get("/v1/models/small/versions/3").json()["entry"]["version"] == 3
        for path in ("none", "%00", "small%00", "small/versions/99999999999999999999", "small/versions/-1"):
            assert served.get(f"/v1/models/{path}").status_code == 404, path
    catalogue.delete("small", 1, KEY)
    assert catalogue.active("small") == 2
    catalogue.delete("small", 2, KEY)
    assert catalogue.active("small") == 3 and catalogue.get("small").entry.active, "the newest that is left"
    catalogue.delete("small", 3, KEY)
    assert catalogue.names() == [] and catalogue.active("small") is None
    for version in (0, 3, 1 << 31, 1 << 70):
        with pytest.raises(Problem) as caught:
            catalogue.activate("small", version, KEY)
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


def test_a_withdrawn_number_is_not_given_to_other_weights(db: Database, versions: dict[int, Entry]) -> None:
    catalogue = Catalogue(db)
    for version in (1, 2):
        add(db, versions[version])
    catalogue.delete("small", 2, KEY)
    assert Uploads(db).begin("small").version == 3
    assert [upload.version for upload in Uploads(db).unfinished()] == [3], "what is published or wiped is not"


def test_who_publishes_last_does_not_put_an_older_version_before_a_newer(
    db: Database, versions: dict[int, Entry]
) -> None:
    catalogue = Catalogue(db)
    one, two = (Uploads(db).begin("small") for _ in range(2))
    add(db, versions[2], begun=two)
    add(db, versions[1], begun=one)
    assert catalogue.active("small") == 2
    catalogue.activate("small", 1, KEY)  # rolled back
    add(db, versions[3])
    assert catalogue.active("small") == 3


def test_what_was_withdrawn_stays_so(db: Database, versions: dict[int, Entry]) -> None:
    """Whoever else had just read it: `refresh`, `activate`, a publish."""
    catalogue, uploads = Catalogue(db), Uploads(db)
    read = add(db, versions[1]).entry
    moved = read.parties[1], read.parties[0]
    catalogue.delete("small", 1, KEY)
    assert catalogue.renew(KEY, moved) == [] and not catalogue._renew("small", 1, KEY, moved)
    assert catalogue.versions("small") == []
    with pytest.raises(Problem):
        catalogue.activate("small", 1, KEY)
    assert catalogue.active("small") is None
    begun = uploads.begin("small")
    uploads.wiped(begun.upload_id)
    with pytest.raises(Problem) as caught:
        add(db, versions[2], begun=begun)
    assert caught.value.kind is ProblemType.UPLOAD_CONFLICT and catalogue.names() == []


def test_uploads_of_the_first_release_are_on_record(tmp_path: Path, versions: dict[int, Entry]) -> None:
    """Its databases had no such table: what the catalogue names is taken over, so that its numbers are taken."""
    url = URL.create("sqlite", database=str(tmp_path / "server.sqlite"))
    with closing(Database(url, replace(SCHEMA, migrations=only(tmp_path, "server_0001.py")))) as old, old.write() as to:
        values = {"name": "small", "version": 3, "signed": sign(versions[3], KEY).model_dump_json()}
        to.execute(entries.insert().values(**values))
    with closing(Database(url, SCHEMA)) as db:
        assert Uploads(db).unfinished() == [] and Uploads(db).begin("small").version == 4
        Catalogue(db).delete("small", 3, KEY)
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


def test_a_revision_rises_with_all_that_is_signed_and_is_never_given_again(
    db: Database, versions: dict[int, Entry], entry: Entry
) -> None:
    clock = Clock(2_000_000_000.0)
    catalogue, parties = Catalogue(db, clock), (entry.parties[1], entry.parties[0])
    seen = [add(db, versions[1], clock=clock).entry.revision]

    def rises() -> None:
        seen.append(catalogue.get("small").entry.revision)
        assert seen[-1] > max(seen[:-1]), seen

    for act in (
        lambda: catalogue.activate("small", 1, KEY),
        lambda: add(db, versions[2], clock=clock),
        lambda: catalogue.activate("small", 1, KEY),  # back to the older one
        lambda: catalogue.renew(KEY, parties),
        lambda: catalogue.delete("small", 1, KEY),
    ):
        act()
        rises()
    catalogue.delete("small", 2, KEY)
    version = add(db, versions[1], clock=clock).entry.version
    rises()
    clock.now -= 1000
    catalogue.activate("small", version, KEY)
    rises()
    with db.write() as connection:
        connection.execute(revisions.delete())  # an old copy of the database, restored
    clock.now += 5000
    catalogue.activate("small", version, KEY)
    rises()


def test_what_has_had_half_of_its_time_is_signed_anew(db: Database, versions: dict[int, Entry]) -> None:
    clock = Clock(2_000_000_000.0)
    catalogue = Catalogue(db, clock)
    term = {"issued": int(clock.now), "expires": int(clock.now) + 90 * DAY}
    for version in (1, 2):
        add(db, versions[version].model_copy(update=term), activate=version == 2, clock=clock)
    clock.now += 44 * DAY
    assert catalogue.renew(KEY) == []
    clock.now += 2 * DAY
    assert catalogue.renew(KEY) == [("small", 1), ("small", 2)]
    for version, is_active in ((1, False), (2, True)):
        entry = catalogue.get("small", version).verify(key_text(KEY.public_key()))
        assert (entry.issued, entry.expires) == (clock.now, clock.now + 90 * DAY) and entry.active is is_active
    assert catalogue.active("small") == 2 and catalogue.renew(KEY) == []


def test_two_who_sign_at_once_leave_what_was_signed_last(db: Database, versions: dict[int, Entry]) -> None:
    """One activates, back and forth, while others renew: what clients get is active, and of the highest revision."""
    catalogue, clock = Catalogue(db), Clock(2_000_000_000.0)
    clock.now = 3_500_000_000.0  # everything is due, always: its time is over soon
    for version in (1, 2):
        add(db, versions[version])

    def activate() -> int:
        for _ in range(10):
            for version in (1, 2):
                catalogue.activate("small", version, KEY)
        return catalogue.get("small").entry.revision

    def renew() -> int:
        for _ in range(20):
            Catalogue(db, clock).renew(KEY)
        return 0

    with ThreadPoolExecutor(3) as threads:
        last = max(future.result() for future in [threads.submit(act) for act in (activate, renew, renew)])
    served = catalogue.get("small").entry
    assert served.active and served.version == catalogue.active("small") == 2 and served.revision >= last


def test_entries_of_the_first_release_are_passed_over_and_can_be_withdrawn(
    db: Database, versions: dict[int, Entry]
) -> None:
    catalogue = Catalogue(db)
    old = add(db, versions[1]).model_dump(mode="json")
    old["entry"] = {"format": 1, "upload_id": "ab" * 16, "name": "small", "version": 1}
    with db.write() as connection:
        connection.execute(entries.update().values(signed=json.dumps(old)))
    assert catalogue.all() == [] and catalogue.renew(KEY) == []
    for read in (lambda: catalogue.get("small"), lambda: catalogue.activate("small", 1, KEY)):
        with pytest.raises(Problem) as caught:
            read()
        assert caught.value.kind is ProblemType.UNSUPPORTED_VERSION
    add(db, versions[2], activate=False)
    assert catalogue.upload_id("small", 1) == "ab" * 16
    catalogue.delete("small", 1, KEY)
    assert catalogue.active("small") == 2


class Told(ServerMetrics):
    """Says when it was told what is published."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        self.told = asyncio.Event()

    def published(self, entries: list[Entry]) -> None:
        super().published(entries)
        self.told.set()


@pytest.mark.parametrize("signs", [True, False])
def test_the_service_renews_if_it_holds_the_key(
    settings: ServerSettings,
    db: Database,
    versions: dict[int, Entry],
    identities: dict[str, Identity],
    tmp_path: Path,
    signs: bool,
) -> None:
    folder = shutil.copytree(identities["server"].folder, tmp_path / "server")
    if not signs:
        (folder / "signing.pem").unlink()
    identity, catalogue = Identity.load(folder, "server"), Catalogue(db)
    now = int(time.time())
    term = {"issued": now - 60 * DAY, "expires": now + 30 * DAY}
    before = add(db, versions[1].model_copy(update=term))
    metrics = Told(CollectorRegistry())

    async def run() -> None:
        async with renewing(catalogue, identity, metrics):
            await metrics.told.wait()

    asyncio.run(asyncio.wait_for(run(), 60))
    after = catalogue.get("small")
    assert metrics.registry.get_sample_value(EXPIRY, {"model": "small"}) == after.entry.expires
    if not signs:
        assert after == before
        return
    assert after.verify(key_text(identity.signing_key.public_key())).expires >= now + 90 * DAY
    assert after.entry.revision > before.entry.revision


def test_files_of_the_first_release_are_read_in_once(settings: ServerSettings, versions: dict[int, Entry]) -> None:
    signed = {version: sign(entry, KEY) for version, entry in versions.items()}
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
        catalogue.delete("small", 1, KEY)
    with closing(records(settings)) as db:
        assert Catalogue(db).versions("small") == [2] and Issued(db).grants() == made
    assert (root / "catalogue.imported" / "small" / "active").exists()
