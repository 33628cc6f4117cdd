"""The published models: versions of each, as signed entries, in the owner's database."""

from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, Table, delete, func, select, update

from moiety_server.records import GONE, PUBLISHED, UPLOADING, active, entries, uploads
from moiety_shared.catalogue import SignedEntry
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.service.database import Database, insert_new

_MOST_VERSIONS = 1 << 31


class Catalogue:
    """Versions of models, each a signed entry, and which of them is active."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def get(self, name: str, version: int | None = None) -> SignedEntry:
        """A version, or the active one. Raises Problem UNKNOWN_MODEL."""
        if version is None:
            same = (entries.c.name == active.c.name) & (entries.c.version == active.c.version)
            chosen = select(entries.c.signed).join(active, same).where(_named(entries, name))
        else:
            chosen = select(entries.c.signed).where(_one(name, version))
        with self._db.read() as db:
            found = db.execute(chosen).scalar_one_or_none()
        if found is None:
            raise Problem(ProblemType.UNKNOWN_MODEL, "the catalogue has no model of that name and version")
        return SignedEntry.model_validate_json(found)

    def names(self) -> list[str]:
        with self._db.read() as db:
            return list(db.execute(select(entries.c.name).distinct().order_by(entries.c.name)).scalars())

    def all(self) -> list[SignedEntry]:
        """The active version of every model."""
        same = (entries.c.name == active.c.name) & (entries.c.version == active.c.version)
        with self._db.read() as db:
            found = db.execute(select(entries.c.signed).join(active, same).order_by(entries.c.name)).scalars().all()
        return [SignedEntry.model_validate_json(signed) for signed in found]

    def versions(self, name: str) -> list[int]:
        """Rising. Empty for a name that is not there."""
        with self._db.read() as db:
            return sorted(row.version for row in db.execute(_of(entries, name)))

    def active(self, name: str) -> int | None:
        """The version that clients get who ask for none."""
        with self._db.read() as db:
            row = db.execute(_of(active, name)).one_or_none()
        return row.version if row is not None else None

    def add(self, signed: SignedEntry, *, activate: bool) -> None:
        """A version whose upload is done. It is active at once if that is wanted and no newer one is there.

        Raises Problem UPLOAD_CONFLICT when the upload is not on record, or was withdrawn meanwhile.
        """
        entry = signed.entry
        mine = (uploads.c.upload_id == entry.upload_id) & (uploads.c.state == UPLOADING)
        with self._db.write() as db:
            if db.execute(update(uploads).where(mine).values(state=PUBLISHED)).rowcount != 1:
                raise Problem(ProblemType.UPLOAD_CONFLICT, "it was withdrawn before it was published")
            values = {"name": entry.name, "version": entry.version, "signed": signed.model_dump_json()}
            db.execute(entries.insert().values(**values))
            newest = db.execute(select(func.max(entries.c.version)).where(entries.c.name == entry.name)).scalar_one()
            if activate and newest == entry.version:
                _activate(db, entry.name, entry.version)

    def replace(self, signed: SignedEntry) -> bool:
        """Put an entry in the place of the one of its version. Returns whether that was still there: not if it was
        withdrawn."""
        with self._db.write() as db:
            this = _one(signed.entry.name, signed.entry.version)
            return db.execute(update(entries).where(this).values(signed=signed.model_dump_json())).rowcount == 1

    def activate(self, name: str, version: int) -> None:
        """What clients get from now on. Raises Problem UNKNOWN_MODEL."""
        with self._db.write() as db:
            # Locked, so that it is not withdrawn between the statements.
            if db.execute(select(entries.c.version).where(_one(name, version)).with_for_update()).first() is None:
                raise Problem(ProblemType.UNKNOWN_MODEL, "the catalogue has no model of that name and version")
            _activate(db, name, version)

    def delete(self, name: str, version: int) -> None:
        """Forget a version that both parties have wiped; the newest that is left is active if it was this one."""
        this = {"name": name, "version": version}
        with self._db.write() as db:
            db.execute(update(uploads).filter_by(**this).values(state=GONE))
            db.execute(delete(entries).filter_by(**this))
            was_active = db.execute(delete(active).filter_by(**this)).rowcount == 1
            left = [row.version for row in db.execute(_of(entries, name))]
            if was_active and left:
                _activate(db, name, max(left))


def _of(table: Table, name: str) -> Select[Any]:
    """A model's rows."""
    return select(table).where(_named(table, name))


def _named(table: Table, name: str) -> ColumnElement[bool]:
    """None for what cannot be a name, which PostgreSQL need not see."""
    return table.c.name == (name if name.isprintable() else "")


def _one(name: str, version: int) -> ColumnElement[bool]:
    """An entry's row; none for a number that no version has."""
    return _named(entries, name) & (entries.c.version == (version if 0 < version < _MOST_VERSIONS else 0))


def _activate(db: Connection, name: str, version: int) -> None:
    if not insert_new(db, active, {"name": name, "version": version}):
        db.execute(update(active).filter_by(name=name).values(version=version))
