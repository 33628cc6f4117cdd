"""Databases: migrated from the first release on, by one process at a time; errors that show no password."""

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from pydantic import SecretStr
from sqlalchemy import URL, Text, select, text

from moiety_crypto_provider import ledger
from moiety_crypto_provider.settings import ProviderSettings
from moiety_party import state
from moiety_party.state import State
from moiety_server import records
from moiety_service.database import Database, Schema, configuration, location
from moiety_service.startup import StartRefused
from moiety_shared.problems import Problem, ProblemType
from tests.databases import PASSWORD, Postgres

SCHEMAS = {"party": state.SCHEMA, "provider": ledger.SCHEMA, "server": records.SCHEMA}
FIRST_RELEASE = {
    "party": (
        "CREATE TABLE revoked_tokens (token_id TEXT NOT NULL, PRIMARY KEY (token_id))",
        "CREATE TABLE usage (owner_key TEXT NOT NULL, subject TEXT NOT NULL, window_end BIGINT NOT NULL, "
        "rows BIGINT NOT NULL, PRIMARY KEY (owner_key, subject, window_end))",
        "INSERT INTO revoked_tokens VALUES ('ab')",
        "INSERT INTO usage VALUES ('owner', 'clinic', 2000, 9)",
    ),
    "provider": (
        "CREATE TABLE uploads (upload_id TEXT NOT NULL, plan BLOB NOT NULL, seed_0 BLOB NOT NULL, "
        "seed_1 BLOB NOT NULL, issued INTEGER NOT NULL, PRIMARY KEY (upload_id))",
        "CREATE TABLE leases (lease_id TEXT NOT NULL, upload_id TEXT NOT NULL, joined INTEGER NOT NULL, "
        "next_bundle INTEGER NOT NULL, PRIMARY KEY (lease_id))",
        "INSERT INTO uploads VALUES ('u', x'00', x'00', x'00', 1)",
        "INSERT INTO leases VALUES ('l', 'u', 1, 7)",
    ),
}
"""What 0.1.0 made, as sqlite3's .schema shows it, and something in it."""


@pytest.fixture(params=list(SCHEMAS))
def schema(request: pytest.FixtureRequest) -> Schema:
    return SCHEMAS[request.param]


@pytest.fixture
def opened(database: URL, schema: Schema) -> Iterator[Database]:
    made = Database(database, schema)
    yield made
    made.close()


def test_nothing_begins_in_a_database_that_is_closed(tmp_path: Path, database: URL, schema: Schema) -> None:
    """A late thread would make a file in the folder that a backup is being restored into."""
    made = Database(database, schema)
    made.close()
    for path in tmp_path.glob("database.sqlite*"):
        path.unlink()
    for begin in (made.read, made.write, made.wipe):
        with pytest.raises(Problem) as refused, begin():
            pass
        assert refused.value.kind is ProblemType.STATE_UNAVAILABLE
    assert not list(tmp_path.glob("database.sqlite*"))


def differences(db: Database, schema: Schema) -> list[object]:
    with db.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        return list(compare_metadata(context, schema.metadata))


def test_migrations_and_tables_agree(opened: Database, schema: Schema) -> None:
    assert differences(opened, schema) == []
    with opened.write() as connection:
        table = next(iter(schema.metadata.tables))
        connection.execute(text(f'ALTER TABLE "{table}" ADD COLUMN planted TEXT'))
    assert differences(opened, schema), "a difference is seen"


def test_a_file_of_the_first_release_is_adopted(tmp_path: Path) -> None:
    for role in FIRST_RELEASE:
        schema, path = SCHEMAS[role], tmp_path / f"{role}.sqlite"
        with sqlite3.connect(path) as old:
            for statement in FIRST_RELEASE[role]:
                old.execute(statement)
        old.close()
        for _ in range(2):
            db = Database(URL.create("sqlite", database=str(path)), schema)
            assert differences(db, schema) == []
            with db.read() as connection:
                version = MigrationContext.configure(connection).get_current_revision()
                script = ScriptDirectory.from_config(configuration(schema, connection))
                assert version == script.get_current_head() != None  # noqa: E711
                (row,) = connection.execute(select(schema.metadata.tables["usage" if role == "party" else "leases"]))
                assert (row.rows if role == "party" else row.next_bundle) in (7, 9), "what was in it is still there"
            db.close()


def test_a_newer_database_or_anothers_is_refused(database: URL, schema: Schema) -> None:
    Database(database, schema).close()
    other = next(one for one in SCHEMAS.values() if one is not schema)
    with pytest.raises(StartRefused, match="newer release of moiety, or by another role"):
        Database(database, other)
    db = Database(database, schema)
    with db.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'party_9999'"))
    db.close()
    with pytest.raises(StartRefused, match="newer release") as refused:
        Database(database, schema)
    assert PASSWORD not in str(refused.value)


def test_alice_and_bob_need_a_database_each(database: URL) -> None:
    for _ in range(2):
        State(database, "alice").close()
    with pytest.raises(StartRefused, match="belongs to the other party"):
        State(database, "bob")
    State(database, "alice").close()


def test_processes_that_start_together_migrate_once(database: URL) -> None:
    """Replicas of a new deployment: each finds the schema complete, whoever made it."""
    program = (
        "import sys; from sqlalchemy import make_url; from moiety_party.state import State;"
        "s = State(make_url(sys.argv[1]), 'alice'); s.revoke([sys.argv[2]]); s.close()"
    )
    url = database.render_as_string(hide_password=False)
    processes = [subprocess.Popen([sys.executable, "-c", program, url, f"{n:02}"]) for n in range(4)]
    assert [process.wait() for process in processes] == [0, 0, 0, 0]
    made = State(database, "alice")
    assert all(made.is_revoked(f"{n:02}") for n in range(4))
    made.close()


