"""Runs programs that were written for PySyft 0.2 as they stand.

In this process alone, `import syft as sy` finds the dialect.
"""

import runpy
import sys
import traceback
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import moiety_syft

_NAME = "syft"


class _Below:
    """Explains to a program that imports `syft.something` that the dialect has no such module."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name.startswith(f"{_NAME}."):
            raise ModuleNotFoundError(
                f"{name} is not part of the dialect: use what `import syft as sy` gives (see docs/syft.md)", name=name
            )
        return None


_BELOW = _Below()


def stand_in() -> None:
    """Make `import syft` give the dialect in this process, whatever else of that name is installed."""
    face = ModuleType(_NAME, moiety_syft.__doc__)
    face.__path__ = []  # with a path, Python asks our finder for `syft.something`
    for name in moiety_syft.__all__:
        setattr(face, name, getattr(moiety_syft, name))
    sys.modules[_NAME] = face
    if _BELOW not in sys.meta_path:
        sys.meta_path.insert(0, _BELOW)


def stand_down() -> None:
    """Make `import syft` give what it gave before."""
    sys.modules.pop(_NAME, None)
    if _BELOW in sys.meta_path:
        sys.meta_path.remove(_BELOW)


def run(program: Path, arguments: Sequence[str]) -> int:
    """Run a program as `python PROGRAM ARGUMENTS` would, with the dialect as `syft`. Returns its exit status.

    If the program raises an error, this prints it as Python does, without the frames of moiety.
    """
    stand_in()
    sys.argv = [str(program), *arguments]
    sys.path.insert(0, str(program.resolve().parent))
    try:
        runpy.run_path(str(program), run_name="__main__")
    except SystemExit as exit:
        if exit.code is None or isinstance(exit.code, int):
            return exit.code or 0
        print(exit.code, file=sys.stderr)
        return 1
    except BaseException as error:
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename != str(program):
            trace = trace.tb_next
        traceback.print_exception(type(error), error, trace or error.__traceback__)
        return 130 if isinstance(error, KeyboardInterrupt) else 1
    return 0
