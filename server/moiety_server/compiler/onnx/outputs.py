"""The outputs of a file: which of them are served, and which functions at its end are left to the client."""

from collections.abc import Sequence
from typing import NamedTuple

from onnx import GraphProto, NodeProto

from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.origin import shown
from moiety_shared.plan.plan import Final

FINAL: dict[str, Final] = {"Softmax": "softmax", "LogSoftmax": "log_softmax", "Sigmoid": "sigmoid"}
_QUANTISING = ("Identity", "QuantizeLinear", "DequantizeLinear")
_PASSING = ("Identity", "Cast", "Squeeze")


class Ending(NamedTuple):
    """The wire that is served of an output, and the node whose function the client applies to it, if there is one."""

    wire: str
    final: NodeProto | None


class Ends:
    """The served outputs of a graph, by name: all of them, or the `chosen` one.

    An output is not served where it is a label, the place of the largest of another output's numbers: clients read it
    off that one. `labels` says that the only output is a label; then its numbers are what is served.
    """

    def __init__(self, graph: GraphProto, chosen: str) -> None:
        self._graph = graph
        self._producers = {name: node for node in graph.node for name in node.output if name}
        found = [info.name for info in graph.output]
        if chosen and chosen not in found:
            raise NotServable(f"the model: has no output {shown(chosen)}. Instead: {shown(', '.join(found))}")
        scores = {wire for name in found for wire in (self._behind(name), self._ending(name).wire)}
        names = [chosen] if chosen else [name for name in found if not self._decided(name, scores)] or found
        self.served = {name: self._ending(name) for name in names}
        place = self._place(names[0]) if len(names) == 1 else None
        self.labels = place is not None
        if place is not None:
            self.served = {names[0]: self._ending(place.input[0])}

    @staticmethod
    def is_last(final: NodeProto, shape: tuple[int, ...], lead: int, opset: int) -> bool:
        """Whether the client can apply the function: a sigmoid, or one over all classes. `shape` has no batch."""
        if final.op_type == "Sigmoid":
            return True
        if not lead or (opset < 13 and len(shape) != 1):  # a softmax of old is over all axes from the stated one
            return False
        axis = next((a.i for a in final.attribute if a.name == "axis"), -1 if opset >= 13 else 1)
        return axis in (1, -len(shape))

    def needed(self) -> set[str]:
        """Return the wires on which the served outputs depend."""
        needed = {ending.wire for ending in self.served.values()}
        for node in reversed(self._graph.node):
            if needed.intersection(node.output):
                needed.update(node.input)
        return needed

    def _decided(self, name: str, scores: set[str]) -> bool:
        node = self._producers.get(self._behind(name, _PASSING))
        return node is not None and node.op_type == "ArgMax" and self._behind(node.input[0]) in scores

    def _place(self, name: str) -> NodeProto | None:
        """Return the node of an output that is the place of the largest along the second axis."""
        node = self._producers.get(self._behind(name, _PASSING))
        axis = next((a.i for a in node.attribute if a.name == "axis"), 0) if node is not None else 0
        return node if node is not None and node.op_type == "ArgMax" and axis in (1, -1) else None

    def _behind(self, name: str, kinds: Sequence[str] = ("Identity",)) -> str:
        """Return the wire that nodes of these kinds, which compute nothing, pass on under this name."""
        while name in self._producers and self._producers[name].op_type in kinds:
            name = self._producers[name].input[0]
        return name

    def _ending(self, output: str) -> Ending:
        name = self._behind(output)
        under = self._producers.get(self._behind(output, _QUANTISING))
        node = under if under is not None and under.op_type in FINAL else self._producers.get(name)
        return Ending(node.input[0], node) if node is not None and node.op_type in FINAL else Ending(name, None)
