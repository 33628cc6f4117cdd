"""The operators that tell values apart: categories, numbers above a threshold, and missing values."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.tabular.boundaries import boundary
from moiety_server.compiler.tabular.features import Affine, Feature, Features, Raw
from moiety_server.compiler.tabular.operator import Operator
from moiety_server.compiler.tabular.sheet import Array, Atom, Sheet
from moiety_shared.messages.table import Category

_MOST_FEATURES = 1 << 12  # of one encoder: each has a value for each category, 64 MiB in all


def imputer(node: Operator) -> Affine:
    whole = "imputed_value_int64s" in node.attributes
    if whole or not np.isnan(node.get("replaced_value_float", 0.0)):
        raise NotServable("replaces a number by another. Instead: replace missing values (NaN)")
    features = node.features()
    values = node.numbers("imputed_value_floats", len(features), 0.0)
    return replace(
        features, each=tuple(one.filled(float(value)) for one, value in zip(features.each, values, strict=True))
    )


def binarizer(node: Operator) -> Affine:
    """1 where a feature is above a threshold. The client sends one bit for each column, above one edge."""
    threshold = np.float32(node.get("threshold", 0.0))
    features = node.features()
    if not np.isfinite(threshold):
        raise NotServable("has a threshold that is NaN or infinite")
    return replace(features, each=tuple(_above(node.sheet, one, threshold) for one in features.each))


def _above(sheet: Sheet, feature: Feature, threshold: Any) -> Feature:
    def step(v: Array) -> Array:
        return np.where(np.isnan(v), v, (v > threshold).astype(np.float32)).astype(np.float32)

    raised = feature.after(step, 0.0, 0.0)
    if not any(atom.kind == "number" for atom in feature.terms):
        return of_points(raised, sheet)
    edge, first, last = boundary(raised, sheet.rule.precision)
    terms = {}
    if first != last:
        sheet.cut(feature.column, [edge])
        terms[Atom(feature.column, "above", edge)] = float(last) - float(first)
    missing = raised.points[-1:]
    if len(missing) and not np.isnan(missing[0]):
        terms[Atom(feature.column, "missing")] = float(missing[0]) - float(first)
    return replace(raised, terms=terms, constant=float(first))


def of_points(feature: Feature, sheet: Sheet) -> Feature:
    """Return a feature of a column of categories whose terms follow from its values."""
    count = len(sheet.categories(feature.column))
    unknown = float(feature.points[count])
    base = 0.0 if np.isnan(unknown) else unknown
    values = feature.points[:count].astype(np.float64) - base
    terms = {Atom(feature.column, "category", place): float(values[place]) for place in np.flatnonzero(values).tolist()}
    if sheet.flagged(feature.column):
        terms[Atom(feature.column, "missing")] = float(feature.points[-1]) - base
    return replace(feature, terms=terms, constant=base)


def one_hot(node: Operator) -> Features:
    texts = node.get("cats_strings")
    categories: list[Category] = list(texts if texts else node.get("cats_int64s") or [])
    raw = _raw(node, bool(texts))
    if len(categories) * len(raw) > _MOST_FEATURES:
        raise NotServable(f"makes more than {_MOST_FEATURES:,} features. Instead: join rare categories (min_frequency)")
    each: list[Feature] = []
    for column in raw.columns:
        joined = _sorted(node.sheet, column, categories, bool(node.get("zeros", 1)))
        places = {category: place for place, category in enumerate(joined)}
        for place in (places[category] for category in categories):
            points = np.zeros(len(joined) + 1 + node.sheet.flagged(column), dtype=np.float32)
            points[place] = 1
            each.append(Feature(column, (), points, {Atom(column, "category", place): 1.0}))
    return Features(tuple(each), len(raw))


def label_encoder(node: Operator) -> Features:
    """Translate LabelEncoder and CategoryMapper to the numbers that they give."""
    keys = _listed(node, "keys", "cats_strings", "classes_strings")
    texts = bool(keys) and isinstance(keys[0], str)
    values = _listed(node, "values", "cats_int64s" if "cats_int64s" in node.attributes else "")
    if "classes_strings" in node.attributes:
        values = list(range(len(keys)))
    if not keys or len(keys) != len(values) or isinstance(values[0], str):
        raise NotServable("does not make numbers of categories")
    whole = isinstance(values[0], int)
    default = node.get("default_int64", -1) if whole else node.get("default_float", -0.0)
    if isinstance(node.get("default_tensor"), Tensor):
        default = node.get("default_tensor").item()
    if any(isinstance(key, float) for key in keys):
        keys = [int(key) if float(key).is_integer() else key for key in keys]
    if any(isinstance(key, float) for key in keys):
        raise NotServable("takes fractions for categories. Instead: whole numbers or texts")
    raw = _raw(node, texts)
    dtype = np.int64 if whole else np.float32
    return Features(tuple(_told(node.sheet, c, keys, values, default, True, dtype) for c in raw.columns))


def _listed(node: Operator, kind: str, *others: str) -> list[Any]:
    """Return keys or values, whichever attribute holds them."""
    for name in (f"{kind}_strings", f"{kind}_int64s", f"{kind}_floats", *others):
        if node.get(name):
            return list(node.get(name))
    stored = node.get(f"{kind}_tensor")
    return stored.reshape(-1).tolist() if isinstance(stored, Tensor) else list(stored or [])


def _raw(node: Operator, texts: bool) -> Raw:
    """Return the columns of categories: of texts, or of numbers."""
    if not isinstance(node.x, Raw):
        raise NotServable("encodes what was computed. Instead: encode a column as it stands")
    if any((dtype is None) != texts for dtype in node.x.dtypes):
        raise NotServable(
            f"takes the column {node.sheet.name(node.x.columns[0])} for {'texts' if texts else 'numbers'}"
        )
    return node.x


def _sorted(sheet: Sheet, column: int, categories: Sequence[Category], zeros: bool) -> tuple[Category, ...]:
    """Return all categories of a column, with these."""
    if not categories or len(set(categories)) < len(categories):
        raise NotServable("has no categories, or one of them twice")
    return sheet.sort(column, categories, zeros)


def _told(
    sheet: Sheet,
    column: int,
    categories: Sequence[Category],
    values: Sequence[float],
    default: float,
    zeros: bool,
    dtype: Any,
) -> Feature:
    """Return a feature that has a value for each category, and `default` for another one."""
    joined = _sorted(sheet, column, categories, zeros)
    known = dict(zip(categories, values, strict=True))
    points = [known.get(category, default) for category in joined]
    points += [default] * (1 + sheet.flagged(column))
    return of_points(Feature(column, (), np.array(points, dtype=dtype), {}), sheet)
