"""Ids of tool calls, on their way from one provider's format to another's."""

import json
import re
from typing import Any

import pytest

from extproc.adapters import toolids
from extproc.adapters.registry import adapter_for

from .asking import body, target

MISTRAL = {"unsupported": frozenset({"tool_call_id"})}


def conversation(*ids: str) -> list[dict[str, Any]]:
    calls = [{"id": each, "type": "function", "function": {"name": "f", "arguments": "{}"}} for each in ids]
    results = [{"role": "tool", "tool_call_id": each, "content": "y"} for each in ids]
    return [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": calls}, *results]


def sent(*ids: str, to: Any = None) -> list[str]:
    """The ids that an OpenAI-like provider gets: those of the calls, which are those of the results."""
    messages = body("openai", to=to, messages=conversation(*ids))["messages"]
    found = [call["id"] for call in messages[1]["tool_calls"]]
    assert [message["tool_call_id"] for message in messages[2:]] == found
    return found


def test_ids_lose_the_signature_of_another_provider() -> None:
    assert sent("a~sig~" + "x" * 500, "b") == ["a", "b"]


def test_ids_that_fit_are_sent_as_they_are() -> None:
    ids = ["call_9pQ", "toolu_01A09q90qw90lq917835lq9", "x" * 40]
    messages = conversation(*ids)
    assert toolids.fitted(messages, toolids.short) is messages
    assert sent(*ids) == ids


def test_trap_6_ids_longer_than_openai_takes_are_made_anew_and_alike() -> None:
    """litellm#11392: a conversation that Gemini began was a 400 at Azure."""
    long, other = sent("x" * 41, "x" * 42 + "~sig~abc")
    assert long != other
    assert max(len(long), len(other)) <= 40
    assert sent("x" * 41) == [long]


@pytest.mark.parametrize("given", ["call_abc", "toolu_01A09q90qw90lq917835lq9", "x" * 900, "abc~sig~xyz", "12345678-"])
def test_mistral_gets_nine_letters_and_digits(given: str) -> None:
    (found,) = sent(given, to=MISTRAL)
    assert re.fullmatch("[A-Za-z0-9]{9}", found)
    assert sent(given, to=MISTRAL) == [found]


def test_mistral_gets_its_own_ids_back() -> None:
    assert sent("D681PevKs", "D681PevKs~sig~x", to=MISTRAL) == ["D681PevKs", "D681PevKs"]


def test_calls_of_gemini_that_came_without_an_id_fit_anywhere() -> None:
    """The response's id alone is longer than OpenAI takes."""
    call = {"functionCall": {"name": "f", "args": {}}}
    candidates = [{"content": {"parts": [call, call]}, "finishReason": "STOP"}]
    adapter = adapter_for(target("google"), "chatcmpl-" + "0123456789abcdef" * 2, 1, False)
    adapter.feed(json.dumps({"candidates": candidates}).encode())
    chunks = adapter.finish().chunks
    found = [
        part["id"] for chunk in chunks for choice in chunk["choices"] for part in choice["delta"].get("tool_calls", ())
    ]
    assert len(set(found)) == 2
    assert sent(*found) == found
    assert [toolids.plain(each) for each in found] == found
