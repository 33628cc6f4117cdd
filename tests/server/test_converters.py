"""scikit-learn's trees, and ensembles of them, are written as files that answer as they do: with missing values, ties,
and the classes and columns that a bag lacks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas
import pytest
from onnx.reference import ReferenceEvaluator
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    BaggingRegressor,
    ExtraTreesClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor, ExtraTreeClassifier

from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.tabular.reading import read_tabular
from moiety_server.converters import below
from moiety_server.sklearn import convert
from tests.compiler.tables import Draws, answers, labels, numbers
from tests.server.test_sklearn import with_gaps

CANCER, DIABETES, WINE = (load(as_frame=True) for load in (load_breast_cancer, load_diabetes, load_wine))
SEVEN = np.where(np.arange(569) < 9, 7, CANCER.target)
TWO = np.column_stack([DIABETES.target, np.arange(442)])
DRINKS = np.array(["x", "a", "m"])[WINE.target]
TREE = DecisionTreeClassifier(max_depth=3, random_state=0)


def with_late_gaps(frame: pandas.DataFrame) -> pandas.DataFrame:
    """The table without every tenth value in its last rows."""
    found = with_gaps(frame)
    found.iloc[:300] = frame.iloc[:300]
    return found


MODELS: dict[str, tuple[Callable[[], Any], Any, Any]] = {
    "tree": (lambda: DecisionTreeClassifier(random_state=0), with_late_gaps(CANCER.data), CANCER.target),
    "one random tree": (lambda: ExtraTreeClassifier(random_state=0), WINE.data, DRINKS),
    "tree, values": (lambda: DecisionTreeRegressor(random_state=0), with_late_gaps(DIABETES.data), DIABETES.target),
    "forest": (lambda: RandomForestClassifier(9, random_state=0), with_late_gaps(CANCER.data), CANCER.target),
    "extra trees": (lambda: ExtraTreesClassifier(9, random_state=0), with_late_gaps(CANCER.data), CANCER.target),
    "forest, values": (
        lambda: RandomForestRegressor(9, random_state=0), with_late_gaps(DIABETES.data), DIABETES.target
    ),
    "two values": (
        lambda: RandomForestRegressor(5, random_state=0), DIABETES.data, TWO
    ),
    "bag": (lambda: BaggingClassifier(TREE, max_features=0.5, random_state=0), CANCER.data, CANCER.target),
    "bag, some classes": (
        lambda: BaggingClassifier(TREE, max_samples=0.04, random_state=0), CANCER.data, SEVEN
    ),
    "bag, values": (
        lambda: BaggingRegressor(DecisionTreeRegressor(max_depth=5), max_features=0.5, random_state=0),
        DIABETES.data, DIABETES.target,
    ),
    "votes": (lambda: AdaBoostClassifier(n_estimators=9, random_state=0), CANCER.data, CANCER.target),
    "votes, three classes": (lambda: AdaBoostClassifier(TREE, n_estimators=9, random_state=0), WINE.data, DRINKS),
    "histograms": (lambda: HistGradientBoostingClassifier(max_iter=9), with_late_gaps(CANCER.data), CANCER.target),
    "histograms, three classes": (lambda: HistGradientBoostingClassifier(max_iter=9), WINE.data, DRINKS),
    "histograms, values": (lambda: HistGradientBoostingRegressor(max_iter=9), DIABETES.data, DIABETES.target),
    "histograms, counts": (
        lambda: HistGradientBoostingRegressor(loss="poisson", max_iter=9), DIABETES.data, DIABETES.target
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_a_file_of_trees_answers_as_the_model_on_every_row(tmp_path: Path, name: str) -> None:
    """Missing values are in rows that are not compared while the file is made."""
    make, frame, target = MODELS[name]
    rows = frame.to_numpy().astype(np.float32)
    model = make().fit(rows, target)
    made = convert(model, rows)
    assert not made.rounded
    columns = numbers(*frame.columns, low=0, high=1, missing="flag")
    read = read_tabular(made.save(tmp_path / "model.onnx"), columns)
    got = answers(read, list(rows.T))
    own = model.predict_proba(rows) if hasattr(model, "predict_proba") else model.predict(rows)
    np.testing.assert_allclose(got, own.reshape(len(own), -1), rtol=1e-4, atol=1e-5)
    assert (
        sum(node.op_type.startswith("TreeEnsemble") for node in onnx.load_model_from_string(made.onnx).graph.node) == 1
    )


@pytest.mark.parametrize("model", [RandomForestClassifier(9, random_state=0), DecisionTreeClassifier(random_state=0)])
def test_gaps_that_no_row_shows_go_where_the_model_sends_them(model: Any) -> None:
    rows = CANCER.data.to_numpy().astype(np.float32)
    fitted = model.fit(rows, CANCER.target)
    made = onnx.load_model_from_string(convert(fitted, rows).onnx)
    gaps = with_gaps(CANCER.data).to_numpy().astype(np.float32)
    got = ReferenceEvaluator(made).run(None, {"X": gaps[:60]})[1]
    np.testing.assert_allclose(got, fitted.predict_proba(gaps[:60]), atol=1e-6)


def test_a_tie_of_votes_is_the_first_class_as_in_the_model(tmp_path: Path) -> None:
    """Ten tenths in float32 are no one: a plan adds what each tree has more of one class than of the other."""
    draws = Draws(2)
    rows, fresh = (draws.uniform(0, 1, size, 3).astype(np.float32) for size in (300, 2000))
    model = RandomForestClassifier(10, random_state=0).fit(rows, draws.uniform(0, 1, 300) < 0.5)
    tied = model.predict_proba(fresh)[:, 0] == 0.5
    assert tied.sum() > 100
    read = read_tabular(convert(model, rows).save(tmp_path / "model.onnx"), numbers("a", "b", "c"))
    got = answers(read, list(fresh.T))
    assert (got[tied] == 0.5).all()
    outputs = got[:, 1:]
    assert labels(read, outputs) == model.predict(fresh).astype(int).tolist()


def test_splits_by_categories_are_refused_by_name() -> None:
    rows = np.column_stack([np.arange(600) % 7, np.linspace(0, 1, 600)])
    model = HistGradientBoostingRegressor(max_iter=9, categorical_features=[0])
    with pytest.raises(NotServable, match=r"splits by categories.*OrdinalEncoder"):
        convert(model.fit(rows, 100 * rows[:, 1] + 9 * np.isin(rows[:, 0], [1, 3, 6])), rows)


@pytest.mark.parametrize("kind", [BaggingClassifier, AdaBoostClassifier])
def test_ensembles_of_other_models_are_left_to_the_converter(kind: Any) -> None:
    rows = (WINE.data / WINE.data.std()).to_numpy()
    made = convert(kind(LogisticRegression(max_iter=2000), n_estimators=2).fit(rows, WINE.target), rows)
    kinds = {node.op_type for node in onnx.load_model_from_string(made.onnx).graph.node}
    assert "LinearClassifier" in kinds and "TreeEnsembleClassifier" not in kinds


def test_a_threshold_is_rounded_down_so_that_it_parts_the_same_numbers_of_float32() -> None:
    near = np.float32(0.1)
    above, beneath = float(near) + 1e-12, float(near) - 1e-12
    assert below(np.array([above, float(near), beneath])).tolist() == [near, near, np.nextafter(near, np.float32(0))]
    assert below(np.array([1e300, -np.inf])).tolist() == [np.finfo(np.float32).max, -np.inf]
