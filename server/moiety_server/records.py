"""The owner's database: what was uploaded and published, and which tokens were issued and revoked. It never holds a
token or a weight."""

import json
from pathlib import Path

from sqlalchemy import BigInteger, Column, Integer, LargeBinary, MetaData, Table, Text, UniqueConstraint, func, select

from moiety_server.settings import ServerSettings
from moiety_service.database import Database, Schema, insert_new, location

_metadata = MetaData()
entries = Table(
    "entries",
    _metadata,
    Column("name", Text, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("signed", Text, nullable=False),  # a SignedEntry as JSON
)
active = Table(
    "active",
    _metadata,
    Column("name", Text, primary_key=True),
    Column("version", Integer, nullable=False),  # the version that clients get when they ask for none
)
grants = Table(
    "grants",
    _metadata,
    Column("number", Integer, primary_key=True),  # in the order in which they were issued
    Column("granted", Text, nullable=False),  # a Grant as JSON
)
revoked = Table(
    "revoked",
    _metadata,
    Column("number", Integer, primary_key=True),  # in the order in which they were revoked
    Column("token_id", Text, nullable=False, unique=True),
)
revisions = Table(
    "revisions",
    _metadata,
    Column("name", Text, primary_key=True),
    Column("revision", BigInteger, nullable=False),  # the highest that was signed; stays when the model is withdrawn
)
UPLOADING, PUBLISHED, GONE = "uploading", "published", "gone"
uploads = Table(
    "uploads",
    _metadata,
    Column("upload_id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("version", Integer, nullable=False),  # never given again: no row is ever deleted
    Column("started", BigInteger, nullable=False),  # seconds since 1970; 0 for those of release 0.1.0
    Column("state", Text, nullable=False),  # UPLOADING until it is in the catalogue, GONE when the parties wiped it
    UniqueConstraint("name", "version"),
)
attachments = Table(
    "attachments",
    _metadata,
    Column("name", Text, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("digest", Text, primary_key=True),
    Column("content", LargeBinary, nullable=False),  # a file beside this entry
)
SCHEMA = Schema(_metadata, Path(__file__).parent / "migrations", "server_0001")

_IMPORTED = ".imported"


def records(settings: ServerSettings) -> Database:
    """Open the database, with what release 0.1.0 kept in files. Raises StartRefused."""
    db = Database(location(settings, "server", "server.sqlite"), SCHEMA)
    _import(db, settings.private_dir())
    return db


def _import(db: Database, folder: Path) -> None:
    """Import the files of release 0.1.0, once. They are renamed and stay where they are."""
    models, tokens, ended = folder / "catalogue", folder / "tokens.jsonl", folder / "revoked"
    if not any(path.exists() for path in (models, tokens, ended)):
        return
    with db.write() as connection:
        if not connection.execute(select(func.count()).select_from(entries)).scalar_one():
            for path in sorted(models.glob("*/*.json")):
                values = {"name": path.parent.name, "version": int(path.stem), "signed": path.read_text()}
                insert_new(connection, entries, values)
            for path in sorted(models.glob("*/active")):
                insert_new(connection, active, {"name": path.parent.name, "version": int(path.read_text())})
        if not connection.execute(select(func.count()).select_from(grants)).scalar_one():
            for line in _lines(tokens):
                connection.execute(grants.insert().values(granted=json.dumps(json.loads(line))))
        for line in _lines(ended):
            insert_new(connection, revoked, {"token_id": line})
    for path in (models, tokens, ended):
        if path.exists():
            path.rename(path.with_name(path.name + _IMPORTED))


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
