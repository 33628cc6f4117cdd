"""From a torch model to a public plan and its encoded weights.

Scales are chosen so that nothing inside the declared input range can overflow (ranges.py), then each linear layer's
bits are divided between its input and its weights so that the expected rounding error is least:

    input error  ~ 2^-f_in  * largest row norm of the weights
    weight error ~ 2^-f_w   * typical norm of the input (from the calibration data)
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from moiety_server.ranges import Affine, chain_bounds
from moiety_shared import reference
from moiety_shared.plan import Input, Linear, Output, Plan, ReLU
from moiety_shared.ring import Array, Ring

_COMPARED_BITS = 20  # four digits of five bits
_MOST_FRAC_BITS = 30
_HEADROOM = 1.01  # for what rounding adds; _verify checks it exactly


class NotServable(ValueError):
    """The model cannot be served as it is; says which layer and what to do instead."""


@dataclass(frozen=True)
class Compiled:
    """A plan and the ring elements that go with it, by "layer.weight". `error` is the largest difference of an
    output from float inference on the calibration data, in real units."""

    plan: Plan
    weights: Mapping[str, Array]
    error: float


def compile_model(model: nn.Module, calibration: Tensor, *, low: float, high: float, ring_bits: int = 32) -> Compiled:
    """A chain of Linear and ReLU layers (with Flatten, Dropout, Identity anywhere) to a plan.

    `calibration` is real input, float32 (n, ...); `low` and `high` are the range that inputs may have.
    Raises NotServable for any other layer, or when the ring cannot hold the values.
    """
    linears = _chain(model)
    affine: list[Affine] = [
        (
            m.weight.detach().double(),
            (torch.zeros(m.out_features) if m.bias is None else m.bias.detach()).double(),
        )
        for m in linears
    ]
    bounds = [float(torch.maximum(-lo, hi).max()) for lo, hi in chain_bounds(affine, low, high)]
    rows = calibration.flatten(1).double()
    ring = Ring(ring_bits)
    splits: list[tuple[int, int]] = []
    value = rows
    for index, ((weight, bias), bound) in enumerate(zip(affine, bounds, strict=True)):
        last = index == len(affine) - 1
        before = bounds[index - 1] if index else 0.0
        splits.append(_split_bits(ring, index, weight, value, bound, before, signed_room=1 if last else 2))
        value = (value @ weight.t() + bias).clamp(min=0)
    plan = _plan(ring, linears, splits, bounds, tuple(calibration.shape[1:]), low, high)
    weights: dict[str, Array] = {}
    for layer, (weight, bias), (f_in, f_w) in zip(
        (x for x in plan.layers if isinstance(x, Linear)), affine, splits, strict=True
    ):
        weights[f"{layer.name}.weight"] = np.rint(weight.numpy() * 2.0**f_w).astype(ring.dtype)
        if layer.bias:
            weights[f"{layer.name}.bias"] = np.rint(bias.numpy() * 2.0 ** (f_in + f_w)).astype(ring.dtype)
    _verify(ring, plan, weights, low, high)
    return Compiled(plan, weights, _error(plan, weights, model, calibration))


def _chain(model: nn.Module) -> list[nn.Linear]:
    linears: list[nn.Linear] = []
    expects_relu = False
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and not expects_relu:
            linears.append(module)
            expects_relu = True
        elif isinstance(module, nn.ReLU) and expects_relu:
            expects_relu = False
        elif not isinstance(module, nn.Sequential | nn.Flatten | nn.Dropout | nn.Identity):
            kind = type(module).__name__
            raise NotServable(
                f"layer {name!r} ({kind}) cannot be served at this place: use a chain of Linear and ReLU layers "
                "that begins and ends with Linear"
            )
    if not expects_relu:
        raise NotServable("the model must end with a Linear layer")
    return linears


def _split_bits(
    ring: Ring, index: int, weight: Tensor, value: Tensor, bound: float, before: float, signed_room: int
) -> tuple[int, int]:
    """(f_in, f_w) with bound * 2^(f_in + f_w) < 2^(k - signed_room). `before` bounds what the ReLU in between reads:
    it compares 20 bits at most, so before * 2^f_in < 2^20."""
    total = math.floor(ring.bits - signed_room - math.log2(bound * _HEADROOM))
    if total < 8:
        raise NotServable(
            f"linear layer {index} can reach {bound:.3g}, too much for a {ring.bits}-bit ring with any precision: "
            "declare a smaller input range, scale the weights down, or use a 64-bit ring"
        )
    row_norm = float(weight.norm(dim=1).max())
    input_norm = float(value.norm(dim=1).square().mean().sqrt())
    lean = math.log2(max(input_norm, 1e-9) / max(row_norm, 1e-9))
    most = _COMPARED_BITS - math.ceil(math.log2(before * _HEADROOM)) - 1 if before else _MOST_FRAC_BITS
    f_in = min(max(round((total - lean) / 2), 2), total - 2, most)
    if f_in < 1:
        raise NotServable(f"the layer before linear layer {index} reaches {before:.3g}: scale its weights down")
    return f_in, min(total - f_in, _MOST_FRAC_BITS)


def _plan(
    ring: Ring,
    linears: list[nn.Linear],
    splits: list[tuple[int, int]],
    bounds: list[float],
    shape: tuple[int, ...],
    low: float,
    high: float,
) -> Plan:
    layers: list[Linear | ReLU] = []
    wire = "input"
    for index, (module, (f_in, f_w)) in enumerate(zip(linears, splits, strict=True)):
        name = f"linear{index + 1}"
        layers.append(
            Linear(
                name=name,
                input=wire,
                in_features=module.in_features,
                out_features=module.out_features,
                weight_frac_bits=f_w,
                bias=module.bias is not None,
            )
        )
        wire = name
        if index + 1 < len(linears):
            truncated = f_in + f_w - splits[index + 1][0]
            top = math.ceil(math.log2(bounds[index] * _HEADROOM * 2.0 ** (f_in + f_w) + 2.0**truncated))
            wire = f"relu{index + 1}"
            layers.append(
                ReLU(
                    name=wire,
                    input=name,
                    size=module.out_features,
                    frac_bits=truncated,
                    range_bits=top,
                    digit_bits=max(1, math.ceil((top - truncated) / 4)),
                )
            )
    return Plan(
        ring_bits=32 if ring.bits == 32 else 64,
        input=Input(shape=shape, frac_bits=splits[0][0], low=low, high=high),
        layers=tuple(layers),
        output=Output(wire=wire, shape=(linears[-1].out_features,), frac_bits=sum(splits[-1])),
    )


def _verify(ring: Ring, plan: Plan, weights: Mapping[str, Array], low: float, high: float) -> None:
    """Raises NotServable unless no input in the range can overflow, with every rounding taken at its worst."""
    linears = [layer for layer in plan.layers if isinstance(layer, Linear)]
    relus = [layer for layer in plan.layers if isinstance(layer, ReLU)]
    f_in, scales, rounded = plan.input.frac_bits, [], []
    for index, layer in enumerate(linears):
        scale = f_in + layer.weight_frac_bits
        weight = weights[f"{layer.name}.weight"] * 2.0**-layer.weight_frac_bits
        bias = weights.get(f"{layer.name}.bias", np.zeros(layer.out_features)) * 2.0**-scale
        rounded.append((torch.from_numpy(weight), torch.from_numpy(bias)))
        scales.append(scale)
        f_in = scale - relus[index].frac_bits if index < len(relus) else f_in
    half = 2.0**-plan.input.frac_bits
    slack = torch.zeros(linears[0].in_features, dtype=torch.float64)
    boxes = chain_bounds(rounded, low - half, high + half)
    for index, ((lower, upper), (matrix, _)) in enumerate(zip(boxes, rounded, strict=True)):
        slack = matrix.abs() @ slack  # ReLU is 1-Lipschitz: truncation errors grow by |W| at most
        largest = float((torch.maximum(-lower, upper) + slack).max()) * 2.0 ** scales[index]
        limit = 2.0 ** (ring.bits - 1)
        if index < len(relus):  # whose upper end leaves room for the dither
            limit = 2.0 ** relus[index].range_bits - 2.0 ** relus[index].frac_bits
        if largest >= limit:
            raise NotServable(f"layer {linears[index].name!r} could overflow; declare a smaller input range")
        if index < len(relus):
            slack = slack + 2.0 ** -(scales[index] - relus[index].frac_bits)


def encode_rows(plan: Plan, rows: Tensor) -> Array:
    """Real inputs (n, ...) as ring elements (n, input size)."""
    return np.rint(rows.flatten(1).double().numpy() * 2.0**plan.input.frac_bits).astype(Ring(plan.ring_bits).dtype)


@torch.inference_mode()
def _error(plan: Plan, weights: Mapping[str, Array], model: nn.Module, calibration: Tensor) -> float:
    exact = model(calibration).double().numpy()
    got = reference.run(plan, encode_rows(plan, calibration), weights) * 2.0**-plan.output.frac_bits
    return float(np.abs(exact - got).max())
