"""The two kinds of tensor that the dialect adds: plain numbers with a fixed number of decimals, and secrets.

To torch, a SharedTensor is an ordinary torch.Tensor: it has a shape and a type, and torch's functions and modules take
it. The dialect records each operation on it, and computes nothing until `get()` asks for a value.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, Self, cast

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils import _pytree as pytree

from moiety_syft import support
from moiety_syft.errors import Unsupported
from moiety_syft.expression import Operation, TensorNode, known, name_of
from moiety_syft.session import Session
from moiety_syft.workers import two_of

DECIMALS = 3
_OURS = (str(Path(torch.__file__).parent), str(Path(__file__).parent))
# The dialect records these as one operation, before torch takes them apart.
_WHOLE: dict[Any, OpOverload] = {
    **dict.fromkeys((torch.matmul, Tensor.matmul, Tensor.__matmul__), torch.ops.aten.matmul.default),
    torch.nn.functional.linear: torch.ops.aten.linear.default,
}


class FixedPrecisionTensor(Tensor):
    """Plain numbers rounded to `precision_fractional` decimals. A program shares them, and gets them back."""

    precision_fractional: int = DECIMALS

    @classmethod
    def of(cls, values: Tensor, decimals: int) -> "FixedPrecisionTensor":
        """Mark `values`, as they are, as having so many decimals."""
        made = values.detach().as_subclass(cls)
        made.precision_fractional = decimals
        return made

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if any(issubclass(kind, SharedTensor) for kind in types):
            return NotImplemented
        made = super().__torch_function__(func, types, args, kwargs)  # type: ignore[no-untyped-call]
        decimals = [t.precision_fractional for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, cls)]
        for tensor in pytree.tree_leaves(made):
            if isinstance(tensor, cls) and decimals:
                tensor.precision_fractional = max(decimals)
        return made

    def float_precision(self) -> Tensor:
        """Return the numbers as ordinary floats."""
        return self.as_subclass(Tensor).float()

    float_prec = float_precision

    def copy(self) -> "FixedPrecisionTensor":
        return self.clone()  # type: ignore[return-value]

    def share(self, *workers: object, crypto_provider: object = None, **_: object) -> "SharedTensor":
        """Return a secret tensor. The program splits it between two workers whenever they compute with it."""
        session = two_of(workers, crypto_provider).session
        session.prepare()
        plain = self.as_subclass(Tensor)
        return SharedTensor.of(known(plain, plain.dtype, self.precision_fractional), session)

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"FixedPrecisionTensor>{self.as_subclass(Tensor)!r}"


def rounded(values: Tensor, decimals: int) -> FixedPrecisionTensor:
    """Do what `fix_precision` does: round floats to so many decimals. Whole numbers stay what they are."""
    if not values.is_floating_point():
        return FixedPrecisionTensor.of(values.clone(), decimals)
    exact = (values.detach().double() * 10**decimals).round() / 10**decimals
    return FixedPrecisionTensor.of(exact.to(values.dtype), decimals)


class SharedTensor(Tensor):
    """A secret tensor, or an expression of secret tensors. Only `get` reveals a value."""

    _node: TensorNode
    _meta: Tensor
    _session: Session
    _writes: list[int]
    """How often it was written to: one number, which tensors that would share memory, such as x and x[0], share."""
    _seen: int
    """How many of these writes it holds."""

    @staticmethod
    def __new__(cls, node: TensorNode, meta: Tensor, session: Session) -> "SharedTensor":
        made = Tensor._make_wrapper_subclass(
            cls, meta.shape, strides=meta.stride(), dtype=meta.dtype, device=torch.device("cpu")
        )
        made._node, made._meta, made._session = node, meta, session
        made._writes, made._seen = [0], 0
        return made

    def __init__(self, node: TensorNode, meta: Tensor, session: Session) -> None:
        pass

    @classmethod
    def of(cls, node: TensorNode, session: Session) -> "SharedTensor":
        return cls(node, torch.empty(node.shape, dtype=node.dtype, device="meta"), session)

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _WHOLE and not (args and func is Tensor.__matmul__ and not isinstance(args[1], Tensor)):
            return _recorded(_WHOLE[func], args, kwargs or {})
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: OpOverload, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _recorded(func, args, kwargs or {})

    def get(self) -> Tensor:
        """Reveal the value to this program. The parties compute all that leads to it, and nothing else is revealed.

        Raises Unsupported for what they cannot compute, and otherwise the errors of `moiety_client.errors`.
        """
        _check_written(self)
        node = self._node
        value = self._session.reveal(node).reshape(self.shape).to(node.dtype)
        return value.clone() if node.fixed is None else FixedPrecisionTensor.of(value.clone(), node.fixed)

    def copy(self) -> "SharedTensor":
        return SharedTensor(self._node, self._meta, self._session)

    def share(self, *_: object, **__: object) -> NoReturn:
        raise Unsupported("the tensor is already shared: use it as it is")

    def send(self, *_: object, **__: object) -> NoReturn:
        raise Unsupported("the tensor is already shared: do not send it. get() reveals it to this program")

    def fix_precision(self, *_: object, **__: object) -> NoReturn:
        raise Unsupported("fix the precision before you share the tensor: tensor.fix_precision().share(...)")

    fix_prec = fix_precision

    def float_precision(self) -> NoReturn:
        raise Unsupported("the tensor is secret: call get() first, as in tensor.get().float_precision()")

    float_prec = float_precision

    def item(self) -> NoReturn:
        self._refuse_value()

    def tolist(self) -> NoReturn:
        self._refuse_value()

    def numpy(self, *_: object, **__: object) -> NoReturn:
        self._refuse_value()

    def __bool__(self) -> NoReturn:
        self._refuse_value()

    def __float__(self) -> NoReturn:
        self._refuse_value()

    def __int__(self) -> NoReturn:
        self._refuse_value()

    def __index__(self) -> NoReturn:
        self._refuse_value()

    def _refuse_value(self) -> NoReturn:
        raise Unsupported(
            "the program needs the value of a secret: call get() first, if this program may know the value"
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return cast(Self, self.copy())

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        kind = "whole numbers" if self._node.fixed is None else f"{self._node.fixed} decimals"
        return f"SharedTensor(shape={tuple(self.shape)}, {kind}, secret)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)


def _recorded(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Record an operation on secrets as a node. torch itself works out the shape of the result."""
    if func._schema.is_mutable:
        return _in_place(func, args, kwargs)
    name, place = name_of(func), _place()
    support.check(name, place)
    given = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
    full = [given.get(a.name, a.default_value) for a in func._schema.arguments]
    secrets = [t for t in pytree.tree_leaves(full) if isinstance(t, SharedTensor)]
    session = secrets[0]._session
    for secret in secrets:
        _check_written(secret, place)
    if any(t._session is not session for t in secrets):
        raise Unsupported("the tensors were shared under different hooks: share them under one hook")
    try:
        with torch.no_grad():
            meta = func(*_mapped(args, _meta_of), **_mapped(kwargs, _meta_of))
    except (RuntimeError, NotImplementedError, IndexError) as error:
        raise Unsupported(f"{place}{name}: {str(error).splitlines()[0]}") from None
    if name == "_to_copy" and not _is_wider(meta.dtype, secrets[0].dtype):
        raise Unsupported(
            f"{place}secrets of {secrets[0].dtype} cannot be rounded to {meta.dtype}. Instead: compare them"
        )
    operation = Operation(
        func, tuple(_mapped(full, lambda t: t._node if isinstance(t, SharedTensor) else _plain(t))), place
    )
    decimals = [t._node.fixed for t in secrets if t._node.fixed is not None]
    fixed = max(decimals) if decimals else None
    nodes = _moved(operation, fixed) if name in support.MOVES else None

    is_view = func._schema.returns[0].alias_info is not None

    def made(index: int, result: Tensor) -> SharedTensor:
        kept = DECIMALS if fixed is None and result.dtype.is_floating_point else fixed
        node = nodes[index] if nodes else TensorNode(tuple(result.shape), result.dtype, kept, operation, index)
        shared = SharedTensor(node, result, session)
        if is_view:
            shared._writes, shared._seen = secrets[0]._writes, secrets[0]._seen
        return shared

    if isinstance(meta, Tensor):
        return made(0, meta)
    return type(meta)(made(i, part) for i, part in enumerate(meta))


