"""What the converters to ONNX get wrong, made right: scikit-learn's trees, and boosters that skl2onnx does not know.

skl2onnx leaves out where scikit-learn's trees send a missing value, and writes what ensembles of trees do with their
trees' answers as operators of their own. Here an ensemble is one operator whose leaves hold the result.
"""

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from moiety_server.compiler.ir import NotServable
from moiety_server.fitted import booster, libraries, parts

_CONVERTERS = {
    "xgboost": ("onnxmltools.convert.xgboost.operator_converters.XGBoost", "convert_xgboost"),
    "lightgbm": ("onnxmltools.convert.lightgbm.operator_converters.LightGbm", "convert_lightgbm"),
}
_LOSSES = {
    "HalfBinomialLoss": "LOGISTIC",
    "HalfMultinomialLoss": "SOFTMAX",
    "HalfPoissonLoss": "EXP",
    "HalfGammaLoss": "EXP",
}
_FORESTS = (
    "RandomForestClassifier", "RandomForestRegressor", "ExtraTreesClassifier", "ExtraTreesRegressor",
    "BaggingClassifier", "BaggingRegressor", "AdaBoostClassifier",
    "HistGradientBoostingClassifier", "HistGradientBoostingRegressor",
)  # fmt: skip
_TREES = ("DecisionTreeClassifier", "DecisionTreeRegressor", "ExtraTreeClassifier", "ExtraTreeRegressor")
Array = npt.NDArray[Any]
Convert = Callable[[Any, Any, Any], None]


def register(kind: type, skl2onnx: ModuleType) -> None:
    """Make a class of XGBoost's or LightGBM's known to skl2onnx, which knows those of scikit-learn alone."""
    library = kind.__module__.split(".")[0]
    is_classifier, is_regressor = "Classifier" in kind.__name__, "Regressor" in kind.__name__
    if library not in _CONVERTERS or not (is_classifier or is_regressor):
        return
    module, function = _CONVERTERS[library]
    shapes = importlib.import_module("skl2onnx.common.shape_calculator")
    choices = {"zipmap": [True, False, "columns"], "nocl": [True, False]} if is_classifier else {}
    if library == "lightgbm":
        choices |= {"split": None}
    skl2onnx.update_registered_converter(
        kind,
        f"{library}{kind.__name__}",
        shapes.calculate_linear_classifier_output_shapes
        if is_classifier
        else shapes.calculate_linear_regressor_output_shapes,
        getattr(importlib.import_module(module), function),
        options=choices,
    )


@contextmanager
def unnamed_features(model: Any) -> Iterator[None]:
    """Let XGBoost's models forget the names of their columns meanwhile: its converter reads none but f0, f1, ..."""
    boosters = [part if booster(part) else part.get_booster() for part in parts(model) if _is_xgboost(part)]
    names = [one.feature_names for one in boosters]
    try:
        for one in boosters:
            one.feature_names = None
        yield
    finally:
        for one, known in zip(boosters, names, strict=True):
            one.feature_names = known


def _is_xgboost(part: object) -> bool:
    return "xgboost" in libraries(part) and (bool(booster(part)) or hasattr(part, "get_booster"))


def of_trees() -> dict[type, Convert]:
    """Return a converter for each class of scikit-learn's trees and ensembles of them, as skl2onnx takes converters."""
    ensemble, tree = importlib.import_module("sklearn.ensemble"), importlib.import_module("sklearn.tree")
    kinds = [getattr(ensemble, name) for name in _FORESTS] + [getattr(tree, name) for name in _TREES]
    registration = importlib.import_module("skl2onnx.common._registration")
    names = importlib.import_module("skl2onnx._supported_operators").sklearn_operator_name_map

    def converter(kind: type) -> Convert:
        original = registration.get_converter(names[kind])

        def convert(scope: Any, operator: Any, container: Any) -> None:
            found = _ensemble(operator.raw_operator)
            if found is None:
                original(scope, operator, container)
            else:
                found.write(scope, operator, container)

        return convert

    return {kind: converter(kind) for kind in kinds}


# scikit-learn's trees


