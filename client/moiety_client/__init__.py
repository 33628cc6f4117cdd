"""The client: splits and seals inputs, opens and joins predictions. Needs no torch.

`import moiety` gives programs all that they need of it.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    """What 0.1 gave here. Imported when it is first asked for: every `moiety` command looks into this package."""
    if name == "syft":
        raise ImportError(
            "the PySyft dialect is a package of its own: `import moiety_syft as sy`, or run the program as it is with "
            "`moiety syft run program.py`"
        )
    if name in ("AsyncClient", "Client", "Evaluation", "MoietyError", "Prediction"):
        import moiety

        return getattr(moiety, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
