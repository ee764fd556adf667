"""Protobuf's wire format, as far as the messages of ext_proc need it: fields to bytes, and a body's place in a message.

In: field numbers and payloads. Out: encoded fields, to be joined into a message. upb spends most of a reply on making
objects, and copies a body three times; here a header that was sent before is one look-up, and a long body not at all.
`tests/exchange/test_frames.py` holds what is made of it against the generated stubs. Used by `frames`.
Source: protobuf.dev/programming-guides/encoding.
"""

_VARINT, _LEN = 0, 2


def varint(value: int) -> bytes:
    """An unsigned number (>= 0), seven bits a byte."""
    if value < 0x80:
        return _ONE_BYTE[value]
    if value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def head(number: int, size: int) -> bytes:
    """What stands before `size` bytes of a field of length-delimited type: bytes, a string or a message.

    `number`: 1-15, as all of ours are. What is nested or long is put behind it once, by the caller.
    """
    return _TAGS[number] + (_ONE_BYTE[size] if size < 0x80 else varint(size))


def field(number: int, payload: bytes) -> bytes:
    """A field of length-delimited type."""
    return head(number, len(payload)) + payload


def text(number: int, value: str) -> bytes:
    """A string field. Bytes that were no UTF-8 (surrogateescape) go out as they came in."""
    return field(number, raw(value))


def raw(value: str) -> bytes:
    """A text's bytes."""
    return value.encode() if value.isascii() else value.encode("utf-8", "surrogateescape")


def number(number: int, value: int) -> bytes:
    """A field of a varint type: an integer, an enum, a bool."""
    return bytes((number << 3 | _VARINT,)) + varint(value)


def take_varint(data: bytes, at: int) -> tuple[int, int]:
    """The number that begins at `at`, and where it ends. Raises IndexError when `data` ends before it."""
    value, shift = 0, 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


_ONE_BYTE = [bytes((value,)) for value in range(0x80)]
_TAGS = [bytes((number << 3 | _LEN,)) for number in range(16)]
