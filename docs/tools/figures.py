"""The pictures of the documentation: those of docs/how-it-works.md are drawn from a real digit, its real shares and a
real opening.

The streams' seeds are fixed and public here, so that the pictures are the same each time; nowhere else are they.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from docs.tools import packages
from docs.tools.engines import kept
from docs.tools.svg import DARK, LIGHT, Sheet
from moiety_local import mnist
from moiety_shared.crypto.prg import Stream
from moiety_shared.fixed_point import RingArray, encode

FOLDER = Path(__file__).parents[1] / "figures"
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Run:
    """One digit on its way: everything (28, 28)."""

    digit: Pixels
    value: RingArray
    shares: tuple[RingArray, RingArray]
    masks: tuple[RingArray, RingArray]

    @classmethod
    def made(cls) -> "Run":
        images, _ = mnist.test_images(1, None)
        value = encode(images[0] / 255.0, frac_bits=16, ring_bits=32, low=0, high=1).reshape(28, 28)
        stream = Stream(bytes(32), "figures")
        bob, r0, r1 = (stream.words(name, (28, 28), np.int32) for name in ("share", "mask 0", "mask 1"))
        return cls(images[0], value, (value - bob, bob), (r0, r1))

    @property
    def opened(self) -> RingArray:
        return self.value + self.masks[0] + self.masks[1]


def top(elements: RingArray) -> Pixels:
    """The highest byte of each ring element, as the web page draws shares."""
    return (elements.view(np.uint32) >> 24).astype(np.uint8)


def unsigned(element: np.int32) -> str:
    return f"{int(element) % (1 << 32):,}".replace(",", " ")


def roles(sheet: Sheet, _: Run) -> None:
    boxes = {
        "you": (30, 150, "client", "has the input", "gets the answer"),
        "alice": (370, 60, "alice", "half of everything", "leads"),
        "bob": (370, 250, "bob", "the other half", "helps"),
        "provider": (720, 60, "crypto provider", "one-time randomness", "sees nothing it masks"),
        "owner": (720, 250, "model owner", "has the model", "signs the catalogue"),
    }
    for colour, (x, y, name, *facts) in boxes.items():
        sheet.box(x, y, 190, 96, colour)
        sheet.text(x + 95, y + 32, name, colour=colour, size=18, anchor="middle", bold=True)
        sheet.lines(x + 95, y + 57, *facts, colour="soft", size=14, anchor="middle")
    sheet.arrow(222, 180, 368, 118, "you")
    sheet.arrow(222, 216, 368, 280, "you")
    sheet.text(288, 122, "sealed share", size=13.5, anchor="middle", colour="you")
    sheet.text(288, 282, "sealed share", size=13.5, anchor="middle", colour="you")
    sheet.lines(
        126, 276, "both halves of the answer", "come back sealed", size=13.5, anchor="middle", colour="soft", leading=18
    )
    sheet.arrow(440, 160, 440, 248, "soft", both=True)
    sheet.lines(453, 198, "masked numbers,", "a few rounds", size=13.5, colour="soft", leading=18)
    sheet.arrow(718, 92, 562, 92, "provider")
    sheet.arrow(718, 130, 562, 268, "provider")
    sheet.arrow(718, 314, 562, 314, "owner")
    sheet.arrow(718, 276, 562, 138, "owner")
    sheet.text(640, 80, "masks, tables", size=13.5, anchor="middle", colour="provider")
    sheet.text(640, 336, "half of each weight", size=13.5, anchor="middle", colour="owner")


def shares(sheet: Sheet, run: Run) -> None:
    panels = [
        ("you", "the picture", 255 * (run.digit > 0) * (run.digit / 255), "stays here"),
        ("alice", "alice's share", top(run.shares[0]), "noise"),
        ("bob", "bob's share", top(run.shares[1]), "noise"),
    ]
    for index, (colour, name, pixels, fact) in enumerate(panels):
        x = 40 + index * 300
        sheet.text(x, 42, name, colour=colour, size=15, bold=True)
        sheet.text(x + 220, 42, fact, colour="soft", size=13, anchor="end")
        sheet.pixels(x, 56, 220, np.asarray(pixels, np.uint8), colour)
    sheet.text(290, 172, "=", size=30, anchor="middle", colour="soft")
    sheet.text(590, 172, "+", size=30, anchor="middle", colour="soft")
    row, column = np.unravel_index(int(np.argmax(run.digit)), run.digit.shape)
    numbers = [run.value[row, column], run.shares[0][row, column], run.shares[1][row, column]]
    for index, (number, colour) in enumerate(zip(numbers, ("you", "alice", "bob"), strict=True)):
        sheet.text(150 + index * 300, 310, unsigned(number), size=19, anchor="middle", mono=True, colour=colour)
    sheet.text(300, 310, "=", size=20, anchor="middle", colour="soft")
    sheet.text(600, 310, "+", size=20, anchor="middle", colour="soft")
    sheet.text(450, 342, "one of its pixels, modulo 4 294 967 296", size=13.5, anchor="middle", colour="soft")


def opening(sheet: Sheet, run: Run) -> None:
    for row, (who, share, mask) in enumerate(zip(("alice", "bob"), run.shares, run.masks, strict=True)):
        y = 50 + row * 210
        sheet.text(40, y - 14, f"{who} computes", colour=who, size=16, bold=True)
        for column, (elements, label) in enumerate(
            [
                (share, "her share" if row == 0 else "his share"),
                (mask, "half of the mask"),
                (share + mask, "sends this"),
            ]
        ):
            x = 40 + column * 150
            sheet.pixels(x, y, 112, top(elements), who if column != 1 else "provider")
            sheet.text(x + 56, y + 130, label, size=13.5, anchor="middle", colour="soft")
        sheet.text(171, y + 64, "+", size=24, anchor="middle", colour="soft")
        sheet.text(321, y + 64, "=", size=24, anchor="middle", colour="soft")
    sheet.arrow(460, 108, 636, 180, "alice")
    sheet.arrow(460, 314, 636, 240, "bob")
    sheet.pixels(650, 140, 140, top(run.opened), "ink")
    sheet.text(720, 124, "both add the two up", size=15, anchor="middle", bold=True)
    sheet.lines(
        720,
        302,
        "picture + mask: noise again.",
        "Known to alice and bob,",
        "and of no use to them",
        size=13.5,
        anchor="middle",
        colour="soft",
    )
    sheet.lines(
        590,
        34,
        "the mask as a whole is known",
        "to the crypto provider alone,",
        "which never sees a sum",
        size=13.5,
        colour="provider",
        leading=18,
    )


def lookup(sheet: Sheet, _: Run) -> None:
    mask, digit = 5, 3
    stream = Stream(bytes(32), "figures", "table")
    truth = np.array([int(place < mask) for place in range(8)], np.uint8)
    bob = stream.words("share", (8,), np.uint8) & 1
    rows = [
        ("provider", "what is true: the mask's digit is 5", truth),
        ("alice", "alice's table, random bits", truth ^ bob),
        ("bob", "bob's table, random bits", bob),
    ]
    for place in range(8):
        sheet.text(390 + place * 56, 42, str(place), size=15, anchor="middle", colour="soft", bold=place == digit)
    sheet.text(40, 42, "the opened value's digit, here 3", size=15)
    for index, (who, name, bits) in enumerate(rows):
        y = 62 + index * 62
        sheet.text(40, y + 29, name, colour=who, size=15, bold=True)
        for place, bit in enumerate(bits):
            sheet.box(366 + place * 56, y, 48, 46, "ink" if place == digit else "line", filled=place == digit)
            sheet.text(390 + place * 56, y + 30, str(bit), size=18, anchor="middle", mono=True, colour=who)
    a, b = int(truth[digit] ^ bob[digit]), int(bob[digit])
    sheet.text(
        40,
        282,
        f"each reads one place: {a} xor {b} = {a ^ b}, so digit < mask is shared, and nobody learnt it",
        size=15,
    )


def prediction(sheet: Sheet, _: Run) -> None:
    lanes = {"owner": 90, "you": 270, "alice": 470, "bob": 670, "provider": 850}
    names = {"owner": "model owner", "you": "client", "alice": "alice", "bob": "bob", "provider": "provider"}
    for colour, x in lanes.items():
        sheet.box(x - 66, 18, 132, 38, colour)
        sheet.text(x, 43, names[colour], colour=colour, size=16, anchor="middle", bold=True)
        sheet.line(x, 58, x, 626, dashed=True)
    steps: list[tuple[int, str, str, str, bool]] = [
        (96, "provider", "bob", "0  beforehand: a seed for alice, corrections for bob", False),
        (150, "owner", "you", "1  signed entry: plan, keys", False),
        (235, "you", "alice", "2  one POST: two envelopes", False),
        (285, "alice", "bob", "3  his envelope, unread", False),
        (345, "alice", "bob", "4  round 1: masked input", True),
        (385, "alice", "bob", "rounds 2 to 4: a ReLU", True),
        (425, "alice", "bob", "round 5: hidden layer", True),
        (505, "bob", "alice", "5  his half, sealed; a tag", False),
        (560, "alice", "you", "6  both halves, sealed", False),
    ]
    for y, start, end, words, both in steps:
        x1, x2 = lanes[start], lanes[end]
        inset = 4 if x2 > x1 else -4
        sheet.arrow(x1 + inset, y, x2 - inset, y, start, both=both)
        middle = 660 if start == "provider" else (x1 + x2) / 2
        sheet.text(middle, y - 9, words, size=13.5, anchor="middle")
    sheet.arrow(846, 120, 474, 120, "provider")
    sheet.lines(284, 184, "splits the picture, seals a", "share for each party", size=13, colour="soft", leading=17)
    sheet.lines(284, 586, "opens and adds them:", "only it can", size=13, colour="soft", leading=17)
    sheet.lines(484, 448, "each multiplies and looks up", "in its own half", size=13, colour="soft", leading=16)


def views(sheet: Sheet, run: Run) -> None:
    columns = ["you", "owner", "alice", "bob", "provider"]
    names = ["client", "model owner", "alice", "bob", "crypto provider"]
    weights = _neuron()
    stream = Stream(bytes(32), "figures", "weights")
    other = stream.words("share", (28, 28), np.int32)
    rows: list[tuple[str, dict[str, Pixels]]] = [
        ("the picture", {"you": run.digit, "alice": top(run.shares[0]), "bob": top(run.shares[1])}),
        (
            "the weights",
            {"owner": weights, "alice": top((weights.astype(np.int32) << 24) - other), "bob": top(other)},
        ),
        ("masks", {"alice": top(run.masks[0]), "bob": top(run.masks[1]), "provider": top(run.masks[0] + run.masks[1])}),
        ("what is opened", {"alice": top(run.opened), "bob": top(run.opened)}),
    ]
    for index, (colour, name) in enumerate(zip(columns, names, strict=True)):
        sheet.text(230 + index * 150, 38, name, colour=colour, size=16, anchor="middle", bold=True)
    for line, (name, seen) in enumerate(rows):
        y = 56 + line * 112
        sheet.text(28, y + 54, name, size=15, bold=True)
        for index, colour in enumerate(columns):
            x = 230 + index * 150
            if colour in seen:
                sheet.pixels(x - 48, y, 96, seen[colour], colour)
            else:
                sheet.text(x, y + 54, "nothing", size=14, anchor="middle", colour="soft")
    y = 56 + 4 * 112
    sheet.text(28, y + 34, "the answer", size=15, bold=True)
    for index, words in enumerate(["7", "nothing", "noise", "noise", "nothing"]):
        big = index == 0
        sheet.text(
            230 + index * 150,
            y + (44 if big else 34),
            words,
            size=38 if big else 14,
            anchor="middle",
            bold=big,
            colour=columns[index] if big else "soft",
        )


def engines(sheet: Sheet, _: Run) -> None:
    """docs/comparison.md has the numbers; the scale is logarithmic."""
    one, many = kept().cases[:2]
    measured = [(name, one.engines[name].median, many.engines[name].median) for name in one.engines]
    left, decade = 230, 160
    for power in range(5):
        x = left + power * decade
        sheet.line(x, 52, x, 52 + 40 * len(measured), dashed=True)
        sheet.text(x, 44, f"{10**power:,} ms", size=12.5, anchor="middle", colour="soft")
    sheet.bar(left, 14, 12, 10, "alice")
    sheet.text(left + 20, 24, "1 image", size=13.5, colour="soft")
    sheet.bar(left + 110, 14, 12, 10, "bob")
    sheet.text(left + 130, 24, "128 images", size=13.5, colour="soft")
    for index, (name, *times) in enumerate(measured):
        y = 58 + index * 40
        sheet.text(left - 14, y + 19, name, size=14, anchor="end", bold=index == 0)
        for row, (milliseconds, colour) in enumerate(zip(times, ("alice", "bob"), strict=True)):
            width = float(np.log10(milliseconds)) * decade
            sheet.bar(left, y + row * 15, width, 12, colour)
            sheet.text(
                left + width + 8,
                y + row * 15 + 11,
                f"{milliseconds:,.{0 if milliseconds >= 100 else 1}f}",
                size=12,
                colour="soft",
            )


def imports(sheet: Sheet, _: Run) -> None:
    packages.draw(sheet)


def _neuron() -> Pixels:
    """The first layer's weights into one neuron, as a picture."""
    from safetensors.numpy import load_file

    weights = load_file(str(mnist.model_folder() / "mnist.safetensors"))["0.weight"]
    chosen = weights[int(np.argmax(np.abs(weights).sum(axis=1)))].reshape(28, 28)
    scaled = np.clip(np.abs(chosen) / np.abs(chosen).max() * 255, 0, 255)
    return np.asarray(scaled, np.uint8)


FIGURES: dict[str, tuple[Callable[[Sheet, Run], None], int, int, str]] = {
    "roles": (roles, 940, 370, "The five roles and what goes between them"),
    "shares": (shares, 900, 360, "A digit is the sum of two pictures of noise"),
    "opening": (opening, 860, 410, "A masked opening: each sends its share plus its half of the mask"),
    "lookup": (lookup, 850, 305, "A comparison as a look-up in two tables of random bits"),
    "prediction": (prediction, 940, 640, "One prediction, step by step"),
    "engines": (engines, 940, 270, "Milliseconds for one image and for 128 images through 784-500-10, by engine"),
    "imports": (imports, packages.WIDTH, packages.HEIGHT, "Which package imports which: arrows point down"),
    "views": (views, 940, 590, "What each role sees of one prediction"),
}


def generated() -> dict[Path, str]:
    """Every figure in both colour schemes, by path."""
    run = Run.made()
    made = {}
    for name, (draw, width, height, title) in FIGURES.items():
        for scheme, colours in (("light", LIGHT), ("dark", DARK)):
            sheet = Sheet(width, height, title, colours)
            draw(sheet, run)
            made[FOLDER / f"{name}-{scheme}.svg"] = sheet.svg()
    return made
