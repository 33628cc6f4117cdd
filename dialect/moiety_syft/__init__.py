"""Runs the secure computations of PySyft 0.2 on the processes of moiety: `import moiety_syft as sy`.

    hook = sy.TorchHook(torch)
    bob, alice, dealer = (sy.VirtualWorker(hook, id=name) for name in ("bob", "alice", "crypto_provider"))
    x = torch.tensor([0.5, -1.25]).fix_precision().share(bob, alice, crypto_provider=dealer)
    (x * x).get().float_precision()

A shared tensor is secret. Operations on it are recorded, and moiety computes them when the program calls `get()`.

It needs `pip install "moiety[syft]"`. docs/syft.md says what runs, and what differs from PySyft.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moiety_syft.errors import Unsupported
    from moiety_syft.hook import TorchHook
    from moiety_syft.session import Services
    from moiety_syft.tensors import FixedPrecisionTensor, SharedTensor
    from moiety_syft.workers import VirtualWorker

__all__ = ["FixedPrecisionTensor", "Services", "SharedTensor", "TorchHook", "Unsupported", "VirtualWorker"]

_MODULES = {
    "FixedPrecisionTensor": "tensors",
    "Services": "session",
    "SharedTensor": "tensors",
    "TorchHook": "hook",
    "Unsupported": "errors",
    "VirtualWorker": "workers",
}


def __getattr__(name: str) -> Any:
    """Import a name when a program first asks for it.

    Every `moiety` command imports this package, and few of them need torch.
    """
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def load_ipython_extension(_shell: object) -> None:
    """Do what `%load_ext moiety_syft` asks: from now on `import syft as sy` gives the dialect in this notebook."""
    from moiety_syft.program import stand_in

    stand_in()


def unload_ipython_extension(_shell: object) -> None:
    """Do what `%unload_ext moiety_syft` asks: `import syft` gives what it gave before."""
    from moiety_syft.program import stand_down

    stand_down()
