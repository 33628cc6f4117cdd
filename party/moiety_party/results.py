"""What leaves a party at the end of a run."""

from collections.abc import Sequence

import numpy as np

from moiety_shared.plan import Plan
from moiety_shared.ring import Array


def result_share(plan: Plan, outputs: Sequence[Array]) -> bytes:
    """This party's share of a request's result, from those of its slices.

    Counts are added up over the request's rows: no single one can be told from the number that leaves.
    """
    whole = np.concatenate(outputs)
    if plan.output.kind == "count":
        whole = whole.sum(axis=0, dtype=whole.dtype)
    return whole.tobytes()
