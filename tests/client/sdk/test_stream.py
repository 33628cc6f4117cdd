"""Many inputs: in batches, in order, lazily; and on after an interruption without paying twice."""

import asyncio
import itertools
import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch

from moiety_client.answers import Prediction
from moiety_client.errors import InvalidInput, QuotaExceeded, ResumeRefused, ServiceUnavailable
from moiety_client.journal import RunJournal
from moiety_shared.problems import Problem, ProblemType
from tests import plans
from tests.client.sdk.conftest import Asking, Paid
from tests.client.test_canaries import known
from tests.client.test_results import real

ROWS = 43
X = plans.random_inputs(ROWS)
INPUTS, SCORES = real(X), plans.scores(X) / 16.0


def outputs(parts: list[Prediction]) -> np.ndarray:
    return np.concatenate([part.outputs for part in parts])


def rows(paid: Paid) -> list[int]:
    return [request.rows for request in paid.asked]


# In batches


@pytest.mark.parametrize("form", ["array", "list", "iterator", "stacks"])
def test_batches_come_in_order_whatever_the_inputs_come_in(asking: Asking, paid: Paid, form: str) -> None:
    given = {
        "array": INPUTS,
        "list": list(INPUTS),
        "iterator": iter(INPUTS),
        "stacks": iter([INPUTS[:1], INPUTS[1:30], INPUTS[30:]]),
    }[form]
    parts = asking.stream("small", given, batch=10)
    assert [len(part) for part in parts] == rows(paid) == [10, 10, 10, 10, 3]
    assert np.array_equal(outputs(parts), SCORES)


def test_an_iterator_may_be_predicted_whole(asking: Asking, paid: Paid) -> None:
    answer = asking.predict("small", (x for x in np.tile(INPUTS, (4, 1))))
    assert np.array_equal(answer.outputs, np.tile(SCORES, (4, 1))) and rows(paid) == [100, 72], "max_rows is 100"
    assert (answer.rounds, answer.online_bytes) == (9, 14)


def test_the_asynchronous_client_takes_asynchronous_iterators(paid: Paid) -> None:
    async def arriving() -> AsyncIterator[np.ndarray]:
        for row in INPUTS:
            await asyncio.sleep(0)
            yield row

    twin = paid.asking("async")
    assert np.array_equal(twin.predict("small", arriving()).outputs, SCORES)
    assert np.array_equal(outputs(twin.stream("small", arriving(), batch=20)), SCORES)


def test_of_no_inputs_there_is_no_prediction(asking: Asking, paid: Paid) -> None:
    assert asking.stream("small", []) == []
    with pytest.raises(InvalidInput, match="pass at least one"):
        asking.predict("small", iter([]))


def test_what_gives_batches_may_be_predicted_and_evaluated(asking: Asking) -> None:
    loader = torch.utils.data.DataLoader(torch.from_numpy(INPUTS), batch_size=9)
    assert np.array_equal(asking.predict("small", loader).outputs, SCORES)
    assert asking.evaluate("small", loader, SCORES.argmax(axis=1)).accuracy == 1


def test_pairs_of_inputs_and_labels_are_refused(asking: Asking, paid: Paid) -> None:
    """Two arrays of an iterator are no batch of two: y would be predicted as well."""
    x, y = torch.from_numpy(INPUTS), torch.from_numpy(SCORES.argmax(axis=1))
    pairs = torch.utils.data.TensorDataset(x, y)
    same = torch.utils.data.TensorDataset(x, x)  # even where y could be an input
    for loader in (
        torch.utils.data.DataLoader(pairs, batch_size=9),
        torch.utils.data.DataLoader(same, batch_size=9),
        ((a, int(b)) for a, b in pairs),
        ((a.numpy(), b.numpy()) for a, b in pairs),
        ((a, b, b) for a, b in pairs),
        iter([[INPUTS, SCORES]]),
        iter([("digit.png", 7)]),
    ):
        with pytest.raises(InvalidInput, match=r"yields pairs .* pass x alone"):
            asking.predict("small", loader)
    with pytest.raises(InvalidInput, match="yields pairs"):
        asking.stream("small", [(INPUTS, SCORES)])
    with pytest.raises(InvalidInput, match="yields pairs"):
        asking.evaluate("small", torch.utils.data.DataLoader(pairs, batch_size=9), y)
    assert not paid.asked
    alone = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=9)
    assert np.array_equal(asking.predict("small", alone).outputs, SCORES)
    assert np.array_equal(asking.predict("small", iter([list(INPUTS[:5]), INPUTS[5:]])).outputs, SCORES)


