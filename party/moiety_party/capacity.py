"""How many rows of a model a party takes at a time: in a request, in a bundle, in a pool."""

from moiety_party.settings import PartySettings
from moiety_shared.plan.plan import Plan

_MAX_BUNDLE_ROWS = 4096


def request_rows(settings: PartySettings, plan: Plan) -> int:
    """The most inputs in one request: all of its rows are in memory at once."""
    return min(settings.max_rows, _affordable_rows(settings, plan))


def shared_rows(settings: PartySettings, plan: Plan) -> int:
    """The most inputs of several requests in one run: the slice that is quickest, and half of a pool at most."""
    return min(plan.slice_rows, pool_rows(settings, plan) // 2)


def run_rows(settings: PartySettings, plan: Plan) -> int:
    """The most inputs in one run, whatever the pools of the party that leads it."""
    return max(request_rows(settings, plan), plan.slice_rows)


def bundle_rows(settings: PartySettings, plan: Plan) -> int:
    """The rows of a bundle of about `bundle_bytes`.

    It is a power of two, so that usual batches divide it. A pool of more than one row holds at least two bundles.
    """
    rows = min(settings.bundle_bytes // max(plan.bundle_row_bytes, 1), pool_rows(settings, plan) // 2)
    return min(1 << max(rows, 1).bit_length() - 1, _MAX_BUNDLE_ROWS)


def pool_rows(settings: PartySettings, plan: Plan) -> int:
    """The rows that a pool keeps ready."""
    return min(settings.pool_rows, _affordable_rows(settings, plan))


def is_large(settings: PartySettings, plan: Plan) -> bool:
    """Whether one row is larger than a pool should be."""
    return plan.bundle_row_bytes > settings.pool_bytes


def _affordable_rows(settings: PartySettings, plan: Plan) -> int:
    return max(settings.pool_bytes // max(plan.bundle_row_bytes, 1), 1)
