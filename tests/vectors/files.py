"""Which files of vectors there are, and what each should hold."""

import json
from pathlib import Path

from tests.vectors import messages, numbers, verified
from tests.vectors.fixed import Seals
from tests.vectors.numbers import Cases

FOLDER = Path(__file__).parents[2] / "docs" / "spec" / "vectors"


def made() -> dict[Path, str]:
    """What this version makes, by file."""
    seals = Seals(FOLDER / "seals.json")
    found: dict[str, Cases] = {
        "canonical": numbers.canonical(),
        "streams": numbers.streams(),
        "elements": numbers.elements(),
        "inputs": numbers.inputs_of_plans(),
        "pictures": numbers.pictures(),
        "tables": numbers.table_rows(),
        "ids": numbers.ids(),
        "canaries": numbers.canaries(),
        "answers": numbers.answers(),
        "entries": messages.entries(),
        "tokens": messages.token(),
        "requests": messages.requests(seals),
        "results": messages.results(),
        "verified": verified.results(),
        "problems": messages.problems(),
    }
    found["seals"] = {"cases": seals.cases}
    return {FOLDER / f"{name}.json": json.dumps(cases, indent=1) + "\n" for name, cases in found.items()}
