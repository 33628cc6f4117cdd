"""The JavaScript client against five real processes with TLS."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from moiety_client.client import Client
from moiety_local import mnist
from moiety_local.deployment import Deployment
from moiety_shared.crypto.possession import private_pem
from moiety_shared.crypto.signing import key_text

Ask = Callable[..., dict[str, Any]]
AskEach = Callable[..., list[dict[str, Any]]]
Digits = tuple[np.ndarray, np.ndarray]


def pixels(images: np.ndarray, **options: Any) -> dict[str, Any]:
    return {"model": "mnist", "pixels": images.tobytes().hex(), "options": options}


def _access(**members: Any) -> dict[str, Any]:
    """A client whose access file has other members."""
    return {"change": members}


def test_labels_are_those_of_the_python_client(
    deployment: Deployment, client: Client, ask: Ask, digits: Digits
) -> None:
    images = digits[0][:60]
    expected = client.predict("mnist", images)
    said = ask(deployment.access_file, pixels(images), pixels(images[:9], canaries=5), pixels(255 - images[:3]))
    assert "mnist" in said["models"] and "alice at https://" in said["described"]
    whole, checked, inverted = said["told"]
    assert whole["labels"] == expected.labels.tolist() == [row[0] for row in whole["top"]]
    spread = np.ptp(expected.outputs)
    assert np.abs(np.array(whole["outputs"]) - expected.outputs).max() < 0.01 * spread, "runs differ by their dithers"
    assert (whole["rounds"], whole["onlineBytes"], whole["inverted"]) == (5, expected.online_bytes, 0)
    assert checked["labels"] == expected.labels[:9].tolist()
    assert inverted["labels"] == expected.labels[:3].tolist() and inverted["inverted"] == 3


def test_numbers_and_pixels_are_asked_alike(deployment: Deployment, client: Client, ask: Ask, digits: Digits) -> None:
    images = digits[0][:3]
    how = client.model("mnist").preprocessing
    assert how is not None and how.kind == "picture"
    rows = (images.reshape(3, -1) / 255 - how.mean[0]) / how.std[0]
    said = ask(deployment.access_file, pixels(images), {"model": "mnist", "rows": rows.tolist()})
    assert said["told"][0]["labels"] == said["told"][1]["labels"]
    rows[1, 5] = 9
    refused = ask(deployment.access_file, {"model": "mnist", "rows": rows.tolist()})
    assert (refused["error"], refused["row"], refused["column"]) == ("InvalidInput", 1, 5)
    assert "9" not in refused["message"].replace("0.424", "").split("range")[0]


_REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "the system's CAs": ({"plain": True}, "CatalogueUnavailable"),
    "no CA": ({"ca": ""}, "CatalogueUnavailable"),
    "another owner": (_access(owner_key=key_text(Ed25519PrivateKey.generate().public_key())), "UntrustedEntry"),
    "no owner": (_access(owner_key=""), "AccessFileError"),
    "another key": (_access(key=private_pem(Ed25519PrivateKey.generate())), "NotAllowed"),
    "no key": (_access(key=""), "NotAllowed"),
    "a broken key": (_access(key="no key"), "AccessFileError"),
    "no token": (_access(token=""), "NotAllowed"),
    "plain HTTP": (_access(catalogue_url="http://owner.example"), "InsecureAddress"),
    "a format": (_access(format=3), "AccessFileError"),
    "no verified model": ({"options": {"requireVerified": True}}, "NotVerified"),
}


@pytest.fixture(scope="module")
def refused(deployment: Deployment, ask_each: AskEach, digits: Digits) -> dict[str, str]:
    """The error of each client, all of which ask in one process."""
    each = [change for change, _ in _REFUSED.values()]
    told = ask_each(deployment.access_file, pixels(digits[0][:1]), each=each)
    return {name: one["error"] for name, one in zip(_REFUSED, told, strict=True)}


def test_only_the_deployments_own_ca_is_trusted(refused: dict[str, str]) -> None:
    assert refused["the system's CAs"] == refused["no CA"] == "CatalogueUnavailable"


@pytest.mark.parametrize("name", _REFUSED)
def test_who_may_not_ask_or_be_believed_is_told(refused: dict[str, str], name: str) -> None:
    assert refused[name] == _REFUSED[name][1]


def test_a_model_that_is_not_there_is_unknown(deployment: Deployment, ask: Ask, digits: Digits) -> None:
    assert ask(deployment.access_file, pixels(digits[0][:1]) | {"model": "none"})["error"] == "UnknownModel"


@pytest.mark.long
def test_a_thousand_images(deployment: Deployment, client: Client, ask: Ask) -> None:
    """Of MNIST's test set, where MOIETY_SERVER_MNIST_DIR names a folder of it; else of the 512 in the package."""
    folder = os.environ.get("MOIETY_SERVER_MNIST_DIR")
    images, _ = mnist.test_images(1000 if folder else 512, Path(folder) if folder else None)
    labels = ask(deployment.access_file, pixels(images))["told"][0]["labels"]
    equal = int((np.array(labels) == client.predict("mnist", images).labels).sum())
    print(f"{equal} of {len(images)} labels are those of the Python client")
    assert equal == len(images)
