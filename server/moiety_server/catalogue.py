"""The published models. The owner's database holds the versions of each as signed entries."""

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import ColumnElement, Connection, Select, Table, case, delete, func, select, update

from moiety_server.records import GONE, PUBLISHED, UPLOADING, active, attachments, entries, revisions, uploads
from moiety_service.database import Database, insert_new
from moiety_shared.messages.catalogue import Entry, PartyEndpoint, SignedEntry, sign
from moiety_shared.problems import Problem, ProblemType

_MOST_VERSIONS = 1 << 31


class Catalogue:
    """The versions of each model, each a signed entry, and which version is active.

    Each entry that the owner signs gets the name's next revision, in the transaction that stores it. So the entry with
    the latest revision is always the one that is served, whoever else publishes, activates or renews at the same time.
    """

    def __init__(self, db: Database, clock: Callable[[], float] = time.time) -> None:
        self._db = db
        self._clock = clock

    def get(self, name: str, version: int | None = None) -> SignedEntry:
        """Return this version, or the active one.

        Raises Problem UNKNOWN_MODEL, or UNSUPPORTED_VERSION where an older release signed it.
        """
        return SignedEntry.model_validate_json(self._text(name, version))

    def upload_id(self, name: str, version: int) -> str:
        """Return the upload of this version, even where an older release signed it. Raises Problem UNKNOWN_MODEL."""
        return str(json.loads(self._text(name, version))["entry"]["upload_id"])

    def names(self) -> list[str]:
        with self._db.read() as db:
            return list(db.execute(select(entries.c.name).distinct().order_by(entries.c.name)).scalars())

    def all(self) -> list[SignedEntry]:
        """Return the active version of every model. Leaves out those that an older release signed, which clients cannot
        read."""
        same = (entries.c.name == active.c.name) & (entries.c.version == active.c.version)
        with self._db.read() as db:
            found = db.execute(select(entries.c.signed).join(active, same).order_by(entries.c.name)).scalars().all()
        return [signed for signed in map(_read, found) if signed is not None]

    def versions(self, name: str) -> list[int]:
        """Return the version numbers, rising. There are none for an unknown name."""
        with self._db.read() as db:
            return sorted(row.version for row in db.execute(_of(entries, name)))

    def active(self, name: str) -> int | None:
        """Return the version that clients get when they ask for none."""
        with self._db.read() as db:
            row = db.execute(_of(active, name)).one_or_none()
        return row.version if row is not None else None

    def attached(self, name: str, version: int, digest: str) -> bytes:
        """Return a file beside this version's entry. Raises Problem UNKNOWN_MODEL."""
        with self._db.read() as db:
            wanted = select(attachments.c.content).where(
                _one(attachments, name, version), attachments.c.digest == digest
            )
            found = db.execute(wanted).scalar_one_or_none()
        if found is None:
            raise Problem(ProblemType.UNKNOWN_MODEL, "the catalogue has no such file beside it")
        return bytes(found)

    def add(self, entry: Entry, key: Ed25519PrivateKey, attached: Sequence[bytes] = ()) -> SignedEntry:
        """Add a version whose upload is done, with the files beside it. It becomes active at once if `entry` is, and no
        newer version is there.

        Raises Problem UPLOAD_CONFLICT when the upload is not on record, or was withdrawn meanwhile.
        """
        mine = (uploads.c.upload_id == entry.upload_id) & (uploads.c.state == UPLOADING)
        with self._db.write() as db:
            self._next_revision(db, entry.name)
            if db.execute(update(uploads).where(mine).values(state=PUBLISHED)).rowcount != 1:
                raise Problem(ProblemType.UPLOAD_CONFLICT, "it was withdrawn before it was published")
            for described, content in zip(entry.attachments, attached, strict=True):
                kept = {"name": entry.name, "version": entry.version, "digest": described.digest}
                insert_new(db, attachments, {**kept, "content": content})
            newest = db.execute(select(func.max(entries.c.version)).where(entries.c.name == entry.name)).scalar_one()
            is_newest = newest is None or newest < entry.version
            return self._sign(db, entry.model_copy(update={"active": entry.active and is_newest}), key)

    def activate(self, name: str, version: int, key: Ed25519PrivateKey) -> None:
        """Make this the version that clients get from now on. Raises Problem UNKNOWN_MODEL, UNSUPPORTED_VERSION."""
        self.get(name, version)
        with self._db.write() as db:
            entry = self._locked(db, name, version)
            if entry is None:
                raise Problem(ProblemType.UNKNOWN_MODEL, "it has just been withdrawn")
            self._sign(db, self._renewed(entry, active=True), key)

    def delete(self, name: str, version: int, key: Ed25519PrivateKey) -> None:
        """Forget a version that both parties have wiped. If it was active, the newest version that is left becomes
        active."""
        this = {"name": name, "version": version}
        with self._db.write() as db:
            self._next_revision(db, name)
            db.execute(update(uploads).filter_by(**this).values(state=GONE))
            db.execute(delete(entries).filter_by(**this))
            db.execute(delete(attachments).filter_by(**this))
            was_active = db.execute(delete(active).filter_by(**this)).rowcount == 1
            left = [row.version for row in db.execute(_of(entries, name))]
            readable = (entry for version in sorted(left, reverse=True) if (entry := _entry(db, name, version)))
            if was_active and (newest := next(readable, None)) is not None:
                self._sign(db, self._renewed(newest, active=True), key)

    def renew(
        self, key: Ed25519PrivateKey, parties: tuple[PartyEndpoint, PartyEndpoint] | None = None
    ) -> list[tuple[str, int]]:
        """Sign anew each entry that has had half of its time, or that names parties other than these. Returns these
        entries."""
        known = [(name, version) for name in self.names() for version in self.versions(name)]
        return [(name, version) for name, version in known if self._renew(name, version, key, parties)]

    def _renew(
        self, name: str, version: int, key: Ed25519PrivateKey, parties: tuple[PartyEndpoint, PartyEndpoint] | None
    ) -> bool:
        def wants(entry: Entry | None) -> bool:
            return entry is not None and (entry.is_due(self._clock()) or parties not in (None, entry.parties))

        with self._db.read() as db:
            if not wants(_entry(db, name, version)):
                return False
        with self._db.write() as db:
            entry = self._locked(db, name, version)
            if entry is None or not wants(entry):
                return False
            chosen = db.execute(_of(active, name)).one_or_none()
            is_active = chosen is not None and chosen.version == version
            self._sign(db, self._renewed(entry, active=is_active, parties=parties or entry.parties), key)
            return True

    def _locked(self, db: Connection, name: str, version: int) -> Entry | None:
        """Return the entry as it is now, and let nobody else change anything of this name until the transaction
        ends."""
        self._next_revision(db, name)
        return _entry(db, name, version)

    def _renewed(self, entry: Entry, **change: object) -> Entry:
        """Make the entry valid for as long again as it was issued for."""
        now = int(self._clock())
        return entry.model_copy(update={"issued": now, "expires": now + entry.expires - entry.issued, **change})

    def _sign(self, db: Connection, entry: Entry, key: Ed25519PrivateKey) -> SignedEntry:
        revision = self._next_revision(db, entry.name)
        signed = sign(entry.model_copy(update={"revision": revision}), key)
        found, text = {"name": entry.name, "version": entry.version}, signed.model_dump_json()
        if not insert_new(db, entries, {**found, "signed": text}):
            db.execute(update(entries).filter_by(**found).values(signed=text))
        if entry.active and not insert_new(db, active, found):
            db.execute(update(active).filter_by(name=entry.name).values(version=entry.version))
        return signed

    def _next_revision(self, db: Connection, name: str) -> int:
        """Return a revision above every earlier one, also above those that a restored backup has forgotten: it is at
        least the time.

        The row is locked until the transaction ends.
        """
        now, kept = int(self._clock()), revisions.c.revision
        if insert_new(db, revisions, {"name": name, "revision": now}):
            return now
        higher = case((kept >= now, kept + 1), else_=now)
        raised = update(revisions).filter_by(name=name).values(revision=higher).returning(kept)
        return int(db.execute(raised).scalar_one())

    def _text(self, name: str, version: int | None) -> str:
        """Return a SignedEntry of this or an older release, as JSON."""
        if version is None:
            same = (entries.c.name == active.c.name) & (entries.c.version == active.c.version)
            chosen = select(entries.c.signed).join(active, same).where(_named(entries, name))
        else:
            chosen = select(entries.c.signed).where(_one(entries, name, version))
        with self._db.read() as db:
            found = db.execute(chosen).scalar_one_or_none()
        if found is None:
            raise Problem(ProblemType.UNKNOWN_MODEL, "the catalogue has no model of that name and version")
        return str(found)


def _of(table: Table, name: str) -> Select[Any]:
    """Select a model's rows."""
    return select(table).where(_named(table, name))


def _named(table: Table, name: str) -> ColumnElement[bool]:
    """Match a model's rows. Matches none where the text cannot be a name, so that PostgreSQL need not see it."""
    return table.c.name == (name if name.isprintable() else "")


def _one(table: Table, name: str, version: int) -> ColumnElement[bool]:
    """Match a version's rows. Matches none for a number that no version can have."""
    return _named(table, name) & (table.c.version == (version if 0 < version < _MOST_VERSIONS else 0))


def _entry(db: Connection, name: str, version: int) -> Entry | None:
    """Return the entry, or None where there is none or an older release signed it."""
    text = db.execute(select(entries.c.signed).where(_one(entries, name, version))).scalar_one_or_none()
    signed = _read(text) if text is not None else None
    return signed.entry if signed is not None else None


def _read(text: str) -> SignedEntry | None:
    """Return the entry, or None where an older release signed it."""
    try:
        return SignedEntry.model_validate_json(text)
    except Problem:
        return None
