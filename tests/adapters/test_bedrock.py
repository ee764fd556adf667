"""Anthropic's models on Bedrock: what is not as at Anthropic's own."""

import base64
import json
from typing import Any

import pytest

from control.demo.bedrock import message
from extproc.adapters.base import Final
from extproc.adapters.registry import adapter_for
from extproc.errors import GatewayError, InvalidRequest

from .asking import HELLO, WEATHER, ask, body, target
from .recordings import FIXTURES, Recording, found, of

MODEL = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
RECORDED = of("bedrock", found())


def chunk(said: dict[str, Any]) -> bytes:
    return message({"bytes": base64.b64encode(json.dumps(said).encode()).decode(), "p": "abc"})


START = chunk({"type": "message_start", "message": {"usage": {"input_tokens": 3, "output_tokens": 1}}})
HI = chunk({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}})
STOP = chunk({"type": "message_stop", "amazon-bedrock-invocationMetrics": {"inputTokenCount": 3}})


def read(*pieces: bytes) -> tuple[list[Any], Final]:
    adapter = adapter_for(target("bedrock"), "chatcmpl-1", 1, stream=True)
    chunks = [chunk for piece in pieces for chunk in adapter.feed(piece)]
    return chunks, adapter.finish()


def refused(status: int, said: bytes, kind: str = "") -> GatewayError:
    adapter = adapter_for(target("bedrock"), "chatcmpl-1", 1, stream=True)
    return adapter.error(status, {"x-amzn-errortype": kind}, said)


def code_of(error: GatewayError) -> str | None:
    """As the client has it."""
    return error.payload()["error"]["code"]


@pytest.mark.parametrize(
    ("stream", "name", "path"),
    [
        (False, MODEL, f"/model/{MODEL}/invoke"),
        (True, MODEL, f"/model/{MODEL}/invoke-with-response-stream"),
        (
            False,
            "arn:aws:bedrock:us-east-1:1:application-inference-profile/a b",
            "/model/arn:aws:bedrock:us-east-1:1:application-inference-profile%2Fa%20b/invoke",
        ),
    ],
)
def test_the_path_names_model_and_manner(stream: bool, name: str, path: str) -> None:
    request = ask("bedrock", to={"upstream_name": name}, stream=stream)
    assert request.path == path
    sent = json.loads(request.body)
    assert sent.pop("anthropic_version") == "bedrock-2023-05-31"
    expected = body("anthropic", stream=stream)
    assert sent == {key: value for key, value in expected.items() if key not in ("model", "stream")}


@pytest.mark.skipif(not RECORDED, reason=f"no recorded exchanges at {FIXTURES}")
def test_paths_are_those_recorded() -> None:
    recorded = {recording.url.partition(".com")[2] for recording in RECORDED}
    assert recorded == {ask("bedrock", stream=stream).path for stream in (False, True)}


@pytest.mark.parametrize("recording", [pytest.param(each, id=each.name) for each in RECORDED])
def test_recorded_requests_have_no_field_that_is_not_sent_likewise(recording: Recording) -> None:
    conversation = [{"role": "system", "content": "."}, *HELLO]
    sent = body("bedrock", tools=[WEATHER], tool_choice="required", messages=conversation)
    assert recording.request.keys() - {"thinking"} <= sent.keys()
    assert recording.request["anthropic_version"] == sent["anthropic_version"]


@pytest.mark.parametrize(
    ("name", "thinking"),
    [
        (MODEL, {"type": "enabled", "budget_tokens": 2048}),
        ("arn:aws:bedrock:us-east-1:1:inference-profile/" + MODEL, {"type": "enabled", "budget_tokens": 2048}),
        ("anthropic.claude-opus-4-1-20250805-v1:0", {"type": "enabled", "budget_tokens": 2048}),
        ("global.anthropic.claude-opus-4-6-v1", {"type": "adaptive"}),
    ],
)
def test_effort_is_in_the_terms_of_the_models_generation(name: str, thinking: dict[str, Any]) -> None:
    assert body("bedrock", to={"upstream_name": name}, reasoning_effort="low")["thinking"] == thinking


