"""Changes a JSON object's members in its text, and leaves every other byte as it is.

In: the text of an object that was read without error, and new values for some of its members. Out: the new text, a long
one in pieces, most of them the old one's; or None where the text is not plain enough to be sure (a name twice, a name
with escapes): encode the object anew then.
Long texts are not encoded again, numbers keep their digits, strings their escapes. Pure. Used by the OpenAI adapter.

How the place of a member is known without a parser of our own: msgspec gives each member's text, in order. Walking
along, name, colon, that very text and comma must follow each other up to the closing brace; then this is the only way
to read it.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

from extproc.pieces import LONG_BYTES, Body, Pieces

DROP: Final = object()  # as a new value: the member goes

_RAW: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_SPACE: Final = re.compile(rb"[ \t\n\r]*")


class _Member(NamedTuple):
    """Offsets in the text."""

    begin: int  # of the name
    value: int
    end: int


def spliced(text: bytes, changes: Mapping[str, Any], raw: Mapping[str, msgspec.Raw] | None = None) -> Body | None:
    """`text` with its members set to the values in `changes`; those it does not have are added at the end.

    `raw`: the text of each of its members, where it is known already.
    """
    if not changes:
        return text
    found = _members(text, raw)
    dropped = [name for name in found or () if changes.get(name) is DROP]
    if found is None or len(dropped) > 1:
        return None
    try:
        edits = [_edit(found, name, value) for name, value in changes.items() if name in found]
        new = [_pair(name, value) for name, value in changes.items() if name not in found and value is not DROP]
    except RecursionError:  # what could be read may be too deep to write
        return None
    if new:
        if len(found) == len(dropped):
            return None  # nothing is left to put a comma behind
        last = max(member.end for member in found.values())
        edits.append((last, last, b"," + b",".join(new)))
    return _applied(text, edits)


def _edit(found: Mapping[str, _Member], name: str, value: Any) -> tuple[int, int, bytes]:
    member = found[name]
    if value is not DROP:
        return member.value, member.end, msgspec.json.encode(value)
    order = list(found)
    at = order.index(name)
    if at + 1 < len(order):
        return member.begin, found[order[at + 1]].begin, b""
    return found[order[at - 1]].end if at else member.begin, member.end, b""


def _pair(name: str, value: Any) -> bytes:
    return msgspec.json.encode(name) + b":" + msgspec.json.encode(value)


def _applied(text: bytes, edits: list[tuple[int, int, bytes]]) -> Body:
    pieces: list[bytes | memoryview] = []
    at = 0
    view = memoryview(text)
    for begin, end, new in sorted(edits):
        pieces += (view[at:begin], new)
        at = end
    pieces.append(view[at:])
    return Pieces(pieces) if len(text) > LONG_BYTES else b"".join(pieces)


def _members(text: bytes, raw: Mapping[str, msgspec.Raw] | None) -> dict[str, _Member] | None:
    try:
        raw = _RAW.decode(text) if raw is None else raw
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    found: dict[str, _Member] = {}
    at, before = _after_space(text, 0), b"{"
    for name, value in raw.items():
        quoted = b'"%b"' % name.encode("utf-8", "surrogatepass")
        begin = _after(text, at, before)
        start = _after(text, _after(text, begin, quoted), b":")
        if start < 0 or not text.startswith(value, start):
            return None
        end = start + len(memoryview(value))
        found[name] = _Member(begin, start, end)
        at, before = _after_space(text, end), b","
    at = _after(text, at, b"}" if found else b"{")
    return found if at == len(text) else None


def _after(text: bytes, at: int, expected: bytes) -> int:
    """Behind `expected` and the white space after it; -1 if it does not stand at `at`."""
    if at < 0 or not text.startswith(expected, at):
        return -1
    return _after_space(text, at + len(expected))


def _after_space(text: bytes, at: int) -> int:
    if text[at : at + 1] > b" ":
        return at  # none: mostly
    match = _SPACE.match(text, at)
    return match.end() if match else at
