"""Changes a JSON object's members in its text, and leaves every other byte as it is.

In: the text of an object that was read without error, and new values for some of its members. Out: the new text, a long
one in pieces, most of them the old one's; or None where it is not sure where members lie: encode the object anew then.
Long texts are not encoded again, numbers keep their digits, strings their escapes. Pure. Used by the OpenAI adapter.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from extproc.body.members import Member, members
from extproc.body.pieces import LONG_BYTES, Body, Pieces

DROP: Final = object()  # as a new value: the member goes


def spliced(text: bytes, changes: Mapping[str, Any], places: Mapping[str, Member] | None = None) -> Body | None:
    """`text` with its members set to the values in `changes`; those it does not have are added at the end.

    `places`: of its members, where they are known already.
    """
    found = members(text) if places is None else places
    if found is None:
        return None  # also where nothing changes: of two members of one name another reader may go by the first
    if not changes:
        return text
    dropped = [name for name in found if changes.get(name) is DROP]
    if len(dropped) > 1:
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


def _edit(found: Mapping[str, Member], name: str, value: Any) -> tuple[int, int, bytes]:
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
