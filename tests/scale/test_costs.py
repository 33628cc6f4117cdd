"""The figures of docs/scaling.md that follow from a plan, held against the plans."""

import re
from pathlib import Path

import pytest

from moiety_server import sources
from moiety_shared.messages.wire import envelope_bytes, request_bytes, result_bytes

DOCUMENT = Path(__file__).parents[2] / "docs" / "scaling.md"
MODELS = ("mnist", "lenet")
_MILLION = 10**6
_CALL = 32  # inputs in a call, of the second table


def tables() -> dict[str, list[list[str]]]:
    """The document's tables: by the first cell of their head, the rows of cells."""
    found: dict[str, list[list[str]]] = {}
    name = ""
    for line in DOCUMENT.read_text().splitlines():
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


def test_the_worked_example() -> None:
    """Its result is what its own inputs give by the document's formula."""
    given = {cells[0]: float(cells[1].replace(",", "")) for cells in tables()["the example's"]}
    (row,) = (cells for cells in tables()["model, in calls of 32"] if cells[0] == "mnist")
    seconds = sum(float(cells[1]) for cells in tables()["mnist, core-seconds a million"])
    assert given["core-seconds"] == seconds and given["GB between machines"] == float(row[5])
    price = given["price of a core-hour"] * seconds / 3600 + given["price of a GB"] * float(row[5])
    assert given["a million predictions"] == round(price, 2)
