"""The secure computation of PySyft 0.2 on the processes of moiety: `import moiety_syft as sy`.

    hook = sy.TorchHook(torch)
    bob, alice, dealer = (sy.VirtualWorker(hook, id=name) for name in ("bob", "alice", "crypto_provider"))
    x = torch.tensor([0.5, -1.25]).fix_precision().share(bob, alice, crypto_provider=dealer)
    (x * x).get().float_precision()

Needs `pip install "moiety[syft]"`. docs/syft.md says what runs, and what differs.
"""

from moiety_syft.errors import Unsupported
from moiety_syft.hook import TorchHook
from moiety_syft.session import Services
from moiety_syft.tensors import FixedPrecisionTensor, SharedTensor
from moiety_syft.workers import VirtualWorker

__all__ = ["FixedPrecisionTensor", "Services", "SharedTensor", "TorchHook", "Unsupported", "VirtualWorker"]
