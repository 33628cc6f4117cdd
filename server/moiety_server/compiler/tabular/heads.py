"""The ends of a file: its inputs, which output is served, and what the client makes of it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TensorProto, numpy_helper
from torch import Tensor

from moiety_server.compiler import ir
from moiety_server.compiler.builder import Builder
from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.onnx import file
from moiety_server.compiler.onnx.constants import unpacked
from moiety_server.compiler.origin import shown
from moiety_server.compiler.tabular.features import Affine, Features, Mixed, Raw
from moiety_server.compiler.tabular.operator import mixed
from moiety_server.compiler.tabular.outcome import Outcome, mirrored
from moiety_server.compiler.tabular.sheet import Sheet
from moiety_shared.messages.table import Category
from moiety_shared.plan.plan import Final

_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE)
Join = Callable[[Sequence[Affine | ir.Node]], Affine | ir.Node]
_FINAL: dict[str, Final] = {"Softmax": "softmax", "Sigmoid": "sigmoid", "Exp": "exp"}
_SAME = ("Identity", "Dropout", "ZipMap")


def inputs(read: file.File) -> list[onnx.ValueInfoProto]:
    """Return the inputs that the client gives. `file` has put an input in place of each initializer."""
    found = [info for info in read.model.graph.input if info.name not in read.initializers]
    if not found:
        raise NotServable("the model: has no input")
    return found


def width(info: onnx.ValueInfoProto) -> int | None:
    """Return the number of columns of an input (rows, columns), or (rows,), or None where the file leaves it open."""
    dimensions = [d.dim_value for d in info.type.tensor_type.shape.dim]
    if not 1 <= len(dimensions) <= 2:
        raise NotServable(f"the model's input {shown(info.name)}: is no table of rows and columns")
    return 1 if len(dimensions) == 1 else dimensions[1] if dimensions[1] > 0 else None


def attributes(node: NodeProto) -> dict[str, Any]:
    """Return a node's attributes. Texts are decoded, tensors unpacked."""
    found = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    for name, value in found.items():
        if isinstance(value, bytes):
            found[name] = value.decode(errors="replace")
        elif isinstance(value, TensorProto) and node.op_type != "Constant":
            texts = value.data_type == TensorProto.STRING
            found[name] = [text.decode(errors="replace") for text in value.string_data] if texts else unpacked(value)
        elif isinstance(value, list) and value and isinstance(value[0], bytes):
            found[name] = [text.decode(errors="replace") for text in value]
    return found


# Outputs.


def output(graph: GraphProto) -> str:
    """Return the name of the output that is served: a classifier's probabilities or scores, else the only one."""
    producers = {name: node for node in graph.node for name in node.output if name}
    names: list[str] = [info.name for info in graph.output]
    served = [name for name in names if not _is_label(name, producers)]
    if len(served) == 1:
        return served[0]
    if not served and len(names) == 1:  # a file of labels alone: its classifier has scores, too
        return _scores_of(names[0], producers)
    shown_names = shown(", ".join((served or names)[:9]))
    raise NotServable(f"the model: has the outputs {shown_names}. Instead: export one, or one besides the label")


def _is_label(name: str, producers: dict[str, NodeProto]) -> bool:
    """Whether the output is a class: a classifier's first output, or taken from a list of classes."""
    node = producers.get(name)
    while node is not None and node.op_type in ("Cast", "Identity", "Reshape", "Squeeze"):
        name, node = node.input[0], producers.get(node.input[0])
    if node is None:
        return False
    if node.op_type in ("ArgMax", "LabelEncoder"):
        return True
    if node.op_type == "ArrayFeatureExtractor":
        chosen = producers.get(node.input[1])
        while chosen is not None and chosen.op_type in ("Cast", "Reshape"):
            chosen = producers.get(chosen.input[0])
        return chosen is not None and chosen.op_type == "ArgMax"
    return node.op_type.endswith("Classifier") and name == node.output[0]


