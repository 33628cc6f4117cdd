"""torch.export, in half of the time, with the same kernels.

Around each export torch writes some 50 kernels of each of a hundred operators anew. That takes longer than to export a
small model, and the tests export many hundreds.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch._ops import OpOverload
from torch._subclasses import fake_impls
from torch.export import exported_program

Overrides = dict[OpOverload, Callable[..., Any]]
"""What export does with an operator."""


@contextmanager
def remembered() -> Iterator[None]:
    """Within the block, what torch wrote for the same operators the last time is put back instead."""
    original, search = exported_program._override_composite_implicit_decomp, exported_program._collect_all_valid_cia_ops
    rules = fake_impls.op_implementations_dict
    written: dict[object, dict[OpOverload, tuple[dict[Any, Any], Any]]] = {}
    found: dict[int, set[Any]] = {}

    @contextmanager
    def override(operators: Overrides) -> Iterator[None]:
        state = frozenset((op, act, len(op.py_kernels), op in rules) for op, act in operators.items())
        if state not in written:
            with original(operators):
                written[state] = {op: (dict(op.py_kernels), rules.get(op)) for op in operators}
                yield
            return
        before = {op: dict(op.py_kernels) for op in operators}
        try:
            for op, (kernels, rule) in written[state].items():
                _write(op, kernels)
                if op not in rules:
                    fake_impls.register_op_impl(op)(rule)
            yield
        finally:
            for op, kernels in before.items():
                _write(op, kernels)
                fake_impls._deregister_op_impl(op)

    def collect() -> set[Any]:
        known = len(torch._C._dispatch_get_all_op_names())  # more, once another library is imported
        if known not in found:
            found[known] = search()
        return found[known]

    with (
        patch.object(exported_program, "_override_composite_implicit_decomp", override),
        patch.object(exported_program, "_collect_all_valid_cia_ops", collect),
    ):
        yield


def _write(op: OpOverload, kernels: dict[Any, Any]) -> None:
    op.py_kernels.clear()
    op.py_kernels.update(kernels)
    op._dispatch_cache.clear()
