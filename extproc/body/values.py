"""Whether a JSON text has too many values.

In: the text of a large request. Out: yes or no. Pure. Each value becomes an object, of 60 to 400 bytes: 30 MiB of `[],`
took 1 GB of a worker and seconds of its time, in which others waited. Read before it is decoded (`extproc.chat`).

Values are counted by what stands before them, `,`, `[` or `{` outside of strings: exactly, which takes longer than to
decode the text, and therefore only where samples of it, at random places, say that there may be many.
"""

import random
import re
from typing import Final

MOST: Final = 500_000  # each takes a few tokens: no model's context has room for so many

_SAMPLES: Final = 128
_SAMPLE_BYTES: Final = 256
# Before a value, or a name, by the look of what follows: within a string a quotation mark has a backslash before it.
_LOOKS_LIKE: Final = re.compile(rb'[,\[{]\s*(?=["\[{\]}0-9-]|true|false|null)')
_STRING_OR_MARK: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[,\[{]', re.DOTALL)
_QUOTE: Final = ord('"')
_MARGIN: Final = 0.8  # samples err by some hundredths where values are spread evenly


def too_many(text: bytes) -> bool:
    """Whether there are more than MOST. (Where they crowd in one corner of a long text, samples may miss some more.)"""
    return _estimate(text) > _MARGIN * MOST and more_than(MOST, text)


def _estimate(text: bytes) -> int:
    last = max(1, len(text) - _SAMPLE_BYTES)
    places = [random.randrange(last) for _ in range(_SAMPLES)]  # noqa: S311 (unknown beforehand is enough)
    # A space: what ends one sample and begins the next must not look like more than it is.
    sample = b" ".join([text[at : at + _SAMPLE_BYTES] for at in places])
    return len(_LOOKS_LIKE.findall(sample)) * len(text) // (_SAMPLES * _SAMPLE_BYTES)


def more_than(most: int, text: bytes) -> bool:
    """Counted."""
    count = 0
    for found in _STRING_OR_MARK.finditer(text):
        count += text[found.start()] != _QUOTE
        if count > most:
            return True
    return False
