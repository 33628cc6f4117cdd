"""The operators that prepare a table's columns, and linear models: compared with onnx's own evaluator."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import NodeProto

from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.tabular.reading import TabularModel, read_tabular
from moiety_shared.messages.table import Column
from tests.compiler.tables import (
    FLOAT,
    INT64,
    STRING,
    Array,
    Draws,
    answers,
    encode,
    evaluated,
    labels,
    node,
    numbers,
    plain,
    quick,
    save,
    seeds,
)  # fmt: skip

ABC = numbers("a", "b", "c")
REGRESSOR = node("LinearRegressor", "z", "y", coefficients=[1.5, -2.0, 0.25], intercepts=[0.5])
THREE = np.array([2, -0.5, 4], dtype=np.float32)


def drawn(seed: int, rows: int = 20, width: int = 3) -> Array:
    return Draws(seed).uniform(-4, 4, rows, width).astype(np.float32)


def floats(seed: int, count: int) -> list[float]:
    return [float(v) for v in Draws(seed).normal(count).round(3)]


def check(path: Path, rows: Array, columns: Sequence[Column] = ABC, output: int = -1) -> TabularModel:
    """Compare the model that was read with the file."""
    model = read_tabular(path, columns)
    expected = evaluated(path, {"x": rows})[output]
    got = answers(model, list(rows.T))
    np.testing.assert_allclose(got, expected.reshape(len(rows), -1), rtol=1e-4, atol=1e-4)
    return model


PREPARED: dict[str, tuple[list[NodeProto], dict[str, Any]]] = {
    "Scaler": ([node("Scaler", "x", "z", offset=[1.0, 2.0, -1.0], scale=[0.5, 3.0, -2.0])], {}),
    "Scaler by one": ([node("Scaler", "x", "z", offset=[1.0], scale=[0.5])], {}),
    "Binarizer": ([node("Binarizer", "x", "z", threshold=0.75)], {}),
    "Binarizer behind": (
        [node("Scaler", "x", "s", offset=[0.1] * 3, scale=[-0.5, 3, 2]), node("Binarizer", "s", "z", threshold=0.3)],
        {},
    ),
    "Add": ([plain("Add", "x k", "z")], {"k": THREE}),
    "Add in front": ([plain("Add", "k x", "z")], {"k": THREE[None]}),
    "Sub": ([plain("Sub", "x k", "z")], {"k": THREE}),
    "Sub from": ([plain("Sub", "k x", "z")], {"k": THREE[:1]}),
    "Mul": ([plain("Mul", "x k", "z")], {"k": THREE}),
    "Div": ([plain("Div", "x k", "z")], {"k": THREE}),
    "Neg": ([plain("Neg", "x", "z")], {}),
    "columns added": ([plain("Neg", "x", "n"), plain("Mul", "x k", "m"), plain("Add", "n m", "z")], {"k": THREE}),
    "columns subtracted": ([plain("Mul", "x k", "m"), plain("Sub", "x m", "z")], {"k": THREE}),
    "ArrayFeatureExtractor": ([node("ArrayFeatureExtractor", "x i", "z")], {"i": np.array([2, 0, 2])}),
    "Gather": ([plain("Gather", "x i", "z", axis=1)], {"i": np.array([-1, 0, 1])}),
    "Concat": (
        [node("ArrayFeatureExtractor", "x i", "s"), node("ArrayFeatureExtractor", "x j", "t"),
         plain("Concat", "t s", "z", axis=1)],
        {"i": np.array([0]), "j": np.array([2, 1])},
    ),
    "Split": (
        [plain("Split", "x s", "p q", axis=1), plain("Concat", "q p", "z", axis=-1)],
        {"s": np.array([1, 2])},
    ),
    "Slice": (
        [plain("Slice", "x b e a", "s"), plain("Concat", "s x", "t", axis=1), plain("Gather", "t i", "z", axis=1)],
        {"b": np.array([1]), "e": np.array([3]), "a": np.array([1]), "i": np.array([0, 1, 4])},
    ),
    "FeatureVectorizer": (
        [node("ArrayFeatureExtractor", "x i", "s"), node("FeatureVectorizer", "s x", "t", inputdimensions=[1, 3]),
         node("ArrayFeatureExtractor", "t j", "z")],
        {"i": np.array([1]), "j": np.array([0, 1, 3])},
    ),
    "MatMul": ([plain("MatMul", "x w", "z")], {"w": np.arange(9, dtype=np.float32).reshape(3, 3)}),
    "Gemm": (
        [plain("Gemm", "x w k", "z", alpha=0.5, beta=2.0)],
        {"w": np.arange(9, dtype=np.float32).reshape(3, 3), "k": THREE},
    ),
    "Gemm transposed": (
        [plain("Gemm", "x w", "z", transB=1)],
        {"w": np.arange(9, dtype=np.float32).reshape(3, 3)},
    ),
    "Cast": ([plain("Cast", "x", "d", to=11), plain("Cast", "d", "z", to=1)], {}),
    "Identity": ([plain("Identity", "x", "i"), plain("Reshape", "i s", "z")], {"s": np.array([-1, 3])}),
}  # fmt: skip


@quick(25)
@pytest.mark.parametrize("name", PREPARED)
@given(seed=seeds)
def test_what_prepares_columns_goes_into_one_matrix(tmp_path: Path, name: str, seed: int) -> None:
    nodes, constants = PREPARED[name]
    model = check(save(tmp_path, [*nodes, REGRESSOR], constants=constants), drawn(seed))
    assert [type(one).__name__ for one in model.graph.nodes] == ["InputNode", "LinearNode"]
    assert (model.task, model.final, model.low) == ("values", "none", 0.0 if "Binarizer" in name else -1.0)


@quick(25)
@given(seed=seeds, outputs=st.integers(1, 3))
def test_linear_regressors(tmp_path: Path, seed: int, outputs: int) -> None:
    how = {"coefficients": floats(seed, 3 * outputs), "intercepts": floats(seed + 1, outputs), "targets": outputs}
    model = check(save(tmp_path, [node("LinearRegressor", "x", "y", **how)]), drawn(seed))
    assert model.task == "values" and model.graph.nodes[-1].shape == (outputs,)


def test_an_exponential_of_a_regression_is_the_clients(tmp_path: Path) -> None:
    regressor = node("LinearRegressor", "x", "z", coefficients=[0.5, -0.25, 0.25], intercepts=[0.5])
    model = check(save(tmp_path, [regressor, plain("Exp", "z", "y")]), drawn(1))
    assert (model.task, model.final) == ("values", "exp") and len(model.graph.nodes) == 2


@quick(25)
@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX"])
@pytest.mark.parametrize("shape", ["one", "mirrored", "two", "three"])
@given(seed=seeds, texts=st.booleans(), normalised=st.booleans())
def test_linear_classifiers(
    tmp_path: Path, seed: int, transform: str, shape: str, texts: bool, normalised: bool
) -> None:
    rows = {"one": 1, "mirrored": 2, "two": 2, "three": 3}[shape]
    weights, biases = np.array(floats(seed, 3 * rows)).reshape(rows, 3), np.array(floats(seed + 1, rows))
    if shape == "mirrored":
        weights[0], biases[0] = -weights[1], -biases[1]
    classes: list[Any] = ["no", "yes", "maybe"][: max(rows, 2)] if texts else [3, 7, 5][: max(rows, 2)]
    how = {"coefficients": weights.reshape(-1).tolist(), "intercepts": biases.tolist(), "post_transform": transform}
    how["classlabels_strings" if texts else "classlabels_ints"] = classes
    nodes = [node("LinearClassifier", "x", "label p", **how)]
    divided = normalised and transform != "NONE"
    if divided:
        nodes.append(node("Normalizer", "p", "q", norm="L1"))
    path, x = save(tmp_path, nodes, ("label", "q" if divided else "p")), drawn(seed)
    model = check(path, x)
    assert model.classes == tuple(classes)
    assert (model.task == "binary") == (shape in ("one", "mirrored") or (shape == "two" and transform == "SOFTMAX"))
    wires = model.graph.run(encode(model.table, list(x.T)).float())
    assert labels(model, wires[model.graph.output].numpy()) == evaluated(path, {"x": x})[0].tolist()


@quick(25)
@given(seed=seeds, missing=st.floats(0, 1))
def test_imputers(tmp_path: Path, seed: int, missing: float) -> None:
    """A missing value is one flag; what stands in for it is secret, and so is what scales it."""
    x = drawn(seed)
    x[Draws(seed).uniform(0, 1, *x.shape) < missing] = np.nan
    how = {"imputed_value_floats": [0.5, -1.0, 3.0], "replaced_value_float": float("nan")}
    nodes = [
        node("Scaler", "x", "s", offset=[1.0, 2.0, -1.0], scale=[0.5, 3.0, -2.0]),
        node("Imputer", "s", "i", **how),
        node("Scaler", "i", "z", offset=[0.5, 0.0, 1.0], scale=[2.0, 1.5, -1.0]),
        REGRESSOR,
    ]
    model = check(save(tmp_path, nodes), x, numbers("a", "b", "c", missing="flag"))
    assert model.table.size == 6


def test_a_missing_value_that_nothing_fills_is_refused_by_its_column(tmp_path: Path) -> None:
    path = save(tmp_path, [plain("Identity", "x", "z"), REGRESSOR])
    with pytest.raises(NotServable, match=r"LinearRegressor.*missing value of the column b.*SimpleImputer"):
        read_tabular(path, [*numbers("a"), *numbers("b", missing="flag"), *numbers("c")])


def test_an_input_for_each_column_is_found_by_its_name(tmp_path: Path) -> None:
    inputs = {"job": (STRING, 1), "age": (INT64, 1), "income": (FLOAT, 1), "kids": (INT64, 1)}
    nodes = [
        plain("Cast", "age", "f", to=1),
        plain("Concat", "f income", "n", axis=1),
        node("Scaler", "n", "s", offset=[40.0, 1000.0], scale=[0.1, 0.001]),
        node("OneHotEncoder", "job", "j", cats_strings=["clerk", "nurse"], zeros=1),
        node("OneHotEncoder", "kids", "k", cats_int64s=[0, 1, 2], zeros=0),
        plain("Concat", "j k", "h", axis=-1),
        plain("Reshape", "h shape", "o"),
        plain("Concat", "s o", "z", axis=1),
        node("LinearRegressor", "z", "y", coefficients=floats(3, 7), intercepts=[0.5]),
    ]
    path = save(tmp_path, nodes, inputs=inputs, constants={"shape": np.array([-1, 5])})
    declared = [
        *numbers("income", low=0, high=5000),
        *numbers("age", low=18, high=99),
        Column(name="unused", kind="number", low=0, high=1),
        Column(name="kids", kind="number", low=0, high=9),
        Column(name="job", kind="category", categories=("whatever",)),
    ]
    model = read_tabular(path, declared)
    told = [(column.name, column.kind, column.categories, column.unknown) for column in model.table.columns]
    assert told == [
        ("job", "category", ("clerk", "nurse"), "zeros"),
        ("age", "number", (), "refuse"),
        ("income", "number", (), "refuse"),
        ("kids", "category", (0, 1, 2), "refuse"),
    ]
    rows = {
        "job": np.array([["clerk"], ["nurse"], ["king"]]),
        "age": np.array([[20], [40], [99]]),
        "income": np.array([[0], [2500.5], [5000]], dtype=np.float32),
        "kids": np.array([[2], [0], [1]]),
    }
    got = answers(model, [rows[column.name][:, 0] for column in model.table.columns])
    np.testing.assert_allclose(got, evaluated(path, rows)[0], rtol=1e-4)


@pytest.mark.parametrize(
    "how",
    [
        {"keys_strings": ["a", "b"], "values_floats": [0.5, 4.0], "default_float": -3.0},
        {"keys_strings": ["a", "b"], "values_int64s": [7, 2], "default_int64": 5},
        {"keys_strings": ["b", "a", "d"], "values_int64s": [7, 2, 1]},
    ],
)
def test_label_encoders(tmp_path: Path, how: dict[str, Any]) -> None:
    nodes = [
        node("LabelEncoder", "x", "e", **how),
        plain("Cast", "e", "z", to=1),
        node("LinearRegressor", "z", "y", coefficients=[1.5], intercepts=[0.5]),
    ]
    path = save(tmp_path, nodes, inputs={"x": (STRING, 1)})
    model = read_tabular(path, [Column(name="x", kind="category", categories=("a",))])
    texts = np.array([["a"], ["b"], ["c"]])
    np.testing.assert_allclose(answers(model, [texts[:, 0]]), evaluated(path, {"x": texts})[0], rtol=1e-5)


def test_a_network_behind_a_scaler_has_it_in_its_first_matrix(tmp_path: Path) -> None:
    """As scikit-learn's MLPClassifier is exported: probabilities of both classes, and the label from a list."""
    nodes = [
        node("Scaler", "x", "s", offset=[1.0, 2.0, -1.0], scale=[0.5, 3.0, -2.0]),
        plain("MatMul", "s w", "m"), plain("Add", "m b", "a"), plain("Relu", "a", "r"),
        plain("MatMul", "r v", "n"), plain("Add", "n c", "o"), plain("Sigmoid", "o", "p"),
        plain("Sub", "one p", "q"), plain("Concat", "q p", "both", axis=1),
        plain("ArgMax", "both", "at", axis=1), node("ArrayFeatureExtractor", "classes at", "l"),
        plain("Cast", "l", "label", to=7),
    ]  # fmt: skip
    draws = Draws(4)
    constants = {"w": draws.normal(3, 5), "b": draws.normal(1, 5), "one": np.array(1.0)}
    constants |= {"v": draws.normal(5, 1), "c": draws.normal(1, 1)}
    made = {name: value.astype(np.float32) for name, value in constants.items()} | {"classes": np.array([4, 9])}
    path = save(tmp_path, nodes, ("label", "both"), constants=made)
    model = check(path, drawn(4))
    kinds = [type(one).__name__ for one in model.graph.nodes]
    assert kinds == ["InputNode", "LinearNode", "ClampNode", "LinearNode"]
    assert (model.task, model.final, model.classes) == ("binary", "sigmoid", (4, 9))


