"""Who sent requests lately that bob could not use: alice has him look at what else they send before it takes rows."""

import time
from collections import OrderedDict
from collections.abc import Callable

from moiety_party.store import Model

_SECONDS = 60.0
_MOST = 4096  # tokens, of 4 KB at most each


class Suspects:
    """For a minute after each refusal of bob's that was the client's doing.

    A good request names its rows with no round trip for asking, so a bad one burns them at both parties. Of a suspect
    that holds no more: its requests take one exchange longer, and burn nothing if bob refuses them. Nobody is turned
    away, so that it harms no client whose key was replaced, nor those who share an open model with a bad one.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until = OrderedDict[tuple[str, str], float]()  # by owner's key and token ("" for none), oldest first

    def note(self, model: Model, token: str) -> None:
        key = model.manifest.owner_key, token
        self._until[key] = self._clock() + _SECONDS
        self._until.move_to_end(key)
        if len(self._until) > _MOST:
            self._until.popitem(last=False)

    def holds(self, model: Model, token: str) -> bool:
        until = self._until.get((model.manifest.owner_key, token))
        return until is not None and self._clock() < until
