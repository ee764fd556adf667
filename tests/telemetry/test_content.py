"""What is told of messages: OpenTelemetry's shape, bounded, and never a credential."""

import json
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from extproc.telemetry.content import CUT, MOST, REDACTED, asked, content_of, redacted

WHOLE = {
    "choices": [
        {
            "index": 0,
            "finish_reason": "tool_calls",
            "message": {
                "role": "assistant",
                "content": "Let me look.",
                "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"q":1}'}}],
            },
        }
    ]
}
STREAM = (
    b"".join(
        b"data: " + json.dumps(each).encode() + b"\n\n"
        for each in (
            {"id": "1", "created": 1, "choices": [{"index": 0, "delta": {"role": "assistant", "content": "Hel"}}]},
            {"id": "1", "created": 1, "choices": [{"index": 0, "delta": {"content": "lo"}, "finish_reason": "stop"}]},
        )
    )
    + b"data: [DONE]\n\n"
)


def told(messages: Any, answer: bytes = b"", *, stream: bool = False) -> tuple[Any, Any]:
    content = content_of("r1", asked({"messages": messages}), answer, stream=stream)
    return json.loads(content.input_messages), json.loads(content.output_messages or "null")


def test_the_shape() -> None:
    messages = [
        {"role": "system", "content": "Be short."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {}}],
        },
        WHOLE["choices"][0]["message"],
        {"role": "tool", "tool_call_id": "c1", "content": "nothing"},
    ]
    asked_for, answered = told(messages, json.dumps(WHOLE).encode())
    call = {"type": "tool_call", "id": "c1", "name": "find", "arguments": '{"q":1}'}
    assert asked_for == [
        {"role": "system", "parts": [{"type": "text", "content": "Be short."}]},
        {"role": "user", "parts": [{"type": "text", "content": "What is this?"}, {"type": "image_url"}]},
        {"role": "assistant", "parts": [{"type": "text", "content": "Let me look."}, call]},
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": "nothing"}]},
    ]
    parts = [{"type": "text", "content": "Let me look."}, call]
    assert answered == [{"role": "assistant", "parts": parts, "finish_reason": "tool_calls"}]


def test_a_stream_is_told_like_a_whole_answer() -> None:
    _, answered = told([], STREAM, stream=True)
    text = [{"type": "text", "content": "Hello"}]
    assert answered == [{"role": "assistant", "parts": text, "finish_reason": "stop"}]


def test_the_last_messages_are_kept_of_too_many() -> None:
    many = [{"role": "user", "content": f"{number} " + "x" * (MOST // 4)} for number in range(20)]
    asked_for, _ = told(many)
    assert asked_for[-1]["parts"][0]["content"].startswith("19 ")
    assert len(json.dumps(asked_for)) < 1.2 * MOST
    long, _ = told([{"role": "user", "content": "x" * 10 * MOST}])
    assert long[0]["parts"][0]["content"] == "x" * MOST + CUT


@given(st.recursive(st.none() | st.text() | st.integers(), lambda of: st.lists(of) | st.dictionaries(st.text(), of)))
def test_whatever_a_client_sends_can_be_told(messages: Any) -> None:
    told(messages)
    told([{"role": "user", "content": messages, "tool_calls": messages}])


_BODY = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_", min_size=24, max_size=60)
_KEY = st.one_of(
    *(st.builds(prefix.__add__, _BODY) for prefix in ("sk-", "sk-proj-", "sk-ant-", "gw-", "AKIA", "AIza", "ghp_")),
    *(st.builds(prefix.__add__, _BODY) for prefix in ("github_pat_", "glpat-", "hf_", "xoxb-", "eyJ", "Bearer ")),
    *(st.builds(prefix.__add__, _BODY) for prefix in ("api_key=", 'password": "', "Authorization: ", "secret = ")),
)


@given(st.text(max_size=40), _KEY, st.text(max_size=40), st.sampled_from(["asked", "tool", "answered", "arguments"]))
def test_no_credential_is_told_wherever_it_stands(before: str, key: str, after: str, where: str) -> None:
    assume(key[-20:] not in before + after)
    text = f"{before} {key} {after}"
    message = {
        "asked": {"role": "user", "content": text},
        "tool": {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": text}]},
        "answered": {"role": "assistant", "content": [{"type": "text", "text": text}]},
        "arguments": {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": json.dumps(text)}}]},
    }[where]
    answer = json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}).encode()
    content = content_of("r1", asked({"messages": [message]}), answer, stream=False)
    secret = key[-20:]
    assert secret not in content.input_messages
    assert secret not in content.output_messages
    assert REDACTED in content.input_messages


@pytest.mark.parametrize("before", ["Authorization: Bearer", "token: secret =", "x-api-key:", '{"api_key":'])
def test_schemes_and_names_before_a_credential(before: str) -> None:
    assert "abc123" not in redacted(f"{before} abc123.def")


@pytest.mark.parametrize("plain", ["the tokens of a request", "ask-me-anything", "a secret garden", "basic rules"])
def test_what_is_no_credential_stays(plain: str) -> None:
    assert redacted(plain) == plain


def test_a_private_key_that_was_cut_is_redacted() -> None:
    assert redacted("a\n-----BEGIN RSA PRIVATE KEY-----\nMIIEow") == f"a\n{REDACTED}"


def test_an_answer_that_cannot_be_read_is_not_told() -> None:
    assert content_of("r1", "", b"no JSON", stream=False).output_messages == ""
    assert content_of("r1", "", b"{}", stream=False).output_messages == ""
