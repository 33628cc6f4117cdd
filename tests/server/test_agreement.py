"""What is served is compared with the owner's model: on the calibration rows, on missing values and on categories that
the model does not know. What answers otherwise is refused."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler
from sklearn.svm import SVC, NuSVC
from sklearn.tree import DecisionTreeClassifier

from moiety_server import sources, tables
from moiety_server.agreement import Agreement
from moiety_server.calibration import CalibrationRows
from moiety_server.compiler import ir
from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.meaning import Meaning
from moiety_server.source import ModelSource
from moiety_shared.messages.table import Column, Tabular

CANCER, DIABETES, WINE = (load(as_frame=True) for load in (load_breast_cancer, load_diabetes, load_wine))


def rows_of(frame: pandas.DataFrame, folder: Path) -> CalibrationRows:
    frame.to_csv(folder / "rows.csv", index=False)
    return CalibrationRows.read(folder / "rows.csv")


def table(source: ModelSource) -> dict[str, Column]:
    assert isinstance(source.preprocessing, Tabular)
    return {column.name: column for column in source.preprocessing.columns}


def linear(source: ModelSource, change: Callable[[ir.LinearNode], ir.LinearNode]) -> ModelSource:
    """The source with another matrix at the end."""
    assert isinstance(source.model, ir.Graph)
    *others, last = source.model.nodes
    assert isinstance(last, ir.LinearNode)
    return replace(source, model=replace(source.model, nodes=(*others, change(last))))


MODELS: dict[str, tuple[Any, Any]] = {
    "two classes": (make_pipeline(StandardScaler(), LogisticRegression()), CANCER),
    "three classes": (make_pipeline(StandardScaler(), LogisticRegression()), WINE),
    "scores": (make_pipeline(StandardScaler(), SVC(kernel="linear")), CANCER),
    "values": (LinearRegression(), DIABETES),
}


@pytest.mark.parametrize("name", MODELS)
def test_another_answer_in_any_row_is_refused(tmp_path: Path, name: str) -> None:
    model, data = MODELS[name]
    fitted = model.fit(data.data, data.target)
    columns = {str(key): values.to_numpy() for key, values in data.data.items()}
    source = tables.of_model("m", fitted, rows_of(data.data, tmp_path))
    assert Agreement(fitted, source, columns).checked() == source

    def shifted(last: ir.LinearNode) -> ir.LinearNode:
        assert last.bias is not None
        by = 0.5 if source.classes else 0.1 * data.target.std()
        return replace(last, bias=last.bias + by * torch.eye(len(last.bias))[0])

    def negative(last: ir.LinearNode) -> ir.LinearNode:
        assert last.bias is not None
        return replace(last, weight=-last.weight, bias=-last.bias)

    for change in (shifted, negative):
        with pytest.raises(NotServable, match=r"does not answer as \w+ does in row \d+ of the calibration rows"):
            Agreement(fitted, linear(source, change), columns).checked()
    if source.classes:
        unknown = replace(
            source, meaning=replace(source.meaning, unit="scores", final="none")
        )  # which leaves the labels to be compared
        assert Agreement(fitted, unknown, columns).checked() == unknown
        with pytest.raises(NotServable, match="in row"):
            Agreement(fitted, linear(unknown, negative), columns).checked()


@pytest.mark.parametrize("kind", [SVC, NuSVC])
def test_a_support_vector_machine_without_probabilities_gives_labels(tmp_path: Path, kind: Any) -> None:
    """Its file has the scores of both classes, turned round, beside a label of the operator's own."""
    model = make_pipeline(StandardScaler(), kind(kernel="linear")).fit(CANCER.data, CANCER.target)
    source = tables.of_model("m", model, rows_of(CANCER.data, tmp_path))
    assert (source.meaning.task, source.meaning.unit, source.classes) == ("binary", "scores", ("0", "1"))
    assert isinstance(source.model, ir.Graph) and isinstance(source.calibration, torch.Tensor)
    scores = source.model.run(source.calibration)[source.model.output].numpy()[:, 0]
    np.testing.assert_allclose(scores, model.decision_function(CANCER.data), atol=1e-4)


def test_another_tree_is_refused(tmp_path: Path) -> None:
    tree, other = (DecisionTreeClassifier(max_depth=depth, random_state=0) for depth in (3, 4))
    source = tables.of_model("m", tree.fit(WINE.data, WINE.target), rows_of(WINE.data, tmp_path))
    columns = {str(key): values.to_numpy() for key, values in WINE.data.items()}
    assert Agreement(tree, source, columns).checked() == source
    with pytest.raises(NotServable, match=r"as DecisionTreeClassifier does in row \d+"):
        Agreement(other.fit(WINE.data, WINE.target), source, columns).checked()


