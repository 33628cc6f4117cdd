"""bob's half of an upload waits in the store that his replicas share, since the leader may ask another one for it."""

from pathlib import Path

import numpy as np
import pytest
from pydantic import SecretStr

from moiety_party.objects import Objects, objects
from moiety_party.store import MAX_WAITING, ModelStore
from moiety_shared.catalogue import Manifest
from moiety_shared.layers import ring_dtype
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.ring import Array
from tests import plans
from tests.test_admission import a_model

KEY = bytes(range(32))
PLAN = plans.logits()
MARKER = b"a share of weights, 32 bytes lon"


def shares() -> dict[str, Array]:
    """Weight shares of PLAN that can be told from noise."""
    made = {name: np.zeros(shape, dtype=ring_dtype(PLAN.ring_bits)) for name, shape in PLAN.weights()}
    for tensor in made.values():
        raw = tensor.reshape(-1).view(np.uint8)
        raw[:] = np.resize(np.frombuffer(MARKER, np.uint8), raw.size)
    return made


def manifest(number: int = 0) -> Manifest:
    return a_model().manifest.model_copy(update={"upload_id": f"{number:032x}"})


@pytest.fixture(params=["file", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    return objects(SecretStr(f"{request.param}://{tmp_path}/there"), tmp_path)


def refused(store: ModelStore, upload_id: str) -> ProblemType:
    with pytest.raises(Problem) as caught:
        store.take_waiting(upload_id)
    return caught.value.kind


def test_another_replica_takes_it_once_and_nothing_is_left(place: Objects) -> None:
    here, there, half = ModelStore(place, KEY), ModelStore(place, KEY), shares()
    here.put_waiting(manifest(), PLAN, half)
    with pytest.raises(Problem) as caught:
        there.put_waiting(manifest(), PLAN, half)
    assert caught.value.kind is ProblemType.UPLOAD_CONFLICT
    (folder,) = place.folders()
    assert not [file for file in place.files(folder) if MARKER[:16] in place.read(folder, file, 1 << 20)]
    assert ModelStore(place, KEY).all() == [], "a replica that starts meanwhile leaves it alone"
    taken, plan, found = there.take_waiting(manifest().upload_id)
    assert (taken, plan) == (manifest(), PLAN)
    assert {n: t.tobytes() for n, t in found.items()} == {n: t.tobytes() for n, t in half.items()}
    assert refused(here, manifest().upload_id) is ProblemType.UPLOAD_INCOMPLETE
    assert not any(place.files(folder) for folder in place.folders())


def test_not_many_wait(place: Objects) -> None:
    store = ModelStore(place, KEY)
    for number in range(MAX_WAITING + 3):
        store.put_waiting(manifest(number), PLAN, shares())
    assert len([folder for folder in place.folders() if place.files(folder)]) == MAX_WAITING
    store.take_waiting(manifest(MAX_WAITING + 2).upload_id)


def test_a_change_in_the_store_is_noticed(place: Objects) -> None:
    store = ModelStore(place, KEY)
    store.put_waiting(manifest(), PLAN, shares())
    (folder,) = place.folders()
    sealed = bytearray(place.read(folder, "shares.sealed", 1 << 20))
    sealed[40] ^= 1
    place.write(folder, "shares.sealed", bytes(sealed))
    assert refused(store, manifest().upload_id) is ProblemType.MALFORMED
    assert refused(ModelStore(place, KEY[::-1]), manifest().upload_id) is ProblemType.MALFORMED