def _scores_of(name: str, producers: dict[str, NodeProto]) -> str:
    """Return the scores of the classifier that a label comes from."""
    while name in producers:
        node = producers[name]
        if node.op_type.endswith("Classifier") and len(node.output) > 1 and node.output[1]:
            return str(node.output[1])
        if node.op_type == "ArgMax":
            return str(node.input[0])
        name = node.input[1] if node.op_type == "ArrayFeatureExtractor" else node.input[0]
    raise NotServable("the model: gives labels alone. Instead: export its scores or probabilities as well")


def classes(graph: GraphProto, read: file.File) -> tuple[Category, ...]:
    """Return the classes from which a file takes its label, where no classifier names them."""
    constants: dict[str, TensorProto] = {}
    for node in graph.node:
        if node.op_type == "ZipMap":
            found = attributes(node)
            return tuple(found.get("classlabels_strings") or found.get("classlabels_int64s") or ())
        if node.op_type == "Constant":
            constants |= {name: a.t for name in node.output for a in node.attribute if a.name == "value"}
    producers = {name: node for node in graph.node for name in node.output if name}
    for info in graph.output:
        node = producers.get(info.name)
        while node is not None and node.op_type in ("Cast", "Identity", "Reshape", "Squeeze"):
            node = producers.get(node.input[0])
        if node is not None and node.op_type.endswith("Classifier"):
            return _of_multiple(node, output(graph), producers, {**read.initializers, **constants})
        if node is None or node.op_type != "ArrayFeatureExtractor" or not _is_label(info.name, producers):
            continue
        stored = read.initializers.get(node.input[0], constants.get(node.input[0]))
        if stored is not None:
            values = numpy_helper.to_array(stored).reshape(-1).tolist()
            return tuple(v.decode() if isinstance(v, bytes) else v if isinstance(v, str) else int(v) for v in values)
    return ()


def _of_multiple(
    classifier: NodeProto, name: str, producers: dict[str, NodeProto], constants: dict[str, TensorProto]
) -> tuple[Category, ...]:
    """Return the labels of a classifier of which the file gives a multiple of the scores, as `name`. The scores of
    SVMClassifier rise with the first class, so their multiple has to turn them round, and no other one may."""
    factor, producer = 1.0, producers.get(name)
    while producer is not None and producer.op_type in ("Cast", "Identity", "Mul"):
        scores = [one for one in producer.input if one not in constants]
        if len(scores) != 1:
            return ()
        for constant in set(producer.input).intersection(constants):
            values = numpy_helper.to_array(constants[constant]).reshape(-1)
            factor *= float(values[0]) if len(values) == 1 else float("nan")
        name, producer = scores[0], producers.get(scores[0])
    turns = factor < 0 if classifier.op_type == "SVMClassifier" else factor > 0
    if not turns or list(classifier.output[1:]) != [name]:
        return ()
    found = attributes(classifier)
    known = ("classlabels_strings", "classlabels_ints", "classlabels_int64s")
    return next((tuple(found[key]) for key in known if found.get(key)), ())


# What follows an outcome.


def follow(kind: str, given: Sequence[Any], how: dict[str, Any], join: Join) -> Outcome | None:
    """Return the outcome that an operator makes of another one, or of scores. None: the operator is no such thing."""
    x = given[0]
    if kind == "ZipMap" and isinstance(x, Affine | ir.Node):
        return Outcome(x)
    if kind in _FINAL and (isinstance(x, Affine | ir.Node) or (isinstance(x, Outcome) and x.is_plain)):
        if kind == "Softmax" and how.get("axis", -1) not in (1, -1):
            raise NotServable("divides by a sum over rows")
        of = x if isinstance(x, Outcome) else Outcome(x)
        return replace(of, final=_FINAL[kind], unit="logits")
    if kind == "Concat" and how.get("axis") in (1, -1) and all(isinstance(part, Outcome) for part in given):
        return _side_by_side(given, join)
    if kind == "Sub" and isinstance(given[1], Outcome) and given[1].final == "sigmoid" and _is_one(x):
        return replace(given[1], complement=not given[1].complement)
    if not isinstance(x, Outcome):
        return None
    if kind in _SAME or (kind == "Cast" and how.get("to") in _FLOATS):
        return x
    if kind == "Reshape" and isinstance(given[1], Tensor):
        return x if given[1].reshape(-1).tolist() in ([-1, x.columns], [0, x.columns], [0, -1]) else None
    if kind == "Normalizer":
        return x.normalised(str(how.get("norm", "MAX")))
    if kind == "LpNormalization" and how.get("axis", -1) in (1, -1):
        return x.normalised(f"L{how.get('p', 2)}")
    if kind == "Slice" and [_listed(given, i) for i in (1, 2, 3, 4)] in ([[1], [2], [1], None], [[1], [2], [1], [1]]):
        return x.picked([1])
    if kind in ("ArrayFeatureExtractor", "Gather") and isinstance(given[1], Tensor):
        return x.picked([int(i) % x.columns for i in given[1].reshape(-1)])
    return None