def mixed(encoder: Any) -> tuple[Any, pandas.DataFrame]:
    at = np.arange(300)
    frame = pandas.DataFrame({"age": at % 60 + 18.5, "job": np.array(["clerk", "nurse", "pilot"])[at % 3]})
    frame["note"] = np.array(["x", "y"])[at % 2]
    columns = make_column_transformer((StandardScaler(), ["age"]), (encoder, ["job"]))
    return make_pipeline(columns, LogisticRegression()).fit(frame, at % 5 > 2), frame


@pytest.mark.parametrize(
    ("encoder", "unknown"),
    [
        (OneHotEncoder(), "refuse"),
        (OneHotEncoder(handle_unknown="ignore"), "zeros"),
        (OrdinalEncoder(), "refuse"),
        (OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=7), "zeros"),
    ],
)
def test_a_client_may_send_an_unknown_category_where_the_model_takes_one(
    tmp_path: Path, encoder: Any, unknown: str
) -> None:
    model, frame = mixed(encoder)
    assert table(tables.of_model("m", model, rows_of(frame, tmp_path)))["job"].unknown == unknown


def test_a_column_of_texts_that_nothing_reads_is_sent_as_it_is_declared(tmp_path: Path) -> None:
    model, frame = mixed(OneHotEncoder())
    column = table(tables.of_model("m", model, rows_of(frame, tmp_path)))["note"]
    assert (column.kind, column.categories, column.unknown) == ("category", ("x", "y"), "refuse")


def test_another_answer_to_an_unknown_category_or_a_gap_is_refused(tmp_path: Path) -> None:
    model, frame = mixed(OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=7))
    source = tables.of_model("m", model, rows_of(frame, tmp_path))
    columns = {str(key): values.to_numpy(dtype=object if key != "age" else None) for key, values in frame.items()}
    model[0].named_transformers_["ordinalencoder"].unknown_value = 99
    with pytest.raises(NotServable, match="where job is a category that the model does not know"):
        Agreement(model, source, columns).checked()


def test_a_gap_is_compared_where_columns_may_have_one(tmp_path: Path) -> None:
    frame = CANCER.data.iloc[:, :4]
    rows = rows_of(frame, tmp_path)
    declared = [column.model_copy(update={"missing": "flag"}) for column in rows.guessed()]
    model = make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression()).fit(frame, CANCER.target)
    source = tables.of_model("m", model, rows, declared)
    assert {column.missing for column in table(source).values()} == {"flag"}
    model[0].statistics_[1] += 30
    with pytest.raises(NotServable, match="where mean texture is missing"):
        Agreement(model, source, {str(key): values.to_numpy() for key, values in frame.items()}).checked()
    tree = DecisionTreeClassifier(max_depth=2, random_state=0).fit(frame, CANCER.target)
    assert {column.missing for column in table(tables.of_model("m", tree, rows, declared)).values()} == {"flag"}


def test_a_gap_that_the_model_refuses_is_refused_by_column() -> None:
    model = LogisticRegression(max_iter=5000).fit(CANCER.data.iloc[:, :1], CANCER.target)
    column = Column(name="mean radius", kind="number", low=0, high=99, missing="flag")
    source = ModelSource(
        "m",
        ir.Graph(
            (
                ir.InputNode(name="x", inputs=(), shape=(2,), origin=""),
                ir.LinearNode(
                    name="y", inputs=("x",), shape=(1,), origin="",
                    weight=torch.tensor([[model.coef_[0, 0] * 49.5, 0.0]]).float(),
                    bias=torch.tensor([model.coef_[0, 0] * 49.5 + model.intercept_[0]]).float(),
                ),
            ),
            "y",
        ),
        torch.zeros(1, 2), -1, 1, Tabular(columns=(column,)), ("0", "1"),
        meaning=Meaning(task="binary", unit="logits", final="sigmoid"),
    )  # fmt: skip
    with pytest.raises(NotServable, match=r"no row in which mean radius is missing.*SimpleImputer"):
        Agreement(model, source, {"mean radius": CANCER.data["mean radius"].to_numpy()}).checked()


def test_a_grid_moves_answers_and_is_not_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = DecisionTreeClassifier(max_depth=3, random_state=0).fit(WINE.data.to_numpy(), WINE.target)
    module = type(sys)("owners_module")
    module.__dict__["model"] = model
    monkeypatch.setitem(sys.modules, "owners_module", module)
    path = tmp_path / "rows.csv"
    WINE.data.to_csv(path, index=False)
    assert "not the model's" in " ".join(sources.load("owners_module:model", calibration=path, edges="grid:3").tells)
