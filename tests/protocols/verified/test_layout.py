"""What is dealt, as it travels: a bundle's arrays, cut into rows and joined again, give runs that are accepted."""

import numpy as np
import pytest

from moiety_shared.crypto.prg import Stream, new_seed
from moiety_shared.protocols.preparation import PreparedRows, cut, stack
from moiety_shared.protocols.verified import answers, graph, layout
from moiety_shared.protocols.verified.answers import VOUCHER_BYTES, RowKeys
from moiety_shared.protocols.verified.graph import WORD, PreparedRun
from moiety_shared.protocols.verified.layout import NUMBERS, RowStream
from moiety_shared.protocols.verified.prepared import joined, rows_of
from moiety_shared.ring import Array
from tests.protocols.running import integers
from tests.protocols.verified import lies
from tests.protocols.verified.running import Bundle, Upload, drive, stored

BUNDLE_ROWS = 3


@pytest.fixture(scope="module")
def up() -> Upload:
    return lies.upload()


def test_a_plan_states_what_its_runs_cost(up: Upload) -> None:
    plan = layout.verified(up.plan)
    assert plan.verified is not None
    x, bundle = integers((1, 6)), up.deal(1)
    outcome = drive(up.sessions(bundle, x))
    assert (plan.rounds, plan.cost(1).online_bytes) == (outcome.rounds, outcome.sent[0])
    dealt = sum(array.nbytes for part in bundle.sent.values() for array in part.values())
    assert plan.bundle_row_bytes == dealt + VOUCHER_BYTES
    assert layout.checked_layout(plan) == layout.layout(up.plan)


def test_a_plan_that_states_another_cost_is_refused(up: Upload) -> None:
    plan = layout.verified(up.plan)
    assert plan.verified is not None
    less = plan.verified.model_copy(update={"row_bytes": plan.verified.row_bytes - 1})
    for other in (up.plan, plan.model_copy(update={"verified": less})):
        with pytest.raises(ValueError, match="another size"):
            layout.checked_layout(other)


def test_weights_are_laid_out_as_they_are_dealt(up: Upload) -> None:
    found = layout.layout(up.plan)
    for name, parts in found.weights.items():
        raw = b"".join(array.tobytes() for array in layout.arrays({name: parts}, up.sent))
        for part, array in zip(parts, layout.views(parts, raw), strict=True):
            assert np.array_equal(array, up.sent[name][part.name])


def bundles(up: Upload, seeds: list[bytes], count: int) -> list[PreparedRows]:
    """What bob keeps of some bundles that he was sent."""
    found, kept = layout.layout(up.plan), list[PreparedRows]()
    rows = {name: parts for name, parts in found.row.items() if name != layout.RECORDS}
    for number in range(count):
        streams = Stream(seeds[0], "bundle", number), Stream(seeds[1], "bundle", number)
        sent = dict(graph.deal(up.plan, BUNDLE_ROWS, up.keys, up.masks, streams))
        bundle: PreparedRows = {NUMBERS: (np.arange(BUNDLE_ROWS) + number * BUNDLE_ROWS, np.full(BUNDLE_ROWS, None))}
        for name, parts in rows.items():
            raw = b"".join(array.tobytes() for array in layout.arrays({name: parts}, sent))
            bundle[name] = layout.views(parts, raw, BUNDLE_ROWS)
        kept.append(bundle)
    return kept


def _prepared_ahead(up: Upload, party: int, seed: bytes, kept: list[PreparedRows], first: int, end: int) -> PreparedRun:
    """Rows first to end - 1, of bundles that were prepared as wholes."""
    parts = list[PreparedRun]()
    for number in range(first // BUNDLE_ROWS, (end - 1) // BUNDLE_ROWS + 1):
        sent = layout.named(layout.layout(up.plan).row, kept[number]) if party else {}
        stream = Stream(seed, "bundle", number)
        whole = graph.prepare(up.plan, up.keys[party], BUNDLE_ROWS, up.models[party], stream, sent)
        start = number * BUNDLE_ROWS
        parts.append(rows_of(whole, max(first - start, 0), min(end - start, BUNDLE_ROWS)))
    return joined(parts)


def arrays_of(run: PreparedRun) -> list[Array]:
    """All arrays that a party prepared."""
    masks = [part for mask in run.masks for part in mask]
    return [run.inputs, *masks, *(array for _, array in stored(run.layers))]


@pytest.mark.parametrize(("first", "end"), [(0, 1), (1, 3), (2, 5), (0, 9), (4, 8)])
def test_rows_of_several_bundles_make_one_run(up: Upload, first: int, end: int) -> None:
    """alice has her seed alone, and bob his and what he was sent."""
    seeds, x = [new_seed(), new_seed()], integers((end - first, 6))
    kept = bundles(up, seeds, 3)
    part = cut(stack(kept), first, end)
    numbers = part[NUMBERS][0].tolist()
    assert numbers == list(range(first, end))
    sent = {}, layout.named(layout.layout(up.plan).row, part)
    streams = [RowStream.of(seed, BUNDLE_ROWS, numbers) for seed in seeds]
    ready = [graph.prepare(up.plan, key, len(x), up.models[p], streams[p], sent[p]) for p, key in enumerate(up.keys)]
    for party, whole in enumerate(ready):
        ahead = _prepared_ahead(up, party, seeds[party], kept, first, end)
        assert [*map(np.ndarray.tobytes, arrays_of(ahead))] == [*map(np.ndarray.tobytes, arrays_of(whole))]
        assert (ahead.verdicts, ahead.keys) == (whole.verdicts, whole.keys)
    bundle = Bundle(new_seed(), {}, ready, {}, {}, seeds)
    one, other = drive(up.sessions(bundle, x)).answers
    assert one is not None and other is not None
    keys = RowKeys.draw(streams[0], len(x)), RowKeys.draw(streams[1], len(x))
    assert answers.accept(WORD, x, (one, other), lambda said: said == keys).shape == (len(x), 3)


def test_rows_that_are_not_asked_for_are_not_drawn() -> None:
    stream = RowStream.of(new_seed(), 4, [1, 2, 6])
    assert [part[1:] for part in stream.parts] == [(1, 2), (2, 1)]
    with pytest.raises(ValueError, match="other rows"):
        stream.words("w", (4, 2), np.uint8)