@dataclass(frozen=True)
class _Tree:
    """Nodes in arrays, (nodes,). `left` is where a value of up to the threshold goes, and a missing one if
    `missing_left`; a leaf has no `left` (less than 1). `values` is (nodes, outputs)."""

    features: Array
    thresholds: Array
    left: Array
    right: Array
    missing_left: Array
    values: Array

    @classmethod
    def of(cls, tree: Any, values: Array, features: Array | None = None) -> "_Tree":
        """Take a tree of scikit-learn's. `features` are the places of its columns among those of the ensemble."""
        inner = tree.children_left >= 0
        own = np.where(inner, tree.feature, 0)
        own = own if features is None else np.asarray(features)[own]
        return cls(own, tree.threshold, tree.children_left, tree.children_right, tree.missing_go_to_left, values)

    @classmethod
    def of_histogram(cls, nodes: Any, output: int, outputs: int) -> "_Tree":
        """Take a tree of histogram boosting, which adds to one of the outputs. Raises NotServable."""
        # A threshold may be a number of the rows. Both are rounded to float32 alike, so the number stays equal to it.
        rounded = nodes["num_threshold"].astype(np.float32).astype(np.float64)
        inner = nodes["is_leaf"] == 0
        if nodes["is_categorical"][inner].any():
            raise NotServable(
                "splits by categories (categorical_features), which files of ONNX do not have. Instead: encode them in "
                "front (OrdinalEncoder, OneHotEncoder), and train without categorical_features"
            )
        values = np.zeros((len(nodes), outputs))
        values[:, output] = nodes["value"]
        return cls(
            np.where(inner, nodes["feature_idx"], 0),
            rounded,
            np.where(inner, nodes["left"].astype(np.int64), -1),
            nodes["right"].astype(np.int64),
            nodes["missing_go_to_left"],
            values,
        )


@dataclass(frozen=True)
class _Ensemble:
    """Trees whose leaves' values are added up with `base` (outputs,). `transform` is what the file applies to the sums:
    NONE, LOGISTIC, SOFTMAX, or EXP. `classes` are a classifier's; each has an output, but of two the second alone may
    have one."""

    trees: Sequence[_Tree]
    base: Array
    transform: str = "NONE"
    classes: tuple[Any, ...] = ()

    def write(self, scope: Any, operator: Any, container: Any) -> None:
        """Write the ensemble as one node of a file. Raises NotServable."""
        data_types = importlib.import_module("skl2onnx.common.data_types")
        given = operator.inputs[0].full_name
        if not isinstance(operator.inputs[0].type, data_types.FloatTensorType):
            number = scope.get_unique_variable_name("numbers")
            container.add_node("Cast", given, number, to=1, name=scope.get_unique_operator_name("Cast"))
            given = number
        kind, prefix = ("Classifier", "class") if self.classes else ("Regressor", "target")
        how = {**self._nodes(), **self._leaves(prefix), "post_transform": self.transform}
        how |= {"base_values": self.base.astype(np.float32)} if self.base.any() else {}
        how |= _named(self.classes) if self.classes else {"n_targets": len(self.base)}
        results = [output.full_name for output in operator.outputs]
        if self.transform == "EXP":
            how["post_transform"], last = "NONE", results[0]
            results = [scope.get_unique_variable_name("logarithm")]
            container.add_node("Exp", results, last, name=scope.get_unique_operator_name("Exp"))
        container.add_node(
            f"TreeEnsemble{kind}",
            given,
            results,
            op_domain="ai.onnx.ml",
            op_version=3,
            name=scope.get_unique_operator_name(f"TreeEnsemble{kind}"),
            **how,
        )

    def _nodes(self) -> dict[str, Any]:
        trees = self.trees
        left = [np.maximum(tree.left, 0) for tree in trees]
        right = [np.where(tree.left > 0, tree.right, 0) for tree in trees]
        thresholds = [np.where(tree.left > 0, below(tree.thresholds), np.float32(0)) for tree in trees]
        missing = [np.where(tree.left > 0, tree.missing_left, 0) for tree in trees]
        return {
            "nodes_treeids": [number for number, tree in enumerate(trees) for _ in tree.left],
            "nodes_nodeids": [node for tree in trees for node in range(len(tree.left))],
            "nodes_modes": ["BRANCH_LEQ" if child > 0 else "LEAF" for tree in trees for child in tree.left],
            "nodes_featureids": _whole([tree.features for tree in trees]),
            "nodes_values": np.concatenate(thresholds),
            "nodes_truenodeids": _whole(left),
            "nodes_falsenodeids": _whole(right),
            "nodes_missing_value_tracks_true": _whole(missing),
        }

    def _leaves(self, prefix: str) -> dict[str, Any]:
        leaves = [(number, node) for number, tree in enumerate(self.trees) for node in np.flatnonzero(tree.left <= 0)]
        outputs = range(len(self.base))
        values = np.concatenate([tree.values[tree.left <= 0] for tree in self.trees])
        return {
            f"{prefix}_treeids": [number for number, _ in leaves for _ in outputs],
            f"{prefix}_nodeids": [int(node) for _, node in leaves for _ in outputs],
            f"{prefix}_ids": [output for _ in leaves for output in outputs],
            f"{prefix}_weights": values.reshape(-1).astype(np.float32),
        }


