"""The secure computation of PySyft 0.2 on the processes of moiety: `import moiety_syft as sy`.

    hook = sy.TorchHook(torch)
    bob, alice, dealer = (sy.VirtualWorker(hook, id=name) for name in ("bob", "alice", "crypto_provider"))
    x = torch.tensor([0.5, -1.25]).fix_precision().share(bob, alice, crypto_provider=dealer)
    (x * x).get().float_precision()

Needs `pip install "moiety[syft]"`. docs/syft.md says what runs, and what differs.
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
    """Imported when it is first asked for: every `moiety` command looks into this package, and few need torch."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def load_ipython_extension(_shell: object) -> None:
    """`%load_ext moiety_syft`: from now on `import syft as sy` gives the dialect in this notebook."""
    from moiety_syft.program import stand_in

    stand_in()


def unload_ipython_extension(_shell: object) -> None:
    """`%unload_ext moiety_syft`."""
    from moiety_syft.program import stand_down

    stand_down()
