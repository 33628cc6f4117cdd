"""Tree ensembles of every kind, drawn at random, as the attributes of a file."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper

from tests.compiler.tables import Array, Draws, node

MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ")


@dataclass
class Forest:
    """Trees over `width` features, with thresholds out of a few values, so that rows hit them exactly."""

    seed: int
    width: int = 3
    trees: int = 4
    depth: int = 3
    modes: tuple[str, ...] = ("BRANCH_LEQ",)
    values: Array = field(default_factory=lambda: np.array([-1.5, -0.1, 0.0, 0.3, 2.0], dtype=np.float32))
    tracks: bool = False
    nodes: list[tuple[int, int, int, str, float, int, int, int]] = field(default_factory=list)
    leaves: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.draws = Draws(self.seed)
        for tree in range(self.trees):
            self._grow(tree, 0, self.depth)

    def _grow(self, tree: int, at: int, depth: int) -> int:
        """Append a node and all below it. Returns the next free number."""
        if not depth or (at and self.draws.uniform(0, 1) < 0.2):
            self.nodes.append((tree, at, 0, "LEAF", 0.0, 0, 0, 0))
            self.leaves.append((tree, at))
            return at + 1
        mode, value = str(self.draws.one_of(self.modes)), float(self.draws.one_of(self.values))
        mine = len(self.nodes)
        feature, track = self.draws.one_of(range(self.width)), int(self.tracks and self.draws.uniform(0, 1) < 0.5)
        self.nodes.append((tree, at, feature, mode, value, 0, 0, track))
        false = self._grow(tree, at + 1, depth - 1)
        after = self._grow(tree, false, depth - 1)
        self.nodes[mine] = (tree, at, feature, mode, value, at + 1, false, track)
        return after

    def attributes(self) -> dict[str, Any]:
        trees, ids, features, modes, values, true, false, tracks = map(list, zip(*self.nodes, strict=True))
        return {
            "nodes_treeids": trees, "nodes_nodeids": ids, "nodes_featureids": features, "nodes_modes": modes,
            "nodes_values": values, "nodes_truenodeids": true, "nodes_falsenodeids": false,
            "nodes_missing_value_tracks_true": tracks, "nodes_hitrates": [1.0] * len(ids),
        }  # fmt: skip

    def _weights(self, kind: str, outputs: int, values: Array) -> dict[str, Any]:
        each = [(tree, at, i) for tree, at in self.leaves for i in range(outputs)]
        return {
            f"{kind}_treeids": [tree for tree, _, _ in each], f"{kind}_nodeids": [at for _, at, _ in each],
            f"{kind}_ids": [i for _, _, i in each], f"{kind}_weights": [float(v) for v in values.reshape(-1)],
        }  # fmt: skip

    def regressor(self, x: str = "x", outputs: int = 1, **more: Any) -> NodeProto:
        values = self.draws.normal(len(self.leaves), outputs).astype(np.float32)
        weights = self._weights("target", outputs, values)
        how = {"n_targets": outputs, "aggregate_function": "SUM", "post_transform": "NONE", **more}
        return node("TreeEnsembleRegressor", x, "y", **self.attributes(), **weights, **how)

    def classifier(
        self, classes: int, transform: str = "NONE", probabilities: bool = False, one: bool = False
    ) -> NodeProto:
        """Return a classifier. `one`: its two classes have one value."""
        outputs = 1 if one else classes
        values = self.draws.normal(len(self.leaves), outputs)
        if probabilities:
            values = np.exp(values) / np.exp(values).sum(axis=1, keepdims=True) / self.trees
        how = {"classlabels_int64s": [10 + i for i in range(classes)], "post_transform": transform}
        weights = self._weights("class", outputs, values.astype(np.float32))
        return node("TreeEnsembleClassifier", "x", "label p", **self.attributes(), **weights, **how)

    def ensemble(self, outputs: int = 1, aggregate: int = 1) -> NodeProto:
        """Return a TreeEnsemble, whose nodes and leaves are two lists."""
        branches = {key[:2]: i for i, key in enumerate(n for n in self.nodes if n[3] != "LEAF")}
        leaves = {key: i for i, key in enumerate(self.leaves)}
        rows = [n for n in self.nodes if n[3] != "LEAF"]
        codes = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ", "MEMBER"]
        children = [[((n[0], n[side])) for n in rows] for side in (5, 6)]
        places = [[branches.get(key, leaves.get(key, 0)) for key in side] for side in children]
        are_leaves = [[int(key in leaves) for key in side] for side in children]
        members = [v for n in rows if n[3] == "MEMBER" for v in (0.3, n[4], float("nan"))]
        how: dict[str, Any] = {"membership_values": _floats("m", members)} if members else {}
        return node(
            "TreeEnsemble", "x", "y", n_targets=outputs, aggregate_function=aggregate, post_transform=0,
            nodes_featureids=[n[2] for n in rows], nodes_splits=_floats("s", [n[4] for n in rows]),
            nodes_modes=helper.make_tensor("o", TensorProto.UINT8, [len(rows)], [codes.index(n[3]) for n in rows]),
            nodes_truenodeids=places[0], nodes_falsenodeids=places[1],
            nodes_trueleafs=are_leaves[0], nodes_falseleafs=are_leaves[1],
            nodes_missing_value_tracks_true=[n[7] for n in rows],
            leaf_targetids=[i % outputs for i in range(len(leaves))],
            leaf_weights=_floats("w", self.draws.normal(len(leaves)).tolist()),
            tree_roots=[branches[(tree, 0)] for tree in range(self.trees)], **how,
        )  # fmt: skip

    def rows(self, count: int = 60, missing: float = 0.0) -> Array:
        """Return rows (count, width) on and next to the thresholds, and elsewhere; some values are missing."""
        at = self.draws.one_of(self.values, count, self.width).astype(np.float32)
        ends = np.array([-np.inf, np.inf, 0], dtype=np.float32)
        beside = np.nextafter(at, self.draws.one_of(ends, *at.shape))
        x = np.where(self.draws.uniform(0, 1, *at.shape) < 0.7, beside, self.draws.uniform(-3, 3, *at.shape))
        return np.where(self.draws.uniform(0, 1, *at.shape) < missing, np.nan, x).astype(np.float32)


def _floats(name: str, values: list[float]) -> TensorProto:
    return helper.make_tensor(name, TensorProto.FLOAT, [len(values)], values)
