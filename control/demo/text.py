"""What the simulator says: a deterministic answer to a conversation, and its token counts.

In: an `Ask`, the format-independent reading of a request made by one of the formats. Out: an `Answer`,
which the same module writes in its format. Pure: the same ask and seed give the same answer in every format, streamed
or not.

The token rule, for input and output alike: one token per started four bytes of UTF-8, over all texts of the
conversation together (so merging or splitting messages changes nothing); an image is 85 tokens, a tool definition 10.
What the user's text can ask for:

    call add                          calls the tool `add` (`call add and get_date`: both; `think aloud and call add`:
                                      text first, then the call); arguments are made up from the JSON schema
    refuse this / block this          a refusal, or a blocked prompt, in the format's own way
"""

import hashlib
import random
import re
from collections import OrderedDict
from typing import Any

import msgspec

from control.demo.ask import Answer, Ask, Call, Choice, Finish, Shape
from control.demo.calls import example, named_calls

BYTES_PER_TOKEN = 4
IMAGE_TOKENS = 85
TOOL_TOKENS = 10
CACHE_MIN_TOKENS = 1024  # of a system prompt, as OpenAI and Anthropic document for prompt caching
CACHE_STEP_SIGNS = 128
REFUSAL = "I'm sorry, but I can't help with that."
_MARKER = re.compile(r"\s*\[\[demo\b[^\]]*\]\]")
_WORD = re.compile(r"\s*\S+")
_REASONING_MODEL = re.compile(r"^o\d|reason")
_EFFORT_TOKENS = {"none": 0, "minimal": 16, "low": 64, "medium": 128, "high": 256, "xhigh": 512, "max": 512}
_PROSE = (
    "the gateway answers every request with tokens that cost little and arrive early while a quiet stream carries "
    "words across the wire so that each reader sees them at once and nobody waits for a café in Zürich or a naïve "
    "queue to drain because routes change when providers fail and budgets hold until an honest ledger settles what "
    "was spent on 東京 or 🙂 or plain prose between two tests of one simple idea about measured numbers"
)
_VOCABULARY = _PROSE.split()


def _ring(size: int) -> list[str]:
    """A fixed sequence of words with a leading space, in sentences; answers are slices of it."""
    rng = random.Random(7)  # noqa: S311 - text, not secrets
    words, since_stop = [], 0
    for _ in range(size):
        word = rng.choice(_VOCABULARY)
        word = word.capitalize() if since_stop == 0 else word
        since_stop += 1
        if since_stop > 6 and rng.random() < 0.2:
            word, since_stop = word + ".", 0
        words.append(" " + word)
    return words


_RING_SIZE = 4096
_RING = _ring(_RING_SIZE)
_RING_TWICE = _RING + _RING


class PromptCache:
    """System prompts seen before, so that repeating a long one reports cached tokens. Bounded, oldest out first."""

    def __init__(self, limit: int = 1024) -> None:
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self._limit = limit

    def hit(self, ask: Ask) -> bool:
        """Whether this model has seen the ask's system prompt; remembers it."""
        key = hashlib.blake2b(f"{ask.format}\0{ask.model}\0{ask.system}".encode(errors="replace")).digest()
        found = key in self._seen
        self._seen[key] = None
        self._seen.move_to_end(key)
        if len(self._seen) > self._limit:
            self._seen.popitem(last=False)
        return found

    def clear(self) -> None:
        """Forget all."""
        self._seen.clear()


def byte_length(text: str) -> int:
    """Bytes of `text` in UTF-8."""
    return len(text) if text.isascii() else len(text.encode(errors="replace"))


def tokens(size: int) -> int:
    """Tokens of `size` bytes of text: one per started four."""
    return (size + 3) // 4


def canonical(value: Any) -> str:
    """Tool arguments and results as text that does not depend on how a format carries them (object or string)."""
    if isinstance(value, str):
        if not value.startswith(("{", "[")):
            return value
        try:
            value = msgspec.json.decode(value)
        except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
            return str(value)
    if isinstance(value, dict) and len(value) == 1:
        (key, inner), *_ = value.items()
        if key in ("result", "output", "content") and isinstance(inner, str):
            return canonical(inner)
    return msgspec.json.encode(value, order="deterministic").decode()


