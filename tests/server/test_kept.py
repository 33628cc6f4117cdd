"""What an owner keeps of an auditable upload: all that both parties have, and nothing that a thief of it can read."""

import stat
from pathlib import Path

import numpy as np
import pytest

from moiety_server.audits import AuditableUpload
from moiety_server.kept import AuditableUploads
from moiety_server.publication import check_auditable
from moiety_shared.crypto.signing import key_text
from moiety_shared.messages.statements import MOST_WORDS
from moiety_shared.messages.upload import Draws, MaskedModel
from moiety_shared.plan.plan import Plan
from moiety_shared.problems import Problem
from moiety_shared.protocols.verified import layout
from tests import plans

ID, KEY, PLAN = "ab" * 16, bytes(range(32)), plans.two_layers()
KEYS = ("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo=", "PUAXw-hDiVqStwqnTRt-vJyYLM8uxJaMwM1V8Sr0Zgw=")


@pytest.fixture
def draws(tmp_path: Path) -> Draws:
    """Those of an upload of which there is a file."""
    drawn = Draws.fresh()
    AuditableUploads(tmp_path, KEY).keep(MaskedModel(ID, PLAN, plans.two_weights(), drawn), KEYS)
    return drawn


def test_both_parties_weights_come_back(tmp_path: Path, draws: Draws) -> None:
    upload = AuditableUpload.read(AuditableUploads(tmp_path, KEY), ID, PLAN)
    alice, bob = upload.model.weights
    for layer in ("l", "m"):
        assert np.array_equal(alice[layer].local + bob[layer].local, plans.two_weights()[f"{layer}.weight"])
        assert np.array_equal(alice[layer].masked - upload.model.masks[layer], plans.two_weights()[f"{layer}.weight"])
    assert tuple(map(key_text, upload.keys)) == KEYS


def test_nobody_else_reads_or_changes_it(tmp_path: Path, draws: Draws) -> None:
    (file,) = tmp_path.iterdir()
    raw = file.read_bytes()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not any(seed in raw for seed in draws.seeds)
    for changed, key in ((raw, bytes(32)), *((raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :], KEY) for at in (0, -9))):
        file.write_bytes(changed)
        with pytest.raises(Problem, match="was changed, or belongs to another"):
            AuditableUpload.read(AuditableUploads(tmp_path, key), ID, PLAN)
    file.write_bytes(raw[:-1])
    with pytest.raises(Problem, match="was changed"):
        AuditableUpload.read(AuditableUploads(tmp_path, KEY), ID, PLAN)


def test_it_is_gone_with_the_model(tmp_path: Path, draws: Draws) -> None:
    uploads = AuditableUploads(tmp_path, KEY)
    for _ in range(2):
        uploads.forget(ID)
        with pytest.raises(Problem, match="--auditable"):
            AuditableUpload.read(uploads, ID, PLAN)


def test_what_cannot_be_audited_is_not_published_so() -> None:
    check_auditable(PLAN)
    check_auditable(layout.verified(PLAN))
    wide = PLAN.layers[1].model_copy(update={"out_features": MOST_WORDS // 4 + 1})
    output = PLAN.output.model_copy(update={"wire": "l", "shape": (MOST_WORDS // 4 + 1,)})
    large = PLAN.model_copy(update={"layers": (PLAN.layers[0], wide), "output": output})
    with pytest.raises(Problem, match="64 MiB"):
        check_auditable(Plan.model_validate(large.model_dump()))
