"""Where the members of a JSON object lie in its text.

In: the text of an object. Out: each member's place; or None where the text is not plain enough to be sure (a name
twice, a name with escapes). Pure. Used to change members in place (`splice`) and to read large requests (`chat`).

How a place is known without a parser of our own: msgspec gives each member's text, in order. Walking along, name,
colon, that very text and comma must follow each other up to the closing brace; then this is the only way to read it.

For that msgspec reads all, and to decode it once more. Of a large request nearly all is its conversation, so that is
found first: what stands around it, with `null` in its place, must be an object whose member `messages` is that `null`.
If what was cut out is JSON too, which shows when it is decoded, there is no other way to read the whole.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

_RAW: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_SPACE: Final = re.compile(rb"[ \t\n\r]*")
_MESSAGES: Final = "messages"
_BEGIN: Final = re.compile(rb'"messages"[ \t\n\r]*:[ \t\n\r]*(?=\[)')
_END: Final = re.compile(rb'\](?=[ \t\n\r]*(?:,[ \t\n\r]*"|\}[ \t\n\r]*\Z))')  # may be the end of a member
_NULL: Final = b"null"
_AROUND_BYTES: Final = 64 * 1024  # before the conversation, and behind it: where more is, all is read twice
_TRIES: Final = 64


class Member(NamedTuple):
    """Offsets in the text."""

    begin: int  # of the name
    value: int
    end: int


class Parted(msgspec.Struct, frozen=True):
    """A request: where its members lie, the text of its conversation, and the object with None in place of that."""

    members: dict[str, Member] | None
    messages: memoryview
    rest: dict[str, Any]


def members(text: bytes, raw: Mapping[str, msgspec.Raw] | None = None) -> dict[str, Member] | None:
    """The place of each member of `text`. `raw`: their texts, where they are known already."""
    try:
        raw = _RAW.decode(text) if raw is None else raw
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    found: dict[str, Member] = {}
    at, before = _after_space(text, 0), b"{"
    for name, value in raw.items():
        quoted = b'"%b"' % name.encode("utf-8", "surrogatepass")
        begin = _after(text, at, before)
        start = _after(text, _after(text, begin, quoted), b":")
        if start < 0 or not text.startswith(value, start):
            return None
        end = start + len(memoryview(value))
        found[name] = Member(begin, start, end)
        at, before = _after_space(text, end), b","
    at = _after(text, at, b"}" if found else b"{")
    return found if at == len(text) else None


def parted(text: bytes) -> Parted | None:
    """A request by its conversation's place, None where that is not found. To be trusted once `messages` is decoded."""
    start = _BEGIN.search(text, 0, _AROUND_BYTES)
    if start is None:
        return None
    begin = start.end()
    ends = [found.end() for found in _END.finditer(text, max(begin, len(text) - _AROUND_BYTES))]
    # Whatever ends inside the conversation leaves brackets too many behind it: the first that leaves none.
    end = next((at for at in ends[-_TRIES:] if _is_rest(text[at:])), None)
    if end is None:
        return None
    rest = text[:begin] + _NULL + text[end:]
    found = members(rest)
    if found is None or _MESSAGES not in found or found[_MESSAGES][1:] != (begin, begin + len(_NULL)):
        return None
    longer = end - begin - len(_NULL)
    places = {
        name: member if member.value < begin else Member(*(offset + longer for offset in member))
        for name, member in found.items()
    }
    places[_MESSAGES] = Member(found[_MESSAGES].begin, begin, end)
    return Parted(places, memoryview(text)[begin:end], msgspec.json.decode(rest))


def _is_rest(behind: bytes) -> bool:
    """Whether an object may end like this, behind a value."""
    try:
        _RAW.decode(b'{"":0' + behind)
    except (ValueError, RecursionError):
        return False
    return True


def scanned(text: bytes) -> Parted:
    """Any request, by reading all of it. Raises KeyError, ValueError, RecursionError: it is none."""
    raw = _RAW.decode(text)
    messages = memoryview(raw[_MESSAGES])
    rest = {name: None if name == _MESSAGES else msgspec.json.decode(value) for name, value in raw.items()}
    return Parted(members(text, raw), messages, rest)


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
