"""What a model's outputs are for. The owner states it, or the graph shows it; the plan's `Output` tells clients."""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from moiety_server.compiler import ir
from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.origin import shown
from moiety_shared.plan.plan import Final, Output, Task, Unit

Reveal = Literal["logits", "labels", "decision", "count"]
_OF_CLASSES: tuple[Final, ...] = ("softmax", "log_softmax", "sigmoid", "ovr")
_ROUNDED = 1e-3  # of probabilities as half precision rounds them


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """The members of `plan.Output` that no weight decides. None leaves one to what the graph shows.

    Several outputs along one axis tell classes apart. One output tells two classes apart where the graph ends in a
    sigmoid, or where the owner states a unit or a threshold, or gives out labels. All else are values. `final` is the
    function with which the graph ends. The threshold is the middle: a logit or a score of 0, or a probability of 0.5.
    Of two outputs that stand for two classes, it is what a decision compares their difference with.
    """

    task: Task | None = None
    unit: Unit | None = None
    final: Final | None = None
    threshold: float | None = None

    def settled(self, graph: ir.Graph, reveal: Reveal, outputs: npt.NDArray[Any] | None = None) -> "Meaning":
        """Fill in what is left open, for what clients are to get. `outputs` (n, *shape) are the model's on calibration
        data, where there is any. Raises NotServable for statements that do not go together."""
        if graph.outputs:
            if (self.task or "values") != "values" or self.unit or self.final or self.threshold is not None:
                names = shown(", ".join(part.name for part in graph.outputs))
                raise NotServable(
                    f"the model: has several outputs, {names}, which are values. Instead: choose one with --output"
                )
            return Meaning(task="values", unit="logits", final="none", threshold=0.0)
        shape = next(node.shape for node in graph.nodes if node.name == graph.output)
        size, final = math.prod(shape), self.final or graph.final
        task = self.task or self._shown(shape, final, reveal)
        if task == "binary" and size != 1:
            raise NotServable(
                f"the model: has outputs of shape {shape}, and one output is what tells two classes apart. Instead: "
                "state --task classes or --task values"
            )
        if task == "values" and reveal != "logits":
            raise NotServable(
                f"the model: gives values, so there is nothing to reveal as {reveal}. Instead: state --task classes or "
                "--task binary if it tells classes apart, or --reveal logits"
            )
        if reveal == "decision" and not (task == "binary" or size == 2):
            raise NotServable(
                f"the model: has {size} outputs, and a decision is between two classes. Instead: state --reveal labels"
            )
        decided = task == "binary" or reveal == "decision"
        if self.threshold is not None and not decided:
            raise NotServable(
                "the model: a threshold is for a decision between two classes. Instead: state --reveal decision of two "
                "outputs, --task binary if the one output tells two classes apart, or no threshold"
            )
        if final in _OF_CLASSES and self.unit in ("scores", "probabilities"):
            raise NotServable(
                f"the model: ends in a {final}, so what it gives out are logits. Instead: state no other unit"
            )
        unit = self.unit or ("logits" if final != "none" or task == "values" else _unit(outputs, decided))
        middle = 0.5 if decided and unit == "probabilities" else 0.0
        return replace(
            self, task=task, unit=unit, final=final, threshold=middle if self.threshold is None else self.threshold
        )

    def _shown(self, shape: ir.Shape, final: Final, reveal: Reveal) -> Task:
        size = math.prod(shape)
        if size == 1:
            stated = self.unit is not None or self.threshold is not None or reveal != "logits"
            return "binary" if stated or final == "sigmoid" else "values"
        return "classes" if max(shape) == size else "values"

    def output(self, graph: ir.Graph, wire: str, shape: ir.Shape, scale: float) -> Output:
        """Describe the wire that gives all outputs. Needs a meaning in which nothing is left open."""
        members = {"task": self.task, "unit": self.unit, "final": self.final, "threshold": self.threshold}
        parts = {"parts": graph.outputs} if graph.outputs else {}
        return Output.model_validate({"wire": wire, "shape": shape, "scale": scale, **members, **parts})


def _unit(outputs: npt.NDArray[Any] | None, decided: bool) -> Unit:
    """Return the unit of outputs (n, *shape) of which nobody says it. They are logits, unless all lie in 0..1: then
    those of a row add up to 1 if they are probabilities.

    Raises NotServable where a threshold depends on it.
    """
    if outputs is None or not 0 <= outputs.min() <= outputs.max() <= 1:
        return "logits"
    if decided:
        raise NotServable(
            "the model: gives values between 0 and 1 for all calibration inputs, so a threshold may be of "
            "probabilities or of logits. Instead: state --unit probabilities, or --unit logits"
        )
    sums = outputs.reshape(len(outputs), -1).sum(axis=1)
    return "probabilities" if np.allclose(sums, 1, atol=_ROUNDED) else "scores"


def of_two(graph: ir.Graph, meaning: Meaning) -> tuple[ir.Graph, Meaning]:
    """Return the graph with one output in place of two that stand for two classes, and that output's meaning.

    The softmax of two logits is the sigmoid of their difference, so it is compared with the logit of the threshold. Of
    two probabilities, the second is compared with the threshold itself. Raises NotServable for outputs of another kind.
    """
    if meaning.unit == "scores" or meaning.final not in ("none", "softmax", "log_softmax"):
        what = "scores" if meaning.final == "none" else f"what a {meaning.final} takes"
        raise NotServable(
            f"the model: has two outputs, {what}, for which no threshold is known. Instead: give out one output, or "
            "state --reveal labels"
        )
    last = next(node for node in graph.nodes if node.name == graph.output)
    flat = ir.ReshapeNode(name="classes-flat", inputs=(last.name,), shape=(2,), origin=last.origin)
    first, second = (
        ir.SliceNode(
            name=f"classes-{at}", inputs=(flat.name,), shape=(1,), origin=last.origin, axis=0, start=at, stop=at + 1
        )
        for at in (0, 1)
    )
    if meaning.unit == "probabilities":
        return replace(graph, nodes=(*graph.nodes, flat, second), output=second.name), replace(meaning, task="binary")
    between = ir.AddNode(
        name="classes-difference", inputs=(second.name, first.name), shape=(1,), origin=last.origin, factors=(1, -1)
    )
    nodes = (*graph.nodes, flat, first, second, between)
    return replace(graph, nodes=nodes, output=between.name), replace(meaning, task="binary", final="sigmoid")


def on_unit(threshold: float, unit: Unit | None) -> float:
    """Return a threshold, as people state it, on the outputs' unit: for logits it is a probability, of which the logit
    is taken.

    Raises NotServable for a probability that is not between 0 and 1.
    """
    if unit == "scores":
        return threshold
    if not 0 < threshold < 1:
        raise NotServable(f"the threshold: is {threshold:g}. Instead: state a probability between 0 and 1")
    return threshold if unit == "probabilities" else math.log(threshold / (1 - threshold))
