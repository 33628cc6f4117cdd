"""Models of tables as files: NAME.onnx, and NAME.npz with held-out rows `X`, calibration rows `A`, and the framework's
own answers to `X`: `pred`, and `proba` where it has probabilities.

A folder of such files is MOIETY_TEST_TABLES; without it, the tests train a few on scikit-learn's own data.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import onnx
import pandas
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from moiety_server.sklearn import convert

FOLDER = os.environ.get("MOIETY_TEST_TABLES")
_DATA = {"cancer": load_breast_cancer, "wine": load_wine, "diabetes": load_diabetes}


@dataclass(frozen=True)
class Case:
    """One model. `rounds` is how often the parties exchange messages in a run of it."""

    name: str
    path: Path
    held_out: pandas.DataFrame
    seen: pandas.DataFrame
    answers: np.ndarray
    probabilities: np.ndarray | None
    rounds: int


def cases(folder: Path) -> Iterator[Case]:
    """Read the models of MOIETY_TEST_TABLES, or train some into `folder`."""
    if not FOLDER:
        _train(folder)
    for path in sorted(Path(FOLDER or folder).glob("*.onnx")):
        stored = np.load(path.with_suffix(".npz"))
        names = [f"c{at}" for at in range(stored["X"].shape[1])]
        held_out, seen = (pandas.DataFrame(stored[key], columns=names) for key in ("X", "A"))
        yield Case(path.stem, path, held_out, seen, stored["pred"], stored.get("proba"), _rounds(path))


def _rounds(path: Path) -> int:
    operators = {node.op_type for node in onnx.load(path).graph.node}
    return 4 if any(name.startswith("TreeEnsemble") for name in operators) else 5 if "Relu" in operators else 1


def _train(folder: Path) -> None:
    scaled = lambda last: make_pipeline(StandardScaler(), last)  # noqa: E731
    models: dict[str, tuple[str, Any]] = {
        "cancer-forest": ("cancer", RandomForestClassifier(20, max_depth=5, random_state=0)),
        "cancer-logistic": ("cancer", scaled(LogisticRegression())),
        "cancer-network": ("cancer", scaled(MLPClassifier((8,), max_iter=300, tol=1e-3, random_state=0))),
        "cancer-svm": ("cancer", scaled(LinearSVC())),
        "diabetes-ridge": ("diabetes", scaled(Ridge())),
        "diabetes-trees": ("diabetes", GradientBoostingRegressor(n_estimators=20, random_state=0)),
        "wine-lightgbm": ("wine", lightgbm.LGBMClassifier(n_estimators=8, verbose=-1)),
    }
    for name, (data, model) in models.items():
        rows, target = _DATA[data](return_X_y=True)
        seen, held_out, wanted, _ = train_test_split(rows.astype(np.float32), target, test_size=0.3, random_state=1)
        if name == "wine-lightgbm":  # of which a tenth of the values is missing
            for part in (seen, held_out):
                part[(3 * np.indices(part.shape)[0] + 7 * np.indices(part.shape)[1]) % 10 == 0] = np.nan
        model.fit(seen, wanted)
        convert(model, held_out).save(folder / f"{name}.onnx")
        answers = {"X": held_out, "A": seen, "pred": model.predict(held_out)}
        if hasattr(model, "predict_proba"):
            answers["proba"] = model.predict_proba(held_out)
        np.savez(folder / f"{name}.npz", **answers)
