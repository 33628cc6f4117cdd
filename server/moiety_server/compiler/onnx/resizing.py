"""The public matrices with which ONNX's Resize multiplies each axis."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Resizing:
    """The attributes of a Resize. `mode` is nearest, linear or cubic."""

    mode: str = "nearest"
    coordinates: str = "half_pixel"
    nearest: str = "round_prefer_floor"
    cubic: float = -0.75
    antialias: bool = False
    exclude_outside: bool = False

    def matrix(self, size: int, out: int, scale: float) -> Tensor | None:
        """Return the matrix (out, size) for one axis, or None for coordinates that it does not know."""
        places = torch.arange(out, dtype=torch.float64)
        length = scale * size
        match self.coordinates:
            case "asymmetric":
                where = places / scale
            case "half_pixel":
                where = (places + 0.5) / scale - 0.5
            case "pytorch_half_pixel":
                where = (places + 0.5) / scale - 0.5 if length > 1 else torch.zeros_like(places)
            case "half_pixel_symmetric":
                middle, kept = size / 2, out / length
                where = middle * (1 - kept) + (places + 0.5) / scale - 0.5
            case "align_corners":
                where = places * (size - 1) / (length - 1) if length > 1 else torch.zeros_like(places)
            case "tf_half_pixel_for_nn":
                where = (places + 0.5) / scale
            case _:
                return None
        return self._nearest(where, size) if self.mode == "nearest" else self._filtered(where, size, scale)

    def _nearest(self, where: Tensor, size: int) -> Tensor:
        match self.nearest:
            case "round_prefer_floor":
                whole = torch.ceil(where - 0.5)
            case "round_prefer_ceil":
                whole = torch.floor(where + 0.5)
            case "floor":
                whole = torch.floor(where)
            case _:
                whole = torch.ceil(where)
        return torch.nn.functional.one_hot(whole.long().clamp(0, size - 1), size).double()

    def _filtered(self, where: Tensor, size: int, scale: float) -> Tensor:
        filtered: Callable[[Tensor], Tensor] = _linear if self.mode == "linear" else self._cubic
        reach = 1 if self.mode == "linear" else 2
        narrow = min(scale, 1.0) if self.antialias else 1.0
        around = math.ceil(reach / narrow) + 1
        taps = torch.floor(where)[:, None] + torch.arange(-around, around + 1)
        weights = filtered((taps - where[:, None]) * narrow)
        if self.exclude_outside:
            weights = weights * ((taps >= 0) & (taps < size))
        weights = weights / weights.sum(dim=1, keepdim=True)
        matrix = torch.zeros(len(where), size, dtype=torch.float64)
        return matrix.scatter_add_(1, taps.long().clamp(0, size - 1), weights)

    def _cubic(self, x: Tensor) -> Tensor:
        a, x = self.cubic, x.abs()
        inner = ((a + 2) * x - (a + 3)) * x * x + 1
        outer = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
        return torch.where(x <= 1, inner, torch.where(x < 2, outer, torch.zeros_like(x)))


def _linear(x: Tensor) -> Tensor:
    return (1 - x.abs()).clamp(min=0)
