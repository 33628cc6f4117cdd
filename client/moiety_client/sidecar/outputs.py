"""The outputs that the sidecar offers of a model, and their values.

label         INT64, (n)             the likeliest class; named `labels` where the model gives out labels only
label_name    BYTES, (n)             its name, if the model names its classes
probability   FP64, (n, classes)     the probability of each class, if the outputs are probabilities or become so
output        FP64, (n, ...)         the outputs of a model that tells classes apart
value         FP64, (n) or (n, ...)  the outputs of a model that gives values
top           INT64, (n, k)          the k likeliest classes, if the model gives out labels only

A model of several outputs has these instead, FP64 (n, ...) each, by its own names.

Release 0.2 called `probability` `confidence`. A request may still ask for it by that name.
"""

from dataclasses import dataclass, replace
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
    is_part: bool = False

    def values(self, answer: Prediction) -> Values:
        if self.is_part:
            part: Values = answer.outputs[self.name]
            return part
        match self.name:
            case "label" | "labels":
                return answer.labels
            case "label_name":
                return np.array(answer.names, dtype=np.str_)
            case "top":
                return answer.top
            case "probability" | "confidence":
                return answer.probabilities
            case "value":
                return answer.values
        outputs: Values = answer.outputs
        return outputs


def given(entry: Entry) -> tuple[Given, ...]:
    """Return the outputs that a model has. A model that only counts right answers has none in this protocol."""
    output = entry.plan.output
    if output.parts:
        return tuple(Given(part.name, "FP64", part.shape, is_part=True) for part in output.parts)
    if output.kind == "count":
        return ()
    if output.task == "values":
        return (Given("value", "FP64", output.shape if output.size > 1 else ()),)
    names = (Given("label_name", BYTES, ()),) if entry.classes else ()
    if output.kind == "labels":
        return Given("labels", "INT64", ()), Given("top", "INT64", (output.top,)), *names
    label = Given("label", "INT64", ()), *names
    if output.kind == "decision":
        return label
    likely = (Given("probability", "FP64", (output.classes,)),) if output.has_probabilities else ()
    return *label, Given("output", "FP64", output.shape), *likely


def chosen(entry: Entry, requested: tuple[RequestOutput, ...]) -> list[tuple[Given, RequestOutput]]:
    """Return the outputs that a request wants. Raises Problem if the model does not have one of them."""
    offered = given(entry)
    if not requested:
        return [(one, RequestOutput(name=one.name)) for one in offered]
    older = [replace(one, name="confidence") for one in offered if one.name == "probability"]
    known = {one.name: one for one in (*offered, *older)}
    for one in requested:
        if one.name not in known:
            raise refused(
                f"the model does not have that output: ask for {', '.join(one.name for one in offered) or 'none'}"
            )
        if "shared_memory_region" in one.parameters:
            raise refused("shared memory is not supported: read the data from the body")
        _class_count(known[one.name], one)
    return [(known[one.name], one) for one in requested]


def made(
    entry: Entry, answer: Prediction, what: Given, how: RequestOutput, binary: bool
) -> tuple[ResponseOutput, bytes]:
    """Make one output: its part in the JSON, and its bytes that follow the JSON."""
    values, datatype = what.values(answer), what.datatype
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
        raise refused("classification must be the number of wanted classes")
    if count and (what.datatype != "FP64" or len(what.shape) != 1):
        raise refused("classification needs a score for each class: ask for it with output or probability")
    return count


def _classification(entry: Entry, scores: npt.NDArray[Any], count: int) -> npt.NDArray[np.str_]:
    """Return the likeliest classes of each input as Triton writes them: value, index, and name if there is one."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    names = [f":{name}" for name in entry.classes] or [""] * scores.shape[1]
    rows = [[f"{row[i]:f}:{i}{names[i]}" for i in picked] for row, picked in zip(scores, order, strict=True)]
    return np.array(rows, dtype=np.str_)
