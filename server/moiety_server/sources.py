"""Where a model comes from: the values of MODEL in `moiety publish` and `moiety inspect`.

mnist, mnist-deep, lenet, mobile, rows   the trained networks that the package ships
docstring-topics, gpt-characters         the classifier of texts and the language model that it ships
torchvision:resnet18                     an architecture of torchvision's, with --weights FILE or --pretrained
model.onnx                               an ONNX file
path/to/folder                           a folder that Hugging Face's library saved
package.module:function                  your own: a function that returns the torch.nn.Module, ready for inference, or
                                         a fitted model of scikit-learn, XGBoost or LightGBM
package.module:model                     such a model itself

A model of a table is calibrated on a CSV file of rows (`tables.py`), a model of texts on ids of tokens or on lines
(`texts.py`), any other one on arrays.
"""

import importlib
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeGuard

from torch import Tensor, nn

from moiety_server import shipped, tables, tensor_files, texts, weight_files
from moiety_server.calibration import CalibrationRows, read_columns
from moiety_server.checkpoints import folder, state_dicts
from moiety_server.compiler.compilation import load_onnx
from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.meaning import on_unit
from moiety_server.compiler.origin import shown
from moiety_server.compiler.parts import Limit
from moiety_server.sklearn import is_convertible
from moiety_server.source import ModelSource
from moiety_server.tensor_files import Calibration
from moiety_shared.messages.catalogue import Preprocessing
from moiety_shared.messages.tokens import TokenIds
from moiety_shared.plan.plan import Task, Unit

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_TABLES = (".csv", ".tsv")
_TEXT = ".txt"


def load(
    what: str,
    *,
    weights: Path | None = None,
    pretrained: bool = False,
    calibration: Path | None = None,
    target: str | None = None,
    columns: Path | None = None,
    edges: str = "own",
    low: Limit | None = None,
    high: Limit | None = None,
    task: Task | None = None,
    unit: Unit | None = None,
    output: str = "",
    threshold: float | None = None,
    tokenizer: Path | None = None,
    secret_embedding: bool = False,
) -> ModelSource:
    """Load the model that `what` names. `output` names the one of several outputs to serve, where not all are.

    `target` and `columns` are of models that are calibrated on a CSV file: the column that the model predicts, and a
    file of declared columns. `edges` is "own", "trained" or "grid:N"; see moiety_server.compiler.tabular.edges.
    `tokenizer` is the tokenizer.json of a model that takes ids of tokens, and `secret_embedding` keeps the table in
    which it looks them up, which is published otherwise.

    Raises NotServable, with what to do, when it cannot.
    """
    weight_files.refuse_pickles(Path(what))
    of_table = calibration is not None and calibration.suffix.lower() in _TABLES
    if (target is not None or columns is not None) and not of_table:
        raise NotServable("--target and --columns are for the rows of a CSV file: name one with --calibration")
    if of_table and (low, high) != (None, None):
        raise NotServable("each column of a table has its own range: give them with --columns, not --low and --high")
    if what in shipped.NAMES:
        source = shipped.load(what, weights, calibration, secret_embedding)
    elif calibration is not None and of_table:
        source = _of_table(what, weights, calibration, target, columns, edges)
    else:
        source = _other(what, weights, pretrained, calibration, output, edges, tokenizer, secret_embedding)
    of_ids = isinstance(source.preprocessing, TokenIds)
    for option, given in (("--tokenizer", tokenizer is not None), ("--secret-embedding", secret_embedding)):
        if given and not of_ids:
            raise NotServable(f"{option} is for models of torch that look ids of tokens up in an nn.Embedding")
    if of_ids and (low, high) != (None, None):
        raise NotServable("ids of tokens have no --low and --high: they are below the embedding's size")
    if (low is None) != (high is None):
        raise NotServable("give both ends of the input range: --low and --high")
    if low is not None and high is not None:
        with_stated = tensor_files.with_stated
        source = replace(source, low=with_stated(source.low, low), high=with_stated(source.high, high))
    meant = source.meaning
    unit = unit or meant.unit
    limit = meant.threshold if threshold is None else on_unit(threshold, unit)
    return replace(source, meaning=replace(meant, task=task or meant.task, unit=unit, threshold=limit))


