"""ONNX's own backend node tests, as models of one input.

The suite has cases of several inputs, and cases whose input has no batch. It is counted like this:

- A case counts if all of its inputs are tensors, and one of them and the first output are of float32.
- A case is arranged once for each of its float32 inputs: that input is the model's, all others become initializers.
- An arrangement is right if the imported graph gives what ONNX says. The graph takes the first dimension for the batch,
  or the whole input for one row (`read_onnx`). An output whose batch is another dimension is served with it first.
- An arrangement is refused if `NotServable` says so, with the node's name and a hint.
- A case is wrong, or crashed, if one of its arrangements is. Otherwise it is right if one of its arrangements is right.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import torch
from onnx import ModelProto, TensorProto, numpy_helper
from onnx.backend.test.loader import load_model_tests
from torch import Tensor

from moiety_server.compiler import ir
from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.onnx.graph import read_onnx

Outcome = Literal["crashed", "wrong", "right", "refused"]
_WORST_FIRST: tuple[Outcome, ...] = ("crashed", "wrong", "right", "refused")


@dataclass(frozen=True)
class Tried:
    """What became of one arrangement. `graph` and `rows`, its inputs, are there where it is right."""

    outcome: Outcome
    text: str = ""
    graph: ir.Graph | None = None
    rows: Tensor | None = None


def cases() -> list[Any]:
    """The cases that count."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return [case for case in load_model_tests(kind="node") if _counts(case.model.graph)]


def _counts(graph: onnx.GraphProto) -> bool:
    kinds = [info.type.tensor_type.elem_type for info in graph.input]
    tensors = all(info.type.WhichOneof("value") == "tensor_type" for info in graph.input)
    return tensors and TensorProto.FLOAT in kinds and graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT


def outcome(tried: list[Tried]) -> Tried:
    """The arrangement that decides a case."""
    return min(tried, key=lambda one: _WORST_FIRST.index(one.outcome))


def attempt(case: Any, folder: Path) -> list[Tried]:
    found = []
    for model, x, y in _arrangements(case):
        (folder / "m.onnx").unlink(missing_ok=True)  # to overwrite a file takes longer: some disks then write at once
        (folder / "m.onnx").write_bytes(model.SerializeToString())
        try:
            found.append(_compared(read_onnx(folder / "m.onnx"), x, y, case.rtol, case.atol))
        except NotServable as error:
            found.append(Tried("refused", str(error)))
        except Exception as error:  # whatever it is: this is what the suite looks for
            found.append(Tried("crashed", f"{type(error).__name__}: {error}"))
    return found


def _arrangements(case: Any) -> Iterator[tuple[ModelProto, np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    graph, (inputs, outputs) = case.model.graph, case.data_sets[0]
    for at, info in enumerate(graph.input):
        if info.type.tensor_type.elem_type != TensorProto.FLOAT:
            continue
        model = ModelProto()
        model.CopyFrom(case.model)
        model.ir_version = max(model.ir_version, 8)
        for i, (other, value) in enumerate(zip(graph.input, inputs, strict=False)):
            if i != at:
                model.graph.initializer.append(_named(value, other.name))
        del model.graph.input[:], model.graph.output[1:]
        model.graph.input.append(info)
        yield model, np.asarray(inputs[at]), np.asarray(outputs[0])


def _named(value: Any, name: str) -> TensorProto:
    made = TensorProto()
    made.CopyFrom(value if isinstance(value, TensorProto) else numpy_helper.from_array(np.asarray(value)))
    made.name = name
    return made


def _compared(graph: ir.Graph, x: Any, y: Any, rtol: float, atol: float) -> Tried:
    given = torch.from_numpy(x.copy())
    alone = graph.nodes[0].shape == x.shape
    rows = given[None] if alone else given
    got = graph.run(rows)[graph.output]
    final: Any = {"softmax": torch.softmax, "log_softmax": torch.log_softmax}.get(graph.final)
    got = torch.sigmoid(got) if graph.final == "sigmoid" else final(got, 1) if final else got
    values = (got[0] if alone else got).numpy()
    if any(_is_close(values, wanted, rtol, atol) for wanted in (y, *_batch_first(y, alone))):
        return Tried("right", "", graph, rows)
    return Tried("wrong", f"gives {values.shape}, not {y.shape}, or other values")


def _batch_first(y: Any, alone: bool) -> Iterator[Any]:
    """Yield the answer with each of its axes as the first one."""
    yield from () if alone else (np.moveaxis(y, axis, 0) for axis in range(1, y.ndim))


def _is_close(values: Any, wanted: Any, rtol: float, atol: float) -> bool:
    close = {"rtol": max(rtol, 1e-3), "atol": max(atol, 1e-5)}
    return values.shape == wanted.shape and np.allclose(values, wanted, **close, equal_nan=True)
