"""From a torch model to the intermediate representation.

It uses torch.export rather than torch.fx. fx runs the user's Python on stand-ins, so F.relu, torch.relu, x.relu() and
x.relu_() are four operations, shapes are unknown, and `x.view(x.size(0), -1)` is more nodes than it means. Export gives
one ATen graph, with every wire's shape, and with the module and the line of user code from which each operation came.

The graph is put into its functional form, in which in-place operations become new values; that gets the aliases of a
tensor right. It is not decomposed: hardswish, pools and linear layers stay as they are, and so do the messages about
them.
"""

import inspect
import logging
import operator
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch._decomp import get_decompositions
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils import _pytree as pytree

from moiety_server.compiler import ir
from moiety_server.compiler.aten import EITHER_SIDE, OPS, RESHAPES, REWRITTEN
from moiety_server.compiler.builder import Builder
from moiety_server.compiler.hints import hint_for
from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.origin import Origin, of_exception, without_paths
from moiety_server.compiler.simplification import Final, finish

_FINAL: dict[str, Final] = {
    "softmax.int": "softmax",
    "_softmax": "softmax",
    "log_softmax.int": "log_softmax",
    "_log_softmax": "log_softmax",
}
_BATCH = 13  # batch for an example of one: hardly any other dimension, or number in the model, is 13
# What export says in its own words, and what that means to the author of the model.
_EXPORT_HINTS = {
    "data-dependent": "control flow must not depend on the values of tensors; relu, clamp and max pools are served",
    "is invalid for input": "do not write the batch size into the model: x.view(x.size(0), -1) or x.flatten(1)",
    "reduction dim": "the example has to have the shape the model was made for",
    "size of tensor": "the example has to have the shape the model was made for",
    "channels": "the example has to have the shape the model was made for, its batch first",
}


def trace(model: nn.Module, example: Tensor) -> ir.Graph:
    """Trace the model as it predicts (not as it trains), for inputs of the example's shape. The batch may have any
    size."""
    _check_call(model, example)
    if len(example) == 1:
        example = example.repeat(_BATCH, *(1,) * (example.dim() - 1))
    return _Walk(_exported(model, example), example).graph()


