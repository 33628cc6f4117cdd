"""What a command does just now: a line for each step on a terminal, with a bar and the time it takes, and else plain
lines."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from moiety_service.cli.terminal import say
from moiety_shared.text import printable

Tell = Callable[[str, int, int], None]
"""Called with what is done now, and how many of how many bytes of it are; of 0 where it has no bytes."""


@contextmanager
def steps() -> Iterator[Tell]:
    """Show the steps that the block tells of, on stderr."""
    if not sys.stderr.isatty():
        yield _plainly()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import TaskID as Task

    columns = SpinnerColumn(finished_text=" "), TextColumn("{task.description}", markup=False), BarColumn(bar_width=24)
    shown = Console(stderr=True, highlight=False)
    with Progress(*columns, TextColumn("{task.fields[size]}"), TimeElapsedColumn(), console=shown) as bars:
        begun: dict[str, Task] = {}

        def end() -> None:
            for what, task in begun.items():
                bars.update(task, description=printable(what), total=1, completed=1)

        def tell(what: str, done: int, total: int) -> None:
            if what not in begun:
                end()
                begun.clear()
                begun[what] = bars.add_task(printable(what), total=None, size="")
            size = f"{done / 1e6:.1f} of {total / 1e6:.1f} MB" if total else ""
            stored = done == total  # of bytes that are all sent: whoever got them still checks and stores them
            text = printable(f"{what}, and waiting until it is stored" if stored and total else what)
            bars.update(begun[what], description=text, total=None if stored else total, completed=done, size=size)

        yield tell
        end()


def _plainly() -> Tell:
    last = ""

    def tell(what: str, _done: int, _total: int) -> None:
        nonlocal last
        if what != last:
            say(what)
        last = what

    return tell
