"""Transformers as torch exports them to ONNX: with the batch open, and with a batch of one."""

import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from moiety_server.compiler.onnx.graph import read_onnx
from tests.compiler.test_trace_transformers import ON_PICTURES, ON_TOKENS, TOKENS, WIDTH, drawn

NAMES = ["bert", "gpt", "attention", "attention, tokens first", "encoder, tokens first", "vit", "swin", "maxvit"]


def exported(model: nn.Module, shape: tuple[int, ...], path: Path, *, is_open: bool) -> Path:
    axes = {"x": {0: "n"}, "y": {0: "n"}} if is_open else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model.train(False), (torch.randn(1 + is_open, *shape),), path, dynamo=False, opset_version=17,
            input_names=["x"], output_names=["y"], dynamic_axes=axes,
        )  # fmt: skip
    return path


@pytest.mark.parametrize("is_open", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_an_exported_transformer_is_read(name: str, is_open: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    build, shape = (ON_TOKENS[name], (TOKENS, WIDTH)) if name in ON_TOKENS else (
        ON_PICTURES[name][0], (3, *ON_PICTURES[name][1])
    )  # fmt: skip
    model = drawn(build())
    graph = read_onnx(exported(model, shape, tmp_path / "model.onnx", is_open=is_open))
    x = torch.randn(3, *shape)
    with torch.no_grad():
        expected = model(x)
    found = graph.run(x.reshape(3, *graph.nodes[0].shape))[graph.output]
    torch.testing.assert_close(found.reshape(expected.shape), expected, rtol=1e-4, atol=1e-4)