def test_an_error_names_the_row_of_the_whole_run(asking: Asking) -> None:
    wrong = INPUTS.copy()
    wrong[27, 2] = 99
    with pytest.raises(InvalidInput, match="row 27, place 2 is above the model's range") as caught:
        asking.stream("small", iter(wrong), batch=10)
    assert (caught.value.row, caught.value.column, caught.value.value) == (27, (2,), 99)


def test_asynchronous_iterators_are_not_for_everything(paid: Paid) -> None:
    async def arriving() -> AsyncIterator[np.ndarray]:
        yield INPUTS[0]

    for kind, call in (("sync", "predict"), ("sync", "evaluate"), ("async", "evaluate")):
        with pytest.raises(InvalidInput, match="pass its items"):
            more = ([0],) if call == "evaluate" else ()
            getattr(paid.asking(kind), call)("small", arriving(), *more)


def test_no_more_is_read_than_is_due(asking: Asking) -> None:
    read: list[int] = []

    def reading() -> Iterator[np.ndarray]:
        for i in itertools.count():
            read.append(i)
            yield INPUTS[i % ROWS]

    assert len(asking.stream("small", reading(), batch=8, first=3)) == 3
    assert len(read) == 24


def test_what_does_not_fit_is_refused_where_it_comes(asking: Asking, paid: Paid) -> None:
    taken: list[Prediction] = []
    with pytest.raises(InvalidInput, match="shape 4"):
        asking.into(taken, "small", [*INPUTS[:20], INPUTS[0, :3]], batch=10)
    assert len(taken) == 2, "what came before is given out"
    with pytest.raises(InvalidInput, match="pass 1 or more"):
        asking.stream("small", INPUTS, batch=0)


def test_the_bar_is_drawn_on_stderr_alone(asking: Asking, capsys: pytest.CaptureFixture[str]) -> None:
    asking.stream("small", INPUTS, batch=10)
    assert capsys.readouterr() == ("", "")
    asking.stream("small", INPUTS, batch=10, progress=True)
    out, err = capsys.readouterr()
    assert not out and f"{ROWS}/{ROWS}" in err and "small" in err


def test_canaries_are_mixed_into_every_batch(asking: Asking, paid: Paid) -> None:
    paid.entries = [paid.entry.model_copy(update={"canaries": known(plans.logits())})]
    assert np.array_equal(outputs(asking.stream("small", INPUTS, batch=10, canaries=2)), SCORES)
    assert rows(paid) == [12, 12, 12, 12, 5]


# After an interruption


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "run.jsonl"


def interrupted(asking: Asking, paid: Paid, file: Path, at: int) -> list[Prediction]:
    """A run that is over its quota after so many batches; what it gave out."""
    paid.before = [None] * at + [Problem(ProblemType.QUOTA_EXCEEDED, retry_after=60)]
    taken: list[Prediction] = []
    with pytest.raises(QuotaExceeded):
        asking.into(taken, "small", INPUTS, batch=10, resume=file)
    return taken


def test_a_run_goes_on_where_it_broke_off(asking: Asking, paid: Paid, file: Path) -> None:
    before = interrupted(asking, paid, file, 3)
    assert len(before) == 3 and paid.paid == 30
    paid.asked.clear()
    parts = asking.stream("small", INPUTS, batch=10, resume=file)
    assert rows(paid) == [10, 3] and paid.paid == ROWS, "nothing was paid for twice"
    assert np.array_equal(outputs(parts), SCORES) and [len(part) for part in parts] == [10, 10, 10, 10, 3]
    assert (parts[0].rounds, parts[0].online_bytes, parts[0].seconds) == (9, 7, before[0].seconds)
    paid.asked.clear()
    assert np.array_equal(outputs(asking.stream("small", iter(INPUTS), batch=10, resume=str(file))), SCORES)
    assert not paid.asked, "all of it is there"


