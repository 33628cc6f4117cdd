"""Whole messages as single WebSocket frames (RFC 6455, section 5.2): the form in which both parties send them.

`websockets` takes three times as long for such a frame, since it can read any frame in any pieces. It still reads all
other frames, and whatever is wrong.
"""

import secrets

from websockets.frames import apply_mask  # type: ignore[attr-defined]  # the quick one, where it was built

_WHOLE = 0x82  # a binary message, of which this frame is the last and only one
_MASKED = 0x80
_MASK_BYTES = 4


def packed(message: bytes, *, masked: bool) -> bytes:
    """The frame of a message. What the end that opened the connection sends is masked."""
    size, flag = len(message), _MASKED if masked else 0
    if size < 126:
        head = bytes((_WHOLE, flag | size))
    elif size < 1 << 16:
        head = bytes((_WHOLE, flag | 126)) + size.to_bytes(2)
    else:
        head = bytes((_WHOLE, flag | 127)) + size.to_bytes(8)
    if not masked:
        return head + message
    mask = secrets.token_bytes(_MASK_BYTES)
    return b"".join((head, mask, apply_mask(message, mask)))


def extent(arrived: bytes | bytearray) -> tuple[int, int] | None:
    """Where the content of the first frame begins, and where it ends; None until enough of the frame is here to say."""
    if len(arrived) < 2:
        return None
    size, at = arrived[1] & 127, 2
    if size > 125:
        at = 4 if size == 126 else 10
        size = int.from_bytes(arrived[2:at])
    at += _MASK_BYTES if arrived[1] & _MASKED else 0
    return (at, at + size) if len(arrived) >= at else None


def message(frame: bytes | bytearray, at: int, *, masked: bool) -> bytes | None:
    """The message in a frame whose content begins at `at`; None if it is another kind of frame, or masked wrongly."""
    if frame[0] != _WHOLE or bool(frame[1] & _MASKED) != masked:
        return None
    content = frame[at:]
    return bytes(apply_mask(content, frame[at - _MASK_BYTES : at]) if masked else content)
