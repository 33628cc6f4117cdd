"""The picture of docs/architecture.md: which package imports which, read off the source.

Floors are those of `tests/house/test_house_rules.py`. Below a package's name stand its rooms, which are the packages
inside it; of the arrows, those are drawn that follow from no others.
"""

from docs.tools.svg import Sheet
from tests.house import test_house_rules as house

Graph = dict[str, set[str]]
WIDTH, HEIGHT = 940, 606
_BOX, _FLOOR = 60, 98
_PLACES = {
    "moiety_shared": (30, 880, "ink"),
    "moiety_service": (30, 880, "ink"),
    "moiety_crypto_provider": (30, 205, "provider"),
    "moiety_party": (255, 205, "alice"),
    "moiety_server": (480, 205, "owner"),
    "moiety_client": (705, 205, "you"),
    "moiety": (765, 145, "you"),
    "moiety_local": (480, 205, "soft"),
    "moiety_syft": (255, 205, "soft"),
    "benchmarks": (480, 205, "soft"),
}
"""Of each package: where its box begins, how wide it is, its colour."""
_SAID = {
    "moiety_crypto_provider": "deals randomness",
    "moiety": "the SDK's face",
    "moiety_local": "up, demo: all roles at once",
    "moiety_syft": "the PySyft 0.2 dialect",
    "benchmarks": "not in the wheel",
}


def draw(sheet: Sheet) -> None:
    graph = _reduced(_imports())
    height = {name: floor for floor, names in enumerate(house.FLOORS) for name in names}
    top = {name: HEIGHT - 18 - _BOX - floor * _FLOOR for name, floor in height.items()}
    said = ("An arrow means: imports.", "What follows from others", "is not drawn.")
    sheet.lines(30, 52, *said, colour="soft", size=13.5, leading=19)
    for name, imported in sorted(graph.items()):
        for other in sorted(imported):
            start, end = _ends(name, other)
            sheet.arrow(start, top[name] + _BOX + 2, end, top[other] - 3)
    for name, (x, width, colour) in _PLACES.items():
        sheet.box(x, top[name], width, _BOX, colour)
        sheet.text(x + width / 2, top[name] + 26, name, colour=colour, size=14.5, anchor="middle", bold=True)
        below = _SAID.get(name) or " · ".join(_rooms(name))
        sheet.text(x + width / 2, top[name] + 47, below, colour="soft", size=13, anchor="middle")


def _imports() -> Graph:
    """Which packages a package imports, of those on floors below its own: what points up, the house rules refuse."""
    floor = {name: number for number, names in enumerate(house.FLOORS) for name in names}
    graph: Graph = {name: set() for name in floor}
    for path in house.sources(*house.FOLDERS):
        name = house.package(path)
        found = {whole.partition(".")[0] for whole in house.imports(path)}
        graph[name] |= {other for other in found & set(floor) if floor[other] < floor[name]}
    return graph


def _reduced(graph: Graph) -> Graph:
    """Without the arrows that a longer way makes superfluous."""

    def reached(name: str) -> set[str]:
        return graph[name].union(*map(reached, graph[name]))

    return {name: others - set().union(*map(reached, others)) for name, others in graph.items()}


def _ends(name: str, other: str) -> tuple[float, float]:
    """Where an arrow leaves the upper box and enters the lower one: straight down if the boxes allow it."""
    (x1, width1, _), (x2, width2, _) = _PLACES[name], _PLACES[other]
    low, high = max(x1, x2), min(x1 + width1, x2 + width2)
    if low < high:
        return (low + high) / 2, (low + high) / 2
    return (x1 + width1 - 35, x2 + 45) if x1 < x2 else (x1 + 35, x2 + width2 - 45)


def _rooms(name: str) -> list[str]:
    """The packages inside a package."""
    (folder,) = (path.parent for path in house.sources(*house.FOLDERS) if path.parts[-2:] == (name, "__init__.py"))
    return sorted(path.parent.name for path in folder.glob("*/__init__.py"))