def test_a_model_before_thinking_takes_no_effort() -> None:
    with pytest.raises(InvalidRequest):
        ask("bedrock", to={"upstream_name": "anthropic.claude-3-5-haiku-20241022-v1:0"}, reasoning_effort="low")


def test_a_picture_must_be_there_itself() -> None:
    part = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    with pytest.raises(InvalidRequest) as caught:
        ask("bedrock", messages=[{"role": "user", "content": [part]}])
    assert caught.value.param == "messages[0].content[0].image_url.url"


def test_a_stream_to_its_end() -> None:
    chunks, final = read(START, HI, STOP)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": "Hi", "refusal": None}
    assert final.complete
    assert final.usage is not None
    assert final.usage.input_tokens == 3


@pytest.mark.parametrize(
    ("exception", "code", "status"),
    [
        ("throttlingException", "rate_limit_exceeded", 429),
        ("validationException", "invalid_request_error", 400),
        ("modelTimeoutException", "provider_timeout", 504),
        ("modelStreamErrorException", "provider_error", 502),
        ("internalServerException", "provider_error", 502),
        ("serviceUnavailableException", "provider_error", 502),
        ("newException", "provider_error", 502),
    ],
)
def test_an_exception_inside_a_stream_is_an_error(exception: str, code: str, status: int) -> None:
    chunks, final = read(START, HI, message({"message": "No."}, exception=exception), HI, STOP)
    assert len(chunks) == 1, "nothing after it is read"
    assert not final.complete
    assert final.error is not None
    assert (final.error.http_status, code_of(final.error)) == (status, code)


def test_an_exception_after_the_last_word_changes_nothing() -> None:
    assert read(START, HI, STOP, message({"message": "No."}, exception="internalServerException"))[1].complete


def test_events_of_a_kind_not_known_are_passed_over() -> None:
    assert read(START, message({}).replace(b"chunk", b"other"))[1].error is not None, "its checksum is wrong now"
    assert read(START, HI, chunk({"type": "novelty"}), STOP)[1].complete


@pytest.mark.parametrize("damaged", [HI[:-1] + bytes([HI[-1] ^ 1]), b"<html>no</html>", message({"p": "abc"})])
def test_what_cannot_be_read_is_the_providers_failure(damaged: bytes) -> None:
    chunks, final = read(START, HI, damaged, STOP)
    assert len(chunks) == 1
    assert final.error is not None
    assert (final.error.code, "could not be read" in final.error.message) == ("provider_error", True)


def test_a_stream_cut_inside_a_message_broke_off() -> None:
    final = read(START, HI, STOP[:-1])[1]
    assert final.error is not None
    assert "broke off" in final.error.message


def test_a_full_context_is_named() -> None:
    error = refused(400, b'{"message": "Input is too long for requested model."}', "ValidationException:http://x/")
    assert (error.http_status, code_of(error)) == (400, "context_length_exceeded")


@pytest.mark.parametrize(
    ("status", "kind", "told", "code"),
    [
        (400, "ValidationException", 400, "invalid_request_error"),
        (400, "ServiceQuotaExceededException", 502, "provider_error"),
        (403, "AccessDeniedException", 502, "provider_error"),
        (408, "ModelTimeoutException", 504, "provider_timeout"),
        (424, "ModelErrorException", 502, "provider_error"),
        (429, "ThrottlingException", 429, "rate_limit_exceeded"),
        (503, "ServiceUnavailableException", 502, "provider_error"),
    ],
)
@pytest.mark.parametrize("field", ["message", "Message"])
def test_errors_by_status_and_type(status: int, kind: str, told: int, code: str, field: str) -> None:
    error = refused(status, json.dumps({field: "Our words."}).encode(), f"{kind}:http://internal/")
    assert (error.http_status, code_of(error)) == (told, code)
    assert ("Our words." in error.message) == (told == 400)


@pytest.mark.parametrize("said", [b"", b"<html>", b"[1]", b'{"message": 7}', b"\xff"])
def test_an_error_that_says_nothing_readable(said: bytes) -> None:
    assert refused(503, said).code == "provider_error"
