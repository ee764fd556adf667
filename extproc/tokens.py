"""How many input tokens a chat request will be billed, before it is sent.

In: the decoded OpenAI request and the target that would serve it. Out: an integer, what the budget holds until the
provider's own usage replaces it. Called by the pipeline once per request, on the event loop: the work is bounded,
nothing is fetched, nothing raises on a client's JSON.

Text is counted with OpenAI's `o200k_base`, exactly up to EXACT_CHARS characters a request. Beyond that 32 windows,
evenly spread, are counted and the rest is taken to be like them, so a request of any size costs the same. Measured by
`bench/tokens.py` on 2 cores: 0.03 ms for 200 tokens, 0.25 ms at the limit (1 to 4 ms for text made to be slow), 0.3 ms
beyond it at any size. The sample is off by -4 to +8 % over 200 long texts of code, Markdown, base64, Chinese and
mixtures, +1.5 % on average (a window's cut words count twice), where 4.6 bytes per token are off by -68 to +15 %.
Sampling is also what keeps tiktoken safe: a million spaces make it panic. tiktoken and not HF tokenizers, because on
the same vocabulary that took 0.12 ms for 200 tokens and 67 ms for 94,000, against 0.03 and 14 ms.

Other vendors' vocabularies are not public or not free to ship. Their counts are o200k's times a factor, chosen a little
high, since a hold too small overruns a limit and one too large only lasts as long as the request (see FAMILIES).
"""

import hashlib
import math
import re
from collections.abc import Iterable, Mapping
from functools import cache, lru_cache
from importlib import resources
from itertools import count
from typing import Any

import msgspec
import tiktoken

from extproc.media import (
    AreaImages,
    FlatImages,
    GoogleTiles,
    ImageRule,
    MediaRule,
    PatchImages,
    TileImages,
    audio_tokens,
    file_tokens,
    image_tokens,
)
from extproc.records import ProviderFormat, Target

EXACT_CHARS = 8_192
_REMEMBERED = 16_384  # texts whose count is known; 3 MB
WINDOWS = 32
WINDOW_CHARS = 256

