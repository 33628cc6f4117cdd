"""The client: splits and seals inputs, opens and joins predictions. Needs no torch.

`import moiety` gives programs all that they need of it.
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
    """What 0.1 gave here. Imported when it is first asked for: every `moiety` command looks into this package."""
    if name == "syft":
        raise ImportError(
            "the PySyft dialect is a package of its own: `import moiety_syft as sy`, or run the program as it is with "
            "`moiety syft run program.py`"
        )
    if name not in _FACE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FACE[name]}"), name)
