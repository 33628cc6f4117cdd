"""The figures of docs/benchmarks.md that follow from a plan, held against the plans; and its calculator's."""

import re
from pathlib import Path

import pytest

from moiety_server import sources
from moiety_shared.messages.wire import envelope_bytes, request_bytes, result_bytes

DOCS = Path(__file__).parents[2] / "docs"
MODELS = ("mnist", "lenet")
_MILLION = 10**6
_CALL = 32  # inputs in a call, of the second table


def tables() -> dict[str, list[list[str]]]:
    """The document's tables: by the first cell of their head, the rows of cells."""
    found: dict[str, list[list[str]]] = {}
    name = ""
    for line in (DOCS / "benchmarks.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            name = ""
        elif not name:
            name = cells[0]
            found[name] = []
        elif not re.fullmatch(r"[-: ]+", cells[0]):
            found[name].append(cells)
    return found


@pytest.mark.parametrize("model", MODELS)
def test_bytes_of_a_million_predictions(model: str) -> None:
    plan = sources.load(model).compile().plan
    cost = plan.cost(1)
    gigabytes = {
        "dealt": cost.offline_bytes,
        "opened": plan.cost(_CALL).online_bytes * 2 / _CALL,
        "asked": (request_bytes(plan, _CALL) + envelope_bytes(plan, 1, _CALL)) / _CALL,
        "answered": 3 * result_bytes(plan, _CALL) / _CALL,
    }
    (row,) = (cells for cells in tables()["model, in calls of 32"] if cells[0] == model)
    assert [float(cell) for cell in row[1:5]] == [round(size * _MILLION / 1e9, 2) for size in gigabytes.values()]
    assert float(row[5]) == round(sum(float(cell) for cell in row[1:5]), 2)


@pytest.mark.parametrize("model", MODELS)
def test_the_calculator_begins_with_these_figures(model: str) -> None:
    (line,) = re.findall(rf"^  {model}: {{ (.*) }},$", (DOCS / "assets" / "cost.js").read_text(), re.MULTILINE)
    given = {name: float(figure) for name, figure in re.findall(r"(\w+): ([0-9.]+)", line)}
    (row,) = (cells for cells in tables()["model, in calls of 32"] if cells[0] == model)
    dealt, opened, asked, answered = map(float, row[1:5])
    assert round(given["provider"] / 1000, 2) == dealt and round(given["online"] / 500, 2) == opened
    assert round(given["asked"] / 1000, 2) == round(asked + answered, 2)
    (row,) = (cells for cells in tables()["model, inputs in a call"] if cells[0] == f"{model}, 32")
    assert given["cores"] == sum(float(cell.replace(",", "")) for cell in row[1:])


def test_the_worked_example() -> None:
    """Its result is what its own inputs give by the document's formula."""
    given = {cells[0]: float(cells[1].replace(",", "")) for cells in tables()["the example's"]}
    (row,) = (cells for cells in tables()["model, in calls of 32"] if cells[0] == "mnist")
    seconds = sum(float(cells[1]) for cells in tables()["mnist, core-seconds a million"])
    assert given["core-seconds"] == seconds and given["GB between machines"] == float(row[5])
    price = given["price of a core-hour"] * seconds / 3600 + given["price of a GB"] * float(row[5])
    assert given["a million predictions"] == round(price, 2)
