"""Pages that hold what is made between comments: `<!-- from NAME -->`, what is made, `<!-- end -->`."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[1]


def filled(page: Path, parts: dict[str, str]) -> str:
    """The page with each part between its two comments. One that has no place on it is missing, and so noticed."""
    text = page.read_text()
    for name, part in parts.items():
        text = _between(name).sub(lambda found, part=part: f"{found[1]}\n{part}\n\n{found[3]}", text)  # type: ignore[misc]
    return text


def held(page: Path, name: str) -> str:
    """What stands on a page between the comments of that name."""
    found = _between(name).search(page.read_text())
    return found[2].strip() if found else ""


def _between(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- from {re.escape(name)} -->\n)(.*?)(<!-- end -->)", re.DOTALL)
