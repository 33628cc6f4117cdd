"""Light on dark or dark on light: gives grey pictures the polarity that a model's owner declares.

A network of white digits on black answers nonsense to black digits on white, and is sure of it.
"""

import numpy as np
import numpy.typing as npt

from moiety_shared.messages.catalogue import Preprocessing

Pixels = npt.NDArray[np.uint8]
_MIDDLE = 127.5
_BORDER = 16  # the border's width is this part of the picture's shorter side


def aligned(pictures: Pixels, how: Preprocessing) -> tuple[Pixels, int]:
    """Invert those of the pictures (n, height, width) that have the other polarity, and return how many that were.

    A picture is dark on light where its border is lighter than a middle grey. Coloured pictures, and those for a model
    whose owner declares no polarity, stay as they are.
    """
    if how.polarity is None or how.channels != 1:
        return pictures, 0
    wrong = (_border(pictures) > _MIDDLE) != (how.polarity == "dark-on-light")
    if not wrong.any():
        return pictures, 0
    return np.where(wrong[:, None, None], np.uint8(255) - pictures, pictures), int(wrong.sum())


def told(inverted: int, how: Preprocessing) -> str:
    """Say that so many pictures were inverted, and why."""
    wanted = str(how.polarity).replace("-", " ")
    found = "light on dark" if how.polarity == "dark-on-light" else "dark on light"
    pictures = "1 picture is" if inverted == 1 else f"{inverted:,} pictures are"
    return f"{pictures} {found} and the model takes {wanted}: inverted"


def _border(pictures: Pixels) -> npt.NDArray[np.float64]:
    """Return the mean grey of each picture's border, (n,)."""
    width = max(min(pictures.shape[1:]) // _BORDER, 1)
    inside = np.zeros(pictures.shape[1:], dtype=np.bool_)
    inside[width:-width, width:-width] = True
    means: npt.NDArray[np.float64] = pictures[:, ~inside].mean(axis=1)
    return means
