"""Models of scikit-learn, XGBoost and LightGBM become files that answer as the models do, or are refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import onnx
import pandas
import pytest
import xgboost
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC, LinearSVC

from moiety_server import sklearn
from moiety_server.compiler.ir import NotServable
from moiety_server.sklearn import Conversion, convert, is_convertible

CANCER = load_breast_cancer(as_frame=True)
DIABETES = load_diabetes(as_frame=True)
WINE = load_wine(as_frame=True)


def with_gaps(frame: pandas.DataFrame) -> pandas.DataFrame:
    """The table without every tenth value."""
    row, column = np.indices(frame.shape)
    return frame.mask((3 * row + 7 * column) % 10 == 0)


MODELS: dict[str, tuple[Callable[[], Any], Any, Any]] = {
    "logistic": (lambda: make_pipeline(StandardScaler(), LogisticRegression()), CANCER.data, CANCER.target),
    "no probabilities": (lambda: make_pipeline(StandardScaler(), LinearSVC()), CANCER.data, CANCER.target),
    "no probabilities, three classes": (lambda: make_pipeline(StandardScaler(), LinearSVC()), WINE.data, WINE.target),
    "support vectors": (lambda: make_pipeline(StandardScaler(), SVC()), CANCER.data, CANCER.target),
    "hinge": (lambda: make_pipeline(StandardScaler(), SGDClassifier(random_state=0)), CANCER.data, CANCER.target),
    "search": (
        lambda: GridSearchCV(make_pipeline(StandardScaler(), LogisticRegression()), {"logisticregression__C": [1]}),
        CANCER.data,
        CANCER.target,
    ),
    "values": (lambda: make_pipeline(StandardScaler(), Ridge()), DIABETES.data, DIABETES.target),
    "array": (lambda: RandomForestClassifier(5, max_depth=4, random_state=0), WINE.data.to_numpy(), WINE.target),
    "histograms": (lambda: HistGradientBoostingClassifier(max_iter=5), with_gaps(CANCER.data), CANCER.target),
    "histograms, values": (lambda: HistGradientBoostingRegressor(max_iter=5), DIABETES.data, DIABETES.target),
    "xgboost": (lambda: xgboost.XGBClassifier(n_estimators=5), with_gaps(CANCER.data), CANCER.target),
    "xgboost, values": (lambda: xgboost.XGBRegressor(n_estimators=5), DIABETES.data, DIABETES.target),
    "lightgbm": (lambda: lightgbm.LGBMClassifier(n_estimators=5, verbose=-1), with_gaps(CANCER.data), CANCER.target),
    "lightgbm, values": (lambda: lightgbm.LGBMRegressor(n_estimators=5, verbose=-1), DIABETES.data, DIABETES.target),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_becomes_a_file_of_one_table(name: str) -> None:
    make, rows, target = MODELS[name]
    made = convert(make().fit(rows, target), rows)
    graph = onnx.load_model_from_string(made.onnx).graph
    assert made.difference < 1e-3
    assert len(graph.input) == 1
    assert not {"ZipMap"} & {node.op_type for node in graph.node}, "its answers are tensors"
    if isinstance(rows, pandas.DataFrame):
        assert made.columns == tuple(rows.columns)


def test_boosters_that_are_no_estimators_are_converted() -> None:
    lgb = lightgbm.train({"objective": "binary", "verbose": -1}, lightgbm.Dataset(CANCER.data, CANCER.target), 5)
    xgb = xgboost.train({"objective": "multi:softprob", "num_class": 3}, xgboost.DMatrix(WINE.data, WINE.target), 5)
    assert convert(lgb, CANCER.data).difference < 1e-6
    assert convert(xgb, WINE.data).difference < 1e-6
    assert xgb.feature_names == list(WINE.data.columns), "the names were taken away for the conversion alone"


def mixed() -> tuple[Any, pandas.DataFrame]:
    """A pipeline of numbers, one of them with gaps, and of categories: texts and whole numbers."""
    at = np.arange(300)
    frame = pandas.DataFrame(
        {
            "age": at % 60 + 18,
            "income": np.where(at % 7 == 0, np.nan, at * 1.5),
            "job": np.array(["clerk", "nurse", "pilot"])[at % 3],
            "region": at % 4,
        }
    )
    columns = make_column_transformer(
        (make_pipeline(SimpleImputer(), StandardScaler()), ["age", "income"]),
        (OneHotEncoder(handle_unknown="ignore"), ["job", "region"]),
    )
    return make_pipeline(columns, LogisticRegression()).fit(frame, at % 5 > 2), frame


def test_columns_of_numbers_and_categories_are_inputs_of_their_own(tmp_path: Path) -> None:
    model, frame = mixed()
    made = convert(model, frame)
    graph = onnx.load(made.save(tmp_path / "model.onnx")).graph
    assert [info.name for info in graph.input] == ["age", "income", "job", "region"]
    assert made.difference < 1e-6
    again = convert(model, {name: frame[name].to_numpy() for name in frame})
    assert (again.columns, again.difference) == (made.columns, made.difference)


def test_a_file_of_one_input_names_its_columns() -> None:
    made = convert(LogisticRegression(max_iter=5000).fit(CANCER.data, CANCER.target), CANCER.data)
    (stored,) = onnx.load_model_from_string(made.onnx).metadata_props
    assert stored.key == sklearn.COLUMNS
    assert json.loads(stored.value) == list(CANCER.data.columns)
    of_array = convert(LogisticRegression(max_iter=5000).fit(WINE.data.to_numpy(), WINE.target), WINE.data.to_numpy())
    assert not onnx.load_model_from_string(of_array.onnx).metadata_props, "the columns of an array have no names"


def test_a_file_that_answers_otherwise_is_refused_with_the_largest_difference() -> None:
    """In float32 some scaled numbers fall on the other side of a tree's threshold."""
    rows = CANCER.data.astype("float32").to_numpy()
    model = make_pipeline(StandardScaler(), xgboost.XGBClassifier(n_estimators=5)).fit(rows, CANCER.target)
    with pytest.raises(NotServable, match=r"largest difference is 0\.\d+, in row \d+") as error:
        convert(model, rows)
    assert "without a scaler" in str(error.value)


@pytest.mark.parametrize(
    ("model", "rows", "text"),
    [
        (LogisticRegression(), CANCER.data, "fit it first"),
        (GradientBoostingClassifier(), np.zeros((0, 3)), "there are none"),
        (GradientBoostingClassifier(), np.zeros(3), r"not \(3,\)"),
    ],
)
def test_what_cannot_be_converted_is_refused_with_what_to_do(model: Any, rows: Any, text: str) -> None:
    with pytest.raises(NotServable, match=text):
        convert(model, rows)


def test_rows_that_the_model_itself_refuses_are_told_so() -> None:
    """Its file answers them: trees of ONNX know missing values, and this estimator does not."""
    rows = CANCER.data.astype("float32")
    model = GradientBoostingClassifier(n_estimators=2).fit(rows, CANCER.target)
    with pytest.raises(NotServable, match=r"GradientBoostingClassifier itself refuses .* contains NaN.*an imputer"):
        convert(model, rows.mask(rows > rows.quantile(0.9)))


def test_models_are_known_by_their_library() -> None:
    class Own(LogisticRegression):  # type: ignore[misc]
        pass

    assert is_convertible(Own())
    assert is_convertible(xgboost.XGBClassifier())
    assert not is_convertible(Conversion(b"", (), 0.0))
