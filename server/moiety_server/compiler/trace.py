"""From a torch model to the intermediate representation.

It uses torch.export rather than torch.fx. fx runs the user's Python on stand-ins, so F.relu, torch.relu, x.relu() and
x.relu_() are four operations, shapes are unknown, and `x.view(x.size(0), -1)` is more nodes than it means. Export gives
one ATen graph, with every wire's shape, and with the module and the line of user code from which each operation came.

The graph is put into its functional form, in which in-place operations become new values; that gets the aliases of a
tensor right. It is not decomposed: hardswish, pools and linear layers stay as they are, and so do the messages about
them.
"""

import inspect
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch._decomp import get_decompositions
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils import _pytree as pytree

from moiety_server.compiler import eager, in_place, ir
from moiety_server.compiler.aten import DECIDING, EITHER_SIDE, LIKE, LOGIC, OPS, RESHAPES, REWRITTEN, SHAPED
from moiety_server.compiler.aten_batched import MOVING, along, moved
from moiety_server.compiler.batched import Batched, is_wire, output_wire, reshaped
from moiety_server.compiler.builder import Builder
from moiety_server.compiler.embedding import Digits
from moiety_server.compiler.hints import INPUT, hint_for
from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.origin import Origin, of_exception, shown, without_paths
from moiety_server.compiler.parts import add_inputs, ended
from moiety_server.compiler.quantised import QUANTISED
from moiety_server.compiler.sequences import RECURRENT
from moiety_server.compiler.tokens import IdTable
from moiety_shared.plan.plan import Final, InputPart

_FINAL: dict[str, Final] = {
    "softmax.int": "softmax",
    "_softmax": "softmax",
    "log_softmax.int": "log_softmax",
    "_log_softmax": "log_softmax",
    "sigmoid": "sigmoid",
}
_BATCH = 13  # rows of what a model is traced with: hardly any other dimension, or number in the model, is 13
# What export says in its own words, and what that means to the author of the model.
_EXPORT_HINTS = {
    "data-dependent": "use relu, clamp or max pools: control flow must not depend on the values of tensors",
    "is invalid for input": "do not write the batch size into the model: x.view(x.size(0), -1) or x.flatten(1)",
    "reduction dim": "pass calibration data of the shape that the model takes",
    "size of tensor": "pass calibration data of the shape that the model takes",
    "channels": "pass calibration data of the shape that the model takes, with the batch first",
}


def trace(model: nn.Module, example: Tensor | Mapping[str, Tensor], output: str = "") -> ir.Graph:
    """Trace the model as it predicts (not as it trains), for inputs of the example's shape. The batch may have any
    size.

    A model of several inputs has an example of each, by the name of the argument. Of several outputs, all are served,
    or the one that is called `output`.
    """
    given = {"": example} if isinstance(example, Tensor) else dict(example)
    for name, x in given.items():
        if not x.is_floating_point():
            label = f"the model's input {name}".rstrip()
            raise NotServable(f"{label}: is {x.dtype}, but only floats are supported. Instead: {INPUT}")
    return _traced(model, given, output, lambda program, alike: _Walk(program, alike))[0]


def trace_ids(
    model: nn.Module,
    given: Mapping[str, Tensor],
    mask: str,
    pad_id: int | None,
    output: str = "",
    secret: bool = False,
) -> tuple[ir.Graph, IdTable]:
    """Trace a model of token ids, (n, length), and return the table in which they are looked up as well.

    `given` has the ids by the name of their argument and, under the name `mask` if it has one, floats that are 0 where
    an id is `pad_id`. Clients look them up, or the parties where the table is `secret`.
    """
    (ids,) = set(given) - {mask}
    length = given[ids].shape[1]

    def walk(program: ExportedProgram, alike: Mapping[str, Tensor]) -> _Walk:
        table = IdTable.of(program, ids, mask, pad_id)
        table.check(given[ids])
        return _Walk(program, alike, table, length, Digits.of(*table.values.shape) if secret else None)

    graph, walked = _traced(model, given, output, walk)
    assert walked.table is not None  # noqa: S101  it was given one
    return graph, walked.table


def _traced(
    model: nn.Module,
    given: Mapping[str, Tensor],
    output: str,
    walk: "Callable[[ExportedProgram, Mapping[str, Tensor]], _Walk]",
) -> "tuple[ir.Graph, _Walk]":
    _check_call(model, given)
    order = list(inspect.signature(model.forward).parameters)
    given = dict(sorted(given.items(), key=lambda item: order.index(item[0]) if item[0] else 0))
    alike = {name: x[:1].repeat(_BATCH, *(1,) * (x.dim() - 1)) for name, x in given.items()}
    walked = walk(_exported(model, alike), alike)
    graph = walked.graph(output)
    eager.check_batch(model, graph, alike, {name: torch.cat([x[:1], x[-1:]]) for name, x in given.items()})
    return graph, walked


