"""Tree ensembles as a file holds them, checked and brought to one form.

Every array of a file may be wrong, and no later step checks again. A node is reached once, from the root of its tree;
so a walk ends, and its time is in proportion to the file.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.tabular.operator import Operator
from moiety_server.compiler.tabular.sheet import Array

LEQ, LT, GTE, GT, EQ, NEQ, MEMBER = range(7)
_MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ")
_MOST_NODES = 1 << 20  # far more leaves than can be served, whatever their columns
_MOST_VALUES = 1 << 26  # of all leaves together


@dataclass(frozen=True)
class Ensemble:
    """Trees that split one feature at each node.

    `children` (nodes, 2) are the nodes to go to where the comparison holds, and where not; -1 - i is leaf i. `roots`
    are such numbers too. `values` is (leaves, outputs). Their sum over all trees plus `base` (outputs,) is the result.
    """

    features: Array
    modes: Array
    thresholds: Array
    members: dict[int, Array]
    missing_holds: Array
    children: Array
    roots: Array
    values: Array
    base: Array

    def holds(self, node: int, values: Array) -> Array:
        """Whether the node's comparison holds for values of its feature. NaN is a missing value."""
        mode = int(self.modes[node])
        found = compare(mode, values, self.members[node] if mode == MEMBER else self.thresholds[node])
        return np.where(np.isnan(values), bool(self.missing_holds[node]), found)


def compare(mode: int, values: Array, threshold: Any) -> Array:
    found: Array
    match mode:
        case 0:
            found = values <= threshold
        case 1:
            found = values < threshold
        case 2:
            found = values >= threshold
        case 3:
            found = values > threshold
        case 4:
            found = values == threshold
        case 5:
            found = values != threshold
        case _:
            found = np.isin(values, threshold)
    return found


def by_tree(node: Operator, kind: str, outputs: int, width: int) -> Ensemble:
    """Read TreeEnsembleClassifier or TreeEnsembleRegressor, whose leaves' values are called by this `kind`."""
    trees, ids = _whole(node, "nodes_treeids"), _whole(node, "nodes_nodeids")
    count = len(trees)
    _bounded(count)
    modes = np.array(node.texts("nodes_modes"))
    places = {key: place for place, key in enumerate(zip(trees.tolist(), ids.tolist(), strict=False))}
    if len(places) != count or len(modes) != count:
        raise NotServable("has two nodes of one name, or nodes without a part")
    is_leaf = modes == "LEAF"
    codes = np.zeros(count, dtype=np.int64)
    for code, mode in enumerate(_MODES):
        codes[modes == mode] = code
    if not (is_leaf | np.isin(modes, _MODES)).all():
        raise NotServable("has nodes of an unknown kind")
    branches, leaves = np.flatnonzero(~is_leaf), np.flatnonzero(is_leaf)
    number = np.zeros(count, dtype=np.int64)
    number[branches], number[leaves] = np.arange(len(branches)), -1 - np.arange(len(leaves))
    children = np.zeros((len(branches), 2), dtype=np.int64)
    for side, name in enumerate(("nodes_truenodeids", "nodes_falsenodeids")):
        wanted = _as_many(_whole(node, name), count, name)[branches]
        found = [places.get(key, -1) for key in zip(trees[branches].tolist(), wanted.tolist(), strict=True)]
        if -1 in found:
            raise NotServable("has a node whose child does not exist")
        children[:, side] = number[found]
    first = np.unique(trees, return_index=True)[1]
    track = _whole(node, "nodes_missing_value_tracks_true")
    values = _weights(node, kind, places, number, len(leaves), outputs)
    average = node.get("aggregate_function", "SUM")
    return _checked(
        Ensemble(
            features=_as_many(_whole(node, "nodes_featureids"), count, "nodes_featureids")[branches],
            modes=codes[branches],
            thresholds=_as_many(_floats(node, "nodes_values"), count, "nodes_values")[branches],
            members={},
            missing_holds=(_as_many(track, count, "missing values") if len(track) else np.zeros(count))[branches] != 0,
            children=children,
            roots=number[first],
            values=values / _divisor(average, len(first)),
            base=_base(node, outputs),
        ),
        width,
    )


def _weights(
    node: Operator, kind: str, places: dict[tuple[int, int], int], number: Array, leaves: int, outputs: int
) -> Array:
    """Return the values of each leaf (leaves, outputs). A leaf without any has zeros."""
    keys = zip(_whole(node, f"{kind}_treeids").tolist(), _whole(node, f"{kind}_nodeids").tolist(), strict=False)
    at = np.array([places.get(key, -1) for key in keys], dtype=np.int64)
    columns, weights = _whole(node, f"{kind}_ids"), _floats(node, f"{kind}_weights")
    if not len(at) == len(columns) == len(weights):
        raise NotServable("has leaves without a value, or values without a leaf")
    if leaves * outputs > _MOST_VALUES:
        raise NotServable(f"has {leaves:,} leaves of {outputs:,} values, more than are served")
    values = np.zeros((leaves, outputs))
    if len(at):
        if at.min() < 0 or number[at].max() >= 0 or columns.min() < 0 or columns.max() >= outputs:
            raise NotServable("has values of a leaf or of an output that does not exist")
        np.add.at(values, (-1 - number[at], columns), weights)
    return values


