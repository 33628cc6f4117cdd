"""An application that talks to Triton changes its URL: NVIDIA's own client against the five processes."""

import asyncio
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http.aio as aio
from PIL import Image
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput, InferResult
from tritonclient.utils import InferenceServerException

from moiety_client.client import Client
from moiety_local import mnist
from moiety_local.deployment import Deployment

Digits = tuple[np.ndarray, np.ndarray]
BOTH = pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])


@pytest.fixture(scope="module")
def address(deployment: Deployment) -> str:
    deployment.wait("client")
    return deployment.url("client").removeprefix("http://")


@pytest.fixture
def triton(address: str) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(address, network_timeout=60, connection_timeout=60) as made:
        yield made


def tensor(array: np.ndarray, datatype: str = "UINT8", *, binary: bool = True) -> InferInput:
    return InferInput("input", array.shape, datatype).set_data_from_numpy(array, binary_data=binary)


def normalised(pixels: np.ndarray) -> np.ndarray:
    return (pixels.reshape(len(pixels), 784) / 255 - mnist.MEAN) / mnist.STD


def test_the_server_and_its_models_describe_themselves(triton: InferenceServerClient) -> None:
    assert triton.is_server_live() and triton.is_server_ready()
    about = triton.get_server_metadata()
    assert about["name"] == "moiety" and "binary_tensor_data" in about["extensions"]
    index = triton.get_model_repository_index()
    (version,) = [one["version"] for one in index if one["name"] == "mnist" and one["state"] == "READY"]
    assert triton.is_model_ready("mnist") and triton.is_model_ready("mnist", version)
    metadata = triton.get_model_metadata("mnist", version)
    (given,) = metadata["inputs"]
    assert (given["name"], given["datatype"], given["shape"]) == ("input", "FP32", [-1, 784])
    assert given["parameters"]["low"] < 0 < given["parameters"]["high"]
    assert [(o["name"], o["datatype"], o["shape"]) for o in metadata["outputs"]] == [
        ("label", "INT64", [-1]),
        ("label_name", "BYTES", [-1]),
        ("output", "FP64", [-1, 10]),
        ("probability", "FP64", [-1, 10]),
    ]
    assert metadata["parameters"] == {"task": "classes", "final": "none", "classes": [str(n) for n in range(10)]}
    config = triton.get_model_config("mnist")
    assert config["max_batch_size"] >= 1 and config["input"][0]["dims"] == [784]


def test_what_is_not_there_is_not_ready(triton: InferenceServerClient) -> None:
    assert not triton.is_model_ready("other") and not triton.is_model_ready("mnist", "99")
    for ask in (lambda: triton.get_model_metadata("other"), lambda: triton.get_model_metadata("mnist", "99")):
        with pytest.raises(InferenceServerException, match="not served here") as caught:
            ask()
        assert caught.value.status() == "404"


@BOTH
def test_all_labels_are_those_of_the_sdk(
    triton: InferenceServerClient, client: Client, digits: Digits, binary: bool
) -> None:
    pixels = digits[0]
    wanted = [InferRequestedOutput("label", binary_data=binary)]
    got = np.concatenate(
        [
            triton.infer("mnist", [tensor(pixels[at : at + 128], binary=binary)], outputs=wanted).as_numpy("label")
            for at in range(0, len(pixels), 128)
        ]
    )
    assert got.shape == (512,) and np.array_equal(got, client.predict("mnist", pixels).labels)
    assert np.array_equal(got, mnist.float_outputs(pixels).argmax(axis=1))


@pytest.mark.parametrize(("datatype", "dtype"), [("FP16", np.float16), ("FP32", np.float32), ("FP64", np.float64)])
@BOTH
def test_float_inputs(
    triton: InferenceServerClient, digits: Digits, datatype: str, dtype: type[np.generic], binary: bool
) -> None:
    x = np.clip(normalised(digits[0][:4]), -0.424, 2.82).astype(dtype)
    answer = triton.infer("mnist", [tensor(x, datatype, binary=binary)])
    assert answer.as_numpy("label").tolist() == [7, 2, 1, 0]


def test_without_asking_for_outputs_all_come_in_binary(triton: InferenceServerClient, digits: Digits) -> None:
    answer = triton.infer("mnist", [tensor(digits[0][:3])], model_version="1", request_id="a request")
    check_answer(answer, digits)
    response = answer.get_response()
    assert response["id"] == "a request" and response["model_name"] == "mnist" and response["model_version"] == "1"
    assert all(output["parameters"]["binary_data_size"] > 0 for output in response["outputs"])


def check_answer(answer: InferResult, digits: Digits) -> None:
    expected = mnist.float_outputs(digits[0][:3])
    assert np.abs(answer.as_numpy("output") - expected).max() < 0.05
    powers = np.exp(expected - expected.max(axis=1, keepdims=True))
    confidence = answer.as_numpy("probability")
    assert np.abs(confidence - powers / powers.sum(axis=1, keepdims=True)).max() < 0.05
    assert np.abs(confidence.sum(axis=1) - 1).max() < 1e-9
    assert answer.as_numpy("label").tolist() == [7, 2, 1]


