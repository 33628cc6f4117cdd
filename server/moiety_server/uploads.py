"""Uploads on record. Each has its version before its first byte leaves, and no version is ever given twice.

An upload that no entry names yet, or that a publish left half-way, stays on record until both parties have wiped it.
"""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import func, select, update

from moiety_server.records import GONE, UPLOADING, entries, uploads
from moiety_service.database import Database, insert_new


@dataclass(frozen=True)
class UploadRecord:
    """One upload that is under way or left over. `started` is in seconds since 1970."""

    upload_id: str
    name: str
    version: int
    started: int


class Uploads:
    """The uploads that began, and how each ended: in the catalogue (`Catalogue.add`), or wiped."""

    def __init__(self, db: Database, clock: Callable[[], float] = time.time) -> None:
        self._db, self._clock = db, clock

    def begin(self, name: str) -> UploadRecord:
        """Record a new upload, under the version after the highest that this name ever had. It is on the disk when this
        returns."""
        while True:
            with self._db.write() as db:
                highest = [
                    db.execute(select(func.max(table.c.version)).where(table.c.name == name)).scalar_one() or 0
                    for table in (uploads, entries)
                ]
                made = UploadRecord(secrets.token_hex(16), name, max(highest) + 1, int(self._clock()))
                if insert_new(db, uploads, {**vars(made), "state": UPLOADING}):
                    return made
                # Another publish took that version between the statements.

    def unfinished(self) -> list[UploadRecord]:
        """Return the uploads that no catalogue entry names, oldest first: under way, or left over."""
        columns = (uploads.c.upload_id, uploads.c.name, uploads.c.version, uploads.c.started)
        with self._db.read() as db:
            rows = db.execute(select(*columns).where(uploads.c.state == UPLOADING).order_by(uploads.c.started)).all()
        return [UploadRecord(*row) for row in rows]

    def wiped(self, upload_id: str) -> None:
        """Record that both parties have wiped the upload. It need not have been on record."""
        with self._db.write() as db:
            db.execute(update(uploads).where(uploads.c.upload_id == upload_id).values(state=GONE))
