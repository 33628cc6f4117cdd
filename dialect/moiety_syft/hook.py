"""`TorchHook(torch)` adds PySyft's methods to torch's tensors and modules, until `unhook()`."""

from collections.abc import Callable
from types import ModuleType
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from moiety_syft.errors import Unsupported
from moiety_syft.expression import known
from moiety_syft.session import Services, Session
from moiety_syft.tensors import DECIMALS, FixedPrecisionTensor, SharedTensor, rounded
from moiety_syft.workers import VirtualWorker, two_of


class TorchHook:
    """Adds `fix_precision`, `share`, `get` and more to torch. Several hooks add them once. `unhook` removes them.

    `services` are processes that run already. Without them, the hook uses the processes that the environment names. If
    it names none, the hook starts processes of its own.
    """

    def __init__(self, torch: ModuleType, local_worker: object = None, *, services: Services | None = None) -> None:
        self.torch = torch
        self.session = Session(services)
        self.local_worker = local_worker or VirtualWorker(self, id="me")
        for target, name, method in _methods():
            if not hasattr(target, name):
                setattr(target, name, method)

    def unhook(self) -> None:
        """Restore torch, and withdraw all that was uploaded to the parties. Shared tensors stay what they are."""
        self.session.withdraw()
        for target, name, method in _methods():
            if vars(target).get(name) is method:
                delattr(target, name)


def _methods() -> list[tuple[type, str, Callable[..., Any]]]:
    tensor: dict[str, Callable[..., Any]] = {
        "fix_precision": _fix,
        "fix_prec": _fix,
        "share": _share,
        "send": _send,
        "copy": Tensor.clone,
    }
    module: dict[str, Callable[..., Any]] = {
        **dict.fromkeys(("fix_precision", "fix_prec"), _fix_module),
        **dict.fromkeys(("float_precision", "float_prec"), _float_module),
        "share": _share_module,
        "send": _send,
        "get": _get_module,
    }
    added: list[tuple[type, dict[str, Callable[..., Any]]]] = [(Tensor, tensor), (nn.Module, module)]
    return [(target, name, method) for target, methods in added for name, method in methods.items()]


def _fix(self: Tensor, *, precision_fractional: int = DECIMALS, **_: object) -> FixedPrecisionTensor:
    """Round to a number of decimals, as `share` needs it."""
    return rounded(self, precision_fractional)


def _share(self: Tensor, *workers: object, crypto_provider: object = None, **_: object) -> SharedTensor:
    """Share whole numbers as they are. Floats must have a fixed precision first."""
    if self.is_floating_point() or self.dtype == torch.bool:
        raise Unsupported("floats and booleans need a precision before share: tensor.fix_precision().share(...)")
    session = two_of(workers, crypto_provider).session
    session.prepare()
    return SharedTensor.of(known(self.detach(), self.dtype, None), session)


def _send(self: object, *_: object, **__: object) -> NoReturn:
    raise Unsupported(
        "send would give a worker the plain values. Instead: .fix_precision().share(alice, bob, crypto_provider=...)"
    )


def _fix_module(self: nn.Module, *, precision_fractional: int = DECIMALS, **_: object) -> nn.Module:
    """Give a model's results so many decimals. The compiler chooses the precision of the weights themselves."""
    for tensors, name, tensor in _tensors(self):
        tensors[name] = FixedPrecisionTensor.of(tensor, precision_fractional)
    return self


def _share_module(self: nn.Module, *workers: object, crypto_provider: object = None, **_: object) -> nn.Module:
    session = two_of(workers, crypto_provider).session
    for tensors, name, tensor in _tensors(self):
        if not isinstance(tensor, FixedPrecisionTensor):
            raise Unsupported("call model.fix_precision() before share(...)")
        plain = tensor.as_subclass(Tensor)
        node = known(plain, plain.dtype, tensor.precision_fractional, parameter=True)
        tensors[name] = SharedTensor.of(node, session)
    session.prepare()
    return self


def _get_module(self: nn.Module) -> nn.Module:
    """Make the weights plain again. They are the program's own, so this asks nobody."""
    for tensors, name, tensor in _tensors(self):
        if isinstance(tensor, SharedTensor):
            tensors[name] = tensor.get()
    return self


def _float_module(self: nn.Module) -> nn.Module:
    """Turn the module back into an ordinary one."""
    for module in self.modules():
        for name, parameter in module._parameters.items():
            if isinstance(parameter, FixedPrecisionTensor):
                module._parameters[name] = nn.Parameter(parameter.float_precision())
        for name, buffer in module._buffers.items():
            if isinstance(buffer, FixedPrecisionTensor):
                module._buffers[name] = buffer.float_precision()
    return self


def _tensors(model: nn.Module) -> list[tuple[dict[str, Any], str, Tensor]]:
    """Return the parameters and buffers that hold floats: the dict that each is in, its name, and the tensor."""
    return [
        (tensors, name, tensor)
        for module in model.modules()
        for tensors in (module._parameters, module._buffers)
        for name, tensor in tensors.items()
        if tensor is not None and tensor.is_floating_point()
    ]
