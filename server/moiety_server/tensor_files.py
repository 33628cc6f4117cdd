"""Calibration data: a few real inputs of a model, from which scales are chosen, and the ranges of their values."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.origin import shown
from moiety_server.compiler.parts import Limit
from moiety_service import files

Calibration = Tensor | Mapping[str, Tensor]
"""Inputs (n, ...), of a model of several inputs one tensor for each, by name."""


def read(path: Path) -> Calibration:
    """Read inputs as float32 from a .npy file, or from a .npz or .safetensors file, which has a tensor for each input.

    Whole numbers (n, length) are ids of tokens: they stay int64. A file of one tensor is the calibration data of a
    model of one input, whatever the tensor's name. Raises NotServable.
    """
    try:
        if path.suffix == ".npy":
            found = {"": torch.from_numpy(files.array(path))}
        elif path.suffix == ".npz":
            found = {name: torch.from_numpy(array.copy()) for name, array in files.arrays(path).items()}
        else:
            found = tensors(path)
        if not found:
            raise ValueError("it holds no tensor")
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise NotServable(
            f"{shown(path.name)} cannot be read as calibration data ({reason(error)}): pass a .npy file of inputs "
            "(n, ...), or a .npz or .safetensors file with one tensor for each of the model's inputs, by name"
        ) from error
    for name, values in found.items():
        fits = values.ndim >= 2 if values.is_floating_point() else values.ndim == 2 and not values.is_complex()
        if not fits or not values.numel():
            raise NotServable(
                f"the calibration data {shown(name)}".rstrip()
                + " is no real model input: pass floats of shape (n, ...), as the model is called with, or "
                "ids of tokens as whole numbers of shape (n, length)"
            )
    read = {name: values.float() if values.is_floating_point() else values.long() for name, values in found.items()}
    return next(iter(read.values())) if len(read) == 1 else read


def has_ids(calibration: Calibration) -> bool:
    """Whether some of the inputs are ids of tokens, and no floats."""
    values = [calibration] if isinstance(calibration, Tensor) else calibration.values()
    return not all(one.is_floating_point() for one in values)


def ends(calibration: Calibration) -> tuple[Limit, Limit]:
    """Return the least and the largest value: of several inputs, those of each."""
    if isinstance(calibration, Tensor):
        return float(calibration.min()), float(calibration.max())
    return {k: float(v.min()) for k, v in calibration.items()}, {k: float(v.max()) for k, v in calibration.items()}


def with_stated(found: Limit, stated: Limit) -> Limit:
    """Return an end of the ranges, where the owner states it for all inputs or for some of them."""
    if isinstance(stated, Mapping):
        if not isinstance(found, Mapping) or (unknown := sorted(set(stated) - set(found))):
            names = shown(", ".join(sorted(stated) if not isinstance(found, Mapping) else unknown))
            raise NotServable(f"the model has no input {names}: see --low and --high")
        return {**found, **stated}
    return dict.fromkeys(found, stated) if isinstance(found, Mapping) else stated


def tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file, which states the sizes of its tensors and has to hold as much. Raises OSError,
    SafetensorError."""
    with files.regular(path):
        return load_file(str(path))


def reason(error: Exception) -> str:
    """Say the reason in one line."""
    text = error.strerror or "" if isinstance(error, OSError) else " ".join(str(error).split())
    return shown(text, 300)
