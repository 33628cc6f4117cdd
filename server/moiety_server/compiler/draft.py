"""A graph under construction. It names its nodes, checks their sizes, and refuses what the IR has no exact form for."""

import math
import re
from collections.abc import Sequence
from typing import Any, NoReturn, TypedDict, TypeVar

from torch import Tensor

from moiety_server.compiler import ir
from moiety_server.compiler.hints import OTHERWISE
from moiety_server.compiler.ir import NotServable, Shape

NodeT = TypeVar("NodeT", bound=ir.Node)
_MOST_VALUES = 1 << 26  # values of one wire: twenty times those of the largest wire of VGG-16 at 224 x 224
_MOST_AXES = 8  # a plan has no more
_LONGEST_NAME = (
    42  # of 64: norms and their layers append up to 22, and cut off would be the number that tells two apart
)


class NodeHead(TypedDict):
    """The attributes that every node has."""

    name: str
    inputs: tuple[str, ...]
    shape: Shape
    origin: str


class Draft:
    """The nodes so far, by name. `scope` and `origin` belong to the layer that is being translated.

    `lead` is how many axes the framework counts before those of a wire: one, the batch, or none where a file is written
    for a single input.
    """

    def __init__(self, lead: int = 1) -> None:
        self.lead = lead
        self.nodes: dict[str, ir.Node] = {}
        self.scope, self.origin = "input", "the model's input"
        self._same: dict[tuple[Any, ...], ir.Node] = {}  # nodes without tensors, by what they compute
        self._numbers: dict[str, int] = {}  # the last number given to each stem

    def refuse(self, text: str, hint: str = "") -> NoReturn:
        """Raises NotServable, with the name of the layer and a way out."""
        raise NotServable(f"{self.origin}: {text}. Instead: {hint or OTHERWISE}")

    def require(self, condition: bool, text: str, hint: str = "") -> None:
        if not condition:
            self.refuse(text, hint)

    def planes(self, x: ir.Node, what: str) -> None:
        """Refuses a shape other than (C, H, W)."""
        self.require(len(x.shape) == 3, f"{what} needs (batch, C, H, W), got (batch, {', '.join(map(str, x.shape))})")

    def check_size(self, shape: Sequence[int]) -> None:
        """Refuses a shape that is empty, or larger than any model needs, before anything of that shape is made."""
        self.require(
            len(shape) <= _MOST_AXES and min(shape, default=1) > 0 and math.prod(shape) <= _MOST_VALUES,
            f"gives {' x '.join(map(str, shape[:_MOST_AXES]))}, but 1 to {_MOST_VALUES:,} values are supported",
        )

    def _name(self) -> str:
        stem = re.sub(r"[^a-z0-9_.]+", "_", self.scope.lower())[-_LONGEST_NAME:].lstrip("_.") or "node"
        name, number = stem, self._numbers.get(stem, 1)
        while name in self.nodes:
            number += 1
            suffix = f"-{number}"
            name = stem[: _LONGEST_NAME - len(suffix)] + suffix
        self._numbers[stem] = number
        return name

    def _head(self, shape: Sequence[int], *inputs: ir.Node) -> NodeHead:
        self.check_size(shape)
        return {
            "name": self._name(),
            "inputs": tuple(node.name for node in inputs),
            "shape": tuple(shape),
            "origin": self.origin,
        }

    def _add(self, node: NodeT) -> NodeT:
        """Append a node, unless one that computes the same from the same wires is there: then return that one."""
        members = {k: v for k, v in vars(node).items() if k not in ("name", "origin")}
        if any(isinstance(v, Tensor) for v in members.values()) or not node.inputs:
            self.nodes[node.name] = node
            return node
        same = self._same.setdefault((type(node), *members.items()), node)
        self.nodes.setdefault(same.name, same)
        return same  # type: ignore[return-value]
