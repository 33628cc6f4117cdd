"""The reuse detector: no opened row may ever be seen twice.

A value is opened under a one-time mask. Clients send the same input again and again, so two openings under one mask
yield the same masked row, while under fresh masks the chance of it is below 2^-80 for rows of twelve bytes and more.
Every value that either party could put together is recorded, over all their lives: an alice and a bob may see each row
once.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import count

import pytest

from moiety_party import arriving
from moiety_party.helper import helper
from moiety_party.leader import runs
from moiety_shared.crypto.integrity import Transcript
from moiety_shared.messages.upload import Arrival, Upload
from moiety_shared.ring import Array

_ROW_BYTES = 12
Place = tuple[int, int, int]
"""The session, the opening in it, the row."""


@dataclass
class Detector:
    """`rows` has where each opened row was seen, by party."""

    rows: dict[tuple[int, bytes], set[Place]] = field(default_factory=lambda: defaultdict(set))
    _sessions: "count[int]" = field(default_factory=count)

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        """From now on, until the patch is undone."""
        for party, module in enumerate((runs, helper)):
            patch.setattr(module, "Transcript", self._recording(party))
        patch.setattr(arriving, "Arrival", self._arriving())

    def _recording(self, party: int) -> type[Transcript]:
        detector = self

        class Recording(Transcript):
            def __init__(self, check: bytes, context: bytes) -> None:
                super().__init__(check, context)
                self._session, self._openings = next(detector._sessions), count()

            def add(self, opened: Array) -> None:
                super().add(opened)
                detector.saw(party, self._session, next(self._openings), opened)

        return Recording

    def _arriving(self) -> type[Arrival]:
        detector = self

        class Recording(Arrival):
            def finish(self) -> Upload:
                upload = super().finish()
                session = next(detector._sessions)
                for number, (_, tensor) in enumerate(sorted(upload.masked.items())):
                    detector.saw(upload.manifest.party, session, number, tensor.reshape(len(tensor), -1))
                return upload

        return Recording

    def saw(self, party: int, session: int, opening: int, value: Array) -> None:
        if value.dtype.kind != "i" or value[0].nbytes < _ROW_BYTES:
            return  # bits and bytes: short rows repeat by chance
        for index, row in enumerate(value):
            self.rows[party, row.tobytes()].add((session, opening, index))

    def repeated(self) -> list[set[Place]]:
        return [places for places in self.rows.values() if len(places) > 1]

    def check(self) -> None:
        assert self.rows, "something was opened"
        assert not self.repeated(), "an opening under a mask that was used before"
