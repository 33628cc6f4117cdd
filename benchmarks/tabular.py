"""The suite `tabular`: models of tables through five real processes, beside one MNIST image in the same run."""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.measurement import Row, timed
from moiety_client.client import Client
from moiety_local import mnist
from moiety_local.deployment import Deployment
from moiety_local.folder import DeploymentError

_TREES = "trees"
_MOST_ROWS = 128  # in one call
_GONE = 10  # every tenth value is missing, where values are missing


@dataclass(frozen=True)
class Trained:
    """A fitted model, and rows (n, columns) of float32 that it was not fitted on."""

    name: str
    model: Any
    rows: np.ndarray[Any, Any]


def measure(root: Path, pixels: mnist.Pixels, console: Console) -> Iterator[Row]:
    """The rows of the table, in order."""
    try:
        models = list(_trained())
    except ImportError as error:
        raise DeploymentError(
            f"the suite trains models: install scikit-learn, lightgbm and xgboost ({error})"
        ) from None
    with Deployment(root / "roles") as deployment:
        deployment.publish()
        folder = root / "models"
        folder.mkdir()
        leaves, *_ = [_published(deployment, folder, one) for one in models]
        with deployment.client(timeout=60) as client:
            yield from _single(deployment, client, pixels, models[0], leaves, console)
            yield from _bytes(deployment, client, models[0], leaves)
            for one in models:
                yield from _answers(client, one)


def _trained() -> Iterator[Trained]:
    """Fit the models on scikit-learn's own data. The first is the ensemble that is timed."""
    import lightgbm
    import xgboost
    from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
    from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.model_selection import train_test_split
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def fitted(name: str, load: Callable[..., Any], model: Any, *, gaps: bool = False) -> Trained:
        rows, target = load(return_X_y=True)
        rows = rows.astype(np.float32)
        if gaps:
            row, column = np.indices(rows.shape)
            rows[(3 * row + 7 * column) % _GONE == 0] = np.nan
        seen, held_out, wanted, _ = train_test_split(rows, target, test_size=0.3, random_state=1)
        return Trained(name, model.fit(seen, wanted), held_out)

    boosted = GradientBoostingClassifier(n_estimators=200, max_depth=3, random_state=0)
    yield fitted(_TREES, load_breast_cancer, boosted)
    yield fitted("forest", load_breast_cancer, RandomForestClassifier(100, max_depth=8, random_state=0))
    yield fitted("logistic", load_breast_cancer, make_pipeline(StandardScaler(), LogisticRegression()))
    network = MLPClassifier((32,), max_iter=400, random_state=0)
    yield fitted("network", load_breast_cancer, make_pipeline(StandardScaler(), network))
    gaps = {"gaps": True}
    yield fitted("xgboost", load_breast_cancer, xgboost.XGBClassifier(n_estimators=100, max_depth=3), **gaps)
    yield fitted("lightgbm", load_wine, lightgbm.LGBMClassifier(n_estimators=30, verbose=-1), **gaps)
    yield fitted("ridge", load_diabetes, make_pipeline(StandardScaler(), Ridge()))
    yield fitted("regression", load_diabetes, GradientBoostingRegressor(n_estimators=100, random_state=0))


def _published(deployment: Deployment, folder: Path, one: Trained) -> int:
    """Publish a model from a file and a table of its rows. Returns how many leaves the file's trees have."""
    import onnx

    from moiety_server.sklearn import convert

    path = convert(one.model, one.rows).save(folder / f"{one.name}.onnx")
    names = [f"x{at}" for at in range(one.rows.shape[1])]
    lines = (",".join("" if value != value else repr(float(value)) for value in row) for row in one.rows)
    (folder / f"{one.name}.csv").write_text("\n".join([",".join(names), *lines]) + "\n")
    deployment.publish(str(path), "--calibration", str(folder / f"{one.name}.csv"))
    modes = [a.strings for node in onnx.load(path).graph.node for a in node.attribute if a.name == "nodes_modes"]
    return sum(mode == b"LEAF" for strings in modes for mode in strings)


def _single(
    deployment: Deployment, client: Client, pixels: mnist.Pixels, one: Trained, leaves: int, console: Console
) -> Iterator[Row]:
    """One row through the ensemble and one MNIST image, in turn."""
    uploads = [client.model(name).upload_id for name in (one.name, "mnist")]
    rows: list[float] = []
    images: list[float] = []
    for _ in range(5):
        for upload in uploads:
            deployment.wait_full(upload)
        time.sleep(0.2)
        for _ in range(60):
            rows.append(timed(lambda: client.predict(one.name, one.rows[:1])))
            images.append(timed(lambda: client.predict("mnist", pixels[:1])))
    row, image = statistics.median(rows[20:]), statistics.median(images[20:])
    console.print(f"[dim]one row of {leaves:,} leaves {row * 1e3:.2f} ms, one image {image * 1e3:.2f} ms[/]")
    yield Row.at_most(f"one row through {leaves:,} leaves / one MNIST image: at most", row / image, 1.5)


def _bytes(deployment: Deployment, client: Client, one: Trained, leaves: int) -> Iterator[Row]:
    answer = client.predict(one.name, one.rows[:_MOST_ROWS])
    state = deployment.party_state("bob", client.model(one.name).upload_id)
    provided = float(str(state["bundle_bytes"])) / int(str(state["bundle_rows"]))
    yield Row.at_most(
        f"{leaves:,} leaves, online bytes, each party, a row: at most", answer.online_bytes / len(answer), 15_000
    )
    yield Row.at_most(f"{leaves:,} leaves, provider bytes a row: at most", provided, 16_000)


def _answers(client: Client, one: Trained) -> Iterator[Row]:
    """All held-out rows, compared with the framework's own answers."""
    expected = np.asarray(one.model.predict(one.rows))
    parts = [client.predict(one.name, one.rows[at : at + _MOST_ROWS]) for at in range(0, len(one.rows), _MOST_ROWS)]
    if expected.dtype.kind == "f":
        got = np.concatenate([part.values.reshape(-1) for part in parts])
        error = float(np.abs(got - expected).max() / expected.std())
        yield Row.at_most(f"{one.name}: largest error of a value / their spread: at most", error, 1e-3)
    else:
        labels = np.concatenate([part.labels for part in parts])
        same = float((labels == expected).mean() * 100)
        yield Row.at_least(f"{one.name}: labels equal to the framework's, %: at least", same, 100)
    rounds = {"logistic": 1, "ridge": 1, "network": 5}.get(one.name, 4)
    yield Row.at_most(f"{one.name}: rounds: at most", max(part.rounds for part in parts), rounds)
