"""What a provider's failure becomes: status, code, text, and how long to wait."""

import json
from email.utils import formatdate
from typing import Any

import pytest

from extproc.adapters.failures import MAX_RETRY_AFTER_S
from extproc.adapters.registry import adapter_for
from extproc.errors import UNSAID_RETRY_AFTER_S, GatewayError

from .asking import target

NOW = 1_700_000_000
FORMATS = ["openai", "azure", "anthropic", "google"]


def error_body(fmt: str, message: str, **more: Any) -> bytes:
    return json.dumps(
        {"error": {"message": message, **more}} | ({"type": "error"} if fmt == "anthropic" else {})
    ).encode()


def error(fmt: str, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> GatewayError:
    return adapter_for(target(fmt), "id", NOW, False).error(status, headers or {}, body)


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize(
    ("status", "expected", "code", "shown"),
    [
        (400, 400, "invalid_request_error", True),
        (404, 404, "model_not_found", True),
        (413, 413, "request_too_large", True),
        (422, 422, "invalid_request_error", True),
        (401, 502, "provider_error", False),
        (402, 502, "provider_error", False),
        (403, 502, "provider_error", False),
        (405, 502, "provider_error", False),
        (408, 504, "provider_timeout", False),
        (409, 502, "provider_error", False),
        (429, 429, "rate_limit_exceeded", False),
        (500, 502, "provider_error", False),
        (502, 502, "provider_error", False),
        (503, 502, "provider_error", False),
        (529, 502, "provider_error", False),
        (599, 502, "provider_error", False),
    ],
)
def test_trap_27_status(fmt: str, status: int, expected: int, code: str, shown: bool) -> None:
    found = error(fmt, status, error_body(fmt, "secret-or-not"))
    assert found.http_status == expected
    assert found.payload()["error"]["code"] == code
    assert ("secret-or-not" in found.body().decode()) == shown


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>secret</html>",
        b"[]",
        b"null",
        b'{"error":"secret"}',
        b'{"error":5}',
        b'{"error":{"message":7}}',
        b"\xff\xfe",
        b"[" * 9999,
    ],
)
@pytest.mark.parametrize("status", [400, 429, 500])
def test_an_error_that_cannot_be_read_is_told_by_its_status(fmt: str, body: bytes, status: int) -> None:
    found = error(fmt, status, body)
    assert found.http_status == {400: 400, 429: 429, 500: 502}[status]
    assert b"secret" not in found.body()


def test_an_error_that_is_the_whole_body() -> None:
    """Mistral's API and vLLM before 0.10 (entrypoints/openai/protocol.py, ErrorResponse) have no `error` around it."""
    too_long = "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens."
    said = {"object": "error", "message": too_long, "type": "BadRequestError", "param": None, "code": 400}
    found = error("openai", 400, json.dumps(said).encode())
    assert (found.payload()["error"]["message"], found.payload()["error"]["code"]) == (
        too_long,
        "context_length_exceeded",
    )
    assert b"secret" not in error("openai", 400, b'{"message": "secret"}').body()


def test_trap_30_an_error_that_is_a_text_beside_its_code() -> None:
    """xAI's, as vercel/ai#15338 found it live."""
    text = "This model's maximum prompt length is 131072 but the request contains 537812 tokens."
    found = error("openai", 400, json.dumps({"code": "Client specified an invalid argument", "error": text}).encode())
    assert (found.payload()["error"]["message"], found.payload()["error"]["code"]) == (text, "context_length_exceeded")


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, UNSAID_RETRY_AFTER_S),
        ({"retry-after": "20"}, 20.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after-ms": "250", "retry-after": "20"}, 0.25),
        ({"retry-after": formatdate(NOW + 90, usegmt=True)}, 90.0),
        ({"retry-after": formatdate(NOW - 90, usegmt=True)}, 0.0),
        ({"retry-after": "-5"}, 0.0),
        ({"retry-after": "999999"}, MAX_RETRY_AFTER_S),
        ({"retry-after": formatdate(NOW + 10**7, usegmt=True)}, MAX_RETRY_AFTER_S),
        ({"retry-after": "soon"}, UNSAID_RETRY_AFTER_S),
        ({"retry-after": ""}, UNSAID_RETRY_AFTER_S),
        ({"retry-after": "nan"}, UNSAID_RETRY_AFTER_S),
        ({"retry-after": "inf"}, UNSAID_RETRY_AFTER_S),
        ({"retry-after": "Fri, 99 Nov 99999 99:99:99 GMT"}, UNSAID_RETRY_AFTER_S),
        ({"retry-after-ms": "x", "retry-after": "3"}, 3.0),
    ],
)
def test_trap_26_retry_after(fmt: str, headers: dict[str, str], expected: float) -> None:
    assert error(fmt, 429, b"{}", headers).retry_after_s == expected


