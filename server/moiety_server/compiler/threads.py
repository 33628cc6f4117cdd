"""How many threads torch may have for one model's compilation."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch have one thread. Sums then have one order however many cores there are, and so a model one plan. A
    second thread saves little: most of the work is Python's or numpy's, and it waits where the cores are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