def signed(seed: int, count: int) -> list[float]:
    """Coefficients of both signs, as the support vectors of two classes have."""
    return [-0.5, *floats(seed, count - 1)]


@quick(25)
@given(seed=seeds, probabilities=st.booleans())
def test_linear_support_vector_machines(tmp_path: Path, seed: int, probabilities: bool) -> None:
    vectors, x = 6, drawn(seed)
    how: dict[str, Any] = {
        "kernel_type": "LINEAR",
        "support_vectors": floats(seed, 3 * vectors),
        "rho": floats(seed + 2, 1),
        "kernel_params": [1.0, 0.0, 3.0],
    }
    regressor = node("SVMRegressor", "x", "y", coefficients=floats(seed + 1, vectors), n_supports=vectors, **how)
    check(save(tmp_path, [regressor]), x)
    if probabilities:
        how |= {"prob_a": [-1.5], "prob_b": [0.25]}
    how |= {"vectors_per_class": [2, 4], "classlabels_ints": [3, 5], "coefficients": signed(seed + 1, vectors)}
    path = save(tmp_path, [node("SVMClassifier", "x", "label p", **how)], ("label", "p"))
    model, (expected, scores) = read_tabular(path, ABC), evaluated(path, {"x": x})
    wires = model.graph.run(encode(model.table, list(x.T)).float())
    assert labels(model, wires[model.graph.output].numpy()) == expected.tolist()
    if probabilities:  # which libsvm finds by iteration, to 0.0025
        np.testing.assert_allclose(answers(model, list(x.T)), scores, atol=0.005)


