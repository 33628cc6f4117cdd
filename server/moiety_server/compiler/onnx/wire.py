"""Tells how large a protobuf message will be once parsed, from its bytes alone.

An empty submessage takes two bytes in a file and about a hundred in memory; a small number takes one byte and eight. So
a file of two gigabytes could become a hundred gigabytes. Therefore this module counts what a file holds before it is
parsed.
"""

from typing import Literal

from google.protobuf.descriptor import Descriptor, FieldDescriptor

_MOST_FIELDS = 1_000_000  # a network of a thousand layers, with a dozen notes on each, has a tenth
_MOST_SCALARS = 1 << 22  # numbers one by one, as attributes hold them: a forest of 300,000 nodes
_MOST_NUMBERS = 1 << 26  # bytes of whole numbers, which parsed are up to eight times as many; floats stay as they are
_WHOLE = (
    FieldDescriptor.TYPE_INT32,
    FieldDescriptor.TYPE_INT64,
    FieldDescriptor.TYPE_UINT32,
    FieldDescriptor.TYPE_UINT64,
    FieldDescriptor.TYPE_ENUM,
    FieldDescriptor.TYPE_BOOL,
)
_Fields = dict[int, Descriptor | Literal["text", "numbers"]]  # by number: a message of its own, or what it is


class TooMuch(ValueError):
    """It would take too much memory; the text says of what."""


def check(content: bytes, kind: Descriptor) -> None:
    """Raises TooMuch when a message is too large, and ValueError when `content` is no message at all. The time it takes
    is in proportion to what it allows."""
    known: dict[str, _Fields] = {}
    fields = scalars = numbers = 0
    pending = [(kind, 0, len(content))]
    while pending:
        kind, at, end = pending.pop()
        if kind.full_name not in known:
            known[kind.full_name] = _fields(kind)
        inside = known[kind.full_name]
        while at < end:
            tag, at = _number(content, at)
            if tag & 7 == _LENGTH:
                fields += 1
            else:
                scalars += 1
            if fields > _MOST_FIELDS or scalars > _MOST_SCALARS:
                most = _MOST_FIELDS if fields > _MOST_FIELDS else _MOST_SCALARS
                raise TooMuch(f"has more than {most:,} entries, the most that are read")
            size = _FIXED.get(tag & 7)
            if tag & 7 == _VARINT:
                _, at = _number(content, at)
                continue
            if tag & 7 == _LENGTH:
                size, at = _number(content, at)
            if size is None or size > end - at:
                raise ValueError("no protobuf message")
            if tag & 7 == _LENGTH and tag >> 3 in inside:
                part = inside[tag >> 3]
                if part == "text":
                    content[at : at + size].decode()  # protobuf takes other bytes too, and returns them as text
                elif part != "numbers":
                    pending.append((part, at, at + size))
                elif (numbers := numbers + size) > _MOST_NUMBERS:
                    raise TooMuch(
                        f"has more than {_MOST_NUMBERS:,} bytes of whole numbers. Instead: save tensors as raw data"
                    )
            at += size


_VARINT, _LENGTH = 0, 2
_FIXED = {1: 8, 5: 4}


def _fields(kind: Descriptor) -> _Fields:
    fields: _Fields = {f.number: "numbers" for f in kind.fields if f.type in _WHOLE}
    fields |= {f.number: "text" for f in kind.fields if f.type == FieldDescriptor.TYPE_STRING}
    return fields | {f.number: f.message_type for f in kind.fields if f.message_type is not None}


def _number(content: bytes, at: int) -> tuple[int, int]:
    """Return a varint, and where it ends. Raises ValueError where there is none."""
    value = shift = 0
    while at < len(content) and shift < 70:
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("no protobuf message")
