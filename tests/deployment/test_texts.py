"""A model of token ids through five real processes: published with its embedding, asked with ids and with texts."""

from pathlib import Path

import numpy as np
import pytest
import torch

from moiety_client.client import Client
from moiety_local.deployment import Deployment
from tests.client.tokens import TOKENIZER
from tests.compiler import test_tokens
from tests.compiler.test_tokens import PAD, Masked, ids


@pytest.mark.parametrize("tokenizer", [pytest.param(False, marks=pytest.mark.long), True])
def test_ids_of_any_length_get_the_models_answers(
    deployment: Deployment, client: Client, tmp_path: Path, tokenizer: bool
) -> None:
    words, name = ids(24), f"masked-{tokenizer}".lower()
    mask = words != PAD
    np.savez(tmp_path / "ids.npz", ids=words, attention_mask=mask.long())
    (tmp_path / "tokenizer.json").write_bytes(TOKENIZER)
    given = ("--tokenizer", str(tmp_path / "tokenizer.json")) if tokenizer else ()
    model = f"{test_tokens.__name__}:Masked"
    deployment.run("publish", model, "--calibration", str(tmp_path / "ids.npz"), "--name", name, *given)
    answer = client.predict(name, [row[kept].tolist() for row, kept in zip(words, mask, strict=True)], canaries=2)
    exact = Masked().eval()(words, mask.float()).detach().numpy()
    assert np.abs(answer.outputs - exact).max() < 0.01 * exact.std()
    if tokenizer:
        texts = client.predict(name, ["good film", "BAD"])
        words = torch.tensor([[1, 3, 0, 0, 0, 0], [2, 0, 0, 0, 0, 0]])
        exact = Masked().eval()(words, (words != PAD).float()).detach().numpy()
        assert np.abs(texts.outputs - exact).max() < 0.01 * exact.std()


def test_a_secret_embedding_is_in_nothing_that_clients_read(
    deployment: Deployment, client: Client, tmp_path: Path
) -> None:
    words = ids(24)
    np.savez(tmp_path / "ids.npz", ids=words, attention_mask=(words != PAD).long())
    model = f"{test_tokens.__name__}:Masked"
    given = ("--calibration", str(tmp_path / "ids.npz"), "--name", "hidden", "--secret-embedding")
    deployment.run("publish", model, *given)
    try:
        answer = client.predict("hidden", [row[row != PAD].tolist() for row in words], canaries=2)
        entry = client.model("hidden")
    finally:
        deployment.run("withdraw", "hidden", "1")
    exact = Masked().eval()(words, (words != PAD).float()).detach().numpy()
    assert np.abs(answer.outputs - exact).max() < 0.01 * exact.std()
    assert entry.attachments == () and entry.plan.input.shape == (6, 1)
