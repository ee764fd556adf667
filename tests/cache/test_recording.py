"""What is kept of an answer, what is not, and that what is replayed is what was kept."""

import json
from typing import Any

import msgspec
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from extproc.adapters.fold import fold
from extproc.adapters.openai import OpenAIAdapter
from extproc.cache import replay
from extproc.cache.entry import dump, load
from extproc.cache.hit import Hit
from extproc.cache.recording import NotKept, entry_of
from extproc.cache.tape import Recording
from extproc.records import Outcome, Usage
from extproc.settings import Cache
from tests.cache.builders import NOW_MS, TARGET, completion, entry, key, recording

ON = Cache(exact=True)
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
LOGPROBS = {"content": [{"token": "Hi", "logprob": -0.1, "bytes": [72, 105], "top_logprobs": []}], "refusal": None}


def kept(recorded: Recording, settings: Cache = ON) -> dict[str, Any]:
    made = entry_of(recorded, settings, NOW_MS)
    return replay.completion_of(Hit(made, "hit", 0))


def sse(answer: dict[str, Any], done: bool = True) -> bytes:
    stream = replay.stream(answer, include_usage=True)
    return stream if done else stream.removesuffix(b"data: [DONE]\n\n")


def refused(recorded: Recording, settings: Cache = ON) -> str:
    with pytest.raises(NotKept) as caught:
        entry_of(recorded, settings, NOW_MS)
    return caught.value.reason


def test_a_whole_answer() -> None:
    made = entry_of(recording(completion()), ON, NOW_MS)
    assert replay.completion_of(Hit(made, "hit", 0)) == completion()
    assert (made.model, made.provider, made.team_id, made.stored_ms) == ("gpt", "openai", "team-a", NOW_MS)
    assert made.usage == Usage(input_tokens=9, output_tokens=4)
    assert made.cost_nano_usd == 9 * 1000 + 4 * 4000


def test_what_the_gateway_wrote_into_it_is_not_kept() -> None:
    own = {"routed_from": "auto", "provider": "openai", "gateway_metadata": {"cache_hit": False}}
    answer = completion() | own
    answer["usage"] |= {"input_tokens": 9, "output_tokens": 4, "cost_usd": 1.0}
    assert kept(recording(answer, gateway_fields=True)) == completion()
    assert kept(recording(completion() | {"provider": "x"}))["provider"] == "x", "a provider's own field is kept"


def test_a_stream() -> None:
    answer = completion("A story. " * 100)
    assert kept(recording(sse(answer), kind="stream")) == answer


def test_a_stream_without_usage_has_it_of_the_outcome() -> None:
    stream = replay.stream(completion(), include_usage=False)
    usage = kept(recording(stream, kind="stream"))["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (9, 4, 13)


GOOD = sse(completion())
BAD = {
    "cut inside an event": GOOD[:200],
    "no [DONE]": GOOD.removesuffix(b"data: [DONE]\n\n").replace(b'"stop"', b"null"),
    "an error event": GOOD.replace(b"data: [DONE]", b'data: {"error": {"message": "x"}}'),
    "not JSON": GOOD.replace(b'data: {"id"', b'data: {"id', 1),
    "no id": GOOD.replace(b'"id":"chatcmpl-1",', b""),
    "nothing": b"",
    "only [DONE]": b"data: [DONE]\n\n",
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD)
def test_a_stream_that_does_not_read_back(body: bytes) -> None:
    assert refused(recording(body, kind="stream")) == "unreadable"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        {},
        {"choices": None},
        {"choices": []},
        {"choices": [1]},
        {"choices": [{}]},
        {"choices": [{"index": 0, "message": None, "finish_reason": "stop"}]},
        {"choices": [{"index": 1, "message": {"content": "x"}, "finish_reason": "stop"}]},
        {"choices": [{"index": 0, "message": {"content": ["x"]}, "finish_reason": "stop"}]},
        completion(None),
        completion(""),
    ],
    ids=str,
)
def test_a_whole_answer_that_cannot_be_replayed(answer: Any) -> None:
    assert refused(recording(answer)) == "unreadable"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (completion(finish="length"), "truncated"),
        (completion(finish="content_filter"), "filtered"),
        (completion(refusal="I cannot."), "filtered"),
        (completion(None, "tool_calls", tool_calls=[CALL]), "tool_calls"),
        (completion("x", "stop", tool_calls=[CALL]), "tool_calls"),
        (completion(None, "function_call", function_call={"name": "f"}), "tool_calls"),
        (completion(finish="never_heard_of"), "other"),
    ],
)
@pytest.mark.parametrize("kind", ["whole", "stream"])
def test_answers_that_are_not_kept(answer: dict[str, Any], reason: str, kind: str) -> None:
    body = sse(answer) if kind == "stream" else answer
    assert refused(recording(body, kind=kind)) == reason


def test_one_bad_choice_spoils_the_answer() -> None:
    answer = completion()
    answer["choices"].append(completion(finish="length")["choices"][0] | {"index": 1})
    assert refused(recording(answer)) == "truncated"


def test_tool_calls_if_configured() -> None:
    answer = completion(None, "tool_calls", tool_calls=[CALL, CALL | {"id": "call_2"}])
    settings = Cache(exact=True, tool_calls=True)
    assert kept(recording(answer), settings) == answer
    assert kept(recording(sse(answer), kind="stream"), settings) == answer


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome(complete=False, usage=Usage(1, 1)),
        Outcome(complete=True, usage=Usage(1, 1), error_code="provider_error"),
    ],
)
def test_an_answer_that_did_not_end_well(outcome: Outcome) -> None:
    assert refused(recording(completion(), outcome=outcome)) == "incomplete"


