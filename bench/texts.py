"""Texts in many scripts and of other awkward kinds, for measuring what reading them costs. Pure, from a seed.

In: a number of characters, a source of chance. Out: a text of a kind. They are drawn, not written: nearly every word is
new, which is harsher than what people send. Used by `bench.eval_routing`.
"""

import base64
import random
from collections.abc import Callable, Sequence

Kind = Callable[[random.Random, int], str]


def _signs(*spans: tuple[int, int]) -> list[str]:
    return [chr(code) for first, last in spans for code in range(first, last + 1)]


def _of_words(signs: Sequence[str], shortest: int, longest: int, between: str = " ") -> Kind:
    def kind(draw: random.Random, chars: int) -> str:
        words = ("".join(draw.choices(signs, k=draw.randint(shortest, longest))) for _ in range(chars // shortest))
        return between.join(words)[:chars]

    return kind


def _chinese(draw: random.Random, chars: int) -> str:
    """The most frequent of 3,500 ideographs are drawn most often, as in writing."""
    signs = _IDEOGRAPHS[:3500]
    return "".join(
        "，" if draw.random() < 0.07 else sign  # noqa: RUF001 - their comma
        for sign in draw.choices(signs, [1 / (rank + 10) for rank in range(len(signs))], k=chars)
    )


def _japanese(draw: random.Random, chars: int) -> str:
    words = (
        "".join(draw.choices(_IDEOGRAPHS[:2000], k=2) + draw.choices(_HIRAGANA, k=draw.randint(1, 5)))
        for _ in range(chars // 3)
    )
    return "".join(f"{word}。" if draw.random() < 0.1 else word for word in words)[:chars]


def _base64(draw: random.Random, chars: int) -> str:
    return base64.b64encode(draw.randbytes(chars))[:chars].decode()


def _code(draw: random.Random, chars: int) -> str:
    name = _of_words(_LATIN, 3, 9, "_")
    lines = (f"    {name(draw, 12)} = self.{name(draw, 9)}[{draw.randint(0, 999)}];\n" for _ in range(chars // 30))
    return f"class {name(draw, 9)}:\n{''.join(lines)}"[:chars]


_LATIN = _signs((0x61, 0x7A))
_HIRAGANA = _signs((0x3041, 0x3096))
_IDEOGRAPHS = _signs((0x4E00, 0x9FFF))
random.Random(0).shuffle(_IDEOGRAPHS)

KINDS: dict[str, Kind] = {
    "Chinese": _chinese,
    "Japanese": _japanese,
    "Korean": _of_words(_signs((0xAC00, 0xD7A3)), 2, 5),
    "Arabic": _of_words(_signs((0x627, 0x64A)), 3, 8),
    "Hindi": _of_words(_signs((0x905, 0x939), (0x93E, 0x94C)), 3, 8),
    "Thai": _of_words(_signs((0xE01, 0xE3A), (0xE40, 0xE4E)), 20, 60),
    "Russian": _of_words(_signs((0x430, 0x44F)), 3, 10),
    "emoji": _of_words(_signs((0x1F300, 0x1F64F)), 1, 3),
    "one word": lambda draw, chars: "".join(draw.choices(_LATIN, k=chars)),
    "words nobody knows": _of_words(_LATIN, 4, 10),
    "base64": _base64,
    "code": _code,
    "digits": _of_words(_signs((0x30, 0x39)), 1, 6),
    "punctuation": _of_words(_signs((0x21, 0x2F), (0x3A, 0x40)), 1, 4),
}
