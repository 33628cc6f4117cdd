"""A party's share of a result, as it leaves at the end of a run."""

from collections.abc import Iterable
from itertools import accumulate
from typing import NamedTuple

from moiety_shared.crypto.sealing import PublicKey, seal_result
from moiety_shared.messages.wire import Binding, Recipients, Secret, malformed
from moiety_shared.plan.plan import Plan
from moiety_shared.protocols.graph import given_out
from moiety_shared.ring import Array


def check_recipients(plan: Plan, secret: Secret) -> None:
    """Raises Problem MALFORMED when the request names a recipient to whom the plan gives nothing."""
    if Recipients.OWNER in secret.recipients and plan.output.owner_key is None:
        raise malformed("the request names the owner as a recipient, but the plan has no key of the owner")


class ResultShare(NamedTuple):
    """What this party says of one request: its share of the result, for who may read that; and what the client gets
    whoever may, by which it checks a verified run that counts."""

    result: bytes
    beside: bytes = b""


def result_shares(plan: Plan, outputs: Array, rows: Iterable[int]) -> list[ResultShare]:
    """This party's share of each request's result, from its shares of all outputs. Each request has so many rows."""
    ends = list(accumulate(rows))
    return [ResultShare(given_out(plan, outputs[at:end])) for at, end in zip([0, *ends], ends, strict=False)]


def sealed_result(plan: Plan, party: int, share: ResultShare, secret: Secret, binding: Binding) -> bytes:
    """Seal this party's share of the result to each recipient: first the client, then the owner."""
    sealed = b""
    told = share.beside + share.result if Recipients.CLIENT in secret.recipients else share.beside
    if told:
        sealed += seal_result(secret.result_key, told, binding.context("result", party))
    if Recipients.OWNER in secret.recipients and plan.output.owner_key is not None:
        sealed += PublicKey.from_text(plan.output.owner_key).seal(share.result, binding.context("count", party))
    return sealed
