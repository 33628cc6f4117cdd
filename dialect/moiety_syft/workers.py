"""PySyft's workers. Here they are names that stand for the processes alice, bob and the crypto provider."""

from typing import TYPE_CHECKING

from moiety_syft.errors import Unsupported

if TYPE_CHECKING:
    from moiety_syft.hook import TorchHook


class VirtualWorker:
    """A name for one of the roles. It holds nothing, because that role runs in a process of its own."""

    def __init__(self, hook: "TorchHook", id: str, **_: object) -> None:
        self.hook, self.id = hook, id

    def __repr__(self) -> str:
        return f"<VirtualWorker id:{self.id}>"

    def clear_objects(self) -> "VirtualWorker":
        """Do nothing: a worker holds no objects. The parties hold shares for as long as a request takes."""
        return self


def two_of(workers: tuple[object, ...], crypto_provider: object) -> "TorchHook":
    """Return the hook of the workers between which a tensor is shared.

    Raises Unsupported unless there are two workers, and a third who deals the randomness.
    """
    named = [w for w in workers if isinstance(w, VirtualWorker)]
    if len(named) != len(workers) or len({w.id for w in named}) != 2:
        raise Unsupported("share between two different workers: share(alice, bob, crypto_provider=crypto_provider)")
    if not isinstance(crypto_provider, VirtualWorker) or crypto_provider.id in {w.id for w in named}:
        raise Unsupported("name a third worker as the dealer: share(alice, bob, crypto_provider=crypto_provider)")
    return named[0].hook