VOCABULARY_SHA256 = "21be86ee43e53a592c4dc0621c2eca9af6bc4c29df3c9a2161e452e4ecccab5d"
# OpenAI's own split pattern. Source: tiktoken_ext/openai_public.py, o200k_base.
_O200K_PATTERN = "|".join(
    (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)


class VocabularyError(Exception):
    """The shipped vocabulary is missing or is not the one we know: the installation is broken."""


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """How a vendor's models count, relative to o200k. `latin` and `wide`: tokens per o200k token of ASCII text and of
    text in other scripts; in between by the share of such characters."""

    latin: float
    wide: float
    per_request: int
    per_message: int  # its role and delimiters
    tools: int  # once, when any tool is given: the vendor's own instructions
    per_tool: int
    per_call: int  # a tool call in the history
    schema: int  # once, when an answer format with a schema is asked for
    media: MediaRule


class Estimator:
    """Counts input tokens. Stateless but for the vocabulary, which the first one loads (0.2 s, 47 MB)."""

    def __init__(self) -> None:
        self.encoding = vocabulary()
        self._counted: dict[
            tuple[int, int], int
        ] = {}  # by hash and length: a conversation's turns come again and again

    def input_tokens(self, body: Mapping[str, Any], target: Target) -> int:
        """Tokens `target` would bill for the request `body` as input, at least 1. Never raises on decoded JSON."""
        family = family_of(target.format, target.upstream_name)
        parts = Parts(family)
        parts.add_request(body)
        tokens, wide_share = self._text(parts.texts)
        factor = family.latin + (family.wide - family.latin) * wide_share
        return max(1, math.ceil(tokens * factor) + parts.tokens)

    def text_tokens(self, texts: Iterable[str]) -> int:
        """o200k tokens of the texts, each counted by itself; sampled above EXACT_CHARS characters in all."""
        return math.ceil(self._text(list(texts))[0])

    def _count(self, text: str) -> int:
        key = (hash(text), len(text))
        tokens = self._counted.get(key)
        if tokens is None:
            if len(self._counted) >= _REMEMBERED:
                self._counted.clear()
            tokens = self._counted[key] = len(self.encoding.encode_ordinary(text))
        return tokens

    def _text(self, texts: list[str]) -> tuple[float, float]:
        """(o200k tokens, share of characters outside ASCII)."""
        total = sum(map(len, texts))
        counted = texts if total <= EXACT_CHARS else list(_windows(texts, total))
        chars = sum(map(len, counted))
        if not chars:
            return 0.0, 0.0
        # encode_ordinary: "<|endoftext|>" in a user's text is text. Lone surrogates become U+FFFD in tiktoken.
        tokens = sum(map(self._count, counted))
        wide = sum(map(_wide_chars, counted))
        return tokens * total / chars, wide / chars


@cache
def vocabulary() -> tiktoken.Encoding:
    """`o200k_base` from the package's own data, hash-checked, once per process. Raises VocabularyError."""
    try:
        # Its tokens by rank, as MessagePack: OpenAI's lines of base64 took 0.1 s longer to read.
        packed = (resources.files("extproc") / "data" / "o200k_base.msgpack").read_bytes()
    except OSError as error:
        raise VocabularyError(f"the token vocabulary cannot be read: {error}") from None
    if hashlib.sha256(packed).hexdigest() != VOCABULARY_SHA256:
        raise VocabularyError("the token vocabulary is not o200k_base: its sha256 differs")
    ranks = dict(zip(msgspec.msgpack.decode(packed, type=list[bytes]), count(), strict=False))
    encoding = tiktoken.Encoding("o200k_base", pat_str=_O200K_PATTERN, mergeable_ranks=ranks, special_tokens={})
    ranks.clear()  # encoding reads tiktoken's own copy of them; ours is 30 MB in every worker
    return encoding


def _windows(texts: list[str], total: int) -> Iterable[str]:
    """Windows of WINDOW_CHARS characters, evenly spread over `texts` laid end to end, each text's part by itself."""
    starts = [index * (total - WINDOW_CHARS) // (WINDOWS - 1) for index in range(WINDOWS)]
    begin = at = missing = 0
    for text in texts:
        if missing:  # of a window that began in a text before
            yield text[:missing]
            missing = max(0, missing - len(text))
        while at < WINDOWS and starts[at] < begin + len(text):
            piece = text[starts[at] - begin : starts[at] - begin + WINDOW_CHARS]
            yield piece
            missing = WINDOW_CHARS - len(piece)
            at += 1
        begin += len(text)


def _wide_chars(text: str) -> int:
    return 0 if text.isascii() else sum(char > "\x7f" for char in text)


class Parts:
    """What one request is made of: texts to count, and tokens already known."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.texts: list[str] = []
        self.tokens = family.per_request

    def add_request(self, body: Mapping[str, Any]) -> None:
        for message in _items(body.get("messages")):
            self._add_message(message)
        tools = [*_items(body.get("tools")), *_items(body.get("functions"))]
        if tools:
            self.tokens += self.family.tools + self.family.per_tool * len(tools)
            self._add_json(tools)
        answer = body.get("response_format")
        if isinstance(answer, dict) and answer.get("type") == "json_schema":
            self.tokens += self.family.schema
            self._add_json(answer)

    def _add_message(self, message: object) -> None:
        self.tokens += self.family.per_message
        if not isinstance(message, dict):
            return
        for key, value in message.items():
            if key == "content" and not isinstance(value, str):
                self._add_content(value)
            elif key == "tool_calls":
                self.tokens += self.family.per_call * len(_items(value))
                self._add_json([_call(call) for call in _items(value)])
            elif key not in ("role", "tool_call_id", "audio"):
                self._add_json(value)  # a text, name, refusal, reasoning_content, and what vendors add

    def _add_content(self, content: object) -> None:
        for part in content if isinstance(content, list) else (content,):
            if not isinstance(part, dict):
                self._add_json(part)
                continue
            kind = part.get("type")
            if kind == "image_url":
                self.tokens += image_tokens(part.get("image_url"), self.family.media)
            elif kind == "input_audio":
                self.tokens += audio_tokens(part.get("input_audio"), self.family.media)
            elif kind == "file":
                self.tokens += file_tokens(part.get("file"), self.family.media)
            elif kind in ("text", "refusal"):
                self._add_json(part.get(kind))
            else:
                self._add_json(part)

    def _add_json(self, value: object) -> None:
        """Every key and leaf of a JSON value as text, and a token per key for its punctuation."""
        stack = [value]
        while stack:  # not recursion: a schema may be nested as deep as the parser allows
            item = stack.pop()
            if isinstance(item, str):
                if item:
                    self.texts.append(item)
            elif isinstance(item, dict):
                self.tokens += len(item)
                self.texts += (key for key in item if key)
                stack.extend(item.values())
            elif isinstance(item, list):
                stack.extend(item)
            elif item is not None:
                self.tokens += 1  # a number or a truth value


def _items(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _call(call: object) -> object:
    """A tool call without its id and type, which are not billed."""
    return call.get("function", call) if isinstance(call, dict) else call


def _openai(images: ImageRule, tools: int = 80) -> Family:
    media = MediaRule(images=images, audio_per_s=10, per_page=2_000)
    return Family(
        latin=1, wide=1, per_request=3, per_message=4, tools=tools, per_tool=4, per_call=4, schema=0, media=media
    )


_OPENAI = _openai(PatchImages(1.2, 2_500, 12_000))
_OTHER = Family(
    latin=1.1, wide=1.1, per_request=25, per_message=4, tools=250, per_tool=8, per_call=8, schema=0,
    media=MediaRule(images=TileImages(85, 170), audio_per_s=32, per_page=2_000),
)  # fmt: skip
_CLAUDE_OLD = Family(
    latin=1.11, wide=1.45, per_request=3, per_message=4, tools=490, per_tool=8, per_call=28, schema=200,
    media=MediaRule(images=AreaImages(1_600), audio_per_s=32, per_page=3_000),
)  # fmt: skip
_CLAUDE = Family(
    latin=1.45, wide=1.45, per_request=5, per_message=6, tools=700, per_tool=12, per_call=40, schema=280,
    media=MediaRule(images=AreaImages(4_784), audio_per_s=32, per_page=4_000),
)  # fmt: skip
_GEMINI_2 = Family(
    latin=1.2, wide=1.0, per_request=1, per_message=2, tools=0, per_tool=8, per_call=90, schema=0,
    media=MediaRule(images=GoogleTiles(), audio_per_s=32, per_page=258),
)  # fmt: skip
_GEMINI = msgspec.structs.replace(
    _GEMINI_2, media=MediaRule(images=FlatImages(1_120), audio_per_s=32, per_page=560)
)  # fmt: skip

# By the model's name wherever it is served, first match; OpenAI's image rules are listed by model in its vision guide.
# Claude: 1.04 to 1.06 o200k tokens on English and code and 1.38 on CJK up to 4.6; from 4.7 on a vocabulary that gives
# 1.2 to 1.46 times as many on English and code (measured with count_tokens by claudecodecamp.com and sol.ava.dev, April
# 2026). Gemini: 1.06 English, 1.17 code, 0.88 CJK, by Gemma 3's vocabulary. Overheads: fitted to recorded exchanges.
FAMILIES: tuple[tuple[str, Family], ...] = (
    (r"gpt-4o-mini", _openai(TileImages(2_833, 5_667), tools=8)),
    (r"gpt-4\.1-mini", _openai(PatchImages(1.62, 1_536, 1_536), tools=8)),
    (r"gpt-4\.1-nano", _openai(PatchImages(2.46, 1_536, 1_536), tools=8)),
    (r"gpt-5(\.\d)?-mini", _openai(PatchImages(1.62, 1_536, 1_536))),
    (r"gpt-5(\.\d)?-nano", _openai(PatchImages(2.46, 1_536, 1_536))),
    (r"\bo4-mini", _openai(PatchImages(1.72, 1_536, 1_536))),
    (r"gpt-4", _openai(TileImages(85, 170), tools=8)),
    (r"\bo[13]\b", _openai(TileImages(75, 150))),
    (r"gpt-5(\.[0-2])?(-|$)", _openai(TileImages(70, 140))),
    (r"gpt-5\.[34]", _openai(PatchImages(1.2, 2_500, 2_500))),
    (r"gpt-5\.5", _openai(PatchImages(1.2, 2_500, 10_000))),
    (r"gpt-\d|chat-latest", _OPENAI),
    (r"claude-([23]|instant|(opus|sonnet|haiku)-4(-[0-6])?([-@]2|-v|$|:))", _CLAUDE_OLD),
    (r"claude", _CLAUDE),
    (r"gemini-[12]", _GEMINI_2),
    (r"gemini", _GEMINI),
)
_BY_FORMAT: dict[str, Family] = {
    "openai": _OTHER,  # a name we do not know behind OpenAI's format is some other vendor's or an open model
    "azure": _OPENAI,  # a deployment's name may be anything, the model is OpenAI's
    "anthropic": _CLAUDE,
    "bedrock": _CLAUDE,
    "google": _GEMINI,
}


@lru_cache(maxsize=4_096)
def family_of(wire_format: ProviderFormat, upstream_name: str) -> Family:
    """How the model counts: by its name, else by the format it is spoken to in."""
    known = (family for pattern, family in FAMILIES if re.search(pattern, upstream_name))
    return next(known, _BY_FORMAT[wire_format])
