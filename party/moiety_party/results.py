"""A party's share of a result, as it leaves at the end of a run."""

from collections.abc import Iterable
from itertools import accumulate

from moiety_shared.crypto.sealing import PublicKey, seal_result
from moiety_shared.messages.wire import Binding, Recipients, Secret, malformed
from moiety_shared.plan.plan import Plan
from moiety_shared.protocols.graph import given_out
from moiety_shared.ring import Array


def check_recipients(plan: Plan, secret: Secret) -> None:
    """Raises Problem MALFORMED when the request names a recipient to whom the plan gives nothing."""
    if Recipients.OWNER in secret.recipients and plan.output.owner_key is None:
        raise malformed("the request names the owner as a recipient, but the plan has no key of the owner")


def result_shares(plan: Plan, outputs: Array, rows: Iterable[int]) -> list[bytes]:
    """This party's share of each request's result, from its shares of all outputs. Each request has so many rows."""
    ends = list(accumulate(rows))
    return [given_out(plan, outputs[at:end]) for at, end in zip([0, *ends], ends, strict=False)]


def sealed_result(plan: Plan, party: int, share: bytes, secret: Secret, binding: Binding) -> bytes:
    """Seal this party's share of the result to each recipient: first the client, then the owner."""
    sealed = b""
    if Recipients.CLIENT in secret.recipients:
        sealed += seal_result(secret.result_key, share, binding.context("result", party))
    if Recipients.OWNER in secret.recipients and plan.output.owner_key is not None:
        sealed += PublicKey.from_text(plan.output.owner_key).seal(share, binding.context("count", party))
    return sealed
