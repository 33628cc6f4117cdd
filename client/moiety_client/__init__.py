"""The client: it splits and seals inputs, and opens and joins predictions. It does not need torch.

Programs import `moiety`, which offers all the names that they need.
"""

from importlib import import_module
from typing import Any

_FACE = {
    "AsyncClient": "client",
    "Client": "client",
    "Evaluation": "answers",
    "MoietyError": "errors",
    "Prediction": "answers",
}


def __getattr__(name: str) -> Any:
    """Return one of the names that release 0.1 had here.

    The import waits until a program asks for the name, because every `moiety` command imports this package.
    """
    if name == "syft":
        raise ImportError(
            "the PySyft dialect is a separate package: `import moiety_syft as sy`, or run the unchanged program with "
            "`moiety syft run program.py`"
        )
    if name not in _FACE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FACE[name]}"), name)
