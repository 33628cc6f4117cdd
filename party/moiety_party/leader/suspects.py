"""Senders of requests that bob refused lately. alice has bob check what else they send before it takes rows."""

import time
from collections import OrderedDict
from collections.abc import Callable

from moiety_party.store import Model

_SECONDS = 60.0
_MOST = 4096  # tokens, of 4 KB at most each


class Suspects:
    """Remembers a sender for a minute after each refusal that was the sender's doing.

    alice names a request's rows without asking bob first, so a request that he refuses burns them at both parties. A
    suspect's request takes one exchange more, and burns nothing if bob refuses it. alice turns nobody away: that would
    harm clients whose key was replaced, and clients who share an open model with a bad one.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until = OrderedDict[tuple[str, str], float]()  # by owner's key and token ("" for none), oldest first

    def note(self, model: Model, token: str) -> None:
        """bob refused a request for this model under this token."""
        key = model.manifest.owner_key, token
        self._until[key] = self._clock() + _SECONDS
        self._until.move_to_end(key)
        if len(self._until) > _MOST:
            self._until.popitem(last=False)

    def holds(self, model: Model, token: str) -> bool:
        """Whether the sender of a request under this token is a suspect now."""
        if not self._until:  # as nearly always, and all that wait are asked about at each run
            return False
        until = self._until.get((model.manifest.owner_key, token))
        return until is not None and self._clock() < until
