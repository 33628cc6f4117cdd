"""The published models: versions of each, as signed entries, in the owner's database."""

from typing import Any

from sqlalchemy import Connection, Select, Table, delete, select, update

from moiety_server.records import active, entries
from moiety_shared.catalogue import SignedEntry
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.service.database import Database, insert_new


class Catalogue:
    """Versions of models, each a signed entry, and which of them is active."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def get(self, name: str, version: int | None = None) -> SignedEntry:
        """A version, or the active one. Raises Problem UNKNOWN_MODEL."""
        with self._db.read() as db:
            found = {row.version: row.signed for row in db.execute(_of(entries, name))}
            chosen = version if version is not None else self.active(name)
        if chosen not in found:
            raise Problem(ProblemType.UNKNOWN_MODEL, "the catalogue has no model of that name and version")
        return SignedEntry.model_validate_json(found[chosen])

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

    def next_version(self, name: str) -> int:
        return max(self.versions(name), default=0) + 1

    def put(self, signed: SignedEntry) -> None:
        """Add a version, or replace it by one that names new keys."""
        key, text = {"name": signed.entry.name, "version": signed.entry.version}, signed.model_dump_json()
        with self._db.write() as db:
            if not insert_new(db, entries, {**key, "signed": text}):
                db.execute(update(entries).filter_by(**key).values(signed=text))

    def activate(self, name: str, version: int) -> None:
        """What clients get from now on. Raises Problem UNKNOWN_MODEL."""
        self.get(name, version)
        with self._db.write() as db:
            _activate(db, name, version)

    def delete(self, name: str, version: int) -> None:
        """Forget a version; the newest that is left is active if it was this one."""
        with self._db.write() as db:
            db.execute(delete(entries).filter_by(name=name, version=version))
            was_active = db.execute(delete(active).filter_by(name=name, version=version)).rowcount == 1
            left = [row.version for row in db.execute(_of(entries, name))]
            if was_active and left:
                _activate(db, name, max(left))


def _of(table: Table, name: str) -> Select[Any]:
    """A model's rows; none for what cannot be a name, which PostgreSQL need not see."""
    return select(table).where(table.c.name == (name if name.isprintable() else ""))


def _activate(db: Connection, name: str, version: int) -> None:
    if not insert_new(db, active, {"name": name, "version": version}):
        db.execute(update(active).filter_by(name=name).values(version=version))
