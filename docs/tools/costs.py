"""What each network takes for one input, from its plan: the tables of docs/benchmarks.md.

Rounds and bytes follow from the layers, and from the bits that the compiler gives them. It chooses those by the
weights and the calibration data, so both are the same ones each time.
"""

from pathlib import Path

import torch

from docs.tools import pages
from moiety_server import sources
from moiety_server.compiler.compilation import compile_model
from moiety_server.zoo import network
from moiety_shared.plan.plan import Plan

PAGE = pages.DOCS / "benchmarks.md"
_SIDE = 64
_SMALL = ("resnet18", "squeezenet1_1", "mobilenet_v3_small")
"""Architectures that compile in 2 s at most at 64 x 64. The last takes the 64-bit ring."""
_WHOLE = "whole architectures"
_HEAD = "| network | one input | ring, bits | rounds | online bytes, each party | provider bytes |\n" + "|---" * 6 + "|"


def generated() -> dict[Path, str]:
    """The page with the table of what compiles in seconds."""
    lines = [line(name, sources.load(name).compile().plan) for name in network.NETWORKS]
    lines += [line(name, _small(name)) for name in _SMALL]
    return {PAGE: pages.filled(PAGE, {"moiety_server.zoo": "\n".join((_HEAD, *lines))})}


def line(name: str, plan: Plan) -> str:
    """The row of a network."""
    cost = plan.cost(1)
    shape = " x ".join(map(str, plan.input.shape))
    figures = (plan.ring_bits, cost.rounds, cost.online_bytes, cost.offline_bytes)
    return f"| {name} | {shape} | {' | '.join(f'{figure:,}' for figure in figures)} |"


def whole() -> list[str]:
    """The rows of whole architectures, as the page has them."""
    return pages.held(PAGE, _WHOLE).splitlines()


def rewrite(name: str, plan: Plan) -> None:
    """Write the row of a whole architecture anew. `make test-zoo` compiles them; it takes half an hour."""
    rows = {row.split(" | ")[0]: row for row in whole()[2:]} | {f"| {name}": line(name, plan)}
    PAGE.write_text(pages.filled(PAGE, {_WHOLE: "\n".join((_HEAD, *rows.values()))}))


def _small(name: str) -> Plan:
    """The plan of one of torchvision's, with its own initialisation, calibrated on random pictures."""
    torch.manual_seed(0)
    model = sources.torchvision_model(name)
    pictures = torch.randn(4, 3, _SIDE, _SIDE).clamp(-2.5, 2.5)
    return compile_model(model, pictures, low=-2.5, high=2.5).plan
