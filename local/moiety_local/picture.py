"""Draws what privacy means here: a digit, the two shares of it that alice and bob received, and the answer."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from moiety_local.mnist import Pixels
from moiety_shared.fixed_point import RingArray

_SIDE = 280  # of a panel in pixels: ten for each of the digit's 28
_GAP = 64  # between panels, for a sign
_MARGIN, _HEAD, _FOOT = 24, 72, 64


def draw_shares(digit: Pixels, alice: RingArray, bob: RingArray, answer: str, path: Path) -> None:
    """Write a PNG: `digit` (28, 28) = `alice` + `bob`, each (1, 784) ring elements, and the `answer` below them.

    The highest byte of a share's element is the grey value of its pixel.
    """
    shares = [(s.reshape(28, 28).view(np.uint32) >> 24).astype(np.uint8) for s in (alice, bob)]
    panels = [
        ("", 255 - digit, "The client's digit", "never leaves the client"),
        ("=", shares[0], "What alice saw", "her share: uniform noise"),
        ("+", shares[1], "What bob saw", "his share: uniform noise"),
    ]
    width, top = 3 * _SIDE + 2 * _GAP + 2 * _MARGIN, _MARGIN + _HEAD
    sheet = Image.new("L", (width, top + _SIDE + _FOOT + _MARGIN), 255)
    pen = ImageDraw.Draw(sheet)
    large, medium, small = (ImageFont.load_default(size) for size in (52, 26, 18))
    for index, (sign, pixels, title, subtitle) in enumerate(panels):
        left = _MARGIN + index * (_SIDE + _GAP)
        pen.text((left - _GAP // 2, top + _SIDE // 2), sign, fill=0, font=large, anchor="mm")
        pen.text((left, _MARGIN // 2), title, fill=0, font=medium)
        pen.text((left, _MARGIN // 2 + 36), subtitle, fill=90, font=small)
        panel = Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.NEAREST)
        sheet.paste(panel, (left, top))
        pen.rectangle((left - 1, top - 1, left + _SIDE, top + _SIDE), outline=160)
    below = top + _SIDE + _FOOT // 2 + _MARGIN // 2
    pen.text((_MARGIN, below), f"The answer: {answer}", fill=0, font=medium, anchor="lm")
    said = "computed by alice and bob on their shares; only the client can open it"
    pen.text((width - _MARGIN, below), said, fill=90, font=small, anchor="rm")
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