def test_of_labels_alone_it_keeps_what_was_told(party_keys: tuple, file: Path) -> None:
    paid = Paid(plans.labels(top=3), party_keys)
    first = paid.asking("sync").stream("small", INPUTS, batch=20, resume=file)
    again = paid.asking("async").stream("small", INPUTS, batch=20, resume=file)
    assert paid.paid == ROWS
    for one, other in zip(first, again, strict=True):
        assert np.array_equal(one.top, other.top) and one.given.dtype == other.given.dtype


def test_an_answer_that_was_lost_on_its_way_is_not_paid_again(asking: Asking, paid: Paid, file: Path) -> None:
    paid.after = [None, None, *(httpx.ReadError("the network is down") for _ in range(1000))]
    with pytest.raises(ServiceUnavailable):
        asking.stream("small", INPUTS, batch=10, resume=file)
    assert paid.paid == 30, "the third was computed, and its answer lost"
    lost = paid.asked[-1]
    paid.after, paid.asked = [], []
    assert np.array_equal(outputs(asking.stream("small", INPUTS, batch=10, resume=file)), SCORES)
    assert paid.paid == ROWS
    assert paid.asked[0].binding == lost.binding and rows(paid) == [10, 10, 3], "the very same request"
    assert len({request.binding.request_id for request in paid.asked}) == 3
    assert not file.with_name("run.jsonl.pending").exists(), "what the inputs were masked with is gone"


def test_a_lost_batch_that_the_parties_take_no_more_is_another_request(asking: Asking, paid: Paid, file: Path) -> None:
    paid.after = [httpx.ReadError("cut")] * 1000
    with pytest.raises(ServiceUnavailable):
        asking.stream("small", INPUTS[:10], batch=10, resume=file)
    lost = paid.asked[0].binding
    paid.asked, paid.after, paid.before = [], [], [Problem(ProblemType.REQUEST_EXPIRED)]
    paid.after = [httpx.ReadError("cut")] * 1000
    with pytest.raises(ServiceUnavailable):
        asking.stream("small", INPUTS[:10], batch=10, resume=file)
    anew = paid.asked[-1].binding
    assert paid.asked[0].binding == lost and lost.request_id != anew.request_id
    paid.asked, paid.after = [], []
    assert np.array_equal(outputs(asking.stream("small", INPUTS[:10], batch=10, resume=file)), SCORES[:10])
    assert [asked.binding for asked in paid.asked] == [anew], "and it is this one that is on the disk"
    assert not file.with_name(file.name + ".pending").exists()


def test_what_was_drawn_is_never_used_for_other_inputs(asking: Asking, paid: Paid, file: Path) -> None:
    paid.after = [httpx.ReadError("the network is down") for _ in range(1000)]
    with pytest.raises(ServiceUnavailable):
        asking.stream("small", INPUTS, batch=10, resume=file)
    lost, seed = paid.asked[-1], json.loads(file.with_name("run.jsonl.pending").read_text())["seed"]
    paid.after = [httpx.ReadError("the network is down") for _ in range(1000)]
    with pytest.raises(ServiceUnavailable):  # no batch was finished, so other inputs are no contradiction yet
        asking.stream("small", INPUTS[::-1], batch=10, resume=file)
    assert paid.asked[-1].binding.request_id != lost.binding.request_id
    assert json.loads(file.with_name("run.jsonl.pending").read_text())["seed"] != seed


