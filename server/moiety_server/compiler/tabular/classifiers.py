"""Linear classifiers and regressors, and support vector machines with a linear kernel."""

import numpy as np

from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.tabular.operator import Operator
from moiety_server.compiler.tabular.outcome import Outcome, mirrored, transformed
from moiety_server.compiler.tabular.sheet import Array
from moiety_shared.messages.table import Category
from moiety_shared.plan.plan import Unit


def labels(node: Operator, whole: str = "classlabels_ints") -> tuple[Category, ...]:
    """Return the classes that an operator names."""
    return tuple(node.texts("classlabels_strings") or node.get(whole) or ())


def linear_classifier(node: Operator) -> Outcome:
    matrix = _matrix(node, "coefficients", 0)
    bias = _biases(node, "intercepts", len(matrix))
    return _scored(node, matrix, bias, labels(node) or tuple(range(max(len(matrix), 2))))


def linear_regressor(node: Operator) -> Outcome:
    matrix = _matrix(node, "coefficients", node.get("targets", 1))
    value = node.through(matrix, _biases(node, "intercepts", len(matrix)))
    return Outcome(value, transformed(node.get("post_transform", "NONE")))


def _scored(node: Operator, weight: Array, bias: Array, classes: tuple[Category, ...]) -> Outcome:
    """Return what a classifier with these scores gives. Two classes have one output where that says as much as two."""
    final = transformed(node.get("post_transform", "NONE"))
    unit: Unit = "scores" if final == "none" else "logits"
    if len(classes) == 2 and final == "softmax":  # of -s and s, where the file has s alone
        logit, constant = (2 * weight, 2 * bias) if len(weight) == 1 else (weight[1:] - weight[:1], bias[1:] - bias[:1])
        return Outcome(node.through(logit, constant), "sigmoid", classes=classes, pair=True)
    if len(classes) == 2 and (len(weight) == 1 or mirrored(weight, bias)):
        return Outcome(node.through(weight[-1:], bias[-1:]), final, unit, classes=classes, pair=True)
    if len(weight) != len(classes):
        raise NotServable(f"has {len(weight)} scores for {len(classes)} classes")
    return Outcome(node.through(weight, bias), final, unit, classes=classes)


def _matrix(node: Operator, name: str, rows: int) -> Array:
    """Return an attribute as (rows, features). Without `rows` it has as many as there are."""
    values = np.array(node.get(name, []), dtype=np.float64)
    width = node.width
    if not values.size or values.size % width or (rows and values.size != rows * width):
        raise NotServable(f"has {values.size:,} weights for {width:,} features")
    return values.reshape(-1, width)


def _biases(node: Operator, name: str, count: int) -> Array:
    added = np.array(node.get(name) or [0.0], dtype=np.float64)
    if added.size not in (1, count):
        raise NotServable(f"has {added.size} constants for {count} outputs")
    return np.broadcast_to(added, (count,))


# Support vector machines. A sum of products with support vectors is one product with their weighted sum.


def svm_regressor(node: Operator) -> Outcome:
    if node.get("one_class", 0):
        raise NotServable("finds outliers. Instead: a classifier or a regressor")
    _linear_kernel(node)
    weight = _vector(node, "coefficients")
    if node.get("n_supports", 0):
        weight = weight @ _matrix(node, "support_vectors", len(weight))
    if len(weight) != node.width:
        raise NotServable(f"has {len(weight):,} weights for {node.width:,} features")
    value = node.through(weight[None], _vector(node, "rho")[:1])
    return Outcome(value, transformed(node.get("post_transform", "NONE")))


def svm_classifier(node: Operator) -> Outcome:
    """Translate a classifier of two classes, or one without support vectors.

    The file's score is positive where the first class has it, as in libsvm; the outcome's is where the second has it.
    """
    _linear_kernel(node)
    classes, rho = labels(node), _vector(node, "rho")
    if not any(node.get("vectors_per_class") or ()):
        matrix = _matrix(node, "coefficients", len(classes))
        return _scored(node, matrix, np.broadcast_to(rho[:1], (len(matrix),)), classes)
    if len(classes) != 2:
        raise NotServable(
            f"lets its {len(classes)} classes vote by pairs. Instead: LinearSVC, or a model of two classes"
        )
    if node.get("post_transform", "NONE") != "NONE":
        raise NotServable("applies a function to its scores. Instead: none (post_transform NONE)")
    coefficients = _vector(node, "coefficients")
    if coefficients.min() >= 0:
        raise NotServable("has no support vector of its second class: frameworks do not agree on its labels")
    weight = (coefficients @ _matrix(node, "support_vectors", len(coefficients)))[None]
    if not node.get("prob_a"):
        return Outcome(node.through(-weight, -rho[:1]), "none", "scores", classes=classes, pair=True, turned=True)
    a, b = float(_vector(node, "prob_a")[0]), float(_vector(node, "prob_b")[0])
    if a >= 0:
        raise NotServable("has probabilities that fall where its scores rise")
    return Outcome(node.through(a * weight, a * rho[:1] + b), "sigmoid", threshold=b, classes=classes, pair=True)


def _linear_kernel(node: Operator) -> None:
    kernel = node.get("kernel_type", "LINEAR")
    if kernel != "LINEAR":
        raise NotServable(f"has the kernel {kernel}. Instead: a linear kernel, trees, or a small network (MLP)")


def _vector(node: Operator, name: str) -> Array:
    return np.array(node.get(name) or [0.0], dtype=np.float64)
