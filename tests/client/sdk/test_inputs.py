"""Whatever form an input comes in, the model gets the same of it."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models
from torchvision.transforms import functional

from moiety_client import inputs, pictures
from moiety_client.errors import InvalidInput
from moiety_server.sources import torchvision_preprocessing
from moiety_shared.messages.catalogue import Entry, Preprocessing
from tests import plans

Digits = tuple[np.ndarray, np.ndarray]
RGB = Preprocessing(channels=3, size=(4, 5), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


@pytest.fixture(scope="module")
def rgb(entry: Entry) -> Entry:
    """A model of coloured pictures, 4 x 5."""
    plan = plans.logits()
    wide = plan.input.model_copy(update={"shape": (3, 4, 5), "frac_bits": 9})
    update = {"plan": plan.model_copy(update={"input": wide}), "preprocessing": RGB}
    return entry.model_copy(update=update)


def coloured(height: int, width: int) -> np.ndarray:
    y, x, c = np.ogrid[:height, :width, :3]
    return ((x * 5 + y * 3 + c * 70 + (x * y) % 17) % 256).astype(np.uint8)


def floats(digits: Digits, count: int) -> np.ndarray:
    return (digits[0][:count].reshape(count, 784) / np.float32(255) - np.float32(0.1307)) / np.float32(0.3081)


# Arrays and tensors


@pytest.mark.parametrize("shape", [(784,), (28, 28), (1, 28, 28), (28, 28, 1)])
def test_tensors_and_arrays_of_floats_are_alike(entry: Entry, digits: Digits, shape: tuple[int, ...]) -> None:
    array = floats(digits, 4)
    expected = inputs.encode(entry, array)
    stack = torch.from_numpy(array).reshape(4, *shape)
    for given in (
        stack,
        stack.clone().requires_grad_(),
        stack.double(),
        stack.numpy(),
        list(stack),
        tuple(stack.numpy()),
        stack.numpy().tolist(),
        stack.flip(0).flip(0),
    ):
        assert np.array_equal(inputs.encode(entry, given), expected)
    assert np.array_equal(inputs.encode(entry, stack[0]), expected[:1])
    half = torch.full((2, *shape), 0.5, dtype=torch.bfloat16)
    assert np.array_equal(inputs.encode(entry, half), inputs.encode(entry, np.full((2, 784), 0.5)))


def test_tensors_of_pixels_may_have_their_channels_first(entry: Entry, rgb: Entry, digits: Digits) -> None:
    pixels = torch.from_numpy(digits[0][:3])
    expected = inputs.encode(entry, digits[0][:3])
    for given in (pixels, pixels[:, None], pixels[..., None], list(pixels[:, None])):
        assert np.array_equal(inputs.encode(entry, given), expected)
    assert np.array_equal(inputs.encode(entry, pixels[:1]), expected[:1])
    picture = coloured(4, 5)
    expected = inputs.encode(rgb, picture)
    first = torch.from_numpy(picture).permute(2, 0, 1)
    for given in (first, first[None], torch.from_numpy(picture), torch.stack([first, first])[:1]):
        assert np.array_equal(inputs.encode(rgb, given), expected)
    with pytest.raises(InvalidInput, match="PIL images and picture files are made to fit"):
        inputs.encode(rgb, first.numpy())  # of an array, the shape says it


def test_floats_with_their_channels_last_are_not_taken_for_others(rgb: Entry) -> None:
    with pytest.raises(InvalidInput, match="3 x 4 x 5"):
        inputs.encode(rgb, np.zeros((2, 4, 5, 3)))


# Pictures


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "LA"])
def test_pictures_and_their_pixels_are_alike(entry: Entry, digits: Digits, mode: str, tmp_path: Path) -> None:
    pixels = np.where(digits[0][:3] > 127, 255, 0).astype(np.uint8) if mode == "1" else digits[0][:3]
    made = [Image.fromarray(one).convert(mode) for one in pixels]
    expected = inputs.encode(entry, pixels)
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for picture, path in zip(made, paths, strict=True):
        picture.save(path)
    np.save(tmp_path / "two.npy", pixels[:2])
    for given in (
        made,
        paths,
        [str(path) for path in paths],
        iter(paths),
        [made[0], paths[1], torch.from_numpy(pixels[2])],
        [tmp_path / "two.npy", pixels[2]],
    ):
        assert np.array_equal(inputs.encode(entry, given), expected)
    assert np.array_equal(inputs.encode(entry, made[1]), expected[1:2])


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "inception_v3", "mobilenet_v3_small"])
@pytest.mark.parametrize("shape", [(300, 400), (333, 301), (240, 610)])
def test_a_picture_is_cut_as_torchvision_cuts_it(name: str, shape: tuple[int, int]) -> None:
    theirs = models.get_model_weights(name).DEFAULT.transforms()
    picture = Image.fromarray(coloured(*shape))
    how = torchvision_preprocessing(name, (theirs.crop_size[0], theirs.crop_size[0]), pretrained=True)
    resized = functional.resize(picture, theirs.resize_size, theirs.interpolation, antialias=theirs.antialias)
    expected = np.asarray(functional.center_crop(resized, theirs.crop_size))
    assert np.array_equal(pictures.fit(picture, how), expected)
    assert (how.mean, how.std) == (tuple(theirs.mean), tuple(theirs.std))


def test_own_weights_get_what_is_usual_and_other_sizes_in_proportion() -> None:
    usual = torchvision_preprocessing("resnet18", (224, 224), pretrained=False)
    assert (usual.resize, usual.size, usual.interpolation) == (256, (224, 224), "bilinear")
    assert torchvision_preprocessing("resnet18", (64, 64), pretrained=False).resize == 73


def test_the_whole_way_is_what_torchvision_gives_a_model(entry: Entry) -> None:
    theirs = models.ResNet18_Weights.IMAGENET1K_V1.transforms()
    how = torchvision_preprocessing("resnet18", (224, 224), pretrained=False)
    plan = plans.logits()
    wide = plan.input.model_copy(update={"shape": (3, 224, 224), "frac_bits": 16})
    wide = entry.model_copy(update={"plan": plan.model_copy(update={"input": wide}), "preprocessing": how})
    picture = Image.fromarray(coloured(300, 400))
    ours, expected = inputs.encode(wide, picture), inputs.encode(wide, theirs(picture))
    assert np.abs(ours - expected).max() <= 1, "one unit of rounding"


def test_without_a_cut_the_whole_picture_is_resized(entry: Entry, digits: Digits) -> None:
    large = Image.fromarray(np.kron(digits[0][0], np.ones((4, 4), np.uint8)))
    expected = np.asarray(large.resize((28, 28), Image.Resampling.BILINEAR))
    assert np.array_equal(inputs.encode(entry, large), inputs.encode(entry, expected))


def test_a_picture_is_turned_upright_and_what_shines_through_is_paper(rgb: Entry) -> None:
    how = Preprocessing(channels=3, size=(4, 5), mean=RGB.mean, std=RGB.std)
    picture = Image.fromarray(coloured(5, 4))
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter to the right
    picture.save(into := io.BytesIO(), "PNG", exif=turned)
    assert np.array_equal(pictures.read(into.getvalue(), how), np.rot90(coloured(5, 4), -1))
    assert (pictures.fit(Image.new("RGBA", (5, 4), (9, 9, 9, 0)), how) == 255).all()


def test_a_preprocessing_that_makes_no_sense_is_no_entry() -> None:
    for wrong in ({"resize": 3}, {"mean": (0.5,)}, {"std": ()}, {"size": (0, 5)}, {"interpolation": "nearest"}):
        with pytest.raises(ValueError, match=r"validation error"):
            Preprocessing.model_validate(RGB.model_dump() | wrong)


# What is refused


def test_what_cannot_be_read_is_refused_with_what_to_do(entry: Entry, tmp_path: Path, digits: Digits) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "broken.npy").write_bytes(b"\x93NUMPY")
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    bare = entry.model_copy(update={"preprocessing": None})
    cases = [
        (tmp_path / "missing.png", "name a picture file that is there"),
        (tmp_path / "notes.txt", "PNG, JPEG"),
        (tmp_path, "cannot be opened"),
        (tmp_path / "broken.npy", "no .npy file"),
        (tmp_path / "missing.npy", "no .npy file"),
        (tmp_path / "objects.npy", "no .npy file"),
        ([digits[0][0], floats(digits, 1)], "mixed: pass one kind"),
        ([[1.0, 2.0], [3.0]], "not all of one shape"),
        (object(), "not object"),
        ({"a": 1}, "not dict"),
        (Image.new("L", (10_000, 6_000)), "more than 50,000,000 pixels"),
        ([], "shape 784"),
    ]
    for given, said in cases:
        with pytest.raises(InvalidInput, match=said):
            inputs.encode(entry, given)
    with pytest.raises(InvalidInput, match="pass its float input"):
        inputs.encode(bare, Image.new("L", (28, 28)))


def test_nobody_gets_torch_or_pillow_who_has_not_imported_it(digits: Digits, entry: Entry, tmp_path: Path) -> None:
    (tmp_path / "entry.json").write_text(entry.model_dump_json())
    program = (
        "import sys, numpy as np; from moiety_client import inputs; from moiety_shared.messages.catalogue import Entry;"
        "e = Entry.model_validate_json(open(sys.argv[1]).read());"
        "inputs.encode(e, np.zeros((2, 28, 28), np.uint8)); inputs.encode(e, [[0.0] * 784]);"
        "assert not {'torch', 'PIL'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "entry.json")], check=True)
