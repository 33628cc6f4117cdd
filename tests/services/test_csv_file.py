"""Tables are read from CSV files as their authors meant them, or refused by line and column."""

import os
from pathlib import Path

import pytest

from moiety_service import csv_file, files
from moiety_service.csv_file import BadTable


def written(folder: Path, content: str | bytes) -> Path:
    path = folder / "rows.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(folder: Path, content: str | bytes) -> dict[str, list[str | None]]:
    return {name: list(cells) for name, cells in csv_file.read(written(folder, content)).items()}


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_columns_come_by_name_in_order_and_empty_cells_are_missing(tmp_path: Path, separator: str) -> None:
    content = "age,job,income\r\n44, nurse ,31000.5\r\n\r\n71,,NA\r\n".replace(",", separator)
    found = read(tmp_path, b"\xef\xbb\xbf" + content.encode())
    assert found == {"age": ["44", "71"], "job": ["nurse", None], "income": ["31000.5", None]}
    assert list(found) == ["age", "job", "income"]


def test_what_spells_a_missing_value_is_none_where_it_is_a_category(tmp_path: Path) -> None:
    path = written(tmp_path, "country,job,age\nNA,NA,NA\nNone,None,7\n,,8\n")
    found = csv_file.read(path, {"country": ("DE", "NA"), "job": ("None",), "elsewhere": ("NA",), "age": (3, 4)})
    assert {name: list(cells) for name, cells in found.items()} == {
        "country": ["NA", None, None],
        "job": [None, "None", None],
        "age": [None, "7", "8"],
    }


def test_quoted_cells_hold_separators_and_lines(tmp_path: Path) -> None:
    assert read(tmp_path, 'a,"b,c"\n1,"x\ny"\n') == {"a": ["1"], "b,c": ["x\ny"]}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("", "0 columns"),
        ("a,b\n", "no rows"),
        ("a,b\n1,2\n3\n", "line 3 has 1 cells, and the first line names 2 columns"),
        ("a,a\n1,2\n", "two columns of one name"),
        ("a,\n1,2\n", "empty or longer"),
        ("1,2.5\n1,2\n", "has to name the columns"),
        ("a,b\n1," + "x" * 201 + "\n", "line 2 has a cell of more than 200 characters"),
        ('a,b\n1,"x\n', "no CSV file"),
        (b"a,b\n1,\xff\n", "UTF-8"),
        (",".join(f"c{i}" for i in range((1 << 14) + 1)) + "\n", "16,385 columns"),
    ],
)
def test_what_is_no_table_is_refused_without_a_value(tmp_path: Path, content: str | bytes, text: str) -> None:
    with pytest.raises(BadTable, match=text) as error:
        read(tmp_path, content)
    assert "xxx" not in str(error.value)


def test_a_file_that_is_too_large_or_none_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.csv"
    with path.open("wb") as file:
        file.truncate(csv_file.MOST_BYTES + 1)
    with pytest.raises(files.TooLarge):
        csv_file.read(path)
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(OSError, match="not a regular file"):
        csv_file.read(tmp_path / "pipe.csv")