def _listed(given: Sequence[Any], index: int) -> list[Any] | None:
    value = given[index] if index < len(given) else None
    return list(value.reshape(-1).tolist()) if isinstance(value, Tensor) else None


def _is_one(value: Any) -> bool:
    return isinstance(value, Tensor) and value.numel() == 1 and float(value) == 1.0


def _side_by_side(parts: Sequence[Outcome], join: Join) -> Outcome | None:
    """Return 1 - p and p as one outcome, and so the probabilities of classes that are told from all others each."""
    first, last = parts[0], parts[-1]
    if len(parts) == 2 and first.value is last.value and first.complement and not last.complement and last.outputs == 1:
        return replace(last, pair=True)
    if {part.final for part in parts} == {"sigmoid"} and not any(part.pair or part.complement for part in parts):
        return Outcome(join([part.value for part in parts]), "sigmoid")
    return None


def carried_out(
    found: Outcome, builder: Builder, wire: Callable[[Affine | ir.Node], ir.Node], sheet: Sheet
) -> Affine | ir.Node:
    """Return an outcome's value after its function, for an operator in the middle of a model."""
    if found.complement or found.final not in ("none", "sigmoid", "exp"):
        raise NotServable(f"computes with the result of a {found.final}. Instead: keep it the model's last function")
    if found.final != "none":
        if found.pair:
            raise NotServable("computes with the probabilities of two classes. Instead: keep them the last function")
        return builder.smooth(wire(found.value), found.final)
    if not found.pair or isinstance(found.value, ir.Node):
        if found.pair:
            raise NotServable("computes with the scores of two classes. Instead: keep them the model's last result")
        return found.value
    return mixed(found.value, sheet).through(np.array([[1.0], [-1.0]] if found.turned else [[-1.0], [1.0]]))


def finished(found: Outcome, named: tuple[Category, ...], sheet: Sheet) -> Outcome:
    """Return the outcome that is served. Its classes are those of the operator, or those of the file's label."""
    of = found.classes or named
    if found.complement:
        raise NotServable("the model: gives the probability of the other class. Instead: export both")
    value = found.value
    if len(of) == 2 and isinstance(value, Raw | Features | Mixed) and len(value) == 2 and found.final == "none":
        both = mixed(value, sheet)
        if mirrored(both.matrix, both.constant):
            return replace(found, value=both.picked([1]), unit="scores", classes=of, pair=True)
    if of and found.outputs not in (len(of), 1 if len(of) == 2 else len(of)):
        raise NotServable(f"the model: has {found.outputs} outputs for {len(of)} classes")
    unit = "scores" if of and found.final == "none" and found.unit == "logits" else found.unit
    return replace(found, value=value, classes=of, unit=unit)


def unserved(kind: str) -> str:
    """Say that an operator is not served, and what to do instead."""
    hints = {
        "Normalizer": "divides by a norm of the row. Instead: scale each column (StandardScaler)",
        "DictVectorizer": "takes a dictionary. Instead: export columns",
        "GaussianProcess": "is not served",
    }
    return hints.get(kind, f"{shown(kind)} is not served in a model of a table")