def _of_table(
    what: str, weights: Path | None, calibration: Path, target: str | None, columns: Path | None, edges: str
) -> ModelSource:
    """Load a model that is calibrated on rows of a table."""
    declared = None if columns is None else read_columns(columns)
    rows = CalibrationRows.read(calibration, target, declared)
    path = Path(what)
    if path.suffix == ".onnx":
        return tables.of_file(path, rows, declared, edges=edges)
    name, found = _named(what)
    if is_convertible(found):
        return tables.of_model(name, found, rows, declared, edges=edges)
    return tables.of_module(name, weight_files.with_weights(found, weights), rows, declared)


def _other(
    what: str,
    weights: Path | None,
    pretrained: bool,
    calibration: Path | None,
    output: str,
    edges: str,
    tokenizer: Path | None,
    secret_embedding: bool,
) -> ModelSource:
    if calibration is None:
        raise NotServable(
            f"{what!r} needs --calibration FILE: a few real inputs, from which the compiler chooses scales. Only these "
            "models bring their own: " + ", ".join(shipped.NAMES)
        )
    saved = folder.read(Path(what)) if folder.is_folder(Path(what)) else None
    if saved is not None and weights is not None:
        raise NotServable(f"{shown(what)} is a folder, which holds its weights: leave --weights out")
    if saved is not None:
        tokenizer = tokenizer or saved.tokenizer
    read = texts.OwnTokenizer(tokenizer, saved.config.pad_token_id if saved else None) if tokenizer else None
    if calibration.suffix == _TEXT and read is None:
        raise NotServable(f"{shown(calibration.name)} holds texts: name the model's tokenizer.json with --tokenizer")
    inputs = read.lines(calibration) if read and calibration.suffix == _TEXT else tensor_files.read(calibration)
    if saved is not None:
        return _of_folder(saved, inputs, read, output, secret_embedding)
    if tensor_files.has_ids(inputs):
        return _of_ids(what, weights, inputs, read, output, secret_embedding)
    least, most = tensor_files.ends(inputs)
    if what.startswith("torchvision:"):
        if isinstance(inputs, Mapping):
            raise NotServable(f"{what} takes one input: pass calibration data of one tensor")
        darkest, brightest = float(inputs.min()), float(inputs.max())
        name = what.removeprefix("torchvision:")
        model = torchvision_model(name, pretrained) if weights is None else _with_state(name, weights)
        how = torchvision_preprocessing(name, (inputs.shape[-2], inputs.shape[-1]), pretrained)
        ends = [(v - m) / s for v in (0, 1) for m, s in zip(how.mean, how.std, strict=True)]  # from black to white
        return ModelSource(
            name=name,
            model=model,
            calibration=inputs,
            low=min(*ends, darkest),
            high=max(*ends, brightest),
            preprocessing=how,
            classes=tuple(_torchvision_weights(name).meta["categories"]) if _has_imagenet(model) else (),
            description=f"torchvision's {name}",
        )
    path = Path(what)
    rows = CalibrationRows.of_array(calibration, inputs.numpy()) if _is_table(inputs) else None
    if path.suffix == ".onnx":
        if rows is not None and tables.has_table_operators(path):
            return tables.of_file(path, rows, edges=edges)
        graph = load_onnx(path, inputs, output)
        return ModelSource(path.stem.lower(), graph, inputs, least, most, description=f"from {path.name}")
    name, found = _named(what)
    if rows is not None and is_convertible(found):
        return tables.of_model(name, found, rows, edges=edges)
    return ModelSource(name, weight_files.with_weights(found, weights), inputs, least, most, output=output)


def _of_ids(
    what: str,
    weights: Path | None,
    ids: Calibration,
    tokenizer: texts.OwnTokenizer | None,
    output: str,
    secret_embedding: bool,
) -> ModelSource:
    """Load a model that is calibrated on ids of tokens."""
    name, found = _named(what) if ":" in what and not what.startswith("torchvision:") else (what, None)
    if not isinstance(found, nn.Module):
        raise NotServable(
            f"the calibration data of {shown(what)} are whole numbers, the ids of tokens, which models of torch take: "
            "name one as module:function, or pass floats"
        )
    return texts.of_module(name, weight_files.with_weights(found, weights), ids, tokenizer, output, secret_embedding)