def compose(ask: Ask, shape: Shape, cache: PromptCache) -> Answer:
    """The answer to `ask`. Changes `cache` only."""
    digest = _digest(ask, shape.seed)
    text_tokens = -(-sum(map(byte_length, ask.texts)) // (shape.input_bytes_per_token or BYTES_PER_TOKEN))
    prompt_tokens = text_tokens + IMAGE_TOKENS * ask.images + TOOL_TOKENS * len(ask.tools)
    reasoning = _reasoning_tokens(ask) if shape.reasoning_tokens is None else shape.reasoning_tokens
    if ask.max_tokens is not None:
        reasoning = min(reasoning, ask.max_tokens)
    budget = None if ask.max_tokens is None else 4 * (ask.max_tokens - reasoning)
    choices = [_choice(ask, shape, digest + 977 * index, budget) for index in range(ask.n)]
    cached, written = _cached(ask, shape, cache)
    return Answer(
        choices=choices,
        prompt_tokens=prompt_tokens,
        output_tokens=reasoning * ask.n + sum(choice_tokens(choice) for choice in choices),
        reasoning_tokens=reasoning * ask.n,
        cached_tokens=min(cached, prompt_tokens),
        cache_write_tokens=min(written, prompt_tokens),
    )


def choice_tokens(choice: Choice) -> int:
    """Output tokens of one choice, without reasoning."""
    return tokens(sum(map(byte_length, choice.pieces)) + sum(call_bytes(call) for call in choice.calls))


def call_bytes(call: Call) -> int:
    """Bytes of a call that count as output: its name and its arguments."""
    return byte_length(call.name) + byte_length(call.json)


def fragments(text: str, size: int = 6) -> list[str]:
    """`text` in pieces of `size` characters, as streamed tool arguments and JSON come."""
    return [text[at : at + size] for at in range(0, len(text), size)]


def _digest(ask: Ask, seed: int) -> int:
    state = hashlib.blake2b(b"%d" % seed, digest_size=6)
    for text in ask.texts:
        plain = _MARKER.sub("", text) if "[[demo" in text else text
        state.update(plain.encode(errors="replace"))
    state.update(b"%d" % ask.images)
    return int.from_bytes(state.digest(), "big")


def _reasoning_tokens(ask: Ask) -> int:
    if ask.effort is not None:
        return _EFFORT_TOKENS.get(ask.effort, _EFFORT_TOKENS["medium"])
    return _EFFORT_TOKENS["medium"] if _REASONING_MODEL.search(ask.model) else 0


def _cached(ask: Ask, shape: Shape, cache: PromptCache) -> tuple[int, int]:
    if shape.cached_tokens is not None:
        return shape.cached_tokens, 0
    size = tokens(byte_length(ask.system))
    if not ask.cacheable or size < CACHE_MIN_TOKENS:
        return 0, 0
    size -= size % CACHE_STEP_SIGNS
    return (size, 0) if cache.hit(ask) else (0, size)


def _choice(ask: Ask, shape: Shape, digest: int, budget: int | None) -> Choice:
    lowered = ask.user.lower()
    if "block this" in lowered:
        return Choice(pieces=[], finish="blocked")
    if "refuse this" in lowered:
        return _limited(_WORD.findall(REFUSAL), "refusal", [], budget)
    calls = named_calls(ask, digest)
    if calls:
        pieces = _WORD.findall("Let me think: I need a tool ✓ for that.") if "think aloud" in lowered else []
        choice = Choice(pieces=pieces, calls=calls, finish="tool_calls")
        if budget is None or choice_tokens(choice) * 4 <= budget:
            return choice
        return _limited(_WORD.findall("I ran out of tokens before I could call a tool."), "length", [], budget)
    if ask.schema is not None:
        value = example(ask.schema, "answer", digest) if ask.schema else {"answer": f"demo ✓ {digest % 1000}"}
        return _limited(fragments(msgspec.json.encode(value).decode()), "stop", ask.stop, budget)
    return _limited(_prose(ask, shape, digest), "stop", ask.stop, budget)


def _prose(ask: Ask, shape: Shape, digest: int) -> list[str]:
    opening = _WORD.findall(_opening(ask))
    start = digest % _RING_SIZE
    if shape.huge is not None:
        return _huge(shape.huge, shape.chunks)
    length = shape.chunks if shape.chunks is not None else 24 + digest % 40 + len(opening)
    pieces = (opening + _RING_TWICE[start : start + min(_RING_SIZE, length)])[:length]
    while len(pieces) < length:
        pieces += _RING[: length - len(pieces)]
    return pieces


def _opening(ask: Ask) -> str:
    if ask.results:
        said = "; ".join(f"{result.name or 'the tool'} returned {result.text[:200]}" for result in ask.results)
        return f"✓ Done: {said}."
    quoted = " ".join(_MARKER.sub("", ask.user[:1000]).split())[:80]
    seen = f" and {ask.images} image{'s' if ask.images > 1 else ''}" if ask.images else ""
    return f"✓ You asked: “{quoted}”{seen}."


def _huge(size: int, chunks: int | None) -> list[str]:
    count = max(1, chunks if chunks is not None else size // 16_384)
    piece = ("demo " * (size // count // 5 + 1))[: max(1, size // count)]
    return [piece] * (count - 1) + [(piece + "x" * count)[: size - len(piece) * (count - 1)]]


def _limited(pieces: list[str], finish: Finish, stop: list[str], budget: int | None) -> Choice:
    """Cut at the first stop sequence, then at the budget in bytes (None: none), on a character's boundary."""
    sequence = None
    if stop:
        text = "".join(pieces)
        found = min(((text.find(item), item) for item in stop if item in text), default=None)
        if found is not None:
            pieces, sequence, finish = _cut(pieces, byte_length(text[: found[0]])), found[1], "stop_sequence"
    if budget is not None and sum(map(byte_length, pieces)) > budget:
        pieces, sequence, finish = _cut(pieces, budget), None, "length"
    return Choice(pieces=pieces, finish=finish, stop_sequence=sequence)


def _cut(pieces: list[str], size: int) -> list[str]:
    kept = []
    for piece in pieces:
        if size <= 0:
            break
        raw = piece.encode(errors="replace")
        kept.append(raw[:size].decode(errors="ignore") if len(raw) > size else piece)
        size -= len(raw)
    return [piece for piece in kept if piece]
