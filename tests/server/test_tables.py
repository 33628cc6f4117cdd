"""Models of tables are published from rows of a CSV file: a file, a fitted model, or a network of numbers."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from moiety_server import sources
from moiety_server.assessment import assess, sentences
from moiety_server.calibration import CalibrationRows, write_columns
from moiety_server.compiler import ir
from moiety_server.compiler.compilation import outputs_of
from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.tabular.network import over_columns
from moiety_server.compiler.trace import trace
from moiety_server.sklearn import convert
from moiety_server.source import ModelSource
from moiety_shared.messages.table import Column, Tabular

CANCER, WINE, DIABETES = (load(as_frame=True) for load in (load_breast_cancer, load_wine, load_diabetes))


def written(folder: Path, frame: pandas.DataFrame, target: Any, name: str = "rows.csv") -> Path:
    frame.assign(target=target).to_csv(folder / name, index=False)
    return folder / name


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ModelSource]:
    """What `moiety publish module:model` loads, with the model in a module of the owner's own."""
    monkeypatch.chdir(tmp_path)

    def load(model: Any, frame: pandas.DataFrame, target: Any, **options: Any) -> ModelSource:
        module = type(sys)("owners_module")
        module.__dict__["model"] = model
        monkeypatch.setitem(sys.modules, "owners_module", module)
        rows = written(tmp_path, frame, target)
        return sources.load("owners_module:model", calibration=rows, target="target", **options)

    return load


