"""The official OpenAI SDK through a real Envoy: the same answer, whichever format the provider speaks."""

import gzip
import json
import socket
from typing import Any

import openai
import pytest

from tests.envoy.harness import FORMATS, MIB, MODEL_OF, Config, Gateway, Simulator, ask, bearer, impatient, marker

MODELS = [MODEL_OF[name] for name in FORMATS]
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "A tool.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
    for name in ("get_weather", "get_time")
]
PIXEL = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


@pytest.fixture(scope="module")
def config(config: Config) -> Config:
    return impatient(config)


@pytest.mark.parametrize("model", MODELS)
class TestEveryFormat:
    def test_whole(self, gateway: Gateway, model: str) -> None:
        answer = gateway.client().chat.completions.create(**ask("Say hello", model))
        raw = answer.model_dump()
        assert answer.object == "chat.completion"
        assert answer.model == model
        assert answer.choices[0].message.content
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage is not None
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0
        assert raw["routed_from"] == model
        assert raw["provider"] in FORMATS
        assert raw["usage"]["input_tokens"] == answer.usage.prompt_tokens
        assert raw["usage"]["output_tokens"] == answer.usage.completion_tokens
        expected = (answer.usage.prompt_tokens * 1.0 + answer.usage.completion_tokens * 4.0) / 1e6
        assert raw["usage"]["cost_usd"] == pytest.approx(expected)
        metadata = raw["gateway_metadata"]
        assert metadata["routing_decision"] == "pinned"
        assert metadata["cache_hit"] is False
        assert metadata["attempts"] == 1
        assert 0 < metadata["gateway_latency_ms"] <= metadata["total_latency_ms"]
        row = gateway.row(metadata["request_id"])
        assert (row["status"], row["team_id"], row["model_used"]) == ("success", "team-a", model)
        assert (row["input_tokens"], row["output_tokens"]) == (
            answer.usage.prompt_tokens,
            answer.usage.completion_tokens,
        )

    def test_stream_is_the_same_text(self, gateway: Gateway, model: str) -> None:
        whole = gateway.client().chat.completions.create(**ask("Tell me a story", model))
        chunks = list(gateway.client().chat.completions.create(**ask("Tell me a story", model), stream=True))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert text == whole.choices[0].message.content
        assert len(chunks) > 2
        assert len({chunk.id for chunk in chunks}) == 1
        assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason] == ["stop"]
        assert all(chunk.choices for chunk in chunks), "the usage chunk is not for a client that did not ask"

    def test_stream_usage_only_when_asked(self, gateway: Gateway, model: str) -> None:
        create = gateway.client().chat.completions.create
        whole = create(**ask("Count", model))
        chunks = list(create(**ask("Count", model), stream=True, stream_options={"include_usage": True}))
        assert [bool(chunk.choices) for chunk in chunks].count(False) == 1
        assert chunks[-1].usage.total_tokens == whole.usage.total_tokens > 0
        assert all(chunk.usage is None for chunk in chunks[:-1])

    def test_headers_of_a_stream(self, gateway: Gateway, model: str) -> None:
        raw = gateway.client().chat.completions.with_raw_response.create(**ask("Hi", model), stream=True)
        headers = raw.headers
        for _ in raw.parse():
            pass
        assert headers["x-gateway-model"] == model
        assert headers["x-gateway-provider"] in FORMATS
        assert headers["x-gateway-routing"] == "pinned"
        assert headers["x-gateway-cache"] in ("miss", "bypass")
        assert headers["content-type"].startswith("text/event-stream")
        row = gateway.row(headers["x-gateway-request-id"])
        assert (row["status"], row["model_used"], row["finish_reason"]) == ("success", model, "stop")
        assert row["output_tokens"] > 0
        assert row["first_byte_ms"] <= row["latency_ms"]

    @pytest.mark.parametrize("stream", [False, True])
    def test_tools_in_parallel_and_back(self, gateway: Gateway, model: str, stream: bool) -> None:
        messages: list[Any] = [{"role": "user", "content": "call get_weather and get_time"}]
        create = gateway.client().chat.completions.create
        if stream:
            with gateway.client().chat.completions.stream(model=model, messages=messages, tools=TOOLS) as events:
                message = events.get_final_completion().choices[0].message
        else:
            message = create(model=model, messages=messages, tools=TOOLS).choices[0].message
        calls = message.tool_calls
        assert calls is not None
        assert [call.function.name for call in calls] == ["get_weather", "get_time"]
        assert all("city" in json.loads(call.function.arguments) for call in calls)
        assert len({call.id for call in calls}) == 2
        messages.append(message.model_dump(exclude_none=True))
        messages += [
            {"role": "tool", "tool_call_id": call.id, "content": f"sunny-{call.function.name}"} for call in calls
        ]
        final = create(model=model, messages=messages, tools=TOOLS)
        assert "sunny-get_weather" in (final.choices[0].message.content or "")

    @pytest.mark.parametrize("url", [PIXEL, "https://example.com/a.png"], ids=["data", "link"])
    def test_images(self, gateway: Gateway, model: str, url: str) -> None:
        parts = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": url}}]
        messages: Any = [{"role": "user", "content": parts}]
        answer = gateway.client().chat.completions.create(model=model, messages=messages)
        assert "image" in (answer.choices[0].message.content or "").lower()

    def test_system_prompt_and_turns_and_limits(self, gateway: Gateway, model: str) -> None:
        messages: Any = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "One"},
            {"role": "assistant", "content": "Two"},
            {"role": "user", "content": "Three"},
        ]
        answer = gateway.client().chat.completions.create(
            model=model, messages=messages, max_tokens=3, temperature=0.5, top_p=0.9, stop=["###"]
        )
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage is not None
        assert answer.usage.completion_tokens <= 3

    def test_json_schema(self, gateway: Gateway, model: str) -> None:
        schema = {
            "type": "object",
            "properties": {"name": {"type": "string"}},
            "required": ["name"],
            "additionalProperties": False,
        }
        wanted: Any = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": True}}
        answer = gateway.client().chat.completions.create(**ask("A person", model), response_format=wanted)
        assert "name" in json.loads(answer.choices[0].message.content or "")


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("fault", "error", "code"),
    [
        ({"status": 400}, openai.BadRequestError, "invalid_request_error"),
        ({"status": 401}, openai.InternalServerError, "provider_error"),
        ({"status": 403}, openai.InternalServerError, "provider_error"),
        ({"status": 404}, openai.NotFoundError, "model_not_found"),
        ({"status": 429, "retry_after": "7"}, openai.RateLimitError, "rate_limit_exceeded"),
        ({"status": 500}, openai.InternalServerError, "provider_error"),
        ({"status": 503}, openai.InternalServerError, "provider_error"),
        ({"status": 529}, openai.InternalServerError, "provider_error"),
        ({"hang": "before_headers"}, openai.InternalServerError, "provider_timeout"),
        ({"reset": "before_headers"}, openai.InternalServerError, "provider_error"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_errors_of_a_provider(
    gateway: Gateway, primary: Simulator, model: str, fault: dict[str, Any], error: type, code: str, stream: bool
) -> None:
    with pytest.raises(error) as caught:
        gateway.client().chat.completions.create(**ask(marker(**fault), model), stream=stream)
    raised = caught.value
    assert raised.code == code
    expected = {"provider_error": 502, "provider_timeout": 504}.get(code, fault.get("status"))
    assert raised.status_code == expected
    if fault.get("status") == 429:
        assert 1 <= int(raised.response.headers["retry-after"]) <= 8
    row = gateway.row(raised.response.headers["x-gateway-request-id"])
    assert (row["status"], row["error_code"], row["output_tokens"]) == ("failed", code, 0)


def test_authentication(gateway: Gateway) -> None:
    with pytest.raises(openai.AuthenticationError) as caught:
        gateway.client("sk-nobody").chat.completions.create(**ask("hi"))
    assert caught.value.code == "invalid_api_key"
    missing = gateway.http.post("/v1/chat/completions", json=ask("hi"))
    assert (missing.status_code, missing.headers["www-authenticate"]) == (401, "Bearer")


def test_a_stranger_is_told_before_the_body_comes(gateway: Gateway) -> None:
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer sk-nobody\r\n"
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as client:
        client.sendall(f"{head}content-type: application/json\r\ncontent-length: {20 * MIB}\r\n\r\n".encode())
        assert client.recv(65536).startswith(b"HTTP/1.1 401 ")


def test_a_model_that_does_not_exist(gateway: Gateway) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        gateway.client().chat.completions.create(**ask("hi", "gpt-99"))
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert gateway.row(caught.value.response.headers["x-gateway-request-id"])["status"] == "refused"


def test_models_of_a_key(gateway: Gateway) -> None:
    assert [model.id for model in gateway.client("sk-other").models.list()] == ["gpt"]
    assert gateway.client().models.retrieve("claude").id == "claude"
    with pytest.raises(openai.NotFoundError):
        gateway.client("sk-other").models.retrieve("claude")
    with pytest.raises(openai.PermissionDeniedError) as caught:
        gateway.client("sk-other").chat.completions.create(**ask("hi", "claude"))
    assert caught.value.code == "model_not_allowed"


def test_a_team_id_that_contradicts_the_key(gateway: Gateway) -> None:
    with pytest.raises(openai.PermissionDeniedError) as caught:
        gateway.client().chat.completions.create(**ask("hi"), metadata={"team_id": "team-b"})
    assert (caught.value.code, caught.value.param) == ("team_mismatch", "metadata.team_id")
    gateway.client().chat.completions.create(**ask("hi"), metadata={"team_id": "team-a"})


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"{", None),
        (b"[]", None),
        (b'{"messages": [{"role": "user", "content": "x"}]}', "model"),
        (b'{"model": null, "messages": [{"role": "user", "content": "x"}]}', "model"),
        (b'{"model": "gpt", "messages": []}', "messages"),
        (b'{"model": "gpt", "messages": [{"role": 1}]}', "messages[0].role"),
        (b'{"model": "gpt", "messages": [{"role": "user", "content": "x"}], "n": 0}', "n"),
        (b'{"model": "claude", "messages": [{"role": "user", "content": "x"}], "n": 2}', "n"),
        (b"\xff\xfe", None),
        (b'{"model": "gpt", "messages": [{"role": "user", "content": "\\ud800"}]}', None),
    ],
)
def test_bad_input_is_a_400_that_names_the_parameter(gateway: Gateway, body: bytes, param: str | None) -> None:
    answer = gateway.http.post("/v1/chat/completions", content=body, headers=bearer())
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", "invalid_request_error", param)
    assert error["message"]
    assert gateway.row(answer.headers["x-gateway-request-id"])["status"] == "refused"


