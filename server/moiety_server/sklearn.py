"""Converts fitted models of scikit-learn, XGBoost and LightGBM to ONNX: `convert(model, frame).save("model.onnx")`.

It needs the extra `tabular`: skl2onnx and onnxmltools, whose known faults `converters` works around. Each file's
answers are compared with the model's own, and a file that answers otherwise is refused.
"""

import importlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.origin import without_paths
from moiety_server.converters import of_trees, register, unnamed_features
from moiety_server.fitted import FittedRows, booster, libraries, own_answers, own_labels, parts

COLUMNS = "moiety.columns"
"""The property of a file that names the columns of its one input, as a JSON list."""

_OPSETS = {"": 18, "ai.onnx.ml": 3}
_BOOSTERS = 15  # the newest opset of onnxmltools' converters
_TOLERATED = 1e-3  # of the outputs' spread: rounding to float32 makes 1e-6, another leaf of a tree 1e-2 and more
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Conversion:
    """A model as the content of an ONNX file. `columns` are the names of the columns that it takes, in order.

    `difference` is the largest difference between the file's and the model's own answers on up to 256 rows of the
    frame: of probabilities, scores or values, in their own unit. `rounded` says that they are the same only where the
    model, too, gets numbers rounded to float32.
    """

    onnx: bytes
    columns: tuple[str, ...]
    difference: float
    rounded: bool = False

    def save(self, path: str | Path) -> Path:
        """Write the file, and return its path. Raises OSError."""
        Path(path).write_bytes(self.onnx)
        return Path(path)


def is_convertible(model: object) -> bool:
    """Whether one of the object's classes is from scikit-learn, XGBoost or LightGBM."""
    return bool({"sklearn", "xgboost", "lightgbm"}.intersection(libraries(model)))


def convert(model: Any, frame: Any) -> Conversion:
    """Convert a fitted estimator or pipeline of scikit-learn, XGBoost or LightGBM, or a booster of the last two.

    `frame` holds rows as the model was fitted on them: a DataFrame, an array (rows, columns), or a sequence for each
    column's name. The file's answers are compared with the model's on up to 256 of them, from all parts of the frame.

    Raises NotServable if the converters cannot write the model, or write one that answers otherwise.
    """
    rows = FittedRows.of(frame)
    failures = []
    for inputs in rows.inputs():
        try:
            made = _written(model, inputs)
        except NotServable:
            raise
        except Exception as error:  # the converters raise almost anything
            failures.append(f"{type(error).__name__}: {without_paths(str(error))}")
            continue
        made.producer_name = "moiety"  # which mends what its converters leave out
        if len(inputs) == 1 and rows.named:
            made.metadata_props.add(key=COLUMNS, value=json.dumps(rows.names))
        answers = _evaluated(model, made, inputs)
        try:
            return Conversion(made.SerializeToString(), rows.names, _compared(model, rows, answers))
        except NotServable:  # of a model that was fitted on float32, and gets the numbers that its texts spell
            difference = _compared(model, rows.rounded(), answers)
            return Conversion(made.SerializeToString(), rows.names, difference, rounded=True)
    raise NotServable(
        f"{type(model).__name__} is not converted to ONNX ({failures[0]}). Instead: fit it first if it is not fitted, "
        "and choose an estimator that skl2onnx or onnxmltools converts"
    )


# Writing


def _written(model: Any, inputs: Mapping[str, Array]) -> Any:
    """Return the model as an ONNX model. Raises NotServable without the extra; and whatever the converters raise."""
    skl2onnx, onnxmltools = _library("skl2onnx"), _library("onnxmltools")
    library = booster(model)
    package = "onnxmltools.convert.common" if library else "skl2onnx.common"
    types = importlib.import_module(f"{package}.data_types")
    kinds = {"f": types.FloatTensorType, "i": types.Int64TensorType, "O": types.StringTensorType}
    declared = [(name, kinds[values.dtype.kind]([None, values.shape[1]])) for name, values in inputs.items()]
    with unnamed_features(model), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # each converter has something to say of versions and names
        if library == "lightgbm":
            return onnxmltools.convert_lightgbm(model, initial_types=declared, zipmap=False, target_opset=_BOOSTERS)
        if library == "xgboost":
            return onnxmltools.convert_xgboost(model, initial_types=declared, target_opset=_BOOSTERS)
        for kind in {type(part) for part in parts(model)}:
            register(kind, skl2onnx)
        return _converted(model, declared, skl2onnx)


