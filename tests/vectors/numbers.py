"""Vectors of what a client computes from public statements: canonical JSON, streams, encodings, what answers mean."""

import hashlib
import json
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from moiety_client import inputs, tables, tokens
from moiety_client.answers import Prediction
from moiety_client.errors import InvalidInput
from moiety_client.tokens import Vocabulary
from moiety_shared import fixed_point
from moiety_shared.crypto.prg import Stream
from moiety_shared.fixed_point import NotEncodable, ring_dtype
from moiety_shared.messages.canary import expand, places
from moiety_shared.messages.catalogue import Entry, Preprocessing
from moiety_shared.messages.table import Column, Tabular
from moiety_shared.messages.tokens import Attachment, SecretTokens, Tokens
from moiety_shared.plan.plan import Input, InputPart, Output, OutputPart, Plan, canonical_json
from tests import plans
from tests.vectors.fixed import drawn

Case = dict[str, Any]
Cases = dict[str, list[Case]]


def texts(elements: Any) -> list[str]:
    """Whole numbers as decimal texts, since a double does not hold each of 64 bits."""
    return [str(one) for one in np.asarray(elements).ravel().tolist()]


def canonical() -> Cases:
    """A JSON text, its canonical form, and the SHA-256 of that."""
    floats = [1.0, 0.1, -0.0, 1e-4, 1e-5, 1.5e-7, 123456.0, 1e15, 1e16, 1.2345678901234567e22, 5e-324, 2.0**-4, 1e100]
    given = [
        json.dumps({"floats": floats}),
        '{"floats":[1e2,1E+2,100.0,0.00001,-1.0e-05,12345678901234567890.0,1.7976931348623157e308]}',
        '{"whole":[0,-1,9223372036854775807,-9223372036854775808,12345678901234567890123]}',
        '{ "b" : [ true , false , null ] ,\n "a" : { } , "ab" : [ ] , "Z" : "" }',
        json.dumps({"text": 'é € 𝄞 " \\ / \b \f \n \r \t \x01 \x1f \x7f \u2028'}),
        json.dumps({"text": "é € 𝄞"}, ensure_ascii=False),
    ]
    cases = []
    for text in given:
        made = canonical_json(json.loads(text))
        cases.append({"text": text, "canonical": made.decode(), "sha256": hashlib.sha256(made).hexdigest()})
    bad = ["", "{", '{"a":1,}', "[1 2]", "01", "1.", ".5", "+1", "NaN", "Infinity", '"\n"', '"\\x"', "{'a':1}", "[1]]"]
    for text in bad:
        try:
            canonical_json(json.loads(text))
        except ValueError:
            continue
        raise AssertionError(f"not refused: {text}")
    return {"cases": cases, "refused": [{"text": text} for text in bad]}


def streams() -> Cases:
    """The bytes of a stream: `seed`, address and name, and how many."""
    addresses: list[tuple[tuple[str | int, ...], str, int]] = [
        (("input",), "share", 64),
        (("canary",), "input", 40),
        (("canary",), "row", 32),
        ((), "share", 16),
        (("a", 12, "12"), "b", 33),
        (("input",), "share", 70_000),
    ]
    cases = []
    for at, (address, name, count) in enumerate(addresses):
        seed = drawn(f"stream {at}", 32)
        raw = Stream(seed, *address).words(name, (count,), np.uint8).tobytes()
        told = {"first": raw[:64].hex(), "sha256": hashlib.sha256(raw).hexdigest()}
        cases.append({"seed": seed.hex(), "address": list(address), "name": name, "bytes": count} | told)
    return {"cases": cases}


