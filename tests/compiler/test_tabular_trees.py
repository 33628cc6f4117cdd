"""Tree ensembles as bins: the leaves of onnx's own evaluator for every row, on thresholds and a bit beside them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from moiety_server.compiler import ir
from moiety_server.compiler.compilation import Compiled, compile_model
from moiety_server.compiler.tabular.reading import TabularModel, read_tabular
from moiety_shared import reference
from moiety_shared.messages.table import Column
from moiety_shared.plan.layers import Linear, Open
from moiety_shared.plan.local import Reshape
from moiety_shared.plan.lookups import Table
from tests.compiler.forests import MODES, Forest
from tests.compiler.tables import (
    DOUBLE,
    FLOAT,
    STRING,
    Array,
    answers,
    encode,
    evaluated,
    labels,
    node,
    numbers,
    plain,
    quick,
    save,
    seeds,
    told,
)  # fmt: skip

ABC = numbers("a", "b", "c")


def compiled(model: TabularModel, columns: list[Array], **how: Any) -> Compiled:
    rows = encode(model.table, columns).float()
    return compile_model(model.graph, rows, low=model.low, high=model.high, meaning=model.meaning, **how)


def served(of: Compiled, model: TabularModel, columns: list[Array]) -> Array:
    """The outputs (rows, outputs) of the plan in plain fixed point, before the last function."""
    rows = encode(model.table, columns).numpy()
    x = np.rint(rows * 2.0**of.plan.input.frac_bits).astype(np.int32 if of.plan.ring_bits == 32 else np.int64)
    return reference.run(of.plan, x, of.weights).reshape(len(x), -1) * of.plan.output.scale


@quick(40)
@given(seed=seeds, outputs=st.integers(1, 3), average=st.booleans(), base=st.booleans())
def test_regressors(tmp_path: Path, seed: int, outputs: int, average: bool, base: bool) -> None:
    forest = Forest(seed, modes=MODES)
    more: dict[str, Any] = {"aggregate_function": "AVERAGE"} if average else {}
    more |= {"base_values": [0.5 + i for i in range(outputs)]} if base else {}
    path, rows = save(tmp_path, [forest.regressor(outputs=outputs, **more)]), forest.rows()
    model = read_tabular(path, ABC)
    expected = evaluated(path, {"x": rows})[0]
    np.testing.assert_allclose(answers(model, list(rows.T)), expected, atol=1e-5)
    plan = compiled(model, list(rows.T))
    np.testing.assert_allclose(told(model, served(plan, model, list(rows.T))), expected, atol=1e-5)


@quick(40)
@given(
    seed=seeds,
    classes=st.integers(2, 4),
    how=st.sampled_from(["NONE", "LOGISTIC", "SOFTMAX", "probabilities", "one LOGISTIC", "one SOFTMAX"]),
)
def test_classifiers(tmp_path: Path, seed: int, classes: int, how: str) -> None:
    one, transform = how.startswith("one"), how.split()[-1]
    classes = 2 if one else classes
    forest = Forest(seed)
    made = forest.classifier(classes, "NONE" if how == "probabilities" else transform, how == "probabilities", one)
    path, rows = save(tmp_path, [made], ("label", "p")), forest.rows()
    model, (expected, scores) = read_tabular(path, ABC), evaluated(path, {"x": rows})
    assert model.classes == tuple(10 + i for i in range(classes))
    assert (model.unit == "probabilities") == (how == "probabilities")
    np.testing.assert_allclose(answers(model, list(rows.T)), scores, atol=1e-5)
    plan = compiled(model, list(rows.T))
    assert labels(model, served(plan, model, list(rows.T))) == expected.tolist()


@quick(40)
@given(seed=seeds, outputs=st.integers(1, 2), aggregate=st.sampled_from([0, 1]), members=st.booleans())
def test_ensembles_of_one_list_of_nodes(tmp_path: Path, seed: int, outputs: int, aggregate: int, members: bool) -> None:
    forest = Forest(seed, modes=MODES[:4])
    if members:  # onnx's evaluator takes a 0 for the end of a set
        forest = Forest(seed, modes=("BRANCH_EQ", "MEMBER"), values=np.array([-1.5, -0.1, 2.0], dtype=np.float32))
    path, rows = save(tmp_path, [forest.ensemble(outputs, aggregate)], ml=5), forest.rows()
    model = read_tabular(path, ABC)
    np.testing.assert_allclose(answers(model, list(rows.T)), evaluated(path, {"x": rows})[0], atol=1e-5)


@quick(40)
@given(seed=seeds, scaled=st.booleans(), filled=st.booleans())
def test_missing_values_go_where_the_framework_sends_them(
    tmp_path: Path, seed: int, scaled: bool, filled: bool
) -> None:
    """A flag a column, no more: each node says which way it goes, or an Imputer says which value it has."""
    forest = Forest(seed, modes=MODES[:4], tracks=True)
    rows = forest.rows(missing=0.3)
    nodes = [node("Scaler", "x", "s", offset=[0.25, 0.0, -0.5], scale=[2.0, -1.0, 0.3])] * scaled
    x = "s" if scaled else "x"
    how = {"imputed_value_floats": [0.3, -0.1, 2.0], "replaced_value_float": float("nan")}
    nodes += [node("Imputer", x, "i", **how)] * filled
    path = save(tmp_path, [*nodes, forest.regressor("i" if filled else x)])
    model = read_tabular(path, numbers("a", "b", "c", missing="flag"))
    assert all(column.missing == "flag" for column in model.table.columns)
    np.testing.assert_allclose(answers(model, list(rows.T)), evaluated(path, {"x": rows})[0], atol=1e-5)


@quick(40)
@given(seed=seeds, offset=st.floats(-3, 3, width=32), scale=st.floats(2**-6, 50, width=32), falls=st.booleans())
def test_thresholds_move_back_through_scales_to_the_last_bit(
    tmp_path: Path, seed: int, offset: float, scale: float, falls: bool
) -> None:
    """The file rounds to float32 after each step, and so does the search for an edge."""
    forest = Forest(seed, modes=MODES[:4])
    nodes = [
        node("Scaler", "x", "s", offset=[offset], scale=[-scale if falls else scale]),
        plain("Add", "s k", "t"), plain("Div", "t d", "z"), forest.regressor("z"),
    ]  # fmt: skip
    constants = {"k": np.array([0.7, 0.1, -1e3], dtype=np.float32), "d": np.array([3], dtype=np.float32)}
    path = save(tmp_path, nodes, constants=constants)
    model = read_tabular(path, numbers("a", "b", "c", low=-1e6, high=1e6))
    edges = [np.array(c.edges, dtype=np.float32) for c in model.table.columns]
    rows = np.stack([np.resize(np.concatenate([e, np.nextafter(e, np.float32(np.inf))]), 60) for e in edges], axis=1)
    np.testing.assert_allclose(answers(model, list(rows.T)), evaluated(path, {"x": rows})[0], atol=1e-5)


@pytest.mark.parametrize("value", [0.1, -0.1, 1e5 + 0.1, 1e30])
def test_numbers_are_compared_in_the_precision_of_the_file(tmp_path: Path, value: float) -> None:
    """A file of doubles tells numbers apart that a file of floats does not."""
    near = float(np.float32(value))
    forest = Forest(5, width=1, trees=1, depth=1, values=np.array([value], dtype=np.float32))
    rows = np.array([[np.nextafter(near, -1e99)], [near], [np.nextafter(near, 1e99)]])
    for kind, dtype in ((FLOAT, np.float32), (DOUBLE, np.float64)):
        path = save(tmp_path, [forest.regressor()], inputs={"x": (kind, 1)})
        model = read_tabular(path, numbers("a"))
        assert model.table.precision == np.dtype(dtype).name
        expected = evaluated(path, {"x": rows.astype(dtype)})[0]
        np.testing.assert_allclose(answers(model, [rows[:, 0]]), expected, atol=1e-6)
        assert len(set(expected[:, 0].tolist())) == (1 if kind == FLOAT else 2)


@pytest.mark.parametrize("zeros", [0, 1])
@pytest.mark.parametrize("depth", [1, 4])
def test_categories_in_trees(tmp_path: Path, zeros: int, depth: int) -> None:
    """Of trees of one node some leave the job open, whatever it is: also where no unknown one is let in."""
    forest = Forest(9, width=4, trees=30, depth=depth, values=np.array([0.5], dtype=np.float32))
    inputs = {"job": (STRING, 1), "home": (STRING, 1)}
    how = {"keys_strings": ["own", "rent"], "values_floats": [0.0, 1.0], "default_float": -1.0}
    nodes = [
        node("OneHotEncoder", "job", "j", cats_strings=["clerk", "nurse", "judge"], zeros=zeros),
        plain("Reshape", "j s", "o"), node("LabelEncoder", "home", "h", **how),
        plain("Concat", "o h", "z", axis=1), forest.regressor("z"),
    ]  # fmt: skip
    path = save(tmp_path, nodes, inputs=inputs, constants={"s": np.array([-1, 3])})
    model = read_tabular(path, [Column(name=name, kind="category", categories=("?",)) for name in inputs])
    jobs, homes = ["clerk", "nurse", "judge", *["king"] * zeros], ["own", "rent", "tent"]
    rows = {"job": np.repeat(jobs, 3)[:, None], "home": np.tile(homes, len(jobs))[:, None]}
    expected = evaluated(path, rows)[0]
    np.testing.assert_allclose(answers(model, [rows["job"][:, 0], rows["home"][:, 0]]), expected, atol=1e-5)
    assert len(set(expected[:, 0].tolist())) > 4


@pytest.mark.parametrize("one", [False, True])
def test_a_tie_of_two_classes_stays_a_tie(tmp_path: Path, one: bool) -> None:
    """Half of the trees say 0.01 for each class, or for the second one alone where the file has `one` value. Rounding
    must not make one of them more likely: argmax takes the first."""
    base = {
        "nodes_featureids": [0, 0, 0],
        "nodes_values": [0.0, 0.0, 0.0],
        "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"],
    }
    base |= {"nodes_nodeids": [0, 1, 2], "nodes_truenodeids": [1, 0, 0], "nodes_falsenodeids": [2, 0, 0]}
    trees = 100
    how: dict[str, Any] = {name: values * trees for name, values in base.items()}
    how["nodes_treeids"] = [tree for tree in range(trees) for _ in range(3)]
    leaves = [(tree, leaf, (leaf + tree) % 2) for tree in range(trees) for leaf in (1, 2)]
    how |= {"class_treeids": [t for t, _, _ in leaves], "class_nodeids": [n for _, n, _ in leaves]}
    if one:
        how |= {"class_ids": [1] * len(leaves), "class_weights": [0.01 * c for _, _, c in leaves]}
    else:
        how |= {"class_ids": [c for _, _, c in leaves], "class_weights": [0.01] * len(leaves)}
    how |= {"classlabels_int64s": [0, 1], "post_transform": "NONE"}
    path = save(tmp_path, [node("TreeEnsembleClassifier", "x", "label p", **how)], ("label", "p"))
    model, rows = read_tabular(path, ABC), np.array([[-1, 0, 0], [1, 0, 0]], dtype=np.float32)
    assert model.unit == "probabilities" and model.classes == (0, 1)
    got = served(compiled(model, list(rows.T)), model, list(rows.T))
    assert got[:, 0].tolist() == [0.5, 0.5] and labels(model, got) == [0, 0]
    np.testing.assert_allclose(answers(model, list(rows.T))[:, -1], 0.5, atol=1e-6)


def test_the_plan_counts_looks_up_and_adds(tmp_path: Path) -> None:
    """Four rounds, and no dither before the leaves' values: bits and counts are whole, the table drops no bit."""
    forest = Forest(3, trees=20, depth=4)
    rows = forest.rows(200)
    model = read_tabular(save(tmp_path, [forest.regressor()]), ABC)
    of = compiled(model, list(rows.T))
    assert [type(layer) for layer in of.plan.layers] == [Open, Linear, Table, Reshape, Open, Linear]
    table = of.plan.layers[2]
    assert isinstance(table, Table) and table.shift == 0 and of.plan.input.frac_bits == 0 and of.plan.rounds == 4
    assert (of.plan.input.low, of.plan.input.high) == (0.0, 1.0)
    assert table.values == ((1, *[0] * (2**table.opened_bits - 1)),)
    assert len(forest.leaves) < 256 and table.shape == (256,), "padded"
    hits: dict[str, Array] = {}
    x = encode(model.table, list(rows.T)).numpy().astype(np.int32)
    reference.run(of.plan, x, of.weights, watch=hits.__setitem__)
    assert (hits[table.name].reshape(len(x), -1).sum(axis=1) == forest.trees).all(), "one leaf of each tree"


