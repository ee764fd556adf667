"""Tokens of a cut answer, from its bytes: within 15 % once a few whole ones were seen."""

import json
import random
from collections.abc import Callable

import msgspec
import pytest

from extproc.records import ProviderFormat
from extproc.settle.estimate import MOST_KINDS, OutputFromBytes
from tests.settle.builders import audit, target


def chunk(text: str) -> int:
    """Bytes of one SSE event with `text`."""
    delta = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    body = {"id": "chatcmpl-" + "a" * 32, "object": "chat.completion.chunk", "created": 1790000000, "choices": [delta]}
    return len(f"data: {json.dumps(body)}\n\n")


def one_token_a_chunk(rng: random.Random, tokens: int) -> list[tuple[int, int]]:
    """(bytes, tokens) of each chunk, as OpenAI streams."""
    return [(chunk("x" * rng.randint(1, 9)), 1) for _ in range(tokens)]


def several_tokens_a_chunk(rng: random.Random, tokens: int) -> list[tuple[int, int]]:
    """As Anthropic and Google stream, once translated."""
    chunks = []
    while tokens > 0:
        size = min(tokens, rng.randint(2, 6))
        chunks.append((chunk("x" * round(4.6 * size)), size))
        tokens -= size
    return chunks


SHAPES = [one_token_a_chunk, several_tokens_a_chunk]
TAIL_BYTES = 220  # the last chunk and `[DONE]`


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("reasoning", [0, 400])
def test_a_cut_stream_is_estimated_within_15_percent(
    shape: Callable[[random.Random, int], list[tuple[int, int]]], reasoning: int
) -> None:
    rng = random.Random(7)
    sizes = OutputFromBytes()
    for _ in range(6):
        tokens = rng.randint(50, 800)
        sent = sum(size for size, _ in shape(rng, tokens)) + TAIL_BYTES
        sizes.learn(audit(output_tokens=tokens + reasoning, reasoning_tokens=reasoning, response_bytes=sent))
    for _ in range(50):
        chunks = shape(rng, rng.randint(400, 800))
        delivered = chunks[: rng.randint(len(chunks) // 2, len(chunks))]
        truth = sum(tokens for _, tokens in delivered) + reasoning
        output, among = sizes.tokens(target(), True, sum(size for size, _ in delivered))
        assert abs(output - truth) <= 0.15 * truth
        assert among == reasoning


def test_models_are_told_apart() -> None:
    sizes = OutputFromBytes()
    for tokens in range(100, 700, 100):
        sizes.learn(audit(model_used="wordy", output_tokens=tokens, response_bytes=tokens * 200))
        sizes.learn(audit(model_used="terse", output_tokens=tokens, response_bytes=tokens * 20))
    assert sizes.tokens(target("wordy"), True, 20_000)[0] == pytest.approx(100, rel=0.05)
    assert sizes.tokens(target("terse"), True, 20_000)[0] == pytest.approx(1_000, rel=0.05)


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "cancelled"},
        {"status": "failed"},
        {"estimated": True},
        {"model_used": None},
        {"output_tokens": 0},
        {"response_bytes": 0},
    ],
)
def test_only_whole_answers_teach(changes: dict[str, object]) -> None:
    taught, untaught = OutputFromBytes(), OutputFromBytes()
    for _ in range(20):
        taught.learn(audit(**({"output_tokens": 5_000, "response_bytes": 500} | changes)))
    assert taught.tokens(target(), True, 50_000) == untaught.tokens(target(), True, 50_000)


def test_before_anything_is_learnt_there_is_a_guess() -> None:
    output, reasoning = OutputFromBytes().tokens(target(), True, 24_500)
    assert 50 < output < 200
    assert reasoning == 0
    assert OutputFromBytes().tokens(target(), True, 0) == (0, 0)


@pytest.mark.parametrize("wire_format", ["openai", "anthropic", "google"])
def test_the_first_guess_depends_on_how_much_a_provider_puts_into_a_chunk(wire_format: ProviderFormat) -> None:
    whole = {"openai": 100, "anthropic": 330, "google": 2_100}[wire_format]
    answered = msgspec.structs.replace(target(), format=wire_format)
    assert OutputFromBytes().tokens(answered, True, 25_000)[0] == pytest.approx(whole, rel=0.1)


def test_one_strange_answer_does_not_spoil_the_rest() -> None:
    sizes = OutputFromBytes()
    for _ in range(20):
        sizes.learn(audit(output_tokens=300, response_bytes=60_300))
    sizes.learn(audit(output_tokens=2, response_bytes=10_000_000))
    sizes.learn(audit(output_tokens=1_000_000, response_bytes=20_000_000))
    assert sizes.tokens(target(), True, 60_300)[0] == pytest.approx(300, rel=0.5)


def test_memory_is_bounded() -> None:
    sizes = OutputFromBytes()
    for number in range(MOST_KINDS + 10):
        sizes.learn(audit(model_used=f"m{number}", output_tokens=100, response_bytes=2_300))
    assert sizes.tokens(target("m5"), True, 24_300)[0] == pytest.approx(100, rel=0.05)  # forgotten
    assert sizes.tokens(target(f"m{MOST_KINDS}"), True, 2_300)[0] > 60