def elements() -> Cases:
    """Numbers, their encoding as ring elements, and both shares under a seed."""
    range_8 = {"frac_bits": 4, "ring_bits": 32, "low": -8.0, "high": 8.0}
    wide = {"frac_bits": 40, "ring_bits": 64, "low": -1000.0, "high": 1000.0}
    given: list[tuple[dict[str, Any], list[float]]] = [
        (range_8, [0.0, 1.0, -1.0, 8.0, -8.0, 0.03125, 0.09375, -0.03125, -0.09375, 8.03125, 0.0001]),
        (range_8 | {"frac_bits": 16, "low": -0.42421296, "high": 2.8214867}, [-0.42421296, 2.8214867, 2.8214, 1 / 3]),
        (wide, [0.1, -0.1, 999.9999999999, -1000.0, 1e-12, 4.547473508864641e-13, 1.3642420526593924e-12]),
    ]
    cases = []
    for at, (how, values) in enumerate(given):
        encoded = fixed_point.encode(values, **how)[None]
        seed, share = drawn(f"elements {at}", 32), np.empty_like(encoded)
        fixed_point.split(encoded, Stream(seed, "input"), share)
        other = Stream(seed, "input").words("share", share.shape, share.dtype)
        assert np.array_equal(fixed_point.join(share, other), encoded)
        told = {"elements": texts(encoded), "seed": seed.hex(), "alice": share.tobytes().hex()}
        cases.append(how | {"values": values} | told | {"bob": other.tobytes().hex()})
    refused = []
    for how, value in [(range_8, "nan"), (range_8, "inf"), (range_8, "-inf"), (range_8, "8.04"), (range_8, "-8.1")]:
        refused.append(how | {"values": [value]})
    refused.append(range_8 | {"frac_bits": 28, "values": ["0"]})  # the range takes 32 bits and more
    for case in refused:
        try:
            fixed_point.encode([float(v) for v in case["values"]], **{name: case[name] for name in range_8})
        except NotEncodable:
            continue
        raise AssertionError(f"not refused: {case}")
    return {"cases": cases, "refused": refused}


def _entry(plan: Plan, how: Any = None) -> Entry:
    """An entry that is complete but for what encodes nothing."""
    return Entry.model_construct(name="m", plan=plan, preprocessing=how, classes=(), max_rows=100)


def _plan(size: int, low: float, high: float, frac_bits: int = 12, ring_bits: int = 32) -> Plan:
    asked = Input(name="x", shape=(size,), frac_bits=frac_bits, low=low, high=high)
    return Plan.model_construct(ring_bits=ring_bits, input=asked)


def inputs_of_plans() -> Cases:
    """Numbers, as rows of a model's own input, and inputs by name."""
    floats = [[0.5, -8.0, 8.0, 0.03], [1.0, 2.0, 3.0, -7.99]]
    parts = (
        InputPart(name="scan", shape=(2, 2), low=0.0, high=255.0),
        InputPart(name="age", shape=(), low=18.0, high=99.0),
    )
    several = Plan.model_construct(
        ring_bits=32, input=Input(name="x", shape=(5,), frac_bits=14, low=-1, high=1, parts=parts)
    )
    named = {"scan": [[[0.0, 255.0], [127.5, 3.0]], [[1.0, 2.0], [3.0, 4.0]]], "age": [18.0, 64.25]}
    cases = []
    for plan, given in ((plans.logits(), floats), (several, named)):
        own = {n: np.array(v) for n, v in given.items()} if isinstance(given, dict) else np.array(given)
        encoded = inputs.encode(_entry(plan), own)
        cases.append(_input(plan) | {"given": given, "rows": len(encoded), "elements": texts(encoded)})
    bad: list[tuple[Plan, Any]] = [
        (plans.logits(), [[1.0, 2.0, 3.0]]),
        (plans.logits(), [[1.0, 2.0, 3.0, 8.1]]),
        (several, {"scan": named["scan"]}),
        (several, named | {"weight": [1.0, 2.0]}),
        (several, named | {"age": [18.0]}),
        (several, named | {"age": [18.0, 100.0]}),
    ]
    refused = []
    for plan, given in bad:
        own = {n: np.array(v) for n, v in given.items()} if isinstance(given, dict) else np.array(given)
        _refused(_entry(plan), own)
        refused.append(_input(plan) | {"given": given})
    return {"cases": cases, "refused": refused}


def _input(plan: Plan) -> Case:
    return {"ring_bits": plan.ring_bits, "input": plan.input.model_dump(mode="json")}


def _refused(entry: Entry, given: Any) -> InvalidInput:
    try:
        inputs.encode(entry, given)
    except InvalidInput as error:
        return error
    raise AssertionError(f"not refused: {given}")