def test_numbers_and_bins_of_other_columns_go_together(tmp_path: Path) -> None:
    """The bits are multiples of the numbers' unit, so the table drops zeros: still the trees' own leaves."""
    forest = Forest(6, width=2)
    nodes = [
        node("ArrayFeatureExtractor", "x i", "t"), node("ArrayFeatureExtractor", "x j", "l"),
        node("TreeEnsembleRegressor", "t", "r", **{a.name: _value(a) for a in forest.regressor("t").attribute}),
        node("LinearRegressor", "l", "s", coefficients=[1.5], intercepts=[0.25]), plain("Add", "r s", "y"),
    ]  # fmt: skip
    path = save(tmp_path, nodes, constants={"i": np.array([0, 1]), "j": np.array([2])})
    rows = np.concatenate([forest.rows(), np.linspace(-4, 4, 60, dtype=np.float32)[:, None]], axis=1)
    model = read_tabular(path, ABC)
    assert [column.kind for column in model.table.columns] == ["bins", "bins", "number"]
    of = compiled(model, list(rows.T))
    (table,) = (layer for layer in of.plan.layers if isinstance(layer, Table))
    assert table.shift == of.plan.input.frac_bits > 0
    expected = evaluated(path, {"x": rows})[0]
    np.testing.assert_allclose(served(of, model, list(rows.T)), expected, atol=0.003 * float(expected.std()))


def _value(attribute: Any) -> Any:
    return helper.get_attribute_value(attribute)


def test_what_a_scale_after_the_trees_does_to_their_bounds(tmp_path: Path) -> None:
    """The bounds of a sum over trees follow it, so no range has to be measured."""
    forest = Forest(7, trees=30)
    made = forest.regressor()
    made.output[0] = "r"
    nodes = [made, plain("Mul", "r k", "m"), plain("Add", "m b", "y")]
    constants = {"k": np.array([[-2.0]], dtype=np.float32), "b": np.array([[7.0]], dtype=np.float32)}
    path, rows = save(tmp_path, nodes, constants=constants), forest.rows()
    model = read_tabular(path, ABC)
    of = compiled(model, list(rows.T))
    np.testing.assert_allclose(served(of, model, list(rows.T)), evaluated(path, {"x": rows})[0], atol=1e-4)
    assert not of.measured and of.plan.rounds == 4
    last = model.graph.nodes[-1]
    assert isinstance(last, ir.LinearNode) and last.bounds is not None
    expected = evaluated(path, {"x": rows})[0]
    assert last.bounds[0] <= expected.min() and expected.max() <= last.bounds[1] < 1e3
