"""Models of token ids: what people have of texts, how it is padded and looked up, and what is refused."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch

from moiety_client.errors import InvalidInput, UntrustedEntry
from tests import plans
from tests.client.sdk.conftest import Asking, Paid
from tests.client.tokens import elements, serve, serve_secret

BOTH = ((1, 3), (2, 0))


def scores(*ids: tuple[int, int]) -> list[Any]:
    return (plans.scores(elements(*ids)) / 16).tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "given",
    [
        [[1, 3], [2]],
        [np.array([1, 3]), [2]],
        np.array([[1, 3], [2, 0]]),
        np.array([[1, 3], [2, 0]], dtype=np.uint8),
        torch.tensor([[1, 3], [2, 0]]),
        ["good film", "BAD"],
        [[1, 3], "bad"],
        np.array(["good film", "bad"]),
        pandas.Series(["good film", "bad"]),
        iter(["good film", "bad"]),
    ],
    ids=str,
)
def test_all_forms_are_padded_and_looked_up(asking: Asking, paid: Paid, given: Any) -> None:
    serve(paid)
    if hasattr(given, "__next__"):
        given = iter(["good film", "bad"])  # another test has used up the first
    assert asking.predict("small", given).outputs.tolist() == scores(*BOTH)


def test_one_input_needs_no_list(asking: Asking, paid: Paid) -> None:
    serve(paid)
    for given in ([1, 3], "good film", np.array([1, 3]), (1, 3)):
        assert asking.predict("small", given).outputs.tolist() == scores((1, 3))


def test_files_hold_ids_or_lines(asking: Asking, paid: Paid, tmp_path: Path) -> None:
    serve(paid)
    np.save(tmp_path / "ids.npy", np.array(BOTH))
    (tmp_path / "texts.txt").write_text("good film\n\nbad\n")
    for name in ("ids.npy", "texts.txt"):
        assert asking.predict("small", tmp_path / name).outputs.tolist() == scores(*BOTH)
    with pytest.raises(InvalidInput, match="holds neither ids"):
        asking.predict("small", tmp_path / "a.png")
    with pytest.raises(InvalidInput, match="cannot be read"):
        asking.predict("small", tmp_path / "none.txt")


def test_streams_and_evaluations_take_them(asking: Asking, paid: Paid, tmp_path: Path) -> None:
    serve(paid)
    texts = ["good film", "bad", "film"]
    parts = asking.stream("small", texts, batch=2, resume=tmp_path / "run.jsonl")
    assert [len(part) for part in parts] == [2, 1]
    again = asking.stream("small", texts, batch=2, resume=tmp_path / "run.jsonl")
    assert [part.outputs.tolist() for part in again] == [part.outputs.tolist() for part in parts] and paid.paid == 3
    truth = [int(np.argmax(row)) for row in scores(*BOTH)]
    assert asking.evaluate("small", ["good film", "bad"], truth).correct == 2


def test_a_short_text_is_sent_as_a_long_one_is(asking: Asking, paid: Paid) -> None:
    serve(paid)
    for given in ("good film", "bad"):
        asking.predict("small", given)
    one, other = paid.asked
    assert [len(part) for part in one.envelopes] == [len(part) for part in other.envelopes]


def test_the_files_are_read_once(asking: Asking, paid: Paid) -> None:
    serve(paid)
    asking.predict("small", [1, 3])
    paid.files.clear()
    assert asking.predict("small", "good film").outputs.tolist() == scores((1, 3))


def test_a_file_that_the_owner_did_not_sign_is_refused(asking: Asking, paid: Paid) -> None:
    serve(paid)
    for path in paid.files:
        kept, paid.files[path] = paid.files[path], paid.files[path][:-1] + b"\0"
        with pytest.raises(UntrustedEntry, match="another file"):
            asking.predict("small", [1, 3])
        paid.files[path] = kept
    assert not paid.asked


@pytest.mark.parametrize(
    ("given", "text", "row", "column", "value"),
    [
        ([[1], [2, 5]], "row 1, place 1 is no id: ids are whole numbers from 0 to 4", 1, (1,), 5),
        ([[1], [-1]], "row 1, place 0 is no id", 1, (0,), -1),
        ([[1], [1, 2, 3], [1, 2, 3]], r"row 1 has more than 2 ids: shorten it \(and 1 more rows\)", 1, None, None),
        (["good", "good good film"], "row 1 has more than 2 ids", 1, None, None),
        ([[1], ""], "row 1 has no ids", 1, None, None),
        ([[1.5, 2.0]], "whole numbers", None, None, None),
        (np.zeros((1, 2, 2), dtype=int), "whole numbers", None, None, None),
        ([], "whole numbers", None, None, None),
    ],
)
def test_what_does_not_fit_is_refused(
    asking: Asking, paid: Paid, given: Any, text: str, row: int | None, column: Any, value: Any
) -> None:
    serve(paid)
    with pytest.raises(InvalidInput, match=text) as caught:
        asking.predict("small", given)
    assert (caught.value.row, caught.value.column, caught.value.value) == (row, column, value)
    assert not paid.asked


def test_a_model_without_padding_takes_its_length_alone(asking: Asking, paid: Paid) -> None:
    serve(paid, pad_id=None)
    assert asking.predict("small", [1, 3]).outputs.tolist() == scores((1, 3))
    with pytest.raises(InvalidInput, match="row 0 has fewer than 2 ids: the model pads none"):
        asking.predict("small", [1])


def test_texts_need_a_tokenizer(asking: Asking, paid: Paid) -> None:
    serve(paid, tokenizer=False)
    with pytest.raises(InvalidInput, match="no texts: its owner published no tokenizer"):
        asking.predict("small", ["good"])


def test_texts_need_the_library(asking: Asking, paid: Paid, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(paid)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(InvalidInput, match=r"pip install moiety\[text\]"):
        asking.predict("small", ["good"])
    assert asking.predict("small", [[1, 3]]).outputs.tolist() == scores((1, 3)), "ids need none"


def test_of_a_secret_embedding_digits_are_shared(asking: Asking, paid: Paid) -> None:
    entry = serve_secret(paid)
    assert entry.facts()["takes"] == "texts, or ids of tokens below 5, 2 at most"
    digits = np.array([[0, 1, 0, 3], [1, 0, 0, 0]], dtype=np.int32) * 16  # of the ids 1, 3 and of 4, padded
    for given in ([[1, 3], [4]], ["good film", "awful"]):
        assert asking.predict("small", given).outputs.tolist() == (plans.scores(digits) / 16).tolist()
    with pytest.raises(InvalidInput, match="row 0, place 1 is no id: ids are whole numbers from 0 to 4"):
        asking.predict("small", [1, 5])
    assert len(paid.files) == 1 == len(entry.attachments), "the tokenizer, and no table"


def test_a_model_that_takes_ids_no_more_says_so(asking: Asking, paid: Paid) -> None:
    before = paid.entries[0]
    entry = serve(paid)
    assert entry.facts()["takes"] == "texts, or ids of tokens below 5, 2 at most"
    paid.entries = [before]
    with pytest.raises(InvalidInput, match="does not take pictures: pass float inputs"):
        asking.predict("small", ["good"])
