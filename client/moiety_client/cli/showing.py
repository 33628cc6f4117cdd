"""Answers as the commands print them: as JSON, or as rows of a table."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moiety_service.cli.terminal import line, table

if TYPE_CHECKING:
    from moiety_client.answers import Evaluation, Prediction

Place = tuple[Path | str, int | None]
"""Where an input comes from: a file, and its row if the file holds several; or a text."""
_SHOWN = 6  # values of one output in a table; --json has all
_DIGITS = 6  # a run's rounding shows in later ones


def as_data(part: "Prediction", of: Iterable[Place], top: int) -> Iterator[dict[str, Any]]:
    """Yield what to print of each answer: its place, then its value or values, or its classes.

    `top` is how many of the likeliest classes to name.
    """
    told = _values(part) if part.output.task == "values" else _classes(part, top)
    for (path, row), answer in zip(of, told, strict=True):
        place = {"text": path} if isinstance(path, str) else {"file": str(path)}
        yield {**place, **({} if row is None else {"row": row}), **answer}


def _values(part: "Prediction") -> Iterator[dict[str, Any]]:
    if part.output.parts:
        each = [[_plain(values) for values in part.outputs[one.name]] for one in part.output.parts]
        for row in zip(*each, strict=True):
            yield {"outputs": {one.name: value for one, value in zip(part.output.parts, row, strict=True)}}
        return
    for values in part.outputs.reshape(len(part), -1).tolist():
        yield {"value": values[0]} if len(values) == 1 else {"values": values}


def _plain(values: Any) -> float | list[float]:
    """Return one number as such, and several in one list."""
    flat: list[float] = values.reshape(-1).tolist()
    return flat[0] if len(flat) == 1 else flat


def _classes(part: "Prediction", top: int) -> Iterator[dict[str, Any]]:
    sure = part.probabilities.tolist() if part.output.has_probabilities else None
    for at, (label, ranked) in enumerate(zip(part.labels.tolist(), part.top[:, :top].tolist(), strict=True)):
        known = {} if sure is None else {"probability": sure[at][label]}
        yield {"class": label, "label": part.name(label), **known, "top": [part.name(one) for one in ranked]}


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print rows of `as_data` as a table."""
    places = [row.get("text") or row["file"] + (f"[{row['row']}]" if "row" in row else "") for row in rows]
    first = rows[0]
    if "label" not in first:
        columns = [*_cells(first)]
        cells = [[*_cells(row).values()] for row in rows]
    else:
        # Beside the likeliest class stands its probability; the others follow in their order.
        sure = ["probability"] if "probability" in first else []
        columns = ["label", *sure, *(f"{at}." for at in range(2, len(first["top"]) + 1))]
        cells = [[row["label"], *(f"{row[one]:.3f}" for one in sure), *row["top"][1:]] for row in rows]
    table(
        ("text" if "text" in first else "file", *columns),
        [(place, *cell) for place, cell in zip(places, cells, strict=True)],
    )


def _cells(row: dict[str, Any]) -> dict[str, str]:
    """Return the cells of a row of values by their columns. Of many values the first are shown."""
    cells: dict[str, str] = {}
    for name, value in row.get("outputs", {"value": row.get("value", row.get("values"))}).items():
        several = isinstance(value, list)
        shown = value[:_SHOWN] if several else [value]
        cells |= {f"{name} {at}" if several else name: _number(one) for at, one in enumerate(shown, 1)}
        if several and len(value) > _SHOWN:
            cells[f"{name} ..."] = f"{len(value) - _SHOWN:,} more"
    return cells


def _number(value: float) -> str:
    return f"{value:.{_DIGITS}g}"


def show_evaluation(model: str, result: "Evaluation", *, as_json: bool) -> None:
    """Print how a model did."""
    off = result.mean_absolute_error
    if as_json:
        members = ("correct", "total", "accuracy", "rounds", "online_bytes", "seconds")
        known = {} if off is None else {"mean_absolute_error": off}
        line({"model": model} | {name: getattr(result, name) for name in members} | known)
        return
    took = f"{result.seconds:.2f} s, {result.rounds} rounds, {result.online_bytes:,} bytes from each party"
    found = (
        [("inputs", str(result.total)), ("mean absolute error", _number(off))] if off is not None else _right(result)
    )
    table(("", ""), [("model", model), *found, ("took", took)], header=False)


def _right(result: "Evaluation") -> list[tuple[str, str]]:
    right = "only the owner can read it" if result.correct is None else f"{result.correct} of {result.total}"
    return [("right", right), ("accuracy", "-" if result.accuracy is None else f"{result.accuracy:.2%}")]
