"""Models of tables through five real processes: published from the rows of a CSV file, asked with a DataFrame."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas
import pytest

from moiety_client.client import Client
from moiety_local.deployment import Deployment
from tests.deployment.table_models import Case, cases

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, deployment: Deployment) -> Iterator[list[Case]]:
    folder = tmp_path_factory.mktemp("tables")
    found = list(cases(folder))
    for case in found:
        rows = folder / f"{case.name}.csv"
        pandas.concat([case.seen, case.held_out]).to_csv(rows, index=False)  # of all rows, so that none is out of range
        deployment.run("publish", str(case.path), "--calibration", str(rows), "--name", case.name)
    yield found


def test_every_held_out_row_gets_the_frameworks_answer(published: list[Case], client: Client) -> None:
    assert len(published) > 6
    for case in published:
        answer = client.predict(case.name, case.held_out)
        assert answer.rounds == case.rounds, case.name
        if case.answers.dtype.kind == "f":
            error = np.abs(answer.values.reshape(-1) - case.answers.reshape(-1)).max()
            assert error < 1e-3 * case.answers.std(), case.name
        else:
            assert (answer.labels == case.answers).all(), case.name
        if case.probabilities is not None and case.probabilities.ndim == 2:
            assert np.abs(answer.probabilities - case.probabilities).max() < 1e-3, case.name


def test_publishing_says_how_often_a_model_is_right(
    published: list[Case], deployment: Deployment, tmp_path: Path
) -> None:
    case = next(one for one in published if one.rounds == 4 and set(one.answers.tolist()) == {0, 1})
    rows = tmp_path / "rows.csv"
    wrong = np.arange(len(case.answers)) < 7
    case.held_out.assign(target=np.where(wrong, 1 - case.answers, case.answers)).to_csv(rows, index=False)
    said = deployment.run(
        "publish", str(case.path), "--calibration", str(rows), "--target", "target", "--name", "measured", "--json"
    )
    found = json.loads(said)["assessment"]
    assert (found["rows"], found["accuracy"]) == (len(wrong), pytest.approx(1 - wrong.mean()))
