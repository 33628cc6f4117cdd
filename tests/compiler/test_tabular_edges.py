"""Which edges a table's bins have: what each rule publishes, and what it does to the answers."""

from pathlib import Path

import numpy as np
import pytest

from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.tabular.reading import read_tabular
from moiety_shared.messages.table import Column
from tests.compiler.forests import Forest
from tests.compiler.tables import answers, evaluated, node, numbers, save

GRID = np.array([-1.5, -0.5, 0.1, 0.25, 1.0], dtype=np.float32)


def edges(path: Path, rule: str, columns: list[Column]) -> list[tuple[float, ...]]:
    return [column.edges for column in read_tabular(path, columns, edges=rule).table.columns]


def test_own_edges_are_the_models_thresholds(tmp_path: Path) -> None:
    """A column that no tree reads has one in the middle of its range: nobody sees that it is not read."""
    forest = Forest(4, width=2, trees=20, values=GRID)
    path = save(tmp_path, [forest.regressor()])
    a, b, c = edges(path, "own", numbers("a", "b", "c", low=0, high=10))
    assert set(a) | set(b) == {float(v) for v in GRID} and c == (5.0,)
    model = read_tabular(path, numbers("a", "b", "c"))
    assert "at which values of each column the trees split" in model.tells and "trained" in model.tells


@pytest.mark.parametrize(
    ("mode", "told"), [("BRANCH_LEQ", 0.1), ("BRANCH_LT", float(np.nextafter(np.float32(0.1), -1)))]
)
def test_trained_edges_are_the_owners_all_of_them(tmp_path: Path, mode: str, told: float) -> None:
    """The grid says nothing of the model: neither which of its edges the trees use, nor where. Of a model that asks
    whether a value is less than an edge, the client asks whether it is greater than the number before."""
    forest = Forest(4, trees=3, values=GRID[1:3], modes=(mode,))
    path, rows = save(tmp_path, [forest.regressor()]), forest.rows()
    grid = [Column(name=name, kind="bins", edges=(-9.0, -0.5, 0.1, 7.0)) for name in "abc"]
    model = read_tabular(path, grid, edges="trained")
    for column in model.table.columns:
        assert len(column.edges) == 4 and np.float32(told) in np.array(column.edges, dtype=np.float32)
    np.testing.assert_allclose(answers(model, list(rows.T)), evaluated(path, {"x": rows})[0], atol=1e-5)
    assert model.tells.startswith("Everybody learns the grid")


def test_thresholds_off_the_grid_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path, [Forest(4, trees=20, values=GRID).regressor()])
    grid = [Column(name=name, kind="bins", edges=(-0.5, 0.1)) for name in "abc"]
    with pytest.raises(NotServable, match=r"[1-4] thresholds of the column a are none of its declared edges.*own"):
        edges(path, "trained", grid)
    with pytest.raises(NotServable, match="column a has no declared edges"):
        edges(path, "trained", numbers("a", "b", "c"))


def test_a_public_grid_moves_thresholds_to_the_nearest_edge(tmp_path: Path) -> None:
    near = np.array([-2.0, -1.0, 0.0, 0.0, 1.0], dtype=np.float32)  # of the edges -3 .. 3, for each threshold
    forest, moved = (Forest(4, trees=20, values=values) for values in (GRID - np.float32(0.05), near))
    made, other = forest.regressor(), moved.regressor()
    path = save(tmp_path, [made])
    columns = numbers("a", "b", "c", low=-4, high=4)
    assert edges(path, "grid:7", columns) == [tuple(float(v) for v in range(-3, 4))] * 3
    model = read_tabular(path, columns, edges="grid:7")
    rows = Forest(9).draws.uniform(-4, 4, 200, 3).astype(np.float32)
    got = answers(model, list(rows.T))
    np.testing.assert_allclose(got, evaluated(save(tmp_path, [other]), {"x": rows})[0], atol=1e-5)
    assert np.abs(got - evaluated(save(tmp_path, [made]), {"x": rows})[0]).max() > 0.1
    assert "Nobody learns where" in model.tells and "not the model's" in model.tells


@pytest.mark.parametrize("rule", ["", "grid", "grid:0", "grid:99999", "grid:-1", "grid:1e3", "all"])
def test_other_rules_are_refused(tmp_path: Path, rule: str) -> None:
    path = save(tmp_path, [Forest(4).regressor()])
    with pytest.raises(NotServable, match="Instead: own, trained, or grid:N"):
        edges(path, rule, numbers("a", "b", "c"))


def test_a_linear_model_tells_nothing_by_edges(tmp_path: Path) -> None:
    path = save(tmp_path, [node("LinearRegressor", "x", "y", coefficients=[1.0, 2.0, 3.0])])
    assert read_tabular(path, numbers("a", "b", "c")).tells == ""


def test_the_edges_of_infinite_and_zero_thresholds(tmp_path: Path) -> None:
    """No row is beyond infinity, so there is nothing to ask; and -0 is 0."""
    forest = Forest(4, trees=20, values=np.array([-np.inf, np.inf, -0.0, 0.0], dtype=np.float32))
    path = save(tmp_path, [forest.regressor()])
    assert edges(path, "own", numbers("a", "b", "c")) == [(0.0,)] * 3
    rows = np.array([[-1, 0, 1], [0, 0, 0], [3e38, -3e38, 1e-45]], dtype=np.float32)
    model = read_tabular(path, numbers("a", "b", "c"))
    np.testing.assert_allclose(answers(model, list(rows.T)), evaluated(path, {"x": rows})[0], atol=1e-5)
