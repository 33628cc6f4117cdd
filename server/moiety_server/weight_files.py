"""Weights of models of torch, from files that hold tensors and nothing that runs."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor, nn

from moiety_server import tensor_files
from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.origin import shown

_PICKLES = (".joblib", ".pkl", ".pickle", ".sav")
_TORCH_PICKLES = (".pt", ".pth", ".ckpt")


def refuse_pickles(path: Path) -> None:
    """Raises NotServable for a file whose name says that it is a pickle."""
    kind = path.suffix.lower()
    if kind in _PICKLES:
        do = (
            f"moiety_server.sklearn.convert(model, frame).save('{shown(path.stem)}.onnx'), and publish that file; or "
            "name the model itself, mymodule:model"
        )
    elif kind in _TORCH_PICKLES:
        do = (
            "safetensors.torch.save_file(model.state_dict(), 'weights.safetensors'), and publish mymodule:function "
            "with --weights weights.safetensors; or export the model to ONNX"
        )
    else:
        return
    name = shown(path.name)
    raise NotServable(f"{name} is a pickle, which would run code when it is loaded. Instead: in your own program, {do}")


def with_weights(model: nn.Module, weights: Path | None) -> nn.Module:
    """Return the model, with the weights of a file if one is named, ready for inference. Raises NotServable."""
    if not isinstance(model, nn.Module):
        raise NotServable(
            f"the function returned {type(model).__name__}, not a torch.nn.Module, nor a model of scikit-learn, "
            "XGBoost or LightGBM"
        )
    if weights is None:
        return model.train(False)
    refuse_pickles(weights)
    return loaded(model, read(weights), weights)


def read(weights: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by their names. Raises NotServable."""
    try:
        return tensor_files.tensors(weights)
    except (OSError, SafetensorError) as error:
        raise NotServable(f"{shown(weights.name)} cannot be read: {tensor_files.reason(error)}") from error


def loaded(model: nn.Module, found: Mapping[str, Tensor], weights: Path) -> nn.Module:
    """Return the model with these tensors, which are a file's, ready for inference. Raises NotServable."""
    try:
        model.load_state_dict(found)
    except RuntimeError as error:
        raise NotServable(f"{shown(weights.name)} does not fit the model: {tensor_files.reason(error)}") from error
    return model.train(False)
