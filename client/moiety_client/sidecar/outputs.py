"""The outputs that the sidecar offers of a model, and their values.

label        INT64, (n)              the likeliest class; its name is `labels` if the model gives out labels only
output       FP64, (n, ...)          the model's outputs
confidence   FP64, (n, classes)      the outputs as probabilities, if the model tells classes apart
top          INT64, (n, k)           the k likeliest classes, if the model gives out labels only
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moiety_client.answers import Prediction
from moiety_client.sidecar.messages import RequestOutput, ResponseOutput
from moiety_client.sidecar.tensors import BYTES, pack, refused
from moiety_shared.messages.catalogue import Entry

Values = npt.NDArray[np.int64] | npt.NDArray[np.float64] | npt.NDArray[np.str_]


@dataclass(frozen=True)
class Given:
    """An output that the sidecar offers: its name, its type, and its shape for one input."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def values(self, entry: Entry, answer: Prediction) -> Values:
        match self.name:
            case "label" | "labels":
                return answer.labels
            case "top":
                return answer.top
            case "confidence":
                return confidence(entry, answer)
        return answer.outputs


def given(entry: Entry) -> tuple[Given, ...]:
    """Return the outputs that a model has. A model that only counts right answers has none in this protocol."""
    output = entry.plan.output
    if output.kind == "logits":
        scores = (Given("confidence", "FP64", output.shape),) if _tells_classes(entry) else ()
        return (Given("label", "INT64", ()), Given("output", "FP64", output.shape), *scores)
    if output.kind == "labels":
        return Given("labels", "INT64", ()), Given("top", "INT64", (output.top,))
    return ()


def _tells_classes(entry: Entry) -> bool:
    output = entry.plan.output
    return len(output.shape) == 1 and (bool(entry.classes) or output.final != "none")


def confidence(entry: Entry, answer: Prediction) -> npt.NDArray[np.float64]:
    """Return probabilities (n, classes): the softmax of the outputs, or the outputs if the model ends in a softmax."""
    outputs = answer.outputs
    if entry.plan.output.final == "softmax":
        return outputs
    powers = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    probabilities: npt.NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return probabilities


def chosen(entry: Entry, requested: tuple[RequestOutput, ...]) -> list[tuple[Given, RequestOutput]]:
    """Return the outputs that a request wants. Raises Problem if the model does not have one of them."""
    known = {one.name: one for one in given(entry)}
    if not requested:
        return [(one, RequestOutput(name=one.name)) for one in known.values()]
    for one in requested:
        if one.name not in known:
            raise refused(f"the model's outputs are {', '.join(known) or 'not for this protocol'}")
        if "shared_memory_region" in one.parameters:
            raise refused("shared memory is not filled: read the data from the body")
        _class_count(known[one.name], one)
    return [(known[one.name], one) for one in requested]


def made(
    entry: Entry, answer: Prediction, what: Given, how: RequestOutput, binary: bool
) -> tuple[ResponseOutput, bytes]:
    """Make one output: its part in the JSON, and its bytes that follow the JSON."""
    values, datatype = what.values(entry, answer), what.datatype
    count = _class_count(what, how)
    if count:
        values, datatype = _classification(entry, values, count), BYTES
    if not how.parameters.get("binary_data", binary):
        return ResponseOutput(name=what.name, shape=values.shape, datatype=datatype, data=values.ravel().tolist()), b""
    raw = pack(values)
    return ResponseOutput(
        name=what.name, shape=values.shape, datatype=datatype, parameters={"binary_data_size": len(raw)}
    ), raw


def _class_count(what: Given, how: RequestOutput) -> int:
    count = how.parameters.get("classification", 0)
    if type(count) is not int or count < 0:
        raise refused("classification is how many classes are wanted")
    if count and (what.datatype != "FP64" or len(what.shape) != 1):
        raise refused("only a score for each class can be classified: ask for output or confidence")
    return count


def _classification(entry: Entry, scores: npt.NDArray[Any], count: int) -> npt.NDArray[np.str_]:
    """Return the likeliest classes of each input as Triton writes them: value, index, and name if there is one."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    names = [f":{name}" for name in entry.classes] or [""] * scores.shape[1]
    rows = [[f"{row[i]:f}:{i}{names[i]}" for i in picked] for row, picked in zip(scores, order, strict=True)]
    return np.array(rows, dtype=np.str_)
