"""What an owner is told of a model that has no room in the ring of verified runs."""

from typing import Any

import pytest

from moiety_server.cli.model_options import ModelOptions
from moiety_server.compiler.ir import NotServable


class Wide:
    """A source of a model that has room in a ring of 64 bits alone."""

    def compile(self, *, ring_bits: int | None, **options: object) -> object:
        if ring_bits != 64:
            raise NotServable("the layer: has no room in a 32-bit ring")
        raise NotServable("compiled")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"verified": True}, "64 are there without --verified"),
        ({"verified": True, "ring": 32}, "32-bit ring$"),
        ({"ring": 64}, "^compiled$"),
    ],
)
def test_an_owner_is_told_which_ring_verified_models_have(options: dict[str, Any], told: str) -> None:
    source: Any = Wide()
    with pytest.raises(NotServable, match=told):
        ModelOptions(**options).compiled(source)
