"""State dicts of torchvision's architectures, as training programs save them."""

import re
from collections.abc import Mapping

from torch import Tensor, nn

_WRAPPERS = ("module.", "model.", "_orig_mod.")  # of DataParallel, of Lightning, of torch.compile
_DENSE = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(?=\d\.)")  # densenet's names of 2017 have one dot more
_AUXILIARY = ("aux", "AuxLogits")
CLASSES = 1000
"""Of ImageNet, for which torchvision builds its models."""


def unwrapped(found: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors under the names that the model has, whatever it was wrapped in when they were saved."""
    known = set(model.state_dict())
    named = {_DENSE.sub(r"\1", name): tensor for name, tensor in found.items()}
    while wrapper := next((one for one in _WRAPPERS if named and all(name.startswith(one) for name in named)), ""):
        if known.intersection(named):
            break
        named = {name.removeprefix(wrapper): tensor for name, tensor in named.items()}
    return named


def classes(found: Mapping[str, Tensor], model: nn.Module) -> int:
    """Return how many classes a file's model tells apart, where torchvision's has 1,000."""
    other = {
        len(found[name])
        for name, tensor in model.state_dict().items()
        if tensor.dim() and len(tensor) == CLASSES and name in found and found[name].dim()
    }
    return other.pop() if len(other) == 1 else CLASSES


def has_auxiliary(found: Mapping[str, Tensor]) -> bool:
    """Whether a file has the classifiers that GoogLeNet and Inception have for training alone."""
    return any(name.startswith(_AUXILIARY) for name in found)
