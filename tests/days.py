"""Quotas that tests can spend at any hour: a window begins anew at multiples of its length, a day at midnight UTC."""

import time

from moiety_shared.crypto.tokens import MAX_QUOTA_SECONDS, Quota

_DAY = 86400
_TEST = 300.0  # seconds: longer than any test of a quota takes on a busy machine


def wait_over_midnight() -> None:
    """Return at a time of which a whole test still sees the same day."""
    left = _DAY - time.time() % _DAY
    if left < _TEST:
        time.sleep(left + 1)


def quota(rows: int) -> Quota:
    """For so many inputs in a window that does not end soon: of two long ones, which never end together."""
    windows = (MAX_QUOTA_SECONDS, MAX_QUOTA_SECONDS - _DAY)
    return Quota(rows=rows, seconds=max(windows, key=lambda seconds: seconds - time.time() % seconds))