def test_trap_26_google_says_it_in_the_body() -> None:
    details = [
        {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{}]},
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "17.5s"},
    ]
    body = error_body("google", "Quota exceeded", code=429, status="RESOURCE_EXHAUSTED", details=details)
    assert error("google", 429, body).retry_after_s == 17.5
    assert error("google", 429, b"[" + body + b"]").retry_after_s == 17.5
    assert error("google", 429, body, {"retry-after": "3"}).retry_after_s == 3


@pytest.mark.parametrize("delay", ["17", "s", "-3s", "xs", "1e99s"])
def test_trap_26_a_strange_delay_is_passed_over_or_capped(delay: str) -> None:
    details = [{"retryDelay": delay}]
    wait = error("google", 429, error_body("google", "x", details=details)).retry_after_s
    assert wait is not None
    assert 0 <= wait <= MAX_RETRY_AFTER_S


@pytest.mark.parametrize(
    ("fmt", "status", "message"),
    [
        ("openai", 400, "This model's maximum context length is 128000 tokens. However, you requested 130000 tokens."),
        ("openai", 400, "Your input exceeds the context window of this model. Please adjust your input and try again."),
        ("azure", 400, "This model's maximum context length is 8192 tokens."),
        ("openai", 400, "The input (9000 tokens) is longer than the model's context length (8192 tokens)."),
        ("openai", 422, "The decoder prompt (length 9000) is longer than the maximum model length of 8192."),
        ("anthropic", 400, "prompt is too long: 210000 tokens > 200000 maximum"),
        ("anthropic", 400, "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000"),
        ("anthropic", 413, "Prompt is too long"),
        ("google", 400, "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)."),
        ("google", 400, "Unable to submit request because the input token count is 1200000 but model only supports …"),
        ("anthropic", 400, "Input is too long for requested model."),
        ("azure", 400, "Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in 509178."),
        ("google", 400, "The input token count exceeds the maximum number of tokens allowed (1048576)."),
        ("openai", 400, "Requested token count exceeds the model's maximum context length of 131072 tokens."),
        ("openai", 400, "Prompt contains 40000 tokens, too large for model with 32768 maximum context length"),
        ("openai", 400, "the request exceeds the available context size (4096 tokens), try increasing it"),
        ("openai", 400, "This model's maximum prompt length is 131072 but the request contains 537812 tokens."),
        ("openai", 422, "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 8192. Given: 9000"),
        ("openai", 400, "The total length of all messages is too long."),
        ("openai", 400, "Invalid request: Your request exceeded model token limit: 131072"),
        ("anthropic", 400, "The model returned the following errors: Too many input tokens. Max input tokens: 8192"),
    ],
)
def test_trap_30_a_full_context_is_named_so(fmt: str, status: int, message: str) -> None:
    found = error(fmt, status, error_body(fmt, message))
    assert found.http_status == 400
    assert found.payload()["error"]["code"] == "context_length_exceeded"
    assert found.payload()["error"]["message"] == message


def test_trap_30_by_its_code_too() -> None:
    found = error("openai", 400, error_body("openai", "Zu lang", code="context_length_exceeded", param="messages"))
    assert found.payload()["error"]["code"] == "context_length_exceeded"


def test_trap_30_the_words_mean_nothing_with_another_status() -> None:
    assert error("openai", 500, error_body("openai", "maximum context length")).http_status == 502


