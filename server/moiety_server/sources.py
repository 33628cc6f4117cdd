"""Where a model comes from: the values of MODEL in `moiety publish` and `moiety inspect`.

mnist, mnist-deep, lenet, mobile     the trained networks that the package ships
torchvision:resnet18                 an architecture of torchvision's, with --weights FILE or --pretrained
model.onnx                           an ONNX file
package.module:function              your own: a function that returns the torch.nn.Module, ready for inference
"""

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from moiety_server.compiler import ir
from moiety_server.compiler.compilation import Compiled, Reveal, compile_model, load_onnx
from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.origin import shown
from moiety_server.zoo import network, samples
from moiety_service import files
from moiety_shared.messages.catalogue import Preprocessing

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ModelSource:
    """A model, the data to calibrate it on, and what its catalogue entry says of its inputs."""

    name: str
    model: nn.Module | ir.Graph
    calibration: Tensor
    low: float
    high: float
    preprocessing: Preprocessing | None = None
    classes: tuple[str, ...] = ()
    description: str = ""

    def compile(
        self, *, reveal: Reveal = "logits", top: int = 1, ring_bits: int | None = None, headroom: float = 4.0
    ) -> Compiled:
        """Compile the model; see compile_model."""
        return compile_model(
            self.model,
            self.calibration,
            low=self.low,
            high=self.high,
            reveal=reveal,
            top=top,
            ring_bits=ring_bits,
            headroom=headroom,
        )


def load(
    what: str,
    *,
    weights: Path | None = None,
    pretrained: bool = False,
    calibration: Path | None = None,
    low: float | None = None,
    high: float | None = None,
) -> ModelSource:
    """Load the model that `what` names. Raises NotServable, with what to do, when it cannot."""
    source = _shipped(what, weights) if what in network.NETWORKS else _other(what, weights, pretrained, calibration)
    if calibration is not None:
        source = replace(source, calibration=read_calibration(calibration))
    if (low is None) != (high is None):
        raise NotServable("state both ends of the input range: --low and --high")
    if low is not None and high is not None:
        source = replace(source, low=low, high=high)
    return source


def read_calibration(path: Path) -> Tensor:
    """Read inputs (n, ...) as float32 from a .npy file, or from the only tensor of a .safetensors file."""
    try:
        if path.suffix == ".npy":
            array = torch.from_numpy(files.array(path))
        else:
            (array,) = _tensors(path).values()
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise NotServable(
            f"{shown(path.name)} cannot be read as calibration data ({_reason(error)}): pass a .npy file, or a "
            ".safetensors file with one tensor, of inputs (n, ...)"
        ) from error
    if not array.is_floating_point() or array.ndim < 2 or not array.numel():
        raise NotServable("calibration data is real model input, floats of shape (n, ...), as the model is called with")
    return array.float()


def _shipped(name: str, weights: Path | None) -> ModelSource:
    kind = network.NETWORKS[name]
    pixels, _ = samples.images()
    return ModelSource(
        name=name,
        model=_with_weights(network.build(name), weights or samples.FOLDER / f"{name}.safetensors"),
        calibration=network.normalise(pixels, name),
        low=(0 - network.MEAN) / network.STD,
        high=(1 - network.MEAN) / network.STD,
        preprocessing=Preprocessing(channels=1, size=(28, 28), mean=(network.MEAN,), std=(network.STD,)),
        classes=tuple(str(digit) for digit in range(10)),
        description=kind.description,
    )


def _other(what: str, weights: Path | None, pretrained: bool, calibration: Path | None) -> ModelSource:
    if calibration is None:
        raise NotServable(
            f"{what!r} needs --calibration FILE: a few real inputs, from which scales are chosen. With their own come "
            + ", ".join(network.NETWORKS)
        )
    inputs = read_calibration(calibration)
    least, most = float(inputs.min()), float(inputs.max())
    if what.startswith("torchvision:"):
        name = what.removeprefix("torchvision:")
        model = torchvision_model(name, pretrained)
        how = torchvision_preprocessing(name, (inputs.shape[-2], inputs.shape[-1]), pretrained)
        ends = [(v - m) / s for v in (0, 1) for m, s in zip(how.mean, how.std, strict=True)]  # from black to white
        return ModelSource(
            name=name,
            model=_with_weights(model, weights),
            calibration=inputs,
            low=min(*ends, least),
            high=max(*ends, most),
            preprocessing=how,
            classes=tuple(_torchvision_weights(name).meta["categories"]),
            description=f"torchvision's {name}",
        )
    path = Path(what)
    if path.suffix == ".onnx":
        return ModelSource(path.stem.lower(), load_onnx(path), inputs, least, most, description=f"from {path.name}")
    module, _, function = what.partition(":")
    if not function:
        raise NotServable(f"there is no model {what!r}: see `moiety publish --help` for what can be named")
    return ModelSource(function.lower(), _with_weights(_own(module, function), weights), inputs, least, most)


def torchvision_model(name: str, pretrained: bool = False) -> nn.Module:
    """Make an architecture by its name. torchvision downloads the pretrained weights itself."""
    from torchvision import models  # the extra `train`

    if name not in models.list_models(module=models):
        raise NotServable(f"torchvision has no classification model {name!r}")
    weights = _torchvision_weights(name) if pretrained else None
    options = {"init_weights": True} if name in ("googlenet", "inception_v3") and weights is None else {}
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


def _own(module: str, function: str) -> nn.Module:
    """Call the user's function and return its result. While it runs, it can import its neighbours from its own
    folder."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        found: Callable[[], nn.Module] = getattr(importlib.import_module(module), function)
        return found()
    except (ImportError, AttributeError) as error:
        raise NotServable(f"{module}:{function} cannot be imported: {error}") from error
    finally:
        sys.path.remove(folder)


def _tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file, which states the sizes of its tensors and has to hold as much. Raises OSError,
    SafetensorError."""
    with files.regular(path):
        return load_file(str(path))


def _reason(error: Exception) -> str:
    """Say the reason in one line."""
    text = error.strerror or "" if isinstance(error, OSError) else " ".join(str(error).split())
    return shown(text, 300)


def _with_weights(model: nn.Module, weights: Path | None) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise NotServable(f"the function returned {type(model).__name__}, not a torch.nn.Module")
    if weights is not None:
        try:
            model.load_state_dict(_tensors(weights))
        except (OSError, RuntimeError, SafetensorError) as error:
            raise NotServable(f"{shown(weights.name)} does not fit the model: {_reason(error)}") from error
    return model.train(False)
