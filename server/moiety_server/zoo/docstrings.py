"""The docstrings of the running Python's library. They are read from its source files, of which nothing is run."""

import ast
import sysconfig
from collections.abc import Collection, Iterator
from pathlib import Path

_LEFT_OUT = {"ensurepip", "idlelib", "lib2to3", "site-packages", "test", "tests", "turtledemo"}
_SHORTEST = 80  # characters of a docstring: shorter ones say little


def read(places: Collection[str] = ()) -> Iterator[tuple[str, list[str]]]:
    """Yield each file, such as email/message.py, and its docstrings; in one order always. `places` are the files and
    packages at the library's top that are read: by default all. Raises FileNotFoundError if the running Python came
    without its source files."""
    root, found = Path(sysconfig.get_paths()["stdlib"]), False
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root)
        if (places and inside.parts[0] not in places) or _LEFT_OUT.intersection(inside.parts):
            continue
        if texts := _docstrings(path):
            found = True
            yield inside.as_posix(), texts
    if not found:
        raise FileNotFoundError(f"{root} has no source files with docstrings")


def _docstrings(path: Path) -> list[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return []  # a file of an older Python, which some builds keep
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    texts = [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, documented)]
    return [text for text in texts if len(text) >= _SHORTEST]
