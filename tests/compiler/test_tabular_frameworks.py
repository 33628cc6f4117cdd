"""Models as scikit-learn, XGBoost and LightGBM train them, run as plans in plain fixed point: the frameworks' own
labels, on every row."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas
import pytest
import xgboost
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.svm import LinearSVC

from moiety_server.compiler.compilation import compile_model
from moiety_server.compiler.tabular.reading import read_tabular
from moiety_server.sklearn import convert
from moiety_shared import reference
from moiety_shared.messages.table import Column
from tests.compiler.tables import encode, labels, told

CANCER, WINE, DIGITS = load_breast_cancer(as_frame=True), load_wine(as_frame=True), load_digits(as_frame=True)
DIABETES = load_diabetes(as_frame=True)


def with_gaps(frame: pandas.DataFrame) -> pandas.DataFrame:
    """The table without every tenth value."""
    row, column = np.indices(frame.shape)
    return frame.mask((3 * row + 7 * column) % 10 == 0)


def boosted(**how: Any) -> Any:
    return xgboost.XGBClassifier(n_estimators=30, max_depth=3, **how)


MODELS: dict[str, tuple[Callable[[], Any], Any, int]] = {
    "logistic": (lambda: make_pipeline(StandardScaler(), LogisticRegression()), CANCER, 1),
    "logistic, three classes": (lambda: make_pipeline(MinMaxScaler(), LogisticRegression()), WINE, 1),
    "support vectors": (lambda: make_pipeline(StandardScaler(), LinearSVC()), DIGITS, 1),
    "network": (lambda: make_pipeline(StandardScaler(), MLPClassifier((16,), max_iter=800, random_state=0)), DIGITS, 5),
    "values": (lambda: make_pipeline(StandardScaler(), Ridge()), DIABETES, 1),
    "forest": (lambda: RandomForestClassifier(30, max_depth=8, random_state=0), CANCER, 4),
    "pure leaves, ties": (lambda: RandomForestClassifier(10, random_state=0), WINE, 4),
    "extra trees": (lambda: ExtraTreesClassifier(20, max_depth=6, random_state=0), DIGITS, 4),
    "forest, values": (lambda: RandomForestRegressor(20, max_depth=6, random_state=0), DIABETES, 4),
    "boosted": (lambda: GradientBoostingClassifier(n_estimators=30, random_state=0), CANCER, 4),
    "boosted, values": (lambda: GradientBoostingRegressor(n_estimators=30, random_state=0), DIABETES, 4),
    "xgboost": (boosted, WINE, 4),
    "lightgbm": (lambda: lightgbm.LGBMClassifier(n_estimators=20, verbose=-1), WINE, 4),
}
MISSING: dict[str, Callable[[], Any]] = {
    "xgboost": boosted,
    "lightgbm": lambda: lightgbm.LGBMClassifier(n_estimators=30, verbose=-1),
    "histograms": lambda: HistGradientBoostingClassifier(max_iter=30),
}


def check(path: Path, model: Any, frame: pandas.DataFrame, target: Any, rounds: int) -> Any:
    """Compare the plan's answers with the model's. Returns the plan."""
    fitted = model.fit(frame, target)
    (path / "model.onnx").write_bytes(convert(fitted, frame).onnx)
    declared = [
        Column(name=str(name), kind="number", low=float(values.min()), high=float(values.max()) + 1e-9,
               missing="flag" if values.isna().any() else "refuse")
        for name, values in frame.items()
    ]  # fmt: skip
    read = read_tabular(path / "model.onnx", declared)
    rows = encode(read.table, [frame[column.name].to_numpy() for column in read.table.columns])
    compiled = compile_model(read.graph, rows.float(), low=read.low, high=read.high, meaning=read.meaning)
    plan = compiled.plan
    x = np.rint(rows.numpy() * 2.0**plan.input.frac_bits).astype(np.int32 if plan.ring_bits == 32 else np.int64)
    parts = [reference.run(plan, x[at : at + 64], compiled.weights) for at in range(0, len(x), 64)]
    outputs = np.concatenate(parts).reshape(len(x), -1) * plan.output.scale
    expected = fitted.predict(frame)
    assert (plan.rounds, plan.ring_bits) == (rounds, 64 if rounds == 1 else 32), "what looks nothing up has 64 bits"
    if read.task == "values":
        assert np.abs(told(read, outputs)[:, 0] - expected).max() < 1e-3 * expected.std()
    else:
        assert labels(read, outputs) == expected.tolist()
    return plan


@pytest.mark.parametrize("name", MODELS)
def test_labels_are_the_frameworks_own(tmp_path: Path, name: str) -> None:
    make, data, rounds = MODELS[name]
    check(tmp_path, make(), data.data, data.target, rounds)


@pytest.mark.parametrize("name", MISSING)
def test_labels_are_the_frameworks_own_where_values_are_missing(tmp_path: Path, name: str) -> None:
    check(tmp_path, MISSING[name](), with_gaps(CANCER.data), CANCER.target, 4)


def test_what_an_ensemble_of_1500_leaves_costs_a_row(tmp_path: Path) -> None:
    """At most 15 KB between the parties, each way, and 16 KB from the provider."""
    forest = RandomForestClassifier(100, max_depth=8, random_state=0)
    plan = check(tmp_path, forest, CANCER.data, CANCER.target, 4)
    leaves = sum(tree.get_n_leaves() for tree in forest.estimators_)
    assert leaves > 1500 and plan.cost(1).online_bytes < 10.4 * leaves and plan.cost(1).offline_bytes < 10.8 * leaves
