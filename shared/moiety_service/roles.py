"""The roles that are installed here. An image has one of them, though the package names the commands of all."""

from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import entry_points
from types import ModuleType


def modules() -> Iterator[ModuleType]:
    """Each installed package's module of commands, in the order of their names: it has `register` for the command line
    and, if it is a role's, `patients` for the doctor. What is not here, or lacks its extra, has none."""
    for entry in sorted(entry_points(group="moiety.commands"), key=lambda one: one.name):
        try:
            yield import_module(entry.module)
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if package.startswith("moiety_") and package != entry.module.partition(".")[0]:
                raise  # a role needs another: that is a fault of ours
