"""The client: splits and seals inputs, opens and joins predictions. Needs no torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moiety_client.answers import Evaluation, Prediction
    from moiety_client.client import AsyncClient, Client
    from moiety_client.errors import MoietyError

__all__ = ["AsyncClient", "Client", "Evaluation", "MoietyError", "Prediction"]

_MODULES = {
    "AsyncClient": "client",
    "Client": "client",
    "Evaluation": "answers",
    "MoietyError": "errors",
    "Prediction": "answers",
}


def __getattr__(name: str) -> Any:
    """Imported when it is first asked for: every `moiety` command looks into this package, and few need a client."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
