"""A bound is a bound: whatever the text, the provider's count does not pass it; for o200k's models it is the count."""

# ruff: noqa: RUF001 - characters of many scripts are meant

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc import bounds
from extproc.bounds import is_o200k, most_input_tokens, pieces
from extproc.records import ProviderFormat, Target
from extproc.tokens import Estimator, vocabulary

ENCODING = vocabulary()
# Letters, marks, digits, blanks and marks of several scripts: what words are cut by.
CHARS = st.sampled_from(
    list("aAzZßéñ中文か한أ\u0301\u0b95\u0bcd09²Ⅷ '’sS.,;:!?()[]{}<>\"\n\r\t /-_…。，、；：「」\u3000🙂\u200d\x00")
)
WORDS = st.lists(st.one_of(CHARS, st.sampled_from([" the", "'s ", "don't", "  x", " \n\n y", "1234567"])), max_size=60)


def target(name: str, wire_format: ProviderFormat = "openai") -> Target:
    return Target(model="m", upstream_name=name, provider="p", format=wire_format)


def body(*texts: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text} for text in texts], **more}


@given(WORDS)
@settings(max_examples=400)
def test_counts_of_pieces_add_up_to_the_count_of_the_whole(words: list[str]) -> None:
    text = "".join(words)
    before = bounds.PIECE_CHARS
    bounds.PIECE_CHARS = 6
    try:
        found = list(pieces(text))
    finally:
        bounds.PIECE_CHARS = before
    assert "".join(found) == text
    assert sum(len(ENCODING.encode_ordinary(piece)) for piece in found) == len(ENCODING.encode_ordinary(text))


@given(st.text(max_size=300), st.sampled_from(["gpt-4o", "claude-sonnet-5-5", "llama-4"]))
@settings(max_examples=200)
def test_never_below_the_count_of_o200k(text: str, name: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    assert most_input_tokens(body(text), target(name), ENCODING) >= len(ENCODING.encode_ordinary(text))


def test_a_long_text_of_a_known_vocabulary_is_counted_whole_and_hardly_over_reserved() -> None:
    text = "A budget that holds must know what it holds. 预算必须知道它保留了什么，然后才放行。 " * 3_000
    exact = len(ENCODING.encode_ordinary(text))
    assert exact <= most_input_tokens(body(text), target("gpt-4o"), ENCODING) <= exact + 20


@pytest.mark.parametrize(
    "text", [" " * 50_000, "\n" * 50_000, "a" * 50_000, "中" * 20_000], ids=lambda text: repr(text[0])
)
def test_what_has_no_words_counts_as_bytes(text: str) -> None:
    assert most_input_tokens(body(text), target("gpt-4o"), ENCODING) >= len(text.encode())


def test_beyond_the_counted_part_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "MOST_COUNTED_CHARS", 100)
    assert most_input_tokens(body("word " * 100), target("gpt-4o"), ENCODING) >= 400 + 20


def test_other_vocabularies_count_as_bytes_also_after_normalisation() -> None:
    claude = target("claude-sonnet-5-5", "anthropic")
    overhead = most_input_tokens(body(""), claude, ENCODING)
    assert most_input_tokens(body("x" * 1000), claude, ENCODING) >= overhead + 1000
    assert most_input_tokens(body("\ufdfa" * 10), claude, ENCODING) >= overhead + 330


def test_tools_count_as_bytes_of_their_json() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "x": 12345678901234567890}}}
    plain = most_input_tokens(body("hi"), target("gpt-4o"), ENCODING)
    assert most_input_tokens(body("hi", tools=[tool]), target("gpt-4o"), ENCODING) > plain + 90


@pytest.mark.parametrize(
    ("wire_format", "name", "known"),
    [
        ("openai", "gpt-4o-mini", True),
        ("openai", "gpt-4.1-2025-04-14", True),
        ("azure", "o3-mini", True),
        ("azure", "our-deployment", False),
        ("openai", "gpt-4-turbo", False),
        ("openai", "llama-4", False),
        ("anthropic", "gpt-4o", False),
    ],
)
def test_whose_vocabulary_is_ours(wire_format: ProviderFormat, name: str, known: bool) -> None:
    assert is_o200k(wire_format, name) is known


def test_an_ordinary_prompt_is_not_below_the_estimate() -> None:
    request = body("You are helpful.", "Please summarise this: " + "the quick brown fox. " * 50)
    for each in (target("gpt-4o"), target("claude-sonnet-5-5", "anthropic"), target("gemini-3-pro", "google")):
        assert most_input_tokens(request, each, ENCODING) >= Estimator().input_tokens(request, each)
