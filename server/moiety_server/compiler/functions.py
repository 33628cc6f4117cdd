"""The smooth functions of one value that tables look up: how each is computed, and where it is defined and turns."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


@dataclass(frozen=True)
class Function:
    """A function of one value.

    Between its `turns` it only rises or only falls. `limits` bound it where it turns without end. It is defined between
    `low` and `high`, without them; at its `pole` it is undefined as well. Towards these places it is so steep that a
    table meets it only where they are at least a `near`-th of the range away.
    """

    apply: Callable[[Tensor], Tensor]
    turns: tuple[float, ...] = ()
    limits: tuple[float, float] | None = None
    low: float = -math.inf
    high: float = math.inf
    pole: float | None = None
    near: float = 64

    @property
    def is_steep(self) -> bool:
        """Whether there are places where it is undefined, and steep near them."""
        return self.pole is not None or math.isfinite(self.low) or math.isfinite(self.high)

    def allows(self, low: float, high: float) -> bool:
        """Whether a table meets the function between these two values."""
        room = (high - low) / self.near
        if self.pole is not None and low - room < self.pole < high + room:
            return False
        inside = math.isfinite(self.low), math.isfinite(self.high)
        return not (inside[0] and low - room < self.low) and not (inside[1] and high + room > self.high)


FUNCTIONS: dict[str, Function] = {
    "sigmoid": Function(torch.sigmoid),
    "tanh": Function(torch.tanh),
    "silu": Function(F.silu, turns=(-1.2784645427610737,)),
    "gelu": Function(F.gelu, turns=(-0.7517915246935645,)),
    "gelu_tanh": Function(lambda x: F.gelu(x, approximate="tanh"), turns=(-0.7524614125126896,)),
    "elu": Function(F.elu, turns=(0.0,)),  # it turns where alpha is negative
    "softplus": Function(F.softplus),
    "softsign": Function(F.softsign),
    "exp": Function(torch.exp),
    "erf": Function(torch.erf),
    "sin": Function(torch.sin, limits=(-1, 1)),
    "cos": Function(torch.cos, limits=(-1, 1)),
    "tan": Function(torch.tan, low=-math.pi / 2, high=math.pi / 2),
    "asin": Function(torch.asin, low=-1, high=1),
    "acos": Function(torch.acos, low=-1, high=1),
    "atan": Function(torch.atan),
    "sinh": Function(torch.sinh),
    "cosh": Function(torch.cosh, turns=(0.0,)),
    "asinh": Function(torch.asinh),
    "acosh": Function(torch.acosh, low=1),
    "atanh": Function(torch.atanh, low=-1, high=1),
    "log": Function(torch.log, low=0),
    "sqrt": Function(torch.sqrt, low=0, near=256),
    "rsqrt": Function(torch.rsqrt, low=0),
    "reciprocal": Function(torch.reciprocal, pole=0),
}
