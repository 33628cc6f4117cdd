"""A run over many inputs, without its requests: it cuts batches, keeps answers on the disk and draws a bar."""

from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import replace
from operator import length_hint
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from moiety_client import inputs, tables, tasks
from moiety_client.answers import Prediction
from moiety_client.errors import InvalidInput
from moiety_client.inputs import Rows
from moiety_client.journal import RunJournal
from moiety_client.tasks import Task
from moiety_client.tokens import Vocabulary
from moiety_shared.fixed_point import RingArray
from moiety_shared.messages.catalogue import Entry
from moiety_shared.tabular import Others

if TYPE_CHECKING:
    from rich.progress import Progress

BATCH = 128


class Run:
    """One call of `stream`.

    The client passes each input to `add`, which returns the batches that are full. For each batch it asks `known` for
    an answer from before. If there is none, it asks the parties with `task`, and passes the answer to `keep`.
    """

    def __init__(
        self,
        model: str,
        given: Any,
        batch: int,
        canaries: int,
        resume: Path | str | None,
        progress: bool,
        others: Others = "strict",
    ) -> None:
        if batch < 1:
            raise InvalidInput("batch is how many inputs go into one request: pass 1 or more")
        self.model = model
        self._batch, self._canaries, self._others = batch, canaries, others
        self._passed = 0
        self._pending: list[Rows] = []
        self._elements: RingArray | None = None
        self._journal = RunJournal(Path(resume)) if resume is not None else None
        self._bar = _bar(model, _count(given)) if progress else None

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        if self._journal is not None:
            self._journal.close()

    def add(self, entry: Entry, item: Any) -> list[Rows]:
        """Add an input or a stack of inputs, and return the batches that are full now."""
        rows = inputs.next_rows(entry, item, self._others)
        size, waiting = self._size(entry), sum(map(len, self._pending))
        if waiting + len(rows) < size:
            self._pending.append(rows)
            return []
        rows = inputs.together([*self._pending, rows])
        full = len(rows) - len(rows) % size
        self._pending = [rows[full:]] if full < len(rows) else []
        return [rows[at : at + size] for at in range(0, full, size)]

    def rest(self) -> Iterator[Rows]:
        """Yield the last batch, if there is one. Raises ResumeRefused if the file holds more inputs than were given."""
        if self._pending:
            yield inputs.together(self._pending)
        if self._journal is not None:
            self._journal.check_end()

    def known(self, entry: Entry, vocabulary: Vocabulary | None, rows: Rows) -> Prediction | None:
        """Return the answers to the next batch if the file holds them, else None."""
        if self._journal is None:
            return None
        inputs.check_predicts(entry)
        self._elements = inputs.encode_rows(entry, rows, self._passed, vocabulary)
        answer = self._journal.known(entry, self._size(entry), self._elements)
        if answer is not None:
            answer = replace(answer, index=inputs.index(rows))
            self._advance(answer)
        return answer

    def task(self, rows: Rows) -> Task[Prediction]:
        """Return the task that asks for these rows.

        Without canaries, a journal makes it the same request each time. Canaries are drawn anew, so with them it is
        another request each time.
        """
        if self._journal is None or self._canaries:
            return tasks.prediction(rows, self._canaries, start=self._passed)
        return tasks.prediction(rows, 0, start=self._passed, draw=self._journal.drawn, redraw=self._journal.redrawn)

    def keep(self, answer: Prediction) -> Prediction:
        """Write an answer to the journal, if there is one, and return it."""
        if self._journal is not None and self._elements is not None:
            self._journal.keep(self._elements, answer)
        self._advance(answer)
        return answer

    def _size(self, entry: Entry) -> int:
        return max(min(self._batch, entry.max_rows - self._canaries), 1)

    def _advance(self, answer: Prediction) -> None:
        self._passed += len(answer)
        if self._bar is not None:
            self._bar.advance(self._bar.task_ids[0], len(answer))


def each(given: Any) -> Iterator[Any]:
    """Yield the inputs, or stacks of them, one after another."""
    if inputs.single(given) or tables.is_table(given) or not isinstance(given, Iterable):
        yield given
    else:
        yield from given


async def each_async(given: Any) -> AsyncIterator[Any]:
    """Yield the inputs, or stacks of them, one after another. `given` may be an asynchronous iterator."""
    if hasattr(given, "__aiter__"):
        async for item in given:
            yield item
    else:
        for item in each(given):
            yield item


def _count(given: Any) -> int | None:
    """Return how many inputs there will be, or None if that is not known."""
    return None if isinstance(given, str) else length_hint(given, 0) or None


def _bar(model: str, total: int | None) -> "Progress":
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=Console(stderr=True))
    bar.add_task(model, total=total)
    return bar