def test_openais_parameter_and_filter_code_are_kept() -> None:
    found = error("openai", 400, error_body("openai", "No", param="tools[0]", code="content_filter"))
    assert found.payload()["error"] == {
        "message": "No", "type": "invalid_request_error", "param": "tools[0]", "code": "content_filter"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fmt", "body"),
    [
        (
            "google",
            {"message": "API key not valid.", "status": "INVALID_ARGUMENT", "details": [{"reason": "API_KEY_INVALID"}]},
        ),
        ("google", {"message": "User location is not supported.", "status": "FAILED_PRECONDITION"}),
        (
            "anthropic",
            {"message": "Your credit balance is too low to access the API.", "type": "invalid_request_error"},
        ),
        ("openai", {"message": "Billing hard limit has been reached", "code": "billing_hard_limit_reached"}),
        (
            "openai",
            {"message": "Your organization must be verified to stream this model.", "code": "unsupported_value"},
        ),
    ],
)
def test_a_400_about_our_own_account_is_ours(fmt: str, body: dict[str, Any]) -> None:
    found = error(fmt, 400, json.dumps({"error": body}).encode())
    assert found.http_status == 502
    assert body["message"] not in found.message


def test_what_an_account_may_send_in_a_minute_is_no_matter_of_waiting_and_names_no_account() -> None:
    """Groq's 413 (openclaw#147644)."""
    text = "Request too large for model `m` in organization `org_01` on tokens per minute (TPM): Limit 8000"
    found = error("openai", 413, error_body("openai", text, type="tokens", code="rate_limit_exceeded"))
    assert (found.http_status, found.payload()["error"]["code"]) == (413, "request_too_large")
    assert "org_01" not in found.message


def test_a_model_that_is_no_more_is_not_found() -> None:
    """Groq's 400 (openfang#60)."""
    found = error("openai", 400, error_body("openai", "It has been decommissioned.", code="model_decommissioned"))
    assert (found.http_status, found.payload()["error"]["code"]) == (404, "model_not_found")


def test_a_long_text_is_cut() -> None:
    assert len(error("openai", 400, error_body("openai", "x" * 100_000)).body()) < 3_000


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("invalid_request_error", 400),
        ("authentication_error", 502),
        ("permission_error", 502),
        ("billing_error", 502),
        ("not_found_error", 404),
        ("request_too_large", 413),
        ("rate_limit_error", 429),
        ("api_error", 502),
        ("overloaded_error", 502),
        ("timeout_error", 502),
        ("invented_tomorrow", 502),
    ],
)
@pytest.mark.parametrize("streamed", [True, False])
def test_traps_20_27_anthropics_error_inside_a_200(kind: str, status: int, streamed: bool) -> None:
    adapter = adapter_for(target("anthropic"), "id", NOW, streamed)
    data = json.dumps({"type": "error", "error": {"type": kind, "message": "secret-or-not"}})
    assert adapter.feed((f"event: error\ndata: {data}\n\n" if streamed else data).encode()) == []
    final = adapter.finish()
    assert final.error is not None
    assert not final.complete
    assert final.error.http_status == status
    assert ("secret-or-not" in final.error.message) == (status in (400, 404, 413))


@pytest.mark.parametrize(("code", "status"), [(400, 400), (403, 502), (429, 429), (503, 502), (None, 502), (7, 502)])
@pytest.mark.parametrize("streamed", [True, False])
def test_trap_20_googles_error_inside_a_200(code: int | None, status: int, streamed: bool) -> None:
    adapter = adapter_for(target("google"), "id", NOW, streamed)
    data = json.dumps({"error": {"code": code, "message": "x", "details": [{"retryDelay": "9s"}]}})
    adapter.feed((f"data: {data}\r\n\r\n" if streamed else data).encode())
    found = adapter.finish().error
    assert found is not None
    assert found.http_status == status
    assert found.retry_after_s == (9 if status == 429 else None)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"type": "server_error"}, 502),
        ({"type": "invalid_request_error"}, 400),
        ({"type": "requests", "code": "rate_limit_exceeded"}, 429),
        ({"type": "insufficient_quota", "code": "insufficient_quota"}, 429),
        ({"code": "context_length_exceeded", "type": "invalid_request_error"}, 400),
        ({"code": 503}, 502),
        ({"code": 429}, 429),
        ({"code": {"a": 1}}, 502),
        ("just a text", 502),
    ],
)
def test_trap_20_openais_error_inside_a_200(body: Any, status: int) -> None:
    adapter = adapter_for(target("openai"), "id", NOW, True)
    adapter.feed(b"data: " + json.dumps({"error": body}).encode() + b"\n\n")
    found = adapter.finish().error
    assert found is not None
    assert found.http_status == status
