"""A model as its owner has it, before it is compiled. `sources.py` makes one of what the owner names."""

from dataclasses import dataclass, field, replace
from typing import get_args

from torch import nn

from moiety_server.calibration import Array
from moiety_server.compiler import ir
from moiety_server.compiler.compilation import Compiled, compile_model
from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.meaning import Meaning, Reveal
from moiety_server.compiler.parts import Limit
from moiety_server.tensor_files import Calibration
from moiety_shared.messages.catalogue import Polarity, Preprocessing
from moiety_shared.messages.table import Tabular
from moiety_shared.messages.tokens import SecretTokens, Tokens


@dataclass(frozen=True)
class ModelSource:
    """A model, the data to calibrate it on, and what its catalogue entry says of its inputs and outputs.

    `meaning` says what the outputs are for, where the model does not show it. `output` is the one of a module's several
    outputs that is served, where not all are. `target` holds what the model should answer to each row of the
    calibration data, as texts, where the owner names a column of it. `tells` are sentences on what everybody learns of
    a model from its table's columns. `attached` are the files beside the catalogue entry, which `preprocessing` names.
    """

    name: str
    model: nn.Module | ir.Graph
    calibration: Calibration
    low: Limit
    high: Limit
    preprocessing: Preprocessing | Tabular | Tokens | SecretTokens | None = None
    classes: tuple[str, ...] = ()
    description: str = ""
    target: Array | None = None
    tells: tuple[str, ...] = ()
    meaning: Meaning = Meaning()  # noqa: RUF009  frozen
    output: str = ""
    attached: tuple[bytes, ...] = field(default=(), repr=False)

    def polarised(self, polarity: str | None) -> "ModelSource":
        """Declare the polarity of the pictures that the model was trained on, if one is given.

        Raises NotServable unless it is a Polarity, and the model takes grey pictures.
        """
        if polarity is None:
            return self
        if polarity not in get_args(Polarity):
            raise NotServable(f"pictures are {' or '.join(get_args(Polarity))}: pass one of these as --polarity")
        how = self.preprocessing
        if not isinstance(how, Preprocessing) or how.channels != 1:
            raise NotServable(f"{self.name} takes no grey pictures: leave --polarity out")
        return replace(self, preprocessing=how.model_copy(update={"polarity": polarity}))

    def compile(
        self,
        *,
        reveal: Reveal | None = None,
        top: int = 1,
        ring_bits: int | None = None,
        headroom: float = 4.0,
        clamp_inputs: bool = False,
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
            output=self.output,
            meaning=self.meaning,
            clamp_inputs=clamp_inputs,
        )