def test_a_transaction_is_all_or_nothing_and_alone(opened: Database, schema: Schema) -> None:
    """Two writers that read, think and write: neither overwrites what the other did meanwhile."""
    table = next(
        schema.metadata.tables[name]
        for name in ("revoked_tokens", "leases", "active")
        if name in schema.metadata.tables
    )

    def row(key: str) -> dict[str, object]:
        wanted = [column for column in table.columns if not column.nullable]
        return {column.name: key if isinstance(column.type, Text) else 0 for column in wanted}

    with pytest.raises(RuntimeError), opened.write() as connection:
        connection.execute(table.insert().values(**row("lost")))
        raise RuntimeError
    started = threading.Barrier(2)

    def insert(_: int) -> None:
        started.wait()
        with opened.write() as connection:
            connection.execute(table.insert().values(**row("kept")))

    with ThreadPoolExecutor(2) as threads:
        outcomes = [future.exception() for future in [threads.submit(insert, n) for n in range(2)]]
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["IntegrityError", "NoneType"]
    with opened.read() as connection:
        assert [found[0] for found in connection.execute(select(table))] == ["kept"]


def test_what_is_durable_waits_for_the_disk_and_what_is_not_does_not(opened: Database) -> None:
    asked = "SHOW synchronous_commit" if opened.shared else "PRAGMA synchronous"
    for durable, level in ((True, ("on", 2)), (False, ("off", 1)), (True, ("on", 2))):
        with opened.write(durable=durable) as connection:
            assert connection.exec_driver_sql(asked).scalar_one() in level


def setting(tmp_path: Path, url: str) -> URL:
    settings = ProviderSettings(data_dir=tmp_path / "data", keys_dir=tmp_path / "keys", database_url=SecretStr(url))
    assert PASSWORD not in repr(settings)
    return location(settings, "crypto_provider", "ledger.sqlite")


def test_the_password_is_in_the_url_or_in_the_roles_folder(tmp_path: Path, postgres: Postgres) -> None:
    name = postgres.create()
    whole = postgres.text(name)
    bare = whole.replace(f":{PASSWORD}", "")
    assert bare != whole
    with pytest.raises(StartRefused, match="cannot be opened") as refused:
        Database(setting(tmp_path, bare), ledger.SCHEMA)
    with pytest.raises(StartRefused, match="password authentication failed") as wrong:
        Database(setting(tmp_path, whole.replace(PASSWORD, PASSWORD + "x")), ledger.SCHEMA)
    assert PASSWORD not in f"{refused.value} {wrong.value}"
    (tmp_path / "keys" / "crypto_provider").mkdir(parents=True)
    (tmp_path / "keys" / "crypto_provider" / "database.password").write_text(PASSWORD + "\n")
    for url in (bare, whole):
        Database(setting(tmp_path, url), ledger.SCHEMA).close()


def test_text_is_text_in_a_database_without_an_encoding(postgres: Postgres) -> None:
    made = Database(postgres.url(postgres.create("SQL_ASCII")), state.SCHEMA)
    usage, subject = state.SCHEMA.metadata.tables["usage"], "Zürich"
    with made.write() as db:
        db.execute(usage.insert().values(owner_key="owner", subject=subject, window_end=1, rows=2))
    with made.read() as db:
        assert db.execute(select(usage.c.subject)).scalars().all() == [subject]
    made.close()


def test_an_url_of_something_else_is_refused(tmp_path: Path) -> None:
    for url in (f"mysql://u:{PASSWORD}@h/d", PASSWORD, f"postgresql://u:{PASSWORD}@h:notaport/d", "sqlite://"):
        with pytest.raises(StartRefused) as refused:
            Database(setting(tmp_path, url), ledger.SCHEMA)
        assert PASSWORD not in str(refused.value)
    Database(setting(tmp_path, f"sqlite:///{tmp_path}/x.sqlite"), ledger.SCHEMA).close()
    assert (tmp_path / "x.sqlite").stat().st_mode & 0o077 == 0


def test_a_database_that_is_gone_is_a_problem_and_comes_back(postgres: Postgres) -> None:
    """Its connections are cut, and it takes none for a while; then the same process goes on."""
    name = postgres.create()
    alice = State(postgres.url(name), "alice")
    alice.revoke(["ab"])
    postgres.run("psql", "-c", f"ALTER DATABASE {name} ALLOW_CONNECTIONS false", "postgres")
    postgres.run(
        "psql", "-c", f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'", "postgres"
    )
    with pytest.raises(Problem) as caught:
        alice.refresh()
    assert caught.value.kind is ProblemType.STATE_UNAVAILABLE and caught.value.retry_after
    postgres.run("psql", "-c", f"ALTER DATABASE {name} ALLOW_CONNECTIONS true", "postgres")
    alice.refresh()
    alice.close()


def test_what_was_not_looked_up_lately_lets_nobody_in(database: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    alice = State(database, "alice")
    assert not alice.is_revoked("ab")
    monkeypatch.setattr(alice, "_fresh_until", 0.0)
    with pytest.raises(Problem) as caught:
        alice.is_revoked("ab")
    assert caught.value.kind is ProblemType.STATE_UNAVAILABLE
    alice.refresh()
    assert not alice.is_revoked("ab")
    alice.close()
