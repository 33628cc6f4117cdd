"""A picture of privacy: the digit beside the two shares of it, the very bytes that alice and bob get."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from moiety_local.mnist import Pixels
from moiety_shared.fixed_point import RingArray

_SCALE, _MARGIN, _TITLE = 10, 24, 64


def draw_shares(digit: Pixels, alice: RingArray, bob: RingArray, path: Path) -> None:
    """Three panels, PNG. A share is drawn by its highest byte; `alice` and `bob` are (1, 784) ring elements."""
    shares = [(s.reshape(28, 28).view(np.uint32) >> 24).astype(np.uint8) for s in (alice, bob)]
    panels = [
        (255 - digit, "The client's digit", "never leaves the client"),
        (shares[0], "What alice saw", "her share: uniform noise"),
        (shares[1], "What bob saw", "his share: uniform noise"),
    ]
    side = 28 * _SCALE
    width, height = 3 * side + 4 * _MARGIN, side + _TITLE + 2 * _MARGIN
    sheet = Image.new("L", (width, height), 255)
    pen = ImageDraw.Draw(sheet)
    for index, (pixels, title, subtitle) in enumerate(panels):
        left = _MARGIN + index * (side + _MARGIN)
        pen.text((left, _MARGIN // 2), title, fill=0, font=ImageFont.load_default(26))
        pen.text((left, _MARGIN // 2 + 34), subtitle, fill=90, font=ImageFont.load_default(18))
        panel = Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST)
        sheet.paste(panel, (left, _TITLE + _MARGIN))
        pen.rectangle((left - 1, _TITLE + _MARGIN - 1, left + side, _TITLE + _MARGIN + side), outline=160)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