def test_headers_that_are_no_utf_8(gateway: Gateway) -> None:
    """A key of such bytes is a wrong key; a `traceparent` of them is none, even where a later version may go on."""
    wrong = gateway.http.get("/v1/models", headers={"authorization": b"Bearer caf\xe9"})
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (401, "invalid_api_key")
    trace = b"01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-caf\xe9"
    answer = gateway.http.post("/v1/chat/completions", json=ask("hi"), headers=bearer() | {"traceparent": trace})
    assert answer.status_code == 200, answer.text
    request_id = answer.headers["x-gateway-request-id"]
    assert gateway.row(request_id)["trace_id"] == request_id.replace("-", "")


def test_a_compressed_request_is_refused_not_guessed(gateway: Gateway) -> None:
    body = gzip.compress(json.dumps(ask("hi")).encode())
    answer = gateway.http.post("/v1/chat/completions", content=body, headers=bearer() | {"content-encoding": "gzip"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "content-encoding")


# What OpenAI's own answers have beside all that its API promises, and what translated ones have beside it.
OPENAIS = {
    *(f".{name}" for name in ("service_tier", "system_fingerprint", "obfuscation", "choices.message.annotations")),
    *(f".usage.completion_tokens_details.{kind}_prediction_tokens" for kind in ("accepted", "rejected")),
    *(f".usage.{kind}_tokens_details.audio_tokens" for kind in ("prompt", "completion")),
}
OURS = {".usage.prompt_tokens_details.cache_write_tokens"}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("text", "more"),
    [
        ("Tell me a story", {}),
        ("Tell me a story", {"max_tokens": 3}),
        ("call get_weather and get_time", {"tools": TOOLS}),
        (marker(status=500), {}),
    ],
    ids=["text", "cut", "tools", "error"],
)
def test_whichever_provider_answers_the_shape_is_the_same(
    gateway: Gateway, primary: Simulator, text: str, more: dict[str, Any], stream: bool
) -> None:
    """The same fields wherever OpenAI's API promises one; it says of every other one that it may be left out."""
    shapes = []
    options = more | ({"stream": True, "stream_options": {"include_usage": True}} if stream else {})
    for model in MODELS:
        said = gateway.http.post("/v1/chat/completions", json=ask(text, model, **options), headers=bearer()).text
        events = [line.removeprefix("data: ") for line in said.splitlines() if line.startswith("data: {")]
        shapes.append(shape([json.loads(event) for event in events or [said]]))
    native, *translated = shapes
    assert translated[0] == translated[1]
    assert native - OPENAIS == translated[0] - OURS