def by_node(node: Operator, width: int) -> Ensemble:
    """Read TreeEnsemble, whose trees are one list of nodes and one of leaves."""
    features = _whole(node, "nodes_featureids")
    count = len(features)
    _bounded(count)
    targets, weights = _whole(node, "leaf_targetids"), _floats(node, "leaf_weights")
    outputs = int(node.get("n_targets", 1))
    if not 1 <= outputs <= 1 << 16 or len(targets) * outputs > _MOST_VALUES:
        raise NotServable(f"has {len(targets):,} leaves of {outputs:,} values, more than are served")
    if len(targets) != len(weights) or not len(targets) or targets.min() < 0 or targets.max() >= outputs:
        raise NotServable("has values of an output that does not exist")
    modes = _as_many(_floats(node, "nodes_modes").astype(np.int64), count, "nodes_modes")
    children = np.zeros((count, 2), dtype=np.int64)
    for side, name in enumerate(("true", "false")):
        to = _as_many(_whole(node, f"nodes_{name}nodeids"), count, "children")
        is_leaf = _as_many(_whole(node, f"nodes_{name}leafs"), count, "children") != 0
        if to.min() < 0 or (to >= np.where(is_leaf, len(targets), count)).any():
            raise NotServable("has a node whose child does not exist")
        children[:, side] = np.where(is_leaf, -1 - to, to)
    if modes.min() < LEQ or modes.max() > MEMBER:
        raise NotServable("has nodes of an unknown kind")
    track = _whole(node, "nodes_missing_value_tracks_true")
    roots = _whole(node, "tree_roots")
    if not len(roots) or roots.min() < 0 or roots.max() >= count:
        raise NotServable("has a tree whose root does not exist")
    alone = (children[roots, 0] == children[roots, 1]) & (children[roots, 0] < 0)
    values = np.zeros((len(targets), outputs))
    values[np.arange(len(targets)), targets] = weights
    aggregate = {0: "AVERAGE", 1: "SUM"}.get(int(node.get("aggregate_function", 1)), "another function")
    return _checked(
        Ensemble(
            features=features,
            modes=modes,
            thresholds=_as_many(_floats(node, "nodes_splits"), count, "nodes_splits"),
            members=_members(node, modes),
            missing_holds=(_as_many(track, count, "missing values") if len(track) else np.zeros(count)) != 0,
            children=children,
            roots=np.where(alone, children[roots, 0], roots),
            values=values / _divisor(aggregate, len(roots)),
            base=np.zeros(outputs),
        ),
        width,
    )


def _members(node: Operator, modes: Array) -> dict[int, Array]:
    """Return the set of values of each node that has one. In the file each set ends with NaN."""
    nodes = np.flatnonzero(modes == MEMBER)
    if not len(nodes):
        return {}
    values = _floats(node, "membership_values")
    ends = np.flatnonzero(np.isnan(values))
    if len(ends) != len(nodes) or ends[-1] != len(values) - 1:
        raise NotServable("has not one set of values for each node that compares with a set")
    sets = np.split(values, ends[:-1] + 1)
    return {int(at): of[:-1] for at, of in zip(nodes, sets, strict=True)}


def _checked(trees: Ensemble, width: int) -> Ensemble:
    """Refuse trees that no walk could follow, and numbers that no comparison could use."""
    if len(trees.features) and not 0 <= trees.features.min() <= trees.features.max() < width:
        raise NotServable(f"splits a column that is none of the {width}")
    if np.isnan(trees.thresholds[trees.modes != MEMBER]).any():
        raise NotServable("has a threshold that is NaN")
    if not np.isfinite(trees.values).all() or not np.isfinite(trees.base).all():
        raise NotServable("has values that are NaN or infinite")
    reached = np.concatenate([trees.children.reshape(-1), trees.roots])
    nodes, leaves = reached[reached >= 0], -1 - reached[reached < 0]
    if len(np.unique(nodes)) < len(nodes) or len(np.unique(leaves)) < len(leaves):
        raise NotServable("is no tree: one of its nodes is reached from two others")
    seen, level = 0, trees.roots[trees.roots >= 0]
    while len(level):
        seen += len(level)
        below = trees.children[level].reshape(-1)
        level = below[below >= 0]
    if seen < len(trees.features):
        raise NotServable("has nodes that no tree reaches")
    return trees


def _bounded(count: int) -> None:
    if not 1 <= count <= _MOST_NODES:
        raise NotServable(f"has {count:,} nodes, where 1 to {_MOST_NODES:,} are read. Instead: fewer or smaller trees")


def _divisor(aggregate: str, trees: int) -> int:
    if aggregate not in ("SUM", "AVERAGE"):
        raise NotServable(f"takes the {aggregate} of its trees. Instead: their sum or average")
    return trees if aggregate == "AVERAGE" else 1


def _base(node: Operator, outputs: int) -> Array:
    base = _floats(node, "base_values")
    if len(base) == 2 and outputs == 1:
        base = base[1:]  # of two classes told apart by one output, the file counts the second one's
    if len(base) not in (0, 1, outputs):
        raise NotServable(f"has {len(base)} base values for {outputs} outputs")
    return np.broadcast_to(base if len(base) else np.zeros(1), (outputs,))


def _whole(node: Operator, name: str) -> Array:
    return np.array(node.get(name) if node.get(name) is not None else [], dtype=np.int64).reshape(-1)


def _floats(node: Operator, name: str) -> Array:
    """Return an attribute of floats, which is a tensor where the file has float64. It keeps its precision."""
    value = node.get(f"{name}_as_tensor", node.get(name))
    if isinstance(value, Tensor):
        return value.reshape(-1).numpy()
    return np.array(value if value is not None else [], dtype=np.float32)


def _as_many(values: Array, count: int, name: str) -> Array:
    if len(values) != count:
        raise NotServable(f"has {len(values):,} {name} for {count:,} nodes")
    return values