def _of_folder(
    saved: folder.SavedFolder,
    inputs: Calibration,
    tokenizer: texts.OwnTokenizer | None,
    output: str,
    secret_embedding: bool,
) -> ModelSource:
    """Load a saved model of ids or of pictures, whichever the folder holds."""
    if saved.length is not None:
        source = texts.of_module(
            saved.name, saved.module, folder.ids_of(saved, inputs), tokenizer, output, secret_embedding
        )
    elif not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        raise NotServable(
            f"{saved.name} takes pictures: pass floats (n, channels, height, width), as it is called with"
        )
    else:
        how = saved.preprocessing
        ends = [(v - m) / s for v in (0, 1) for m, s in zip(how.mean, how.std, strict=True)] if how else []
        low, high = min([*ends, float(inputs.min())]), max([*ends, float(inputs.max())])
        source = ModelSource(saved.name, saved.module, inputs, low, high, preprocessing=how)
    return replace(source, classes=saved.config.named_classes, description=saved.config.architectures[0])


def _is_table(inputs: Calibration) -> TypeGuard[Tensor]:
    return isinstance(inputs, Tensor) and inputs.dim() == 2


def _with_state(name: str, weights: Path) -> nn.Module:
    """Make torchvision's architecture for as many classes as the file of weights has, and load the file."""
    weight_files.refuse_pickles(weights)
    found = weight_files.read(weights)
    model = torchvision_model(name)
    found = state_dicts.unwrapped(found, model)
    options: dict[str, Any] = {"num_classes": state_dicts.classes(found, model)}
    if not state_dicts.has_auxiliary(found) and state_dicts.has_auxiliary(model.state_dict()):
        options["aux_logits"] = False
    return weight_files.loaded(torchvision_model(name, **options), found, weights)


def _has_imagenet(model: nn.Module) -> bool:
    """Whether a model tells ImageNet's classes apart: whatever is last in it has as many outputs."""
    return len(list(model.state_dict().values())[-1]) == state_dicts.CLASSES


def torchvision_model(name: str, pretrained: bool = False, **options: Any) -> nn.Module:
    """Make an architecture by its name, with torchvision's own options. It downloads the pretrained weights itself."""
    from torchvision import models  # the extra `train`

    if name not in models.list_models(module=models):
        raise NotServable(f"torchvision has no classification model {name!r}")
    weights = _torchvision_weights(name) if pretrained else None
    if name in ("googlenet", "inception_v3") and weights is None:
        options["init_weights"] = True
    try:
        model: nn.Module = models.get_model(name, weights=weights, **options)
    except OSError as error:
        raise NotServable(
            f"the weights of {name} cannot be downloaded here ({error}): pass --weights FILE (safetensors)"
        ) from error
    return model.train(False)


def torchvision_preprocessing(name: str, size: tuple[int, int], pretrained: bool) -> Preprocessing:
    """Return how a picture is prepared: as the downloaded weights want it, else as is usual for ImageNet, resized to
    256 and cut to 224. Another `size` (height, width) keeps the proportion of 256 to 224."""
    how = _torchvision_weights(name).transforms() if pretrained else None
    resized, cut = (how.resize_size[0], how.crop_size[0]) if how else (256, 224)
    return Preprocessing(
        channels=3,
        size=size,
        mean=tuple(how.mean) if how else IMAGENET_MEAN,
        std=tuple(how.std) if how else IMAGENET_STD,
        resize=max(round(resized * max(size) / cut), *size),
        interpolation="bicubic" if how and how.interpolation.value == "bicubic" else "bilinear",
    )


def _torchvision_weights(name: str) -> Any:
    """Return torchvision's description of its best weights. This downloads nothing."""
    from torchvision import models

    return models.get_model_weights(name).DEFAULT


def _named(what: str) -> tuple[str, Any]:
    """Return the name and the model of module:function, or of module:model."""
    module, _, function = what.partition(":")
    if not function:
        raise NotServable(f"there is no model {what!r}: see `moiety publish --help` for the models that you can name")
    return function.lower(), _own(module, function)


def _own(module: str, function: str) -> Any:
    """Return the user's model, or what the user's function returns. While it runs, it can import its neighbours from
    its own folder."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        found = getattr(importlib.import_module(module), function)
        return found if is_convertible(found) or isinstance(found, nn.Module) else found()
    except (ImportError, AttributeError) as error:
        raise NotServable(f"{module}:{function} cannot be imported: {error}") from error
    finally:
        sys.path.remove(folder)