def shape(documents: list[Any], path: str = "") -> set[str]:
    """Every path to a value in the documents."""
    found = set()
    for document in documents:
        for name, value in document.items() if isinstance(document, dict) else ():
            found.add(f"{path}.{name}")
            found |= shape(value if isinstance(value, list) else [value], f"{path}.{name}")
    return found


def test_unknown_paths_and_methods(gateway: Gateway) -> None:
    assert gateway.http.get("/v1/nothing", headers=bearer()).json()["error"]["code"] == "not_found"
    answer = gateway.http.get("/v1/chat/completions", headers=bearer())
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"


def test_no_request_is_a_line_of_a_workers(gateway: Gateway, primary: Simulator) -> None:
    """Rows and traces tell of it, however it ends."""

    def lines() -> list[str]:
        return [line for line in gateway.log().splitlines() if '"process":"worker' in line]

    before = lines()
    assert before, "that they serve"
    for text in ("hi", marker(status=400), marker(status=500)):
        answer = gateway.http.post("/v1/chat/completions", json=ask(text), headers=bearer())
        gateway.row(answer.headers["x-gateway-request-id"])
    assert lines() == before


def test_what_a_provider_sees(gateway: Gateway, primary: Simulator) -> None:
    """Its own credential and nothing of the client's or of ours."""
    headers = bearer() | {
        "x-gw-cluster": "provider-dead",
        "x-gw-fallback": "1",
        "cookie": "a=b",
        "x-envoy-max-retries": "9",
        "x-request-id": "b5f1a9a2-0000-4000-8000-000000000000",
    }
    answer = gateway.http.post("/v1/chat/completions", json=ask("hi"), headers=headers)
    assert answer.status_code == 200, answer.text
    seen = primary.recent()[-1]["headers"]
    assert not [name for name in seen if name.startswith(("x-gw-", "x-envoy-", "x-forwarded-", "x-stainless-"))]
    assert "cookie" not in seen
    assert seen["accept-encoding"] == "identity"
    assert seen["x-request-id"] == answer.headers["x-gateway-request-id"] != headers["x-request-id"]


def test_a_clients_own_request_id_names_nothing(gateway: Gateway) -> None:
    """Else whoever sends one twice, as services do that hand on their caller's, is served twice and charged once."""
    headers = bearer() | {"x-request-id": "7c1e66cc-0000-4000-8000-000000000000"}
    answers = [gateway.http.post("/v1/chat/completions", json=ask("hi"), headers=headers) for _ in range(2)]
    ids = {answer.headers["x-gateway-request-id"] for answer in answers}
    assert len(ids | {headers["x-request-id"]}) == 3
    assert all(gateway.row(each)["output_tokens"] > 0 for each in ids)