def pictures() -> Cases:
    """Raw pixels of the model's size, (rows, height, width) or (rows, height, width, 3), flat and in that order; and
    pictures of other sizes: red, green, blue and opacity."""
    grey = Preprocessing(channels=1, size=(4, 5), mean=(0.1307,), std=(0.3081,))
    light = grey.model_copy(update={"polarity": "light-on-dark"})
    colour = Preprocessing(channels=3, size=(2, 3), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    cases = []
    for how, rows in ((grey, 2), (light, 3), (colour, 2)):
        size = how.channels * how.size[0] * how.size[1]
        pixels = np.frombuffer(drawn(f"pixels {size} {how.polarity}", rows * size), np.uint8)
        if how.polarity:
            pixels = np.concatenate([pixels[:size] // 4, 255 - pixels[size : 2 * size] // 4, pixels[2 * size :]])
        shape = (rows, *how.size) if how.channels == 1 else (rows, *how.size, how.channels)
        entry = _entry(_plan(size, -3.0, 3.0, 9), how)
        with warnings.catch_warnings(action="ignore"):  # that pictures are inverted
            encoded = inputs.encode(entry, pixels.reshape(shape))
        told = {"preprocessing": how.model_dump(mode="json"), "pixels": pixels.tobytes().hex()}
        cases.append(_input(entry.plan) | told | {"rows": rows, "elements": texts(encoded)})
    for how, width, height in (
        (grey, 9, 7),
        (grey.model_copy(update={"interpolation": "bicubic"}), 3, 2),
        (grey.model_copy(update={"resize": 7}), 13, 8),
        (colour, 40, 30),
        (colour.model_copy(update={"resize": 5, "interpolation": "bicubic"}), 23, 31),
        (colour.model_copy(update={"resize": 7}), 4, 3),
    ):
        entry = _entry(_plan(how.channels * how.size[0] * how.size[1], -3.0, 3.0, 9), how)
        data = drawn(f"picture {width} {height} {how.interpolation}", 4 * width * height)
        encoded = inputs.encode(entry, Image.frombytes("RGBA", (width, height), data))
        told = {"preprocessing": how.model_dump(mode="json"), "picture": _picture(width, height, data)}
        cases.append(_input(entry.plan) | told | {"rows": 1, "elements": texts(encoded)})
    told = _input(_plan(20, -3.0, 3.0, 9)) | {"preprocessing": grey.model_dump(mode="json")}
    refused = [told | {"pixels": "00" * 19}, told | {"picture": _picture(1, 17, b"\0" * 68)}]
    _refused(_entry(_plan(20, -3.0, 3.0, 9), grey), np.zeros((1, 19), np.uint8))
    _refused(_entry(_plan(20, -3.0, 3.0, 9), grey), Image.new("RGBA", (1, 17)))
    return {"cases": cases, "refused": refused}


def _picture(width: int, height: int, data: bytes) -> Case:
    return {"width": width, "height": height, "data": data.hex()}


def _table() -> Tabular:
    columns = (
        Column(name="age", kind="number", low=18, high=90, unit="years"),
        Column(name="income", kind="number", low=0, high=1e6, outside="clip", missing="flag"),
        Column(name="bmi", kind="bins", edges=(18.5, 25.0, 29.9), missing="fill", fill=21.0),
        Column(name="score", kind="bins", edges=(0.1, 0.2), low=0, high=1, missing="flag"),
        Column(name="region", kind="category", categories=("north", "south", "")),
        Column(name="plan", kind="category", categories=(1, 2, 10), unknown="zeros", missing="flag"),
        Column(name="member", kind="category", categories=("True", "False"), missing="fill", fill="False"),
    )
    return Tabular(columns=columns)


ROW = {"age": 18, "income": 2e6, "bmi": 25.0, "score": 0.1, "region": "south", "plan": 2, "member": True}


def table_rows() -> Cases:
    """Rows of a table by column name. `null` is a missing value."""
    table = _table()
    rows: list[Case] = [
        ROW,
        ROW | {"age": 90.0, "income": None, "bmi": None, "score": None, "region": "", "plan": None, "member": None},
        ROW | {"age": "54", "bmi": 25.000001, "score": 0.10000001, "region": "north", "plan": "10", "member": "False"},
        ROW | {"age": " 54.5 ", "bmi": 30, "score": 0.2, "plan": 7, "member": 0, "income": ""},
        ROW | {"plan": 1.0, "member": "True", "age": 53.9999999999, "income": -5},
        ROW | {"plan": "1.0", "region": "south", "bmi": 1e300, "age": 1.8e1, "income": 333333.3333},
    ]
    plan = _plan(table.size, -1.0, 1.0, 12)
    cases = []
    for precision in ("float32", "float64"):
        how = table.model_copy(update={"precision": precision})
        encoded = tables.read(how, rows).encode(how, plan, 0)
        cases.append(_input(plan) | {"preprocessing": how.model_dump(mode="json"), "given": rows} | _encoded(encoded))
    bad: list[tuple[Case, str | None]] = [
        (ROW | {"age": 17.9}, "age"),
        (ROW | {"age": 90.1}, "age"),
        (ROW | {"age": None}, "age"),
        (ROW | {"age": "old"}, "age"),
        (ROW | {"age": [18]}, "age"),
        (ROW | {"score": 1.5}, "score"),
        (ROW | {"region": "east"}, "region"),
        (ROW | {"region": None}, "region"),
        (ROW | {"member": "yes"}, "member"),
        ({name: value for name, value in ROW.items() if name != "bmi"}, None),
        (ROW | {"weight": 80}, None),
    ]
    refused = []
    for row, column in bad:
        error = _refused(_entry(plan, table), [ROW, row] if column else [row])
        assert error.column == column and error.row == (1 if column else None), (row, error)
        case = _input(plan) | {"preprocessing": table.model_dump(mode="json")}
        refused.append(case | {"given": [ROW, row] if column else [row], "column": column, "row": error.row})
    return {"cases": cases, "refused": refused}


def ids() -> Cases:
    """Ids of tokens, with the table in which they are looked up: int16, `vocabulary` rows of `width`. Where it is
    secret, no bytes."""
    table = drawn("a table of tokens", 2 * 5 * 2)
    file = Attachment(digest=hashlib.sha256(table).hexdigest(), size=len(table))
    padded = Tokens(length=3, vocabulary=5, width=2, step=2.0**-12, table=file, pad_id=4)
    whole = padded.model_copy(update={"pad_id": None})
    plan = _plan(6, -8.0, 8.0, 9)
    wide = plan.model_copy(update={"ring_bits": 64})
    secret = SecretTokens(length=3, vocabulary=5, pad_id=4, digits=(5,))
    digits = SecretTokens(length=3, vocabulary=5000, digits=(20, 256))
    cases = []
    known: list[tuple[Tokens | SecretTokens, Plan, list[list[int]]]] = [
        (padded, plan, [[1, 2, 3], [0], [4, 4]]),
        (whole, wide, [[0, 1, 2], [4, 3, 0]]),
        (secret, _plan(3, 0.0, 4.0, 0), [[1, 2, 3], [0], [4, 4]]),
        (digits, _plan(6, 0.0, 255.0, 0, 64), [[255, 256, 4999], [0, 1, 511]]),
    ]
    for how, takes, given in known:
        content = table if isinstance(how, Tokens) else b""
        encoded = Vocabulary.of(how, (content,)).encode(tokens.read(given), takes, 0)
        cases.append(_of_tokens(takes, how, content) | {"given": given} | _encoded(encoded))
    bad: list[tuple[Tokens, Any, int | None, int | None]] = [
        (padded, [[0, 1], [0, 5]], 1, 1),
        (padded, [[0, -1]], 0, 1),
        (padded, [[0, 1, 2, 3]], 0, None),
        (whole, [[0, 1]], 0, None),
        (padded, [[]], None, None),
        (padded, [[0, 0.5]], None, None),
    ]
    refused = []
    for wrong, given, row, column in bad:
        try:
            Vocabulary.of(wrong, (table,)).encode(tokens.read(given), plan, 0)
        except InvalidInput as error:
            assert (error.row, error.column) == (row, None if column is None else (column,)), error
        else:
            raise AssertionError(f"not refused: {given}")
        place = {} if row is None else {"row": row, "column": column}
        refused.append(_of_tokens(plan, wrong, table) | {"given": given} | place)
    return {"cases": cases, "refused": refused}


def _of_tokens(plan: Plan, how: Tokens | SecretTokens, table: bytes) -> Case:
    return _input(plan) | {"preprocessing": how.model_dump(mode="json"), "table": table.hex()}


def _encoded(encoded: Any) -> Case:
    return {"rows": len(encoded), "elements": texts(encoded)}


def canaries() -> Cases:
    """Seeds, and the inputs that they stand for; and the places of the outputs that a canary tells."""
    cases: list[Case] = []
    table = _table()
    for at, (plan, how) in enumerate(
        (
            (plans.logits(), None),
            (_plan(9, -0.42421296, 2.8214867, 16), None),
            (_plan(3, -1000.0, 1000.0, 40, 64), None),
            (_plan(table.size, -1.0, 1.0, 12), table),
            (_plan(table.size, -1.0, 1.0, 12), table),
            (_plan(table.size, -1.0, 1.0, 12), table),
        )
    ):
        seed = drawn(f"canary {at}", 32)
        told = {"seed": seed.hex(), "preprocessing": how and how.model_dump(mode="json")}
        made = expand(seed, plan, how).astype(ring_dtype(plan.ring_bits))
        cases.append(_input(plan) | told | {"elements": texts(made)})
    told_places = [{"outputs": size, "places": places(size).tolist()} for size in (1, 10, 16, 17, 1000)]
    return {"cases": cases, "places": told_places, "answers": list(_canary_answers())}


def _canary_answers() -> Iterator[Case]:
    """Answers to a canary of five classes: `accepted`, or the client raises CanaryFailed."""
    logits = plans.logits().output.model_dump(mode="json")
    labels = plans.labels().output.model_dump(mode="json")
    right = [0.0, 3.0, -1.0, 2.0, 0.5]
    told = {"label": 1, "outputs": right, "tolerance": 0.25}
    for given, accepted in ((right, True), ([0.25, 2.75, -1.0, 2.0, 0.5], True), ([0.3, 3.0, -1.0, 2.0, 0.5], False)):
        yield {"output": logits, "canary": told, "given": given, "accepted": accepted}
    yield {"output": logits, "canary": told | {"label": 3}, "given": right, "accepted": False}
    for given, accepted in (([0, 1, 0, 2, 0], True), ([1, 2, 0, 0, 0], False)):
        yield {
            "output": labels,
            "canary": {"label": 1, "outputs": [], "tolerance": 0.0},
            "given": given,
            "accepted": accepted,
        }


def answers() -> Cases:
    """What the parties gave out, joined, and what it means by the plan's output."""
    logits = np.array([[0.5, -1.25, 3.0, 3.0, -200.0], [700.0, 800.0, 1.0, 0.0, 0.0]])
    one = np.array([[0.75], [-2.0], [0.0]])
    parts = (
        OutputPart(name="risk", shape=(), scale=2.0, final="sigmoid"),
        OutputPart(name="kind", shape=(3,), scale=0.5, final="softmax"),
    )
    flat = {"wire": "l", "shape": (5,)}
    outputs = [
        (flat | {"final": "none"}, logits),
        (flat | {"final": "softmax"}, logits),
        (flat | {"final": "log_softmax"}, logits),
        (flat | {"final": "sigmoid", "unit": "scores"}, logits),
        (flat | {"final": "ovr", "unit": "scores"}, logits),
        (flat | {"final": "none", "unit": "scores"}, logits),
        (flat | {"final": "none", "unit": "probabilities"}, np.array([[0.2, 0.3, 0.1, 0.4, 0.0]])),
        (flat | {"task": "values"}, logits),
        (flat | {"task": "values", "final": "exp"}, logits / 100),
        ({"wire": "l", "shape": (1,), "task": "binary", "final": "sigmoid", "threshold": -0.5}, one),
        ({"wire": "l", "shape": (1,), "task": "binary", "unit": "probabilities", "threshold": 0.5}, one),
        ({"wire": "l", "shape": (4,), "task": "values", "parts": parts}, logits[:, :4]),
        (flat | {"kind": "labels", "top": 2}, np.array([[0, 1, 0, 2, 0], [2, 0, 0, 0, 1]])),
        ({"wire": "d", "shape": (1,), "kind": "decision", "task": "binary"}, np.array([[1], [0]])),
    ]
    return {"cases": [_answer(Output.model_validate(how), given) for how, given in outputs]}


def _answer(output: Output, given: Any) -> Case:
    told = Prediction(output, given, (), 0, 0, 0.0)
    case: Case = {"output": output.model_dump(mode="json"), "given": given.tolist()}
    for name in ("labels", "top", "outputs", "probabilities"):
        try:
            value = getattr(told, name)
        except Exception as error:
            case[name] = {"raises": type(error).__name__}
            continue
        by_name = isinstance(value, dict)
        case[name] = (
            {part: _digits(v.reshape(len(v), -1).tolist()) for part, v in value.items()}
            if by_name
            else _digits(value.tolist())
        )
    return case


def _digits(values: Any) -> Any:
    """The numbers, to 13 digits: processors differ in the last bits of an exponential."""
    if isinstance(values, float):
        return float(f"{values:.13g}")
    return [_digits(value) for value in values] if isinstance(values, list) else values
