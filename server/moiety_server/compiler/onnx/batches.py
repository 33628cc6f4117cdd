"""Where the batch is in a file's inputs."""

from dataclasses import dataclass

from onnx import TensorShapeProto, ValueInfoProto

from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.origin import shown


@dataclass(frozen=True)
class Batch:
    """The first axis of the first input: its size where the file states one, else its name, if it has one."""

    size: int | None
    name: str

    @classmethod
    def of(cls, info: ValueInfoProto) -> "Batch":
        first = next(iter(info.type.tensor_type.shape.dim), TensorShapeProto.Dimension())
        return cls(first.dim_value if first.dim_value > 0 else None, first.dim_param)

    def axis(self, info: ValueInfoProto) -> int:
        """Return the axis of an input that is the batch: the first one, or the only other one of its name or size.

        Recurrent layers have such inputs: their states begin with the layers. Raises NotServable where no axis is it.
        """
        dimensions = info.type.tensor_type.shape.dim
        places = [at for at, dim in enumerate(dimensions) if self._is(dim)]
        if not dimensions or 0 in places:
            return 0
        if len(places) != 1:
            raise NotServable(
                f"the model's input {shown(info.name)}: has another batch than the first input. Instead: export it "
                "with the batch open, as the first dimension of each input"
            )
        return places[0]

    def _is(self, dimension: TensorShapeProto.Dimension) -> bool:
        if self.size is not None:
            return bool(dimension.dim_value == self.size)
        return dimension.dim_value <= 0 and (dimension.dim_param == self.name or not self.name)
