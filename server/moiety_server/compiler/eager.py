"""The user's model as it runs by itself, and whether it answers each row of a batch alone."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO

import torch
from torch import Tensor, nn
from torch.nn.modules import transformer
from torch.utils import _pytree as pytree

from moiety_server.compiler import ir
from moiety_server.compiler.ir import NotServable


def check_batch(model: nn.Module, graph: ir.Graph, alike: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> None:
    """Raise NotServable if what the model answers to the first row depends on how many rows, or which, are beside it.
    The graph, which was traced with the rows `alike`, would then hold their number.

    Where the graph itself answers two rows as the model does, it holds none, and the model need not run on more.
    """
    of_two = _answers(model, two)
    if "" in two and _is_answered(graph, two[""], of_two, 1e-4):
        return
    for one, other in zip(_answers(model, alike), of_two, strict=True):
        if one is None or other is None:
            continue
        if not _is_near(one[0], other[0]):
            raise NotServable(
                "the model: answers an input otherwise when other inputs are beside it. Instead: compute nothing from "
                "the batch's size or over the batch, as x.size(0) and x.mean(0) do"
            )


def answers_otherwise(model: nn.Module, given: Mapping[str, Tensor], graph: ir.Graph, looked_up: Tensor) -> bool:
    """Whether the graph gives of looked-up ids what differs from the model's answers by over 1 % of the largest.

    False where that cannot be told from its output alone.
    """
    answers = _answers(model, given)
    told = not graph.labels and not graph.outputs and len(answers) == 1 and answers[0] is not None
    return told and not _is_answered(graph, looked_up, answers, 1e-2)


def _answers(model: nn.Module, given: Mapping[str, Tensor]) -> list[Tensor | None]:
    """Return each tensor that the model answers, in float64; None for those that have no row for each input."""
    copies = {name: x.clone() for name, x in given.items()}  # the model may overwrite them
    with predicting(model), quietly(), torch.no_grad():
        found = model(*copies.values()) if "" in given else model(**copies)
    rows = len(next(iter(given.values())))
    leaves = [leaf for leaf in pytree.tree_leaves(found) if isinstance(leaf, Tensor)]
    return [leaf.double() if leaf.dim() and len(leaf) == rows else None for leaf in leaves]


@torch.inference_mode()
def _is_answered(graph: ir.Graph, x: Tensor, answers: Sequence[Tensor | None], tolerance: float) -> bool:
    """Whether the graph gives these answers to its input, for a model of one output. False where that cannot be told
    from its output alone."""
    if len(answers) != 1 or answers[0] is None or graph.labels or graph.outputs:
        return False
    x = x.float()  # as all weights of the graph are
    output = next(wire for name, wire in graph.wires(x) if name == graph.output).double()
    match graph.final:
        case "none":
            ended = output
        case "sigmoid":
            ended = output.sigmoid()
        case "softmax":
            ended = output.softmax(1)
        case _:
            return False
    return _is_near(ended, answers[0], tolerance)


def _is_near(one: Tensor, other: Tensor, tolerance: float = 1e-4) -> bool:
    most = float(one.abs().nan_to_num(0, 0, 0).max()) if one.numel() else 0.0
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-3, atol=tolerance * most, equal_nan=True)


@contextmanager
def predicting(model: nn.Module) -> Iterator[None]:
    """Put every module into inference mode, and afterwards back as it was."""
    training = [module for module in model.modules() if module.training]
    model.train(False)
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def unhinted() -> Iterator[None]:
    """Keep torch's encoders from looking into a mask to see whether it is causal, which export cannot follow. That
    only chooses a faster kernel: the mask itself is applied either way."""
    found = transformer._detect_is_causal_mask
    transformer._detect_is_causal_mask = lambda mask, is_causal=None, size=None: is_causal is True
    try:
        yield
    finally:
        transformer._detect_is_causal_mask = found


@contextmanager
def quietly() -> Iterator[None]:
    """Silence torch's warnings and what it logs and prints: whole graphs, and again what is about to be raised."""
    names = [name for name in logging.root.manager.loggerDict if name == "torch" or name.startswith("torch.")]
    heard = [log for log in map(logging.getLogger, names) if not log.disabled]
    for log in heard:
        log.disabled = True
    try:
        with warnings.catch_warnings(), redirect_stderr(StringIO()), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for log in heard:
            log.disabled = False