def _check_call(model: nn.Module, given: Mapping[str, Tensor]) -> None:
    if isinstance(model, torch.jit.ScriptModule):
        raise NotServable("the model: is compiled to TorchScript. Instead: pass the nn.Module that it was made from")
    for name, example in given.items():
        label = f"the model's input {name}".rstrip()
        if example.dim() < 2 or not len(example):
            raise NotServable(f"{label}: has the shape {tuple(example.shape)}. Instead: put a batch first")
    parameters = inspect.signature(model.forward).parameters
    needed = [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if "" in given and len(needed) > 1:
        raise NotServable(
            f"the model ({type(model).__name__}): takes several inputs ({', '.join(needed)}). "
            "Instead: give calibration data of each, by its name"
        )
    if "" not in given and (missing := set(needed) - set(given)):
        raise NotServable(f"the model: there is no calibration data of its input {', '.join(sorted(missing))}")
    if "" not in given and (unknown := set(given) - set(parameters)):
        names = shown(", ".join(sorted(unknown)))
        raise NotServable(f"the model: has no input {names}. Instead: name calibration data as forward does")


def _exported(model: nn.Module, given: Mapping[str, Tensor]) -> ExportedProgram:
    named = {name: x for name, x in given.items() if name}
    try:
        with eager.predicting(model), eager.quietly(), eager.unhinted(), torch.no_grad():
            alone = () if named else tuple(given.values())
            program: ExportedProgram = torch.export.export(model, alone, named, strict=False)
            if not in_place.replaced(program.graph):
                program = program.run_decompositions(_rewritten())
    except Exception as error:
        text = without_paths(str(error)) or type(error).__name__
        hint = next((hint for key, hint in _EXPORT_HINTS.items() if key in str(error).lower()), "")
        place = of_exception(error, model)
        raise NotServable(f"{place}: {text}" + (f". Instead: {hint}" if hint else "")) from None
    return program


class _Walk:
    """Walks over what the output of an exported graph depends on, one operation after the other."""

    def __init__(
        self,
        program: ExportedProgram,
        given: Mapping[str, Tensor],
        table: IdTable | None = None,
        length: int = 0,
        digits: Digits | None = None,
    ) -> None:
        """`table` is what a model of `length` token ids reads of them. With `digits` it is secret."""
        self._program, self._batch = program, len(next(iter(given.values())))
        self._builder = Builder()
        self._values: dict[fx.Node, Any] = {}
        self._sources = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
        self._parts: tuple[InputPart, ...] = ()
        self._inputs: dict[str, ir.Node] = {}
        self.table = table
        if table is not None:
            self._values.update(table.wires(self._builder, length, digits))
            return
        shapes = {name: tuple(x.shape[1:]) for name, x in given.items()}
        if len(given) == 1:
            nodes = {name: self._builder.input(shape) for name, shape in shapes.items()}
        else:
            nodes, self._parts = add_inputs(self._builder, shapes)
        self._inputs = dict(zip(program.graph_signature.user_inputs, nodes.values(), strict=True))

    def graph(self, chosen: str = "") -> ir.Graph:
        if changed := self._program.graph_signature.buffers_to_mutate:
            raise NotServable(
                f"the model: changes its buffer {', '.join(changed.values())}. "
                "Instead: leave buffers unchanged in forward"
            )
        several = self._served(chosen)
        place = _place(*several.values()) if len(several) == 1 else None
        if place is not None:
            several = dict.fromkeys(several, place)
        served = {name: self._last(node) for name, node in several.items()}
        needed = {last for last, _ in served.values()}
        for node in reversed(self._program.graph.nodes):
            if node in needed and node not in self._values:
                needed.update(node.all_input_nodes)
        for node in self._program.graph.nodes:
            if node in needed and node not in self._values:
                self._values[node] = self._placeholder(node) if node.op == "placeholder" else self._translated(node)
        outputs: list[tuple[str, ir.Node, Final]] = []
        for name, (last, final) in served.items():
            outputs.append((name, output_wire(name, self._values[last]), final))
        return ended(self._builder, outputs, self._parts, labels=place is not None)

    def _served(self, chosen: str) -> dict[str, fx.Node]:
        """Return the outputs that are served, by name. Labels that clients read off another output are none."""
        found = self._outputs()
        if chosen and chosen not in found:
            raise NotServable(f"the model: has no output {shown(chosen)}. Instead: {shown(', '.join(found))}")
        if chosen:
            return {chosen: found[chosen]}
        scores = {node for output in found.values() for node in (output, self._last(output)[0])}
        rest = {name: node for name, node in found.items() if _name(node) != "argmax" or node.args[0] not in scores}
        return rest or found

    def _outputs(self) -> dict[str, fx.Node]:
        """Return all outputs by name: a dictionary's key, a field, or output_0 and so on."""
        specs = self._program.graph_signature.output_specs
        values = pytree.tree_leaves(self._program.graph.output_node().args[0], is_leaf=lambda leaf: leaf is None)
        # The values include an input that the model overwrites.
        outputs = [v for spec, v in zip(specs, values, strict=True) if spec.kind == OutputKind.USER_OUTPUT]
        tree = pytree.tree_unflatten(outputs, self._program.call_spec.out_spec)
        named = pytree.tree_flatten_with_path(tree, is_leaf=lambda leaf: leaf is None)[0]
        found = {_path(keys): node for keys, node in named if isinstance(node, fx.Node)}
        if not found:
            raise NotServable("the model: has no output. Instead: return a tensor, or several in a dictionary")
        return found

    def _last(self, output: fx.Node) -> tuple[fx.Node, Final]:
        """Return the node whose value is served, and the function that the client applies to it."""
        node: Any = output
        while _name(node) in RESHAPES and _shape(node) == _shape(node.args[0]):
            node = node.args[0]
        if _name(node) in _FINAL and _is_last(node):
            return node.args[0], _FINAL[_name(node)]
        return node, "none"

    def _placeholder(self, node: fx.Node) -> ir.Node | Tensor:
        source = self._sources[node.name]
        if source.kind == InputKind.USER_INPUT:
            return self._inputs[node.name]
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
            b.refuse(f"{origin.operation} is not supported", hint_for(origin.layers, name))
        arguments = self._arguments(node)
        wires = [leaf for leaf in pytree.tree_leaves(arguments, is_leaf=is_wire) if is_wire(leaf)]
        if name in SHAPED | LIKE and len(wires) == 1 and is_wire(arguments[0]):
            arguments[0] = torch.zeros((1,) * len(_shape(node.args[0])), dtype=torch.float64)
            made = _constant(node.target, arguments)
            return made.expand(_shape(node)) if name in LIKE else made
        if not wires:
            if torch.Tag.nondeterministic_seeded in node.target.tags:
                b.refuse(f"{origin.operation} draws random numbers", hint_for("", name))
            return _constant(node.target, arguments)
        if name in QUANTISED:
            return QUANTISED[name](b, *arguments)
        batched = any(isinstance(wire, Batched) for wire in wires)
        self._check_wire(node, origin, elsewhere=batched or name in RESHAPES | MOVING | {"einsum"})
        if name in MOVING and is_wire(arguments[0]):
            return moved(b, name, arguments)
        if name in RESHAPES:
            b.require("dropout" not in name or not arguments[2], "drops values at random", hint_for("", name))
            return reshaped(b, arguments[0], _shape(node), self._batch)
        if name not in OPS:
            b.refuse(f"{origin.operation} is not supported", hint_for(origin.layers, name))
        if isinstance(arguments[0], Tensor) and name.partition(".")[0] not in EITHER_SIDE:
            b.refuse(f"{origin.operation} takes a constant before what is computed from the input", "swap the two")
        if (batched and name not in RECURRENT) or name == "einsum":
            return self._beside(node, name, arguments)
        result = OPS[name](b, *arguments)
        if isinstance(result, ir.Node) and result.shape != _shape(node)[1:]:
            b.refuse(f"{origin.operation} gives {_shape(node)[1:]} here, which is not supported", "reshape it first")
        return result

    def _beside(self, node: fx.Node, name: str, arguments: list[Any]) -> Any:
        """Translate an operation on tensors whose batch is not their first axis alone."""
        b, value = self._builder, node.meta["val"]
        changed, place = along(b, name, arguments)
        result = OPS[name](b, *changed)
        if isinstance(result, list):
            return [place.holding(b, one, tuple(v.shape)) for one, v in zip(result, value, strict=False)]
        return result if isinstance(result, Tensor) else place.holding(b, result, tuple(value.shape))

    def _item(self, node: fx.Node) -> Any:
        source, index = cast(tuple[fx.Node, int], node.args)
        values = self._values[source]
        if index >= len(values):
            self._builder.refuse("its indices or its second result are used", "use only the values")
        return values[index]

    def _arguments(self, node: fx.Node) -> list[Any]:
        """Return the arguments in the schema's order, with defaults filled in and nodes replaced by their values."""
        schema = cast(OpOverload, node.target)._schema.arguments
        given = dict(zip((a.name for a in schema), node.args, strict=False)) | node.kwargs
        return [fx.map_arg(given.get(a.name, a.default_value), self._values.__getitem__) for a in schema]

    def _check_wire(self, node: fx.Node, origin: Origin, elsewhere: bool = False) -> None:
        """Check that a value which depends on the input has floats, and starts with the batch unless that may be
        elsewhere."""
        value = node.meta.get("val")
        value = value[0] if isinstance(value, list | tuple) else value
        name = _name(node).partition(".")[0]
        public = name == "index" and all(isinstance(self._values[at], Tensor) for at in node.all_input_nodes[1:])
        if _is_open(value) and not public and not any(_is_open(at.meta.get("val")) for at in node.all_input_nodes):
            self._builder.refuse(
                f"{origin.operation} gives as many values as the input decides",
                "keep all of them: torch.where, or a product with a mask",
            )
        decided = isinstance(value, Tensor) and value.dtype == torch.bool and name in DECIDING
        read = [source.meta.get("val") for source in node.all_input_nodes] if name in LOGIC else []
        if any(isinstance(one, Tensor) and one.dtype != torch.bool for one in read):
            self._builder.refuse(f"{origin.operation} reads numbers", "compare them first, as x > 0 does")
        if not isinstance(value, Tensor) or not (value.is_floating_point() or decided):
            kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
            self._builder.refuse(
                f"{origin.operation} yields {kind}, not floats", hint_for(origin.layers, f"{origin.operation} gt")
            )
        if not elsewhere and (value.dim() < 1 or len(value) != self._batch):
            self._builder.refuse(
                f"{origin.operation} gives {tuple(value.shape)}, which does not start with the batch of {self._batch}",
                hint_for(origin.layers, "batch"),
            )


def _rewritten() -> dict[OpOverload, Callable[..., Any]]:
    overloads = {op: getattr(torch.ops.aten, op.partition(".")[0]) for op in REWRITTEN}
    operations = [getattr(packet, op.partition(".")[2] or "default") for op, packet in overloads.items()]
    table = get_decompositions(operations)
    return {op: table.get(op, op.decompose) for op in operations}


def _path(keys: Sequence[Any]) -> str:
    """Return a name for an output from its place in what the model returns."""
    steps = [getattr(key, "key", getattr(key, "idx", getattr(key, "name", ""))) for key in keys]
    name = "_".join(map(str, steps))
    return f"output_{name}".rstrip("_") if not name or name[0].isdecimal() else name


def _name(node: Any) -> str:
    return str(node.target).removeprefix("aten.").removesuffix(".default") if isinstance(node, fx.Node) else ""


def _is_open(value: Any) -> bool:
    """Whether export does not know a size of this tensor: what it holds decides it."""
    return isinstance(value, Tensor) and not all(isinstance(size, int) for size in value.shape)


def _shape(node: Any) -> ir.Shape:
    return tuple(node.meta["val"].shape)


def _place(output: fx.Node) -> fx.Node | None:
    """Return the classes of which an output gives the place of the largest, if that is what it gives."""
    node: Any = output
    while _name(node) in RESHAPES:
        node = node.args[0]
    given = (*node.args[1:], None)[0] if _name(node) == "argmax" else None
    read: fx.Node | None = node.args[0] if given in (1, -1) and len(_shape(node.args[0])) == 2 else None
    return read


def _is_last(node: Any) -> bool:
    """Whether the client can apply the function: a sigmoid, or a function over all classes."""
    return _name(node) == "sigmoid" or node.args[1] in (1, 1 - len(_shape(node)))


def _constant(target: OpOverload, arguments: list[Any]) -> Any:
    """Compute a value of parameters and buffers alone, in float64."""
    names = target._schema.arguments
    double = pytree.tree_map_only(Tensor, lambda t: t.double() if t.is_floating_point() else t, arguments)
    positional = [value for value, a in zip(double, names, strict=True) if not a.kwarg_only]
    keywords = {a.name: value for value, a in zip(double, names, strict=True) if a.kwarg_only}
    return target(*positional, **keywords)