def _moved(operation: Operation, fixed: int | None) -> list[TensorNode] | None:
    """Return the results of an operation that only moves values, if the program knows them all, else None.

    They must also be of one kind.
    """
    read = operation.nodes
    if any(n.value is None or n.parameter != read[0].parameter or n.dtype != read[0].dtype for n in read):
        return None
    arguments = operation.with_nodes(lambda n: n.value)
    if any(isinstance(t, Tensor) and t.is_floating_point() != read[0].dtype.is_floating_point for t in arguments):
        return None
    values = operation.target(*arguments[: _positional(operation.target)])
    parts = [values] if isinstance(values, Tensor) else list(values)
    return [known(part, read[0].dtype, fixed, read[0].parameter) for part in parts]


def _is_wider(dtype: torch.dtype, of: torch.dtype) -> bool:
    """Whether `dtype` can hold all that `of` holds: bits become numbers, and whole numbers floats, but not back."""
    return dtype.is_floating_point or (not of.is_floating_point and (dtype != torch.bool or of == torch.bool))


def _positional(target: OpOverload) -> int:
    return sum(not a.kwarg_only for a in target._schema.arguments)


def _in_place(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Record an operation such as x += y: x becomes its result. What was computed from x before keeps its value, but
    for tensors that would share memory with x: these are not read any more."""
    base, name = args[0], name_of(func)
    operation, _, overload = name.partition(".")
    plain = getattr(torch.ops.aten, operation.removesuffix("_"), None)
    if not operation.endswith("_") or plain is None or not isinstance(base, SharedTensor):
        raise Unsupported(f"{_place()}{name}: writes into a tensor. Instead: make a new one, as in y = torch.cat(...)")
    result = _recorded(getattr(plain, overload or "default"), args, kwargs)
    if result.shape != base.shape or result.dtype != base.dtype:
        raise Unsupported(f"{_place()}{name}: changes the tensor's shape or type in place. Instead: x = x + y")
    base._node, base._meta = result._node, result._meta
    base._writes[0] += 1
    base._seen = base._writes[0]
    return base


def _check_written(tensor: SharedTensor, place: str = "") -> None:
    """Raise Unsupported if another tensor that would share memory with this one was written to."""
    if tensor._seen != tensor._writes[0]:
        raise Unsupported(
            f"{place}reads a secret tensor after a part or a view of it was written to, as in x[0] = y. "
            "Instead: make a new one, as in torch.cat(...) or torch.where(...)"
        )


def _mapped(tree: Any, change: Callable[[Tensor], Any]) -> Any:
    return pytree.tree_map_only(Tensor, change, tree)


def _meta_of(tensor: Tensor) -> Tensor:
    return tensor._meta if isinstance(tensor, SharedTensor) else tensor.to("meta")


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().as_subclass(Tensor)


def _place() -> str:
    """Return the line of the user's code that led here, in the form "part11.py:88: "."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_OURS):
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}: "