def test_with_canaries_a_lost_batch_is_another_request(asking: Asking, paid: Paid, file: Path) -> None:
    paid.entries = [paid.entry.model_copy(update={"canaries": known(plans.logits())})]
    paid.after = [None, *(httpx.ReadError("the network is down") for _ in range(1000))]
    with pytest.raises(ServiceUnavailable):
        asking.stream("small", INPUTS, batch=10, resume=file, canaries=1)
    lost = paid.asked[-1]
    paid.after, paid.asked = [], []
    assert np.array_equal(outputs(asking.stream("small", INPUTS, batch=10, resume=file, canaries=1)), SCORES)
    assert rows(paid) == [11, 11, 11, 4] and paid.asked[0].binding.request_id != lost.binding.request_id


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"images": INPUTS[::-1]}, "other inputs from batch 1 on"),
        ({"images": np.concatenate((INPUTS[:15], INPUTS[:1], INPUTS[16:]))}, "other inputs from batch 2 on"),
        ({"images": INPUTS[:20]}, "more inputs than you passed"),
        ({"images": INPUTS[:25]}, "other inputs from batch 3 on"),
        ({"batch": 11}, "in batches of 10, but this is a run of model small 3 in batches of 11"),
        ({"model": "other"}, "this is a run of model other"),
        ({"version": 4}, "this is a run of model small 4"),
        ({"upload_id": "11" * 16}, "weights the owner uploaded again"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_run_is_refused_before_anything_is_sent(
    asking: Asking, paid: Paid, file: Path, change: dict, said: str
) -> None:
    interrupted(asking, paid, file, 3)
    content = file.read_bytes()
    entry = paid.entry
    paid.entries = [
        entry.model_copy(update={k: v for k, v in change.items() if k in ("version", "upload_id")}),
        entry.model_copy(update={"name": "other"}),
    ]
    asking.model("small", refresh=True)
    paid.asked.clear()
    options = {"batch": 10, "resume": file} | {k: v for k, v in change.items() if k == "batch"}
    with pytest.raises(ResumeRefused, match=re.escape(said)) as caught:
        asking.stream(change.get("model", "small"), change.get("images", INPUTS), **options)
    assert "file" in str(caught.value)
    assert not paid.asked and file.read_bytes() == content, "and the file is as it was"


def test_a_model_that_is_published_anew_meanwhile_is_not_mixed_in(asking: Asking, paid: Paid, file: Path) -> None:
    asking.model("small")
    interrupted(asking, paid, file, 1)
    paid.entries = [paid.entry.model_copy(update={"upload_id": "22" * 16, "version": 4})]
    with pytest.raises(ResumeRefused, match="published again"):
        asking.stream("small", INPUTS, batch=10, resume=file)
    assert np.array_equal(outputs(asking.stream("small", INPUTS, batch=10)), SCORES), "without a file it goes on"


def test_a_line_that_was_cut_short_is_asked_again(asking: Asking, paid: Paid, file: Path) -> None:
    asking.stream("small", INPUTS, batch=10, resume=file)
    lines = file.read_bytes().splitlines(keepends=True)
    cut = [b"".join(lines[:3]) + lines[3][:40], lines[0][:-1], b"", lines[0] + b"x" * 100_000]
    for left, expected in zip(cut, (3, 5, 5, 5), strict=True):
        file.write_bytes(left)
        paid.asked.clear()
        assert np.array_equal(outputs(asking.stream("small", INPUTS, batch=10, resume=file)), SCORES)
        assert len(paid.asked) == expected and len(file.read_bytes().splitlines()) == 6


def test_what_is_no_such_file_is_refused_and_left_alone(asking: Asking, paid: Paid, file: Path) -> None:
    asking.stream("small", INPUTS, batch=10, resume=file)
    head, *lines = file.read_text().splitlines()
    wrong = [
        "precious notes\n",
        head + "\n{}\n",
        head.replace('"format":1', '"format":2') + "\n",
        "\n".join([head, lines[0].replace('"values":[[', '"values":[["x",')]) + "\n",
        "\n".join([head, lines[0].replace('"values":[[', '"values":[[7.0,')]) + "\n",
    ]
    for text in wrong:
        file.write_text(text)
        with pytest.raises(ResumeRefused, match="name another"):
            asking.stream("small", INPUTS, batch=10, resume=file)
        assert file.read_text() == text
    with pytest.raises(ResumeRefused, match="cannot be written"):
        asking.stream("small", INPUTS, batch=10, resume=file.parent)


def test_one_run_at_a_time_writes_a_file(asking: Asking, file: Path) -> None:
    other = RunJournal(file)
    with pytest.raises(ResumeRefused, match="another run is writing"):
        asking.stream("small", INPUTS, resume=file)
    other.close()
    asking.stream("small", INPUTS, resume=file)


def test_nobody_else_can_read_it_and_no_input_is_in_it(asking: Asking, paid: Paid, file: Path) -> None:
    seen: list[bytes] = []
    for part in range(3):
        paid.before = [None] * part + [Problem(ProblemType.QUOTA_EXCEEDED, retry_after=60)]
        with pytest.raises(QuotaExceeded):
            asking.stream("small", np.full((43, 4), 1.9375), batch=10, resume=file)
        for path in (file, file.with_name("run.jsonl.pending")):
            assert path.stat().st_mode & 0o077 == 0
            seen.append(path.read_bytes())
    assert not any(b"1.9375" in content for content in seen)
