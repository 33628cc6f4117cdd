"""Files of tables that cannot be served, or that nobody exports: refused in one line, quickly, and by name."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import NodeProto

from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.tabular.reading import read_tabular
from moiety_shared.messages.table import Column
from tests.compiler.forests import Forest
from tests.compiler.tables import FLOAT, STRING, answers, evaluated, node, numbers, plain, save

ABC = numbers("a", "b", "c")
NAN = float("nan")
STUMP: dict[str, Any] = {
    "nodes_treeids": [0, 0, 0], "nodes_nodeids": [0, 1, 2], "nodes_featureids": [0, 0, 0],
    "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"], "nodes_values": [0.5, 0.0, 0.0],
    "nodes_truenodeids": [1, 0, 0], "nodes_falsenodeids": [2, 0, 0],
    "target_treeids": [0, 0], "target_nodeids": [1, 2], "target_ids": [0, 0], "target_weights": [1.0, 2.0],
    "n_targets": 1,
}  # fmt: skip


def stump(**changed: Any) -> NodeProto:
    how = {name: value for name, value in {**STUMP, **changed}.items() if value != []}  # which has no type
    return node("TreeEnsembleRegressor", "x", "y", **how)


def svm(**changed: Any) -> NodeProto:
    how: dict[str, Any] = {"kernel_type": "LINEAR", "coefficients": [1.0, -1.0], "support_vectors": [1.0] * 6}
    how |= {"rho": [0.5], "vectors_per_class": [1, 1], "classlabels_ints": [0, 1]}
    return node("SVMClassifier", "x", "label y", **{**how, **changed})


def nested(depth: int, **changed: Any) -> dict[str, Any]:
    """A tree of so many nodes, each of which has a leaf and the next one."""
    count = 2 * depth + 1
    ids = list(range(count))
    inner = [i % 2 == 0 and i < count - 1 for i in ids]
    return {
        "nodes_treeids": [0] * count, "nodes_nodeids": ids, "nodes_featureids": [i % 3 for i in ids],
        "nodes_modes": ["BRANCH_LEQ" if branch else "LEAF" for branch in inner],
        "nodes_values": [float(i) for i in ids], "nodes_truenodeids": [i + 1 if inner[i] else 0 for i in ids],
        "nodes_falsenodeids": [i + 2 if inner[i] else 0 for i in ids], **changed,
    }  # fmt: skip


LOOP = {
    "nodes_modes": ["BRANCH_LEQ", "BRANCH_LEQ", "LEAF"], "nodes_falsenodeids": [2, 2, 0], "target_nodeids": [2, 2],
}  # fmt: skip
APART = nested(2, nodes_truenodeids=[1, 0, 2, 0, 0], nodes_falsenodeids=[3, 0, 4, 0, 0], target_nodeids=[1, 3])
CRAFTED: dict[str, tuple[Callable[[], NodeProto], str]] = {
    "a loop": (lambda: stump(**LOOP), "reached from two"),
    "a loop apart": (lambda: stump(**APART), "no tree reaches"),
    "itself": (lambda: stump(nodes_truenodeids=[0, 0, 0]), "reached from two"),
    "a shared leaf": (lambda: stump(nodes_falsenodeids=[1, 0, 0]), "reached from two|no tree reaches"),
    "no child": (lambda: stump(nodes_truenodeids=[7, 0, 0]), "child does not exist"),
    "a negative child": (lambda: stump(nodes_truenodeids=[-1, 0, 0]), "child does not exist"),
    "a negative column": (lambda: stump(nodes_featureids=[-1, 0, 0]), "none of the 3"),
    "a column too far": (lambda: stump(nodes_featureids=[3, 0, 0]), "none of the 3"),
    "a threshold of NaN": (lambda: stump(nodes_values=[NAN, 0.0, 0.0]), "threshold that is NaN"),
    "a value of NaN": (lambda: stump(target_weights=[NAN, 1.0]), "values that are NaN"),
    "an infinite value": (lambda: stump(target_weights=[float("inf"), 1.0]), "NaN or infinite"),
    "an infinite base": (lambda: stump(base_values=[float("inf")]), "NaN or infinite"),
    "an unknown mode": (lambda: stump(nodes_modes=["BRANCH_MAYBE", "LEAF", "LEAF"]), "unknown kind"),
    "twice the same node": (lambda: stump(nodes_nodeids=[0, 1, 1]), "two nodes of one name"),
    "missing nodes": (lambda: stump(nodes_nodeids=[0, 1]), "two nodes of one name|without a part"),
    "missing thresholds": (lambda: stump(nodes_values=[0.5]), "nodes_values for 3 nodes"),
    "missing columns": (lambda: stump(nodes_featureids=[]), "nodes_featureids for 3 nodes"),
    "a leaf nowhere": (lambda: stump(target_nodeids=[1, 9]), "does not exist"),
    "a value of a branch": (lambda: stump(target_nodeids=[0, 2]), "does not exist"),
    "an output nowhere": (lambda: stump(target_ids=[0, 4]), "does not exist"),
    "a negative output": (lambda: stump(target_ids=[0, -1]), "does not exist"),
    "leaves without values": (lambda: stump(target_ids=[0]), "without a value"),
    "no nodes": (lambda: stump(**{name: [] for name in STUMP if name.startswith("nodes")}), "has 0 nodes"),
    "many targets": (lambda: stump(n_targets=1 << 40), "targets"),
    "no targets": (lambda: stump(n_targets=-1), "targets"),
    "base values": (lambda: stump(base_values=[1.0, 2.0, 3.0]), "base values"),
    "the smallest tree": (lambda: stump(aggregate_function="MIN"), "MIN of its trees"),
    "another function": (lambda: stump(post_transform="PROBIT"), "PROBIT"),
    "a deep tree of many columns": (lambda: stump(**nested(20_000), target_nodeids=[1, 3]), "64 million products"),
    "weights": (lambda: node("LinearRegressor", "x", "y", coefficients=[1.0, 2.0]), "2 weights for 3 features"),
    "NaN weights": (lambda: node("LinearRegressor", "x", "y", coefficients=[NAN] * 3), "NaN or infinite"),
    "a NaN offset": (lambda: node("Scaler", "x", "y", offset=[NAN], scale=[1.0]), "NaN or infinite"),
    "an RBF kernel": (lambda: node("SVMRegressor", "x", "y", kernel_type="RBF", coefficients=[1.0]), "kernel RBF.*MLP"),
    "vectors of one class": (lambda: svm(coefficients=[1.0, 2.0]), "second class"),
    "three classes that vote": (lambda: svm(classlabels_ints=[1, 2, 3]), "vote by pairs.*LinearSVC"),
    "a norm": (lambda: node("Normalizer", "x", "y", norm="L2"), "norm.*StandardScaler"),
    "a number replaced": (lambda: node("Imputer", "x", "y", imputed_value_floats=[1.0]), "replaces a number"),
    "texts": (lambda: node("OneHotEncoder", "x", "y", cats_strings=["a"]), "column a"),
    "rows": (lambda: plain("Transpose", "x", "y", perm=[1, 0]), "Transpose"),
}  # fmt: skip


@pytest.mark.parametrize("name", CRAFTED)
def test_crafted_files_are_refused_in_one_line(tmp_path: Path, name: str) -> None:
    make, text = CRAFTED[name]
    path = save(tmp_path, [make()])
    start = time.process_time()
    with pytest.raises(NotServable, match=text) as caught:
        read_tabular(path, ABC)
    assert time.process_time() - start < 10
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500 and "Instead: " in str(caught.value)


def test_the_stump_itself_is_served(tmp_path: Path) -> None:
    """Each of the crafted files differs from it in what it is refused for."""
    model = read_tabular(save(tmp_path, [stump()]), ABC)
    assert [column.edges for column in model.table.columns] == [(0.5,), (0.0,), (0.0,)]
    assert model.graph.nodes[1].shape == (256,)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_tree_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    """Whatever a file's numbers are, nothing but NotServable is raised, and no answer differs from onnx's."""
    whole = st.integers(-2, 4)
    names = [name for name in STUMP if name.startswith(("nodes", "target"))]
    name = data.draw(st.sampled_from(names))
    known = STUMP[name]
    one = {str: st.sampled_from(["LEAF", "BRANCH_LEQ", "BRANCH_LT", "?"]), float: st.floats(width=32), int: whole}
    value = data.draw(st.lists(one[type(known[0])], min_size=0, max_size=4))
    path = save(tmp_path, [stump(**{name: value})])
    try:
        model = read_tabular(path, ABC)
    except NotServable:
        return
    rows = np.array([[-1, 0, 1], [0.5, 0, 0], [2, 3, 4]], dtype=np.float32)
    try:
        (expected,) = evaluated(path, {"x": rows})
    except KeyError:  # onnx's evaluator has no leaf without a value, which counts as 0 here
        return
    np.testing.assert_allclose(answers(model, list(rows.T)), expected, rtol=1e-5)


def test_trees_that_are_too_dense_are_refused_with_what_to_do(tmp_path: Path) -> None:
    forest = Forest(1, trees=700, depth=7, width=3, values=np.linspace(-3, 3, 3000).astype(np.float32))
    with pytest.raises(NotServable, match=r"bits a row.*64 million.*max_bin.*max_leaf_nodes"):
        read_tabular(save(tmp_path, [forest.regressor()]), ABC)


def test_trees_behind_a_mix_of_columns_are_refused(tmp_path: Path) -> None:
    nodes = [plain("MatMul", "x w", "z"), Forest(1).regressor("z")]
    path = save(tmp_path, nodes, constants={"w": np.eye(3, dtype=np.float32)})
    with pytest.raises(NotServable, match=r"TreeEnsembleRegressor.*sums of several columns.*Instead"):
        read_tabular(path, ABC)


def test_a_column_for_a_number_and_for_trees_is_refused_by_name(tmp_path: Path) -> None:
    linear = node("LinearRegressor", "x", "l", coefficients=[1.0, 2.0, 3.0])
    made = Forest(1).regressor()
    made.output[0] = "r"
    with pytest.raises(NotServable, match=r"column [abc], which trees compare.*models of their own"):
        read_tabular(save(tmp_path, [made, linear, plain("Add", "l r", "y")]), ABC)


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        (numbers("a", "b"), "takes 3 columns, declared are 2"),
        ([*numbers("a", "b"), Column(name="c", kind="category", categories=("x",))], "column c has no range"),
    ],
)
def test_declared_columns_that_do_not_fit(tmp_path: Path, columns: list[Column], text: str) -> None:
    path = save(tmp_path, [node("LinearRegressor", "x", "y", coefficients=[1.0, 2.0, 3.0])])
    with pytest.raises(NotServable, match=text):
        read_tabular(path, columns)


def test_a_column_that_is_not_declared_is_named(tmp_path: Path) -> None:
    nodes = [plain("Concat", "age job", "z", axis=1), node("LinearRegressor", "z", "y", coefficients=[1.0, 2.0])]
    inputs = {"age": (FLOAT, 1), "job": (FLOAT, 1)}
    with pytest.raises(NotServable, match="takes the column job, which is not declared"):
        read_tabular(save(tmp_path, nodes, inputs=inputs), numbers("age"))
    texts = {"age": (FLOAT, 1), "job": (STRING, 1)}
    with pytest.raises(NotServable, match="texts of the column job"):
        read_tabular(save(tmp_path, nodes, inputs=texts), numbers("age", "job"))


def test_two_outputs_are_refused_by_name(tmp_path: Path) -> None:
    nodes = [node("LinearRegressor", "x", name, coefficients=[1.0, 2.0, 3.0]) for name in ("first", "second")]
    with pytest.raises(NotServable, match="outputs first, second"):
        read_tabular(save(tmp_path, nodes, ("first", "second")), ABC)
