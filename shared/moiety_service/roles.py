"""The roles that are installed here. An image contains one role, though the package's entry points name all."""

from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import entry_points
from types import ModuleType


def modules() -> Iterator[ModuleType]:
    """The command module of each installed package, in the order of their names.

    Each has `register` for the command line. A role's also has `patients` for the doctor. A package that is missing
    here, or that lacks the packages of its extra, is left out.
    """
    for entry in sorted(entry_points(group="moiety.commands"), key=lambda one: one.name):
        try:
            yield import_module(entry.module)
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if package.startswith("moiety_") and package != entry.module.partition(".")[0]:
                raise  # a role that imports another is a bug of moiety's