def test_several_ways_to_write_one_score(tmp_path: Path) -> None:
    """As scikit-learn's SGDClassifier and RidgeClassifier are exported."""
    rows = drawn(8)
    nodes = [
        plain("MatMul", "x w", "m"), plain("Add", "m b", "s"), plain("Mul", "s minus", "n"),
        plain("Concat", "n s", "p", axis=1), plain("ArgMax", "p", "at", axis=1, keepdims=1),
        node("ArrayFeatureExtractor", "classes at", "l"), plain("Cast", "l", "label", to=7),
    ]  # fmt: skip
    constants = {"w": THREE[:, None], "b": THREE[:1], "minus": np.array([-1], dtype=np.float32)}
    path = save(tmp_path, nodes, ("label", "p"), constants={**constants, "classes": np.array([0, 1])})
    model = check(path, rows)
    assert (model.task, model.unit, model.classes) == ("binary", "scores", (0, 1))
    how = {"coefficients": [*(-THREE).tolist(), *THREE.tolist()], "intercepts": [0.5, -0.5], "classlabels_ints": [0, 1]}
    nodes = [node("LinearClassifier", "x", "label r", **how), node("ArrayFeatureExtractor", "r i", "p")]
    path = save(tmp_path, nodes, ("label", "p"), constants={"i": np.array([1])})
    model = read_tabular(path, ABC)
    np.testing.assert_allclose(answers(model, list(rows.T))[:, 1:], evaluated(path, {"x": rows})[1], rtol=1e-4)


def test_labels_alone_come_from_the_scores_of_their_classifier(tmp_path: Path) -> None:
    how = {"coefficients": floats(1, 9), "intercepts": floats(2, 3), "classlabels_strings": ["a", "b", "c"]}
    model = read_tabular(save(tmp_path, [node("LinearClassifier", "x", "label p", **how)], ("label",)), ABC)
    assert (model.task, model.classes) == ("classes", ("a", "b", "c"))
