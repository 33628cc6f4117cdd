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
Digits = tuple[np.ndarray, np.ndarray]


def pixels(images: np.ndarray, **options: Any) -> dict[str, Any]:
    return {"model": "mnist", "pixels": images.tobytes().hex(), "options": options}


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


def test_only_the_deployments_own_ca_is_trusted(deployment: Deployment, ask: Ask, digits: Digits) -> None:
    given = pixels(digits[0][:1])
    assert ask(deployment.access_file, given, plain=True)["error"] == "CatalogueUnavailable"
    assert ask(deployment.access_file, given, ca="")["error"] == "CatalogueUnavailable"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"owner_key": key_text(Ed25519PrivateKey.generate().public_key())}, "UntrustedEntry"),
        ({"owner_key": ""}, "AccessFileError"),
        ({"key": private_pem(Ed25519PrivateKey.generate())}, "NotAllowed"),
        ({"key": ""}, "NotAllowed"),
        ({"key": "no key"}, "AccessFileError"),
        ({"token": ""}, "NotAllowed"),
        ({"catalogue_url": "http://owner.example"}, "InsecureAddress"),
        ({"format": 3}, "AccessFileError"),
    ],
    ids=["another owner", "no owner", "another key", "no key", "a broken key", "no token", "plain HTTP", "a format"],
)
def test_who_may_not_ask_or_be_believed_is_told(
    deployment: Deployment, ask: Ask, digits: Digits, change: dict[str, Any], error: str
) -> None:
    assert ask(deployment.access_file, pixels(digits[0][:1]), change=change)["error"] == error


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