def test_without_usage_what_it_saves_would_not_be_known() -> None:
    assert refused(recording(completion(), outcome=Outcome(complete=True))) == "no_usage"


def test_the_largest_that_is_kept() -> None:
    size = len(entry_of(recording(completion("x" * 2000)), ON, NOW_MS).answer)
    assert entry_of(recording(completion("x" * 2000)), Cache(exact=True, max_entry_bytes=size), NOW_MS)
    assert refused(recording(completion("x" * 2001)), Cache(exact=True, max_entry_bytes=size)) == "oversized"


class TestEntries:
    def test_there_and_back(self) -> None:
        made = entry(key("hi"))
        assert load(dump(made), key("hi"), key("hi").digest) == made

    @pytest.mark.parametrize(
        "data", [b"", b"x", b"\xc1", b"{}", dump(entry(key("hi")))[:-1], dump(entry(key("hi"))) + b"x"]
    )
    def test_garbage_is_no_entry(self, data: bytes) -> None:
        assert load(data, key("hi"), key("hi").digest) is None

    def test_an_entry_of_another_version_is_none(self) -> None:
        assert load(dump(msgspec.structs.replace(entry(key("hi")), version=0)), key("hi"), key("hi").digest) is None

    @pytest.mark.parametrize("other", [key("hi", team="team-b"), key("hi", seed=1), key("ho")])
    def test_an_entry_at_the_wrong_place_is_none(self, other: Any) -> None:
        """Whoever wrote it there: it is of another partition, context or request."""
        assert load(dump(entry(other)), key("hi"), key("hi").digest) is None


# --- replay: any answer, by our own reader and by the official SDK ----------------------------------------------------

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=900)
_CHOICE = st.one_of(
    st.fixed_dictionaries({"role": st.just("assistant"), "content": _TEXT}),
    st.fixed_dictionaries({"role": st.just("assistant"), "content": _TEXT, "refusal": st.none()}),
    st.fixed_dictionaries({"role": st.just("assistant"), "content": _TEXT, "reasoning_content": _TEXT}),
    st.fixed_dictionaries(
        {
            "role": st.just("assistant"),
            "content": st.none() | _TEXT,
            "tool_calls": st.lists(st.just(CALL), min_size=1, max_size=3),
        }
    ),
)


@st.composite
def answers(draw: st.DrawFn) -> dict[str, Any]:
    messages = draw(st.lists(_CHOICE, min_size=1, max_size=3))
    answer = completion() | {"system_fingerprint": draw(st.none() | _TEXT)}
    answer["choices"] = [
        {
            "index": index,
            "message": message,
            "finish_reason": "tool_calls" if "tool_calls" in message else "stop",
            "logprobs": draw(st.sampled_from([None, LOGPROBS])),
        }
        for index, message in enumerate(messages)
    ]
    return answer


@settings(max_examples=60)
@given(answers(), st.integers(1, 97))
def test_a_replayed_stream_is_the_answer_again(answer: dict[str, Any], step: int) -> None:
    stream = replay.stream(answer, include_usage=True)
    adapter = OpenAIAdapter(TARGET, "", 0, stream=True)
    chunks = [chunk for at in range(0, len(stream), step) for chunk in adapter.feed(stream[at : at + step])]
    final = adapter.finish()
    assert final.complete
    assert fold(chunks, final) == answer
    assert stream.count(b"data: [DONE]\n\n") == 1


@settings(max_examples=30)
@given(answers())
def test_the_official_sdk_reads_it_as_the_same_answer(answer: dict[str, Any]) -> None:
    state: Any = ChatCompletionStreamState(input_tools=openai.NOT_GIVEN)
    stream = replay.stream(answer, include_usage=True)
    events = [line.removeprefix("data: ") for line in stream.decode().split("\n\n") if line]
    for text in events[:-1]:
        state.handle_chunk(ChatCompletionChunk.model_validate_json(text))
    read = state.current_completion_snapshot
    whole = ChatCompletion.model_validate(answer)
    assert [choice.message.content or "" for choice in read.choices] == [
        choice.message.content or "" for choice in whole.choices
    ]
    assert [choice.finish_reason for choice in read.choices] == [choice.finish_reason for choice in whole.choices]
    for one, two in zip(read.choices, whole.choices, strict=True):
        calls = [call.function.arguments for call in one.message.tool_calls or ()]
        assert calls == [call.function.arguments for call in two.message.tool_calls or ()]
    assert read.usage == whole.usage
    assert (read.id, read.created, read.model) == (whole.id, whole.created, whole.model)


def test_usage_only_where_it_was_asked_for() -> None:
    plain = replay.stream(completion(), include_usage=False)
    assert b"usage" not in plain
    asked = [
        json.loads(line[6:]) for line in replay.stream(completion(), include_usage=True).decode().split("\n\n")[:-2]
    ]
    assert [chunk["usage"] for chunk in asked[:-1]] == [None] * (len(asked) - 1)
    assert (asked[-1]["choices"], asked[-1]["usage"]) == ([], completion()["usage"])


def test_a_long_answer_comes_in_pieces() -> None:
    text = "word " * 400 + "x" * 1000
    stream = replay.stream(completion(text), include_usage=False).decode()
    pieces = [json.loads(line[6:])["choices"][0]["delta"].get("content") for line in stream.split("\n\n")[:-2]]
    assert "".join(piece for piece in pieces if piece) == text
    assert max(len(piece or "") for piece in pieces) <= replay.PIECE_CHARS
    assert len(pieces) < len(text) / 100
