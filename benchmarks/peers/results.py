"""What the comparison measured, as it is kept, and the tables that documents show of it."""

import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from pydantic import BaseModel

from benchmarks.measurement import Row

ASKED = 10  # times as quick as the quickest other engine
OURS = "moiety"
KEPT = Path(__file__).parent / "measured.json"
"""The results that the documents show."""


class EngineResult(BaseModel):
    """One engine on one network and batch: milliseconds of its runs, and what it tells of bytes and rounds.

    `processor` is the milliseconds that all of its processes together computed for one run, and for the randomness that
    the run used. `bytes` are those that all parties sent each other in one run, without what comes from a provider of
    randomness. `right` says for how many inputs the label was that of float inference.
    """

    median: float
    least: float
    most: float
    runs: int
    processor: float
    right: int
    bytes: int
    rounds: int

    @classmethod
    def of(cls, seconds: list[float], processor: float, right: int, bytes: int, rounds: int) -> "EngineResult":
        median, least, most = (round(choose(seconds) * 1e3, 4) for choose in (statistics.median, min, max))
        return cls(
            median=median,
            least=least,
            most=most,
            runs=len(seconds),
            processor=round(processor * 1e3, 4),
            right=right,
            bytes=bytes,
            rounds=rounds,
        )


class CaseResult(BaseModel):
    """A network and a batch, through all engines in turn."""

    network: str
    batch: int
    engines: dict[str, EngineResult]

    @property
    def sound(self) -> list[str]:
        """The other engines that gave float's label for every input. Others are not compared with."""
        return [name for name, result in self.engines.items() if name != OURS and result.right == self.batch]

    @property
    def best(self) -> str:
        """The quickest of the sound engines by its median. Raises ValueError when there is none."""
        return min(self.sound, key=lambda name: self.engines[name].median)

    @property
    def ratio(self) -> float:
        """How many times as long the best other engine takes, by medians."""
        return self.engines[self.best].median / self.engines[OURS].median

    @property
    def ratio_of_least(self) -> float:
        """How many times as long the quickest run of any sound engine took as moiety's quickest."""
        return min(self.engines[name].least for name in self.sound) / self.engines[OURS].least


class PeerResults(BaseModel):
    """All that one run of `python -m benchmarks.peers` measured, and where."""

    date: str
    processor: str
    load: float
    versions: dict[str, str]
    cases: list[CaseResult]

    def rows(self) -> list[Row]:
        """What was asked: how many times as long the best other engine takes."""
        return [
            Row.at_least(f"{_named(case)}, {case.best} / {OURS}: at least", case.ratio, ASKED)
            for case in self.cases
            if case.sound
        ]

    def times(self) -> str:
        """The table of milliseconds and ratios."""
        return self._table("milliseconds, medians (and least)", _time, {f"best other / {OURS}": _ratios})

    def markdown(self) -> str:
        """All tables, with what they were measured on and with."""
        told = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return "\n\n".join(
            (
                f"{self.processor}; load {self.load:.1f} when the run began; {self.date}; {told}.",
                self.times(),
                self._table("milliseconds of processor time, all processes", _worked),
                self._table("online bytes of all parties, rounds", _sent),
            )
        )

    def _table(
        self,
        what: str,
        cell: Callable[[CaseResult, EngineResult], str],
        more: Mapping[str, Callable[[CaseResult], str]] = MappingProxyType({}),
    ) -> str:
        """One row for each case: a cell for each engine, and one for each of `more`, by its heading."""
        head = [what, *self.cases[0].engines, *more]
        rows = [
            [_named(case), *(cell(case, one) for one in case.engines.values()), *(make(case) for make in more.values())]
            for case in self.cases
        ]
        lines = [head, ["---"] * len(head), *rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _named(case: CaseResult) -> str:
    return f"{case.network}, {case.batch} image{'s' if case.batch > 1 else ''}"


def _time(case: CaseResult, result: EngineResult) -> str:
    wrong = case.batch - result.right
    broken = f", {wrong} of {case.batch} labels wrong, not compared" if wrong else ""
    return f"{_figure(result.median)} ({_figure(result.least)}){broken}"


def _worked(_: CaseResult, result: EngineResult) -> str:
    return _figure(result.processor)


def _sent(_: CaseResult, result: EngineResult) -> str:
    return f"{result.bytes / 1e6:.3g} MB, {result.rounds}"


def _ratios(case: CaseResult) -> str:
    if not case.sound:
        return "no other engine's labels are right"
    return f"**{case.ratio:.1f}** ({case.ratio_of_least:.1f}), {case.best}"


def _figure(milliseconds: float) -> str:
    return f"{milliseconds:,.0f}" if milliseconds >= 100 else f"{milliseconds:.3g}"
