"""Half surrogate pairs and broken UTF-8 in JSON text.

JSON can write `\\ud83d` alone; no Unicode text has it, and encoding it again raises. Clients are refused; providers,
who cut an emoji between two deltas, are repaired. In: JSON bytes. Out: JSON bytes with U+FFFD in their place.
"""

import re

# Every escape is consumed whole, so that an escaped backslash before `ud800` is not taken for one.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)


def repaired(data: bytes) -> bytes:
    """`data` as text that can be decoded and encoded; equal to `data` when nothing was wrong with it."""
    data = data.decode("utf-8", "replace").encode()
    return _ESCAPE.sub(lambda match: rb"\ufffd" if match[1] else match[0], data)