def below(thresholds: Array) -> Array:
    """Return the largest numbers of float32 that are not above the thresholds: a number of float32 is at most the one
    where it is at most the other."""
    with np.errstate(over="ignore"):
        nearest = thresholds.astype(np.float32)
    down = np.nextafter(nearest, np.float32(-np.inf))
    return np.where(nearest.astype(np.float64) > thresholds, down, nearest)


def _whole(arrays: Sequence[Array]) -> list[int]:
    return [int(number) for number in np.concatenate(arrays)]


def _named(classes: tuple[Any, ...]) -> dict[str, Any]:
    """Return the attribute that names a classifier's classes. Raises NotServable."""
    if all(isinstance(one, str) for one in classes):
        return {"classlabels_strings": list(map(str, classes))}
    if any(isinstance(one, str) or int(one) != one for one in classes):
        raise NotServable("has classes that are neither texts nor whole numbers")
    return {"classlabels_int64s": [int(one) for one in classes]}


def _ensemble(model: Any) -> _Ensemble | None:
    """Return a model's trees, or None if the model is no ensemble of trees, or its trees are not simply added up."""
    if hasattr(model, "_predictors"):
        return _boosted(model)
    if hasattr(model, "tree_"):
        return _averaged(model, [model])
    if hasattr(model, "estimator_weights_"):
        return _voting(model)
    return _averaged(model, model.estimators_) if all(hasattr(one, "tree_") for one in model.estimators_) else None


def _averaged(model: Any, estimators: Sequence[Any]) -> _Ensemble | None:
    """Return trees whose answers are averaged: probabilities of classes, or values."""
    places = getattr(model, "estimators_features_", [None] * len(estimators))
    if not hasattr(model, "classes_"):
        trees = [
            _Tree.of(one.tree_, one.tree_.value[:, :, 0] / len(estimators), features)
            for one, features in zip(estimators, places, strict=True)
        ]
        return _Ensemble(trees, np.zeros(trees[0].values.shape[1]))
    if any(one.tree_.value.shape[1] > 1 for one in estimators):
        return None  # a class of several kinds at once
    trees = []
    for one, features in zip(estimators, places, strict=True):
        counts = one.tree_.value[:, 0, :]
        values = np.zeros((len(counts), len(model.classes_)))
        # A bag's trees know their classes by the places that these have in the bag, and may lack some.
        known = one.classes_.astype(int) if hasattr(model, "estimators_features_") else slice(None)
        values[:, known] = counts / counts.sum(axis=1, keepdims=True) / len(estimators)
        trees.append(_Tree.of(one.tree_, values, features))
    return _Ensemble(trees, np.zeros(len(model.classes_)), classes=tuple(model.classes_.tolist()))


def _voting(model: Any) -> _Ensemble | None:
    """Return the trees of AdaBoost, each of which votes for the class that its leaf has most of."""
    estimators, classes = model.estimators_, model.classes_
    if not all(hasattr(one, "tree_") and np.array_equal(one.classes_, classes) for one in estimators):
        return None
    count, trees = len(classes), []
    weights = model.estimator_weights_[: len(estimators)]
    for one, weight in zip(estimators, weights / weights.sum(), strict=True):
        best = one.tree_.value[:, 0, :].argmax(axis=1)
        votes = np.where(best[:, None] == np.arange(count), 1.0, -1.0 / (count - 1))
        trees.append(_Tree.of(one.tree_, votes * weight / (count - 1)))
    return _Ensemble(trees, np.zeros(count), "SOFTMAX", tuple(classes.tolist()))


def _boosted(model: Any) -> _Ensemble | None:
    """Return the trees of histogram boosting, one of each round for each output."""
    classes = tuple(getattr(model, "classes_", np.array([])).tolist())
    base = np.asarray(model._baseline_prediction, dtype=np.float64).reshape(-1)
    trees = [
        _Tree.of_histogram(one.nodes, output, len(base))
        for of_round in model._predictors
        for output, one in enumerate(of_round)
    ]
    return _Ensemble(trees, base, _LOSSES.get(type(model._loss).__name__, "NONE"), classes)
