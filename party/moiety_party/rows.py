"""The rows of a pool: prepared randomness in numbered bundles, and which of it is still unused."""

import numpy as np
import numpy.typing as npt

from moiety_shared.protocols.preparation import PreparedRows, cut, stack


class Bundle:
    """Prepared rows, and which of them are still unused."""

    def __init__(self, prepared: PreparedRows, unused: npt.NDArray[np.bool_]) -> None:
        self.prepared = prepared
        self.unused = unused  # by row
        self.left = int(unused.sum())  # how many are

    def spend(self, start: int, stop: int) -> None:
        """From now on these rows are not unused any more."""
        rows = self.unused[start:stop]
        self.left -= int(np.count_nonzero(rows))
        rows[:] = False


class Rows:
    """Rows are numbered through: row n is row n % `bundle_rows` of bundle n // `bundle_rows`.

    A row that was removed or burnt never comes back. Runs side by side name rows at most `spread` apart.
    """

    def __init__(self, bundle_rows: int, spread: int) -> None:
        self.bundle_rows = bundle_rows
        self.spread = spread
        self.bundles: dict[int, Bundle] = {}
        self.position = 0  # no row below it is handed out in order again; it only rises
        self.bundles_made = 0  # or given up
        self.gaps: list[int] = []  # bundles that the provider issued and that did not arrive
        self._burnt: dict[int, npt.NDArray[np.bool_]] = {}  # rows of bundles that are still to be made, by bundle

    @property
    def stock(self) -> int:
        """How many rows are ready at or after the position."""
        oldest = self.position // self.bundle_rows
        return sum(bundle.left for number, bundle in self.bundles.items() if number >= oldest)

    @property
    def made(self) -> int:
        """Rows below this one were made, or given up."""
        return self.bundles_made * self.bundle_rows

    @property
    def ahead(self) -> int:
        """How many rows at or after the position were made, or given up."""
        return self.made - self.position

    def add(self, prepared: PreparedRows) -> None:
        """Add the next bundle. Those of its rows that were burnt before it was made are not usable."""
        burnt = self._burnt.pop(self.bundles_made, np.zeros(self.bundle_rows, dtype=np.bool_))
        self.bundles[self.bundles_made] = Bundle(prepared, ~burnt)
        self.bundles_made += 1

    def give_up(self) -> None:
        """Leave a gap where the next bundle would be, because it will never come."""
        self._burnt.pop(self.bundles_made, None)
        self.gaps.append(self.bundles_made)
        self.bundles_made += 1

    def skip(self, bundles: list[int]) -> None:
        """Drop bundles that the other party never got."""
        for number in bundles:
            self.bundles.pop(number, None)
        self.pass_gaps()

    def pass_gaps(self) -> None:
        """Move the position over bundles that never came, so that others are made in their place."""
        while self.position < self.made and self.position // self.bundle_rows not in self.bundles:
            self.position = (self.position // self.bundle_rows + 1) * self.bundle_rows

    def next_run(self, count: int) -> int | None:
        """Where the next `count` unused rows without a gap begin, or None if there are too few."""
        if self.are_unused(self.position, count):
            return self.position
        starts = [number * self.bundle_rows for number in self.bundles]
        for first in sorted(start for start in starts if start >= self.position):
            if self.are_unused(first, count):
                return first
        return None

    def next_bundles(self, count: int) -> list[PreparedRows]:
        """The next bundles that have unused rows at or after the position, `count` at most."""
        oldest = self.position // self.bundle_rows
        return [self.bundles[number].prepared for number in sorted(self.bundles) if number >= oldest][:count]

    def end_of_next(self, count: int) -> int:
        """Where the next `count` rows will end, if they begin at or after the last gap."""
        number, oldest = self.bundles_made, self.position // self.bundle_rows
        while number > oldest and number - 1 in self.bundles:
            number -= 1
        return max(number * self.bundle_rows, self.position) + count

    def are_unused(self, first: int, count: int) -> bool:
        """Whether all of these rows are here and unused."""
        return all(
            number in self.bundles and bool(self.bundles[number].unused[start:stop].all())
            for number, start, stop in self._pieces(first, count)
        )

    def remove(self, first: int, count: int) -> PreparedRows:
        """Hand out these rows, which must be unused."""
        parts = []
        for number, start, stop in self._pieces(first, count):
            bundle = self.bundles[number]
            bundle.spend(start, stop)
            parts.append(cut(bundle.prepared, start, stop))
        self._pass(first + count)
        return stack(parts)

    def burn(self, first: int, count: int) -> None:
        """Make these rows unusable, whether they were made or not."""
        for number, start, stop in self._pieces(first, count):
            if number >= self.bundles_made:
                self._burnt.setdefault(number, np.zeros(self.bundle_rows, dtype=np.bool_))[start:stop] = True
            elif number in self.bundles:
                self.bundles[number].spend(start, stop)
        self._pass(first + count)

    def _pass(self, end: int) -> None:
        """Move the position to `end` if it is below, and drop the bundles that no run can use any more."""
        self.position = max(self.position, end)
        # Runs on other lanes may still name rows a little below the position. Rows further back were lost on the way.
        oldest = self.position - self.spread
        for number in list(self.bundles):
            if not self.bundles[number].left or (number + 1) * self.bundle_rows <= oldest:
                del self.bundles[number]

    def _pieces(self, first: int, count: int) -> list[tuple[int, int, int]]:
        """The rows by bundle: (bundle, start, stop)."""
        size, end = self.bundle_rows, first + count
        return [
            (number, max(first - number * size, 0), min(end - number * size, size))
            for number in range(first // size, (end - 1) // size + 1)
        ]
