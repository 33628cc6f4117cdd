"""Where in the user's model and code something is. Names of nodes and messages use it. It never contains a
directory."""

import os
import re
import sysconfig
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import FrameType, TracebackType

import torch
from torch import fx, nn

from moiety_shared.text import printable

_TORCH = f"{Path(torch.__file__).parent}{os.sep}"
_STDLIB = sysconfig.get_path("stdlib")
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in [^\n]*\n(?P<code>[^\n]*)')
_PATH = re.compile(r"(?:/[\w.@+-]+)+/")
_LAYER = re.compile(r"torch\.nn\.(modules|quantized)\.(?!container)")


class Origin:
    """The origin of one operation of an exported graph."""

    def __init__(self, node: fx.Node) -> None:
        stack = [(path, str(kind)) for path, kind in (node.meta.get("nn_module_stack") or {}).values()]
        # The second call of a module is marked in its path.
        path, kind = stack[-1] if stack else ("", "")
        self.path = re.sub(r"@\d+", "", path)
        self.layers = " ".join(kind.rsplit(".", 1)[-1] for _, kind in reversed(stack))
        self.operation = str(getattr(node.target, "_opname", None) or getattr(node.target, "__name__", node.target))
        self._kind, self._code = kind, code_line(node.meta.get("stack_trace") or "")

    @property
    def scope(self) -> str:
        """The scope for names: the layer's, or the operation's inside its module where it is a function between
        layers."""
        if self.path and _LAYER.match(self._kind):
            return self.path
        operation = self.operation.strip("_")
        return f"{self.path}.{operation}" if self.path else operation

    def __str__(self) -> str:
        kind = self._kind.rsplit(".", 1)[-1]
        place = f"{self.path or 'the model'} ({kind})" if kind else self.operation
        return f"{place}, {self._code}" if self._code else place


def code_line(stack: str) -> str:
    """Return the innermost line of the user's code in a stack trace, as "model.py:12: x = self.conv(x)"."""
    found = [m for m in _FRAME.finditer(stack) if _is_users(m["file"])]
    return _line(found[-1]["file"], int(found[-1]["line"]), found[-1]["code"]) if found else ""


def _line(file: str, number: int, code: str | None) -> str:
    return f"{Path(file).name}:{number}" + (f": {code.strip()}" if code else "")


def _is_users(file: str) -> bool:
    standard = file.startswith(_STDLIB) and "-packages" not in file
    return not (standard or file.startswith((_TORCH, "<", str(Path(__file__).parents[1]))))


def of_exception(error: BaseException, model: nn.Module) -> str:
    """Name the layer and the line that raised the error while the model ran."""
    frames = list(_frames(error.__traceback__))
    paths = {id(module): path for path, module in model.named_modules()}
    modules = [frame.f_locals.get("self") for frame, _ in frames]
    inside = next((m for m in reversed(modules) if isinstance(m, nn.Module) and paths.get(id(m))), model)
    place = f"{paths.get(id(inside)) or 'the model'} ({type(inside).__name__})"
    summaries = traceback.StackSummary.extract(iter(frames))
    line = next((_line(s.filename, s.lineno or 0, s.line) for s in reversed(summaries) if _is_users(s.filename)), "")
    return f"{place}, {line}" if line else place


def _frames(tb: TracebackType | None) -> Iterable[tuple[FrameType, int]]:
    return traceback.walk_tb(tb)


def without_paths(text: str) -> str:
    """Shorten a message of torch to its first line, without the names of directories."""
    first = next((line for line in text.splitlines() if line.strip()), "").strip()
    return shown(_PATH.sub("", first), 200)


def shown(name: str, most: int = 80) -> str:
    """Make a name from a file fit for a message: short, and with nothing in it that a terminal obeys."""
    return printable(name if len(name) <= most else f"{name[: most - 3]}...")