MODELS: dict[str, tuple[Callable[[], Any], Any, int, str]] = {
    "logistic": (lambda: make_pipeline(StandardScaler(), LogisticRegression()), CANCER, 1, "number"),
    "three classes": (lambda: make_pipeline(StandardScaler(), LogisticRegression()), WINE, 1, "number"),
    "forest": (lambda: RandomForestClassifier(10, max_depth=4, random_state=0), CANCER, 4, "bins"),
    "lightgbm": (lambda: lightgbm.LGBMClassifier(n_estimators=5, verbose=-1), WINE, 4, "bins"),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_row_gets_the_models_label(published: Callable[..., ModelSource], name: str) -> None:
    make, data, rounds, kind = MODELS[name]
    model = make().fit(data.data, data.target)
    source = published(model, data.data, data.target)
    compiled = source.compile()
    found = assess(source, compiled)
    labels = model.predict(data.data)
    assert found.accuracy == pytest.approx((labels == data.target).mean())
    assert (found.rows, found.close, compiled.plan.rounds) == (len(labels), 0, rounds)
    table = source.preprocessing
    assert isinstance(table, Tabular)
    assert {column.kind for column in table.columns} == {kind}
    assert [column.name.replace(" ", "_") for column in table.columns] == [
        n.replace(" ", "_") for n in data.data.columns
    ]
    assert all((column.low is None) == (kind == "bins") for column in table.columns), "trees take any number"


def test_values_are_the_models(published: Callable[..., ModelSource]) -> None:
    model = GradientBoostingRegressor(n_estimators=10, random_state=0).fit(DIABETES.data, DIABETES.target)
    source = published(model, DIABETES.data, DIABETES.target)
    compiled = source.compile()
    expected = model.predict(DIABETES.data)
    assert np.abs(outputs_of(compiled, source.calibration)[:, 0] - expected).max() < 1e-3 * expected.std()
    found = assess(source, compiled)
    assert found.mean_error == pytest.approx(np.abs(expected - DIABETES.target).mean(), rel=1e-3)
    assert (found.accuracy, found.close) == (None, None)


def test_a_linear_model_and_guessed_ranges_are_said_to_tell(published: Callable[..., ModelSource]) -> None:
    model = LinearRegression().fit(DIABETES.data, DIABETES.target)
    source = published(model, DIABETES.data, DIABETES.target)
    compiled = source.compile()
    text = " ".join(sentences(source, compiled, assess(source, compiled)))
    assert "solved from 11 answers" in text
    assert "--reveal decision" in text
    assert "discloses the extremes" in text


def test_trees_are_not_said_to_be_linear_and_their_edges_tell(published: Callable[..., ModelSource]) -> None:
    model = RandomForestClassifier(5, max_depth=3, random_state=0).fit(CANCER.data, CANCER.target)
    source = published(model, CANCER.data, CANCER.target)
    compiled = source.compile()
    text = " ".join(sentences(source, compiled, assess(source, compiled)))
    assert "at which values of each column the trees split" in text
    assert "solved from" not in text
    assert "discloses the extremes" not in text


def test_rows_that_the_error_may_decide_are_counted(published: Callable[..., ModelSource]) -> None:
    frame = pandas.DataFrame({"a": np.linspace(-1, 1, 32)})
    model = LogisticRegression().fit(frame, frame["a"] > 0)
    source = published(model, frame, (frame["a"] > 0).astype(int))
    compiled = replace(source.compile(), error=0.5)
    expected = int((np.abs(model.decision_function(frame)) <= 0.5).sum())
    assert 4 < expected < 28
    found = assess(source, compiled)
    assert found.close == expected
    assert f"{expected} of 32 calibration rows are so near" in " ".join(sentences(source, compiled, found))


def test_rows_of_several_classes_that_the_error_may_decide_are_counted(published: Callable[..., ModelSource]) -> None:
    """Two outputs may each be off by the error, towards each other."""
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(WINE.data, WINE.target)
    source = published(model, WINE.data, WINE.target)
    compiled = replace(source.compile(), error=0.5)
    best = np.sort(model.decision_function(WINE.data), axis=1)
    expected = int((best[:, -1] - best[:, -2] <= 1).sum())
    assert 0 < expected < len(best)
    assert assess(source, compiled).close == expected


def test_declared_columns_are_kept_and_others_left_out(published: Callable[..., ModelSource], tmp_path: Path) -> None:
    frame = WINE.data[["alcohol", "hue"]]
    declared = (
        Column(name="hue", kind="number", low=0, high=5, unit="nm"),
        Column(name="alcohol", kind="number", low=10, high=20, outside="clip"),
    )
    write_columns(tmp_path / "columns.json", declared)
    model = LogisticRegression().fit(frame, WINE.target)
    rows = frame.assign(customer=[f"name {at}" for at in range(len(frame))])
    source = published(model, rows, WINE.target, columns=tmp_path / "columns.json")
    table = source.preprocessing
    assert isinstance(table, Tabular)
    assert table.columns == declared[::-1], "in the order in which the model was fitted"
    assert source.tells == ()
    assert assess(source, source.compile()).accuracy == pytest.approx(model.score(frame, WINE.target))


def test_a_file_finds_its_columns_by_name(tmp_path: Path) -> None:
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(WINE.data, WINE.target)
    path = convert(model, WINE.data).save(tmp_path / "wine.onnx")
    rows = written(tmp_path, WINE.data[WINE.data.columns[::-1]], WINE.target)
    source = sources.load(str(path), calibration=rows, target="target")
    assert assess(source, source.compile()).accuracy == pytest.approx(model.score(WINE.data, WINE.target))
    with pytest.raises(NotServable, match="takes the column hue, which is not declared"):
        sources.load(str(path), calibration=written(tmp_path, WINE.data.drop(columns="hue"), WINE.target))


def test_arrays_calibrate_a_model_of_a_table_as_well(tmp_path: Path) -> None:
    model = RandomForestClassifier(5, max_depth=3, random_state=0).fit(WINE.data.to_numpy(), WINE.target)
    path = convert(model, WINE.data.to_numpy()).save(tmp_path / "wine.onnx")
    np.save(tmp_path / "rows.npy", WINE.data.to_numpy().astype(np.float32))
    source = sources.load(str(path), calibration=tmp_path / "rows.npy")
    got = outputs_of(source.compile(), source.calibration).argmax(axis=1)
    assert (got == model.predict(WINE.data.to_numpy())).all()


# Networks of numbers


class Network(nn.Module):
    def __init__(self, first: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(first, nn.Linear(13, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("first", "more"), [(nn.Identity(), 0), (nn.ReLU(), 1)])
def test_a_network_takes_columns_of_their_own_ranges(
    published: Callable[..., ModelSource], first: nn.Module, more: int
) -> None:
    """What the client does to a column is undone by the first matrix, and by one of its own before another layer."""
    torch.manual_seed(0)
    network = Network(first).train(False)
    source = published(network, WINE.data, WINE.target)
    assert (source.low, source.high) == (-1, 1)
    assert float(source.calibration.abs().max()) <= 1
    compiled = source.compile()
    expected = network(torch.tensor(WINE.data.to_numpy()).float()).detach().numpy()
    assert np.abs(outputs_of(compiled, source.calibration) - expected).max() < 0.01 * expected.std()
    assert sum(isinstance(node, ir.LinearNode) for node in compiled.graph.nodes) == 2 + more


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        ([Column(name="a", kind="number", low=0, high=1)], "takes 2 numbers a row, and the table has 1"),
        ([Column(name="job", kind="category", categories=("x", "y"))] * 2, "column job: is no number"),
        ([Column(name="a", kind="number", low=0, high=1, missing="flag")] * 2, "column a: may be missing"),
    ],
)
def test_a_network_of_other_columns_is_refused(columns: list[Column], text: str) -> None:
    graph = trace(nn.Linear(2, 1), torch.zeros(2, 2))
    with pytest.raises(NotServable, match=text):
        over_columns(graph, columns)


# Refusals


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("churn.joblib", r"is a pickle.*moiety_server.sklearn.convert\(model, frame\).save\('churn.onnx'\)"),
        ("churn.pkl", "would run code when it is loaded"),
        ("weights.pt", "safetensors.torch.save_file"),
    ],
)
def test_a_pickle_is_refused_unread_with_what_to_do(tmp_path: Path, what: str, text: str) -> None:
    (tmp_path / what).write_bytes(b"cos\nsystem\n(S'touch opened'\ntR.")
    with pytest.raises(NotServable, match=text):
        sources.load(str(tmp_path / what))
    assert not (tmp_path / "opened").exists()


