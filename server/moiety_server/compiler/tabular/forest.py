"""Tree ensembles as nodes of the compiler's graph: count each leaf's conditions, look up which leaf has all, and add up
the values of the leaves that a row reaches."""

from dataclasses import replace

import numpy as np
import torch

from moiety_server.compiler import ir
from moiety_server.compiler.builder import Builder
from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.tabular import ensembles
from moiety_server.compiler.tabular.boxes import boxes, cut
from moiety_server.compiler.tabular.classifiers import labels
from moiety_server.compiler.tabular.ensembles import Ensemble
from moiety_server.compiler.tabular.operator import Operator
from moiety_server.compiler.tabular.outcome import Outcome, transformed
from moiety_server.compiler.tabular.sheet import Array
from moiety_shared.messages.table import Tabular

_CLOSE = 1e-3  # by which probabilities may miss a sum of 1: a hundred trees' values in float32 miss it by 1e-6


class Forests:
    """Writes ensembles into a graph. While the file is read for the first time there is no `table`, and so no matrix,
    but a wire of the right size. `producer` is who wrote the file, as the file says."""

    def __init__(self, builder: Builder, row: ir.Node, table: Tabular | None, producer: str) -> None:
        self._builder, self._row, self._table, self._producer = builder, row, table, producer

    def regressor(self, node: Operator) -> Outcome:
        outputs = int(node.get("n_targets", 1))
        if not 1 <= outputs <= 1 << 16:
            raise NotServable(f"has {outputs} targets")
        trees = ensembles.by_tree(node, "target", outputs, len(node.x))
        return Outcome(self._written(node, trees), transformed(node.get("post_transform", "NONE")))

    def ensemble(self, node: Operator) -> Outcome:
        names = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")
        transform = int(node.get("post_transform", 0))
        trees = ensembles.by_node(node, len(node.x))
        final = transformed(names[transform] if 0 <= transform < len(names) else str(transform))
        return Outcome(self._written(node, trees), final)

    def classifier(self, node: Operator) -> Outcome:
        """Two classes have one output: their values are told apart by a difference, which is 0 for both alike."""
        classes = labels(node, "classlabels_int64s")
        ids = sorted(set(node.get("class_ids") or ()))
        if len(classes) < 2 or not ids:
            raise NotServable("has less than two classes")
        final = transformed(node.get("post_transform", "NONE"))
        if len(classes) == 2 and len(ids) == 1:
            one = replace(node, attributes={**node.attributes, "class_ids": [0] * len(node.get("class_ids"))})
            trees = ensembles.by_tree(one, "class", 1, len(node.x))
            return self._of_one(node, trees, Outcome(self._row, final, classes=classes, pair=True))
        trees = ensembles.by_tree(node, "class", len(classes), len(node.x))
        if len(classes) == 2 and final == "softmax":
            return Outcome(self._written(node, _difference(trees, 1.0)), "sigmoid", classes=classes, pair=True)
        if final != "none":
            return Outcome(self._written(node, trees), final, classes=classes)
        if not _are_probabilities(trees):
            return Outcome(self._written(node, trees), "none", "scores", classes=classes)
        if len(classes) == 2:
            half = replace(_difference(trees, 0.5), base=np.array([0.5]) + _difference(trees, 0.5).base)
            of = self._written(node, half)
            return Outcome(of, "none", "probabilities", 0.5, classes, pair=True)
        return Outcome(self._written(node, trees), "none", "probabilities", classes=classes)

    def _of_one(self, node: Operator, trees: Ensemble, outcome: Outcome) -> Outcome:
        """Return the outcome of two classes for which the file has one value: the second one's."""
        if outcome.final == "softmax":  # of -s and s
            trees = replace(trees, values=2 * trees.values, base=2 * trees.base)
        if outcome.final != "none":
            return replace(outcome, value=self._written(node, trees), final="sigmoid")
        if trees.values.min() < 0:
            raise NotServable(
                "has two classes, one score, and no function: frameworks do not agree on what is above its threshold. "
                "Instead: export it with the function LOGISTIC"
            )
        # Each tree says how far it is from one half, so that as many votes for as against add up to nothing.
        half = replace(trees, values=trees.values - 0.5 / len(trees.roots), base=trees.base + 0.5)
        return replace(outcome, value=self._written(node, half), unit="probabilities", threshold=0.5)

    def _written(self, node: Operator, trees: Ensemble) -> ir.Node:
        builder, features = self._builder, node.features()
        gaps = any(np.isnan(features.each[place].points).any() for place in np.unique(trees.features))
        if gaps and self._producer == "skl2onnx" and not trees.missing_holds.any():
            raise NotServable(
                "is written by skl2onnx, which leaves out where scikit-learn's trees send a missing value. Instead: "
                "moiety_server.sklearn.convert(model, frame).save('model.onnx'), and publish that file"
            )
        if self._table is None:
            cut(trees, features, node.sheet)
            return builder.linear(self._row, torch.zeros(len(trees.base), self._row.shape[0]))
        found = boxes(trees, features, node.sheet, self._table)
        counts = builder.linear(self._row, _tensor(found.conditions), _tensor(found.bias))
        hit = builder.look_up(counts, (1, *[0] * (2**found.bits - 1)), found.bits)
        bounds = float(found.low.min()), float(found.high.max())
        return builder.linear(hit, _tensor(found.values.T), _tensor(trees.base), bounds)


def _difference(trees: Ensemble, factor: float) -> Ensemble:
    """Return the second output minus the first one, times a factor. Rounding leaves equal values equal."""
    both = np.array([[-factor], [factor]])
    return replace(trees, values=trees.values @ both, base=trees.base @ both)


def _are_probabilities(trees: Ensemble) -> bool:
    """Whether the outputs of every row are at least 0 and add up to 1: whether each tree's leaves say so."""
    if trees.values.min() < 0 or trees.base.min() < 0:
        return False
    sums = trees.values.sum(axis=1)
    return bool(np.isclose(sums, sums[0], atol=_CLOSE * max(sums[0], 1e-9)).all()) and bool(
        np.isclose(sums[0] * len(trees.roots) + trees.base.sum(), 1, atol=_CLOSE)
    )


def _tensor(values: Array) -> torch.Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float32))
