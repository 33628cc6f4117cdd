"""The type of what the protocols compute with. It is here for code that runs where torch is not installed."""

from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]
"""Ring elements of a `Ring.dtype`, or words of bits; each docstring says which."""