def test_options_of_tables_are_refused_without_a_table(tmp_path: Path) -> None:
    with pytest.raises(NotServable, match="rows of a CSV file"):
        sources.load("mnist", target="churn")
    rows = written(tmp_path, WINE.data, WINE.target)
    with pytest.raises(NotServable, match="has its own range"):
        sources.load("model.onnx", calibration=rows, low=0.0, high=1.0)


@pytest.mark.parametrize(
    ("target", "text"),
    [
        (["0", "1", "7"] * 10, "has in row 2 none of the classes 0, 1"),
        (["no", "yes", "no"] * 10, "none of the classes"),
    ],
)
def test_a_target_of_other_labels_is_refused(
    published: Callable[..., ModelSource], target: list[str], text: str
) -> None:
    frame = pandas.DataFrame({"a": np.arange(30.0)})
    source = published(LogisticRegression().fit(frame, np.arange(30) > 15), frame, target)
    with pytest.raises(NotServable, match=text):
        assess(source, source.compile())


def test_a_model_of_other_columns_is_refused(published: Callable[..., ModelSource]) -> None:
    model = LogisticRegression(max_iter=5000).fit(WINE.data.to_numpy(), WINE.target)
    with pytest.raises(NotServable, match=r"fitted on 13 columns, and rows.csv has 12.*--target"):
        published(model, WINE.data.drop(columns="hue"), WINE.target)


def test_a_row_that_does_not_fit_is_named_without_its_value(tmp_path: Path) -> None:
    rows = CalibrationRows.read(written(tmp_path, pandas.DataFrame({"a": [1.0, 777.0]}), [0, 1]), "target")
    table = Tabular(columns=(Column(name="a", kind="number", low=0, high=5),))
    with pytest.raises(NotServable, match=r"rows.csv: row 1, column 'a' is above") as error:
        sources.tables.encoded(table, rows)
    assert "777" not in str(error.value)
