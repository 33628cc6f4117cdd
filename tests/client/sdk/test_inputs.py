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
    with pytest.raises(InvalidInput, match="PIL images or picture files, which the client resizes"):
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


# Polarity


@pytest.fixture(scope="module")
def white_on_black(entry: Entry) -> Entry:
    how = Preprocessing(channels=1, size=(28, 28), mean=(0.1307,), std=(0.3081,), polarity="light-on-dark")
    return entry.model_copy(update={"preprocessing": how})


def test_ink_on_paper_is_inverted_for_a_model_of_light_on_dark(
    white_on_black: Entry, digits: Digits, tmp_path: Path
) -> None:
    expected = inputs.encode(white_on_black, digits[0])
    paper = 255 - digits[0]
    Image.fromarray(paper[0]).save(tmp_path / "0.png")
    with pytest.warns(UserWarning, match="512 pictures are dark on light and the model takes light on dark: inverted"):
        assert np.array_equal(inputs.encode(white_on_black, paper), expected), "all of them, and none too many"
    for one in (tmp_path / "0.png", Image.fromarray(paper[0]), paper[0], torch.from_numpy(paper[0])):
        with pytest.warns(UserWarning, match="1 picture is dark on light"):
            assert np.array_equal(inputs.encode(white_on_black, one), expected[:1])
    mixed = np.concatenate([digits[0][:2], paper[2:3]])
    with pytest.warns(UserWarning, match="1 picture is"):
        assert np.array_equal(inputs.encode(white_on_black, mixed), expected[:3])


def test_only_what_the_owner_declares_is_followed(
    entry: Entry, white_on_black: Entry, rgb: Entry, digits: Digits, recwarn: pytest.WarningsRecorder
) -> None:
    paper = 255 - digits[0][:3]
    assert not np.array_equal(inputs.encode(entry, paper), inputs.encode(white_on_black, digits[0][:3]))
    other = white_on_black.preprocessing.model_copy(update={"polarity": "dark-on-light"})  # type: ignore[union-attr]
    ink = entry.model_copy(update={"preprocessing": other})
    assert np.array_equal(inputs.encode(ink, paper), inputs.encode(entry, paper))
    floats_of_paper = (paper.reshape(3, 784) / np.float32(255) - np.float32(0.1307)) / np.float32(0.3081)
    assert np.array_equal(inputs.encode(white_on_black, floats_of_paper), inputs.encode(entry, paper))
    inputs.encode(rgb, np.full((4, 5, 3), 255, np.uint8))
    assert not recwarn.list
    with pytest.warns(UserWarning, match="2 pictures are light on dark and the model takes dark on light"):
        assert np.array_equal(inputs.encode(ink, digits[0][1:3]), inputs.encode(entry, paper[1:]))
    with pytest.raises(ValueError, match="grey pictures alone"):
        Preprocessing.model_validate(RGB.model_dump() | {"polarity": "light-on-dark"})


# The ends of the range


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32])
def test_a_range_takes_its_ends_in_each_precision(entry: Entry, kind: torch.dtype) -> None:
    low, high = (0 - 0.1307) / 0.3081, (1 - 0.1307) / 0.3081
    takes = entry.plan.input.model_copy(update={"low": low, "high": high, "frac_bits": 20})
    entry = entry.model_copy(update={"plan": entry.plan.model_copy(update={"input": takes})})
    ends = torch.tensor([low, high]).to(kind)
    x = ends.repeat_interleave(784).reshape(2, 784)
    encoded = inputs.encode(entry, x)
    own = ends.double().numpy()
    assert np.array_equal(encoded[:, 0], np.rint(own.clip(low, high) * 2**20)) and (own != own.clip(low, high)).any()
    if kind != torch.bfloat16:
        assert np.array_equal(inputs.encode(entry, x.numpy()), encoded)
    beyond = ends[1] * (1 + 4 * torch.finfo(kind).eps)
    with pytest.raises(InvalidInput, match="is above the model's range"):
        inputs.encode(entry, beyond.repeat(784))


def test_an_error_says_where_and_its_text_no_value(entry: Entry) -> None:
    array = np.zeros((4, 784))
    array[2, 17] = array[3, 5] = 1234.5
    with pytest.raises(
        InvalidInput, match=r"row 2, place 17 is above .* \(and 1 more rows\): bring the input"
    ) as caught:
        inputs.encode(entry, array)
    error = caught.value
    assert (error.row, list(error.rows), error.column, error.value) == (2, [2, 3], (17,), 1234.5)
    assert error.beyond == pytest.approx(1234.5 - entry.plan.input.high) and "1234" not in str(error)
    with pytest.raises(InvalidInput, match="row 0, place 3 is NaN or infinity") as caught:
        inputs.encode(entry, np.where(np.arange(784) == 3, np.nan, 0))
    assert caught.value.beyond is None


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int64, np.int32])
def test_pixels_that_lost_their_type_get_a_hint(entry: Entry, digits: Digits, kind: type) -> None:
    with pytest.raises(InvalidInput, match="look like pixels from 0 to 255: pass them as uint8"):
        inputs.encode(entry, digits[0][:3].astype(kind))
    for other in (digits[0][:3] * 1.01, digits[0][:3] - 3.0):
        with pytest.raises(InvalidInput, match="bring the input into the model's range"):
            inputs.encode(entry, other)


# What is refused


def test_what_cannot_be_read_is_refused_with_what_to_do(entry: Entry, tmp_path: Path, digits: Digits) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "broken.npy").write_bytes(b"\x93NUMPY")
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    bare = entry.model_copy(update={"preprocessing": None})
    cases = [
        (tmp_path / "missing.png", "name an existing picture file"),
        (tmp_path / "notes.txt", "PNG, JPEG"),
        (tmp_path, "cannot be opened"),
        (tmp_path / "broken.npy", "cannot be read as a .npy file"),
        (tmp_path / "missing.npy", "cannot be read as a .npy file"),
        (tmp_path / "objects.npy", "cannot be read as a .npy file"),
        ([digits[0][0], floats(digits, 1)], "mixed: pass either kind"),
        ([[1.0, 2.0], [3.0]], "not all have the same shape"),
        (object(), "not object"),
        ({"a": 1}, "not dict"),
        (Image.new("L", (10_000, 6_000)), "more than 50,000,000 pixels"),
        ([], "shape 784"),
    ]
    for given, said in cases:
        with pytest.raises(InvalidInput, match=said):
            inputs.encode(entry, given)
    with pytest.raises(InvalidInput, match="pass float inputs"):
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