def _converted(model: Any, declared: list[tuple[str, Any]], skl2onnx: ModuleType) -> Any:
    """Convert an estimator with the first options that its converter has.

    Without `zipmap=False` a file gives its probabilities as dictionaries. Without `raw_scores=True` a support vector
    machine gives other numbers than its scores. A converter refuses an option that it does not know.
    """
    wanted: list[dict[str, bool]] = [{}]
    if hasattr(model, "classes_"):
        scores = {} if hasattr(model, "predict_proba") else {"raw_scores": True}
        wanted = [{"zipmap": False, **scores}, scores, {}] if scores else [{"zipmap": False}, {}]
    last = list(parts(model))[-1]
    for options in wanted:
        try:
            return skl2onnx.convert_sklearn(
                model,
                initial_types=declared,
                options={id(part): options for part in (model, last)} if options else None,
                target_opset=_OPSETS,
                custom_conversion_functions=of_trees(),
            )
        except (NameError, RuntimeError):
            if not options:
                raise
    raise AssertionError("the last attempt returns or raises")


def _library(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise NotServable(f"models are converted by {name}: install moiety[tabular] ({error})") from None


# Comparing


def _evaluated(model: Any, made: Any, inputs: Mapping[str, Array]) -> Sequence[Array]:
    """Return all outputs of a file, computed by onnx's own evaluator."""
    reference = importlib.import_module("onnx.reference")
    try:
        return [np.asarray(output) for output in reference.ReferenceEvaluator(made).run(None, dict(inputs))]
    except Exception as error:  # it runs what the file says, and fails in as many ways
        raise NotServable(
            f"the file that was made of {type(model).__name__} does not run ({type(error).__name__}: "
            f"{without_paths(str(error))}), so its answers cannot be compared with the model's"
        ) from None


def _compared(model: Any, rows: FittedRows, answers: Sequence[Array]) -> float:
    """Return the largest difference between a file's answers and the model's own. Raises NotServable if they are not
    the same up to rounding."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of rows without names, which were fitted with names
        own, labels = own_answers(model, rows), own_labels(model, rows)
    got = answers[-1]
    if own.dtype.kind not in "fiu":  # labels, and nothing else
        wrong = int((answers[0].reshape(-1) != own.reshape(-1)).sum())
        if wrong:
            raise _differs(model, f"{wrong} of {len(own)} rows have another label")
        return 0.0
    own, got = own.astype(np.float64), got.reshape(len(got), -1).astype(np.float64)
    own = own.reshape(len(own), -1)
    if own.shape[1] == 1 and got.shape[1] == 2:
        got = got[:, 1:]  # of two classes the second one, as predictions have it
    if own.shape != got.shape:
        raise _differs(model, f"it gives {got.shape[1]} numbers for a row, and the model {own.shape[1]}")
    difference = float(np.abs(own - got).max())
    if not difference <= _TOLERATED * max(float(own.std()), 1e-9):
        place = int(rows.places[np.abs(own - got).max(axis=1).argmax()])
        raise _differs(model, f"the largest difference is {difference:.3g}, in row {place} of the frame")
    if labels is not None and len(answers) > 1:
        best = np.sort(np.column_stack([own, -own]) if own.shape[1] == 1 else own, axis=1)
        wrong = int((answers[0].reshape(-1) != labels)[best[:, -1] - best[:, -2] > 2 * difference].sum())
        if wrong:
            raise NotServable(
                f"{wrong} of {len(own)} rows have another label than {type(model).__name__} gives them, because files "
                "name classes by texts or whole numbers of 32 bits, and choose the most probable one. Instead: name "
                "classes in this way; and publish the model inside of one that has a threshold of its own (estimator_)"
            )
    return difference


def _differs(model: Any, what: str) -> NotServable:
    return NotServable(
        f"the file that was made of {type(model).__name__} does not answer as the model itself does: {what}. Instead: "
        "fit trees on numbers of float32 (frame.astype('float32')) and without a scaler in front, because files hold "
        "float32 and trees need no scaler; leave out other steps that are converted wrongly"
    )