@BOTH
def test_classification(triton: InferenceServerClient, digits: Digits, binary: bool) -> None:
    wanted = [InferRequestedOutput("confidence", binary_data=binary, class_count=3)]
    classes = triton.infer("mnist", [tensor(digits[0][:2])], outputs=wanted).as_numpy("confidence")
    assert classes.shape == (2, 3)
    texts = [c.decode() if isinstance(c, bytes) else c for c in classes[:, 0]]
    values, indices, names = zip(*(text.split(":") for text in texts), strict=True)
    assert indices == ("7", "2") and names == ("7", "2") and all(0.5 < float(value) <= 1 for value in values)
    with pytest.raises(InferenceServerException, match="score for each class"):
        triton.infer("mnist", [tensor(digits[0][:1])], outputs=[InferRequestedOutput("label", class_count=1)])


def test_picture_files_as_bytes(triton: InferenceServerClient, digits: Digits) -> None:
    files = []
    for pixels, kind in ((digits[0][0], "PNG"), (np.kron(digits[0][1], np.ones((4, 4), np.uint8)), "BMP")):
        Image.fromarray(pixels).save(into := io.BytesIO(), kind)
        files.append(into.getvalue())
    answer = triton.infer("mnist", [tensor(np.array(files, dtype=np.object_), "BYTES")])
    assert answer.as_numpy("label").tolist() == [7, 2]
    with pytest.raises(InferenceServerException, match="not a picture file"):
        triton.infer("mnist", [tensor(np.array([b"GIF89a"], dtype=np.object_), "BYTES")])


WRONG: list[tuple[np.ndarray, str, dict[str, Any], str, str]] = [
    (np.zeros((1, 28, 27), np.uint8), "UINT8", {}, "422", "28 x 28"),
    (np.zeros((1, 783), np.float32), "FP32", {}, "422", "784"),
    (np.full((1, 784), 98765.25, np.float32), "FP32", {}, "422", "range"),
    (np.full((1, 784), np.nan, np.float64), "FP64", {}, "422", "NaN or infinity"),
    (np.zeros((1, 784), np.bool_), "BOOL", {}, "422", "datatype"),
    (np.zeros((1, 28, 28), np.uint8), "UINT8", {"model_version": "99"}, "404", "version"),
    (
        np.zeros((1, 28, 28), np.uint8),
        "UINT8",
        {"outputs": [InferRequestedOutput("other")]},
        "422",
        "label, label_name, output",
    ),
    (np.zeros((1, 28, 28), np.uint8), "UINT8", {"request_compression_algorithm": "gzip"}, "415", "Compressed"),
    (np.zeros((1, 28, 28), np.uint8), "UINT8", {"request_compression_algorithm": "deflate"}, "415", "Compressed"),
]


@pytest.mark.parametrize(("array", "datatype", "options", "status", "text"), WRONG)
def test_errors_are_sentences_that_name_no_value(
    triton: InferenceServerClient, array: np.ndarray, datatype: str, options: dict[str, Any], status: str, text: str
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        triton.infer("mnist", [tensor(array, datatype)], **options)
    assert caught.value.status() == status and text in caught.value.message()
    assert "98765" not in str(caught.value)


def test_several_inputs_and_shared_memory_are_refused(triton: InferenceServerClient, digits: Digits) -> None:
    one = tensor(digits[0][:1])
    with pytest.raises(InferenceServerException, match="check: inputs"):
        triton.infer("mnist", [one, one])
    region = InferInput("input", (1, 28, 28), "UINT8").set_shared_memory("region", 784)
    with pytest.raises(InferenceServerException, match="shared memory"):
        triton.infer("mnist", [region])


def test_the_asynchronous_client(address: str, digits: Digits) -> None:
    def asked(index: int) -> Any:
        pixels, binary = digits[0][index : index + 1], index % 2 == 0
        made = aio.InferInput("input", pixels.shape, "UINT8")
        return made.set_data_from_numpy(pixels, binary_data=binary)

    async def run() -> None:
        async with aio.InferenceServerClient(address) as triton:
            assert await triton.is_server_ready() and await triton.is_model_ready("mnist")
            assert not await triton.is_model_ready("other")
            assert (await triton.get_model_metadata("mnist"))["platform"] == "moiety"
            assert "mnist" in [one["name"] for one in await triton.get_model_repository_index()]
            answers = await asyncio.gather(*(triton.infer("mnist", [asked(i)], request_id=str(i)) for i in range(6)))
            assert [int(a.as_numpy("label")[0]) for a in answers] == [7, 2, 1, 0, 4, 1]
            assert [a.get_response()["id"] for a in answers] == [str(i) for i in range(6)]
            with pytest.raises(InferenceServerException, match="28 x 28"):
                wrong = np.zeros((1, 5), np.uint8)
                await triton.infer("mnist", [aio.InferInput("x", wrong.shape, "UINT8").set_data_from_numpy(wrong)])

    asyncio.run(run())