def _check_call(model: nn.Module, example: Tensor) -> None:
    if isinstance(model, torch.jit.ScriptModule):
        raise NotServable("the model: is compiled to TorchScript. Instead: give the nn.Module it was made from")
    if not example.is_floating_point():
        raise NotServable(
            f"the model's input: is {example.dtype}, but only floats are served. Instead: " + hint_for("", "embedding")
        )
    if example.dim() < 2 or not len(example):
        raise NotServable(f"the model's input: has the shape {tuple(example.shape)}. Instead: put a batch first")
    needed = [
        name
        for name, parameter in inspect.signature(model.forward).parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if len(needed) > 1:
        raise NotServable(
            f"the model ({type(model).__name__}): takes several inputs ({', '.join(needed)}). "
            "Instead: concatenate them to one tensor and slice it in forward"
        )


@contextmanager
def _predicting(model: nn.Module) -> Iterator[None]:
    """Put every module into inference mode, and afterwards back as it was."""
    training = [module for module in model.modules() if module.training]
    model.train(False)
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _quietly() -> Iterator[None]:
    """Silence torch's warnings and its log, which repeats in full what is about to be raised."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before, log.disabled = log.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.disabled = before


def _exported(model: nn.Module, example: Tensor) -> ExportedProgram:
    try:
        with _predicting(model), _quietly(), torch.no_grad():
            program: ExportedProgram = torch.export.export(model, (example,), strict=False)
            program = program.run_decompositions(_rewritten())
    except Exception as error:
        text = without_paths(str(error)) or type(error).__name__
        hint = next((hint for key, hint in _EXPORT_HINTS.items() if key in str(error).lower()), "")
        place = of_exception(error, model)
        raise NotServable(f"{place}: {text}" + (f". Instead: {hint}" if hint else "")) from None
    return program


class _Walk:
    """Walks over what the output of an exported graph depends on, one operation after the other."""

    def __init__(self, program: ExportedProgram, example: Tensor) -> None:
        self._program, self._batch = program, len(example)
        self._builder = Builder()
        self._input = self._builder.input(tuple(example.shape[1:]))
        self._values: dict[fx.Node, Any] = {}
        self._sources = {spec.arg.name: spec for spec in program.graph_signature.input_specs}

    def graph(self) -> ir.Graph:
        if changed := self._program.graph_signature.buffers_to_mutate:
            raise NotServable(
                f"the model: changes its buffer {', '.join(changed.values())}. Instead: predictions must leave no trace"
            )
        last, final = self._last()
        needed = {last}
        for node in reversed(self._program.graph.nodes):
            if node in needed:
                needed.update(node.all_input_nodes)
        for node in self._program.graph.nodes:
            if node in needed:
                self._values[node] = self._placeholder(node) if node.op == "placeholder" else self._translated(node)
        output = self._values[last]
        if not isinstance(output, ir.Node):
            raise NotServable("the model: its output does not depend on its input")
        return finish(self._builder.nodes.values(), output.name, final)

    def _last(self) -> tuple[fx.Node, Final]:
        """Return the node whose value is served, and the function that the client applies to it."""
        specs = self._program.graph_signature.output_specs
        values = pytree.tree_leaves(self._program.graph.output_node().args[0], is_leaf=lambda leaf: leaf is None)
        # The values include an input that the model overwrites.
        outputs = [v for spec, v in zip(specs, values, strict=True) if spec.kind == OutputKind.USER_OUTPUT]
        if len(outputs) != 1 or not isinstance(outputs[0], fx.Node):
            raise NotServable(
                f"the model: has {len(outputs)} outputs. Instead: return one tensor, or concatenate them to one"
            )
        node: Any = outputs[0]
        while _name(node) in RESHAPES and _shape(node) == _shape(node.args[0]):
            node = node.args[0]
        if _name(node) in _FINAL and node.args[1] in (1, 1 - len(_shape(node))):
            return node.args[0], _FINAL[_name(node)]
        return node, "none"

    def _placeholder(self, node: fx.Node) -> ir.Node | Tensor:
        source = self._sources[node.name]
        if source.kind == InputKind.USER_INPUT:
            return self._input
        tensors = self._program.constants if source.target in self._program.constants else self._program.state_dict
        value = tensors[source.target]
        assert isinstance(value, Tensor)  # noqa: S101  scripted objects do not get here
        return value.detach()

    def _translated(self, node: fx.Node) -> Any:
        if node.target is operator.getitem:
            return self._item(node)
        origin, name, b = Origin(node), _name(node), self._builder
        b.scope, b.origin = origin.scope, str(origin)
        if node.op != "call_function" or not isinstance(node.target, OpOverload):
            b.refuse(f"{origin.operation} is not served", hint_for(origin.layers, name))
        arguments = self._arguments(node)
        leaves = pytree.tree_leaves(arguments, is_leaf=lambda leaf: isinstance(leaf, ir.Node))
        if not any(isinstance(leaf, ir.Node) for leaf in leaves):
            if torch.Tag.nondeterministic_seeded in node.target.tags:
                b.refuse(f"{origin.operation} draws random numbers", hint_for("", name))
            return _constant(node.target, arguments)
        self._check_wire(node, origin)
        if name in RESHAPES:
            b.require("dropout" not in name or not arguments[2], "drops values at random", hint_for("", name))
            return b.reshape(arguments[0], _shape(node)[1:])
        if name not in OPS:
            b.refuse(f"{origin.operation} is not served", hint_for(origin.layers, name))
        if isinstance(arguments[0], Tensor) and name.partition(".")[0] not in EITHER_SIDE:
            b.refuse(f"{origin.operation} of a constant with what is computed from the input", "swap the two")
        result = OPS[name](b, *arguments)
        if isinstance(result, ir.Node) and result.shape != _shape(node)[1:]:
            b.refuse(f"{origin.operation} gives {_shape(node)[1:]} here, which has no form", "reshape it first")
        return result

    def _item(self, node: fx.Node) -> Any:
        source, index = cast(tuple[fx.Node, int], node.args)
        values = self._values[source]
        if index >= len(values):
            self._builder.refuse("its indices or its second result are used", "only the values are served")
        return values[index]

    def _arguments(self, node: fx.Node) -> list[Any]:
        """Return the arguments in the schema's order, with defaults filled in and nodes replaced by their values."""
        schema = cast(OpOverload, node.target)._schema.arguments
        given = dict(zip((a.name for a in schema), node.args, strict=False)) | node.kwargs
        return [fx.map_arg(given.get(a.name, a.default_value), self._values.__getitem__) for a in schema]

    def _check_wire(self, node: fx.Node, origin: Origin) -> None:
        """Check that a value which depends on the input has floats and starts with the batch."""
        value = node.meta.get("val")
        value = value[0] if isinstance(value, list | tuple) else value
        if not isinstance(value, Tensor) or not value.is_floating_point():
            kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
            self._builder.refuse(f"{origin.operation} makes {kind}", hint_for(origin.layers, f"{origin.operation} gt"))
        if value.dim() < 1 or len(value) != self._batch:
            self._builder.refuse(
                f"{origin.operation} gives {tuple(value.shape)}, which does not start with the batch of {self._batch}",
                hint_for(origin.layers, "batch"),
            )


def _rewritten() -> dict[OpOverload, Callable[..., Any]]:
    overloads = {op: getattr(torch.ops.aten, op.partition(".")[0]) for op in REWRITTEN}
    operations = [getattr(packet, op.partition(".")[2] or "default") for op, packet in overloads.items()]
    table = get_decompositions(operations)
    return {op: table.get(op, op.decompose) for op in operations}


def _name(node: Any) -> str:
    return str(node.target).removeprefix("aten.").removesuffix(".default") if isinstance(node, fx.Node) else ""


def _shape(node: Any) -> ir.Shape:
    return tuple(node.meta["val"].shape)


def _constant(target: OpOverload, arguments: list[Any]) -> Any:
    """Compute a value of parameters and buffers alone, in float64."""
    names = target._schema.arguments
    double = pytree.tree_map_only(Tensor, lambda t: t.double() if t.is_floating_point() else t, arguments)
    positional = [value for value, a in zip(double, names, strict=True) if not a.kwarg_only]
    keywords = {a.name: value for value, a in zip(double, names, strict=True) if a.kwarg_only}
    return target(*positional, **keywords)
