"""Google's format, by its documented shapes and judged by the official SDK where that is installed."""

import json
from typing import Any

import httpx
import pytest

from control.demo.server import DemoProvider
from control.demo.simulator import Options

PLAIN = "/v1beta/models/gemini-2.5-flash:generateContent"
SSE = "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse"
HELLO: list[Any] = [{"role": "user", "parts": [{"text": "Hello there"}]}]
WEATHER: dict[str, Any] = {
    "name": "get_weather",
    "description": "The weather",
    "parameters": {"type": "OBJECT", "properties": {"city": {"type": "STRING"}, "days": {"type": "INTEGER"}}},
}
DATE: dict[str, Any] = {"name": "get_date"}
TOOLS: list[Any] = [{"functionDeclarations": [WEATHER, DATE]}]


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    blocks = answer.content.split(b"\r\n\r\n")
    assert blocks.pop() == b""
    assert all(block.startswith(b"data: ") for block in blocks)
    return [json.loads(block[6:]) for block in blocks]


def text_of(responses: list[dict[str, Any]]) -> str:
    parts = [part for one in responses for part in one["candidates"][0]["content"].get("parts", [])]
    return "".join(part.get("text", "") for part in parts)


@pytest.mark.parametrize("model", ["gemini-2.5-flash", "gemini-3-pro", "gemini-3.5-flash"])
async def test_a_streamed_answer_is_the_plain_one(http: httpx.AsyncClient, model: str) -> None:
    plain = (await http.post(f"/v1beta/models/{model}:generateContent", json={"contents": HELLO})).json()
    path = f"/v1beta/models/{model}:streamGenerateContent"
    streamed = events(await http.post(f"{path}?alt=sse", json={"contents": HELLO}))
    assert text_of(streamed) == text_of([plain])
    assert streamed[-1]["usageMetadata"] == plain["usageMetadata"]
    assert [one["candidates"][0].get("finishReason") for one in streamed] == [None] * (len(streamed) - 1) + ["STOP"]
    counts = [one["usageMetadata"]["candidatesTokenCount"] for one in streamed]
    assert counts == sorted(counts)
    assert {one["modelVersion"] for one in streamed} == {model}
    assert len({one["responseId"] for one in streamed}) == 1
    array = (await http.post(path, json={"contents": HELLO})).json()
    assert text_of(array) == text_of(streamed)


async def test_calls_have_no_id_and_no_signature_before_gemini_3(http: httpx.AsyncClient) -> None:
    contents: list[Any] = [{"role": "user", "parts": [{"text": "call get_weather and get_date"}]}]
    answer = (await http.post(PLAIN, json={"contents": contents, "tools": TOOLS})).json()
    parts = answer["candidates"][0]["content"]["parts"]
    assert [part["functionCall"]["name"] for part in parts] == ["get_weather", "get_date"]
    assert set(parts[0]["functionCall"]["args"]) == {"city", "days"}
    assert all(set(part) == {"functionCall"} and "id" not in part["functionCall"] for part in parts)
    assert answer["candidates"][0]["finishReason"] == "STOP"
    streamed = events(await http.post(SSE, json={"contents": contents, "tools": TOOLS}))
    calls = [part for one in streamed for part in one["candidates"][0]["content"]["parts"] if "functionCall" in part]
    assert calls == parts
    assert streamed[-1]["usageMetadata"] == answer["usageMetadata"]


async def test_gemini_3_wants_its_signature_back(http: httpx.AsyncClient) -> None:
    path = "/v1beta/models/gemini-3-pro:generateContent"
    contents: list[Any] = [{"role": "user", "parts": [{"text": "call get_weather and get_date"}]}]
    answer = (await http.post(path, json={"contents": contents, "tools": TOOLS})).json()
    said = answer["candidates"][0]["content"]
    assert ["thoughtSignature" in part for part in said["parts"]] == [True, False]  # the first call only
    names = [part["functionCall"]["name"] for part in said["parts"]]
    results = [{"functionResponse": {"name": name, "response": {"result": f"ok {name}"}}} for name in names]
    turn = {"contents": [*contents, said, {"role": "user", "parts": results}], "tools": TOOLS}
    after = await http.post(path, json=turn)
    assert after.status_code == 200
    assert "get_weather returned ok get_weather" in text_of([after.json()])

    signature = said["parts"][0].pop("thoughtSignature")
    missing = await http.post(path, json=turn)
    assert missing.status_code == 400
    assert "missing a thought_signature" in missing.json()["error"]["message"]
    for replacement, status in ((signature[4:], 400), (signature.replace("+", "-").replace("/", "_"), 200)):
        said["parts"][0]["thoughtSignature"] = replacement
        assert (await http.post(path, json=turn)).status_code == status
    said["parts"][0].pop("thoughtSignature")
    later = {"contents": [*turn["contents"], {"role": "user", "parts": [{"text": "thanks"}]}], "tools": TOOLS}
    assert (await http.post(path, json=later)).status_code == 200  # only the current turn is checked


async def test_from_gemini_3_5_calls_have_ids(http: httpx.AsyncClient) -> None:
    contents: list[Any] = [{"role": "user", "parts": [{"text": "call get_weather and get_date"}]}]
    path = "/v1beta/models/gemini-3.5-flash:generateContent"
    answer = (await http.post(path, json={"contents": contents, "tools": TOOLS})).json()
    assert len({part["functionCall"]["id"] for part in answer["candidates"][0]["content"]["parts"]}) == 2


async def test_limits_stops_refusals_images_thoughts_and_candidates(http: httpx.AsyncClient) -> None:
    async def ask(config: dict[str, Any], text: str = "Hello there") -> dict[str, Any]:
        contents = [{"role": "user", "parts": [{"text": text}]}]
        answer = await http.post(PLAIN, json={"contents": contents, "generationConfig": config})
        return dict(answer.json())

    cut = await ask({"maxOutputTokens": 5})
    assert cut["candidates"][0]["finishReason"] == "MAX_TOKENS"
    assert cut["usageMetadata"]["candidatesTokenCount"] == 5
    stopped = await ask({"stopSequences": ["asked"]})
    assert text_of([stopped]) == "✓ You "
    assert (await ask({}, "refuse this"))["candidates"][0]["finishReason"] == "SAFETY"
    blocked = await ask({}, "block this")
    assert "candidates" not in blocked
    assert blocked["promptFeedback"] == {"blockReason": "PROHIBITED_CONTENT"}
    usage = (await ask({"thinkingConfig": {"thinkingBudget": 512}}))["usageMetadata"]
    assert usage["thoughtsTokenCount"] == 128
    parts = ("promptTokenCount", "candidatesTokenCount", "thoughtsTokenCount")
    assert usage["totalTokenCount"] == sum(usage[part] for part in parts)
    assert [one["index"] for one in (await ask({"candidateCount": 3}))["candidates"]] == [0, 1, 2]

    inline = {"inline_data": {"mime_type": "image/png", "data": "iVBORw0KGgo="}}  # snake_case is accepted
    contents = [{"role": "user", "parts": [inline, {"text": "What is it?"}]}]
    assert "1 image" in text_of([(await http.post(PLAIN, json={"contents": contents})).json()])


async def test_json_answers(http: httpx.AsyncClient) -> None:
    schema = {"type": "OBJECT", "properties": {"age": {"type": "INTEGER"}}}
    loose = {"type": "object", "properties": {"age": {"type": "integer"}}, "additionalProperties": False}
    for extra in ({"responseSchema": schema}, {"responseJsonSchema": loose}):
        config = {"responseMimeType": "application/json"} | extra
        answer = await http.post(PLAIN, json={"contents": HELLO, "generationConfig": config})
        assert list(json.loads(text_of([answer.json()]))) == ["age"]


CALL = {"role": "model", "parts": [{"functionCall": {"name": "f", "args": {}}}]}
RESPONSE = {"functionResponse": {"name": "f", "response": {}}}


def declared(parameters: dict[str, Any]) -> dict[str, Any]:
    return {"tools": [{"functionDeclarations": [{"name": "f", "parameters": parameters}]}]}


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"stream": True}, 'Unknown name "stream": Cannot find field.'),
    ({"contents": []}, "contents is not specified"),
    ({"contents": [{"role": "assistant", "parts": [{"text": "x"}]}]}, "valid role"),
    ({"contents": [{"role": "user", "parts": []}]}, "must not be empty"),
    ({"contents": [{"role": "user", "parts": [{}]}]}, "oneof field 'data'"),
    ({"contents": [{"role": "user", "parts": [{"type": "text", "text": "x"}]}]}, 'Unknown name "type" at \'contents'),
    ({"contents": [*HELLO, CALL]}, "function response turn"),
    ({"contents": [*HELLO, CALL, *HELLO]}, "number of function response parts"),
    ({"contents": [*HELLO, CALL, {"role": "user", "parts": [RESPONSE, RESPONSE]}]}, "number of function response"),
    ({"contents": [{"role": "user", "parts": [RESPONSE]}]}, "immediately after a function call"),
    ({"contents": [{"role": "user", "parts": [{"inlineData": {"data": "data:,x", "mimeType": "a/b"}}]}]}, "Base64"),
    ({"generationConfig": {"n": 2}}, 'Unknown name "n"'),
    ({"generationConfig": {"temperature": 3}}, "temperature"),
    ({"generationConfig": {"maxOutputTokens": 0}}, "maxOutputTokens"),
    ({"generationConfig": {"responseSchema": {"type": "OBJECT"}}}, "response_mime_type"),
    ({"tools": TOOLS, "generationConfig": {"responseMimeType": "application/json"}}, "unsupported"),
    ({"toolConfig": {"functionCallingConfig": {"mode": "ANY"}}}, "without function_declarations"),
    ({"toolConfig": {"functionCallingConfig": {"mode": "required"}}}, "mode"),
    (declared({"type": "object", "additionalProperties": False}), 'Unknown name "additionalProperties"'),
    (declared({"$schema": "x", "type": "object"}), 'Unknown name "$schema"'),
    (declared({"type": "object", "properties": {"a": {"type": ["string", "null"]}}}), "cannot start list"),
    (declared({"type": "object", "properties": {"a": {"const": 1}}}), 'Unknown name "const"'),
    (declared({"type": "object", "required": ["a"]}), "property is not defined"),
    (declared({"type": "object", "properties": {"a": {"type": "array"}}}), "items: missing field"),
]


@pytest.mark.parametrize(("change", "named"), REFUSED)
async def test_what_the_api_refuses(http: httpx.AsyncClient, change: dict[str, Any], named: str) -> None:
    answer = await http.post(PLAIN, json={"contents": HELLO} | change)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["status"]) == (400, "INVALID_ARGUMENT")
    assert named in error["message"]


async def test_errors_have_googles_shape(http: httpx.AsyncClient) -> None:
    for status, name in ((429, "RESOURCE_EXHAUSTED"), (503, "UNAVAILABLE"), (500, "INTERNAL")):
        contents = [{"role": "user", "parts": [{"text": f"[[demo status={status} retry_after=7]]"}]}]
        answer = await http.post(SSE, json={"contents": contents})
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["status"]) == (status, status, name)
        assert "retry-after" not in answer.headers, "Google says it in the body alone"
        assert error["details"][0]["retryDelay"] == "7s"
    unknown = await http.post("/v1beta/models/unknown:generateContent", json={"contents": HELLO})
    assert (unknown.status_code, unknown.json()["error"]["status"]) == (404, "NOT_FOUND")


async def test_the_key_is_checked_when_there_is_one() -> None:
    async with (
        DemoProvider(options=Options(api_key="right")) as provider,
        httpx.AsyncClient(base_url=provider.url) as http,
    ):
        missing = await http.post(PLAIN, json={"contents": HELLO})
        assert (missing.status_code, missing.json()["error"]["status"]) == (403, "PERMISSION_DENIED")
        wrong = await http.post(PLAIN, json={"contents": HELLO}, headers={"x-goog-api-key": "wrong"})
        assert wrong.status_code == 400
        assert wrong.json()["error"]["details"][0]["reason"] == "API_KEY_INVALID"
        right = await http.post(PLAIN, json={"contents": HELLO}, headers={"x-goog-api-key": "right"})
        query = await http.post(f"{PLAIN}?key=right", json={"contents": HELLO})
        assert (right.status_code, query.status_code) == (200, 200)


@pytest.mark.parametrize("model", ["gemini-2.5-flash", "gemini-3-pro", "gemini-3.5-flash"])
async def test_the_official_sdk_reads_it(demo: DemoProvider, model: str) -> None:
    genai = pytest.importorskip("google.genai", reason="the google-genai package is not installed")
    types = genai.types
    client = genai.Client(api_key="any", http_options=types.HttpOptions(base_url=demo.url)).aio
    plain = await client.models.generate_content(model=model, contents="Hello there")
    stream = await client.models.generate_content_stream(model=model, contents="Hello there")
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.text or "" for chunk in chunks) == plain.text
    assert chunks[-1].usage_metadata.total_token_count == plain.usage_metadata.total_token_count

    config = types.GenerateContentConfig(
        tools=[types.Tool(function_declarations=[types.FunctionDeclaration(**WEATHER)])],
        automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
    )
    chat = client.chats.create(model=model, config=config)
    answer = await chat.send_message("call get_weather")
    assert [call.name for call in answer.function_calls] == ["get_weather"]
    call = answer.function_calls[0]
    response = types.FunctionResponse(id=call.id, name=call.name, response={"result": "sunny"})
    after = await chat.send_message(types.Part(function_response=response))  # with the signature, where there is one
    assert "get_weather returned sunny" in after.text
    with pytest.raises(genai.errors.ServerError, match="503 UNAVAILABLE"):
        await client.models.generate_content(model=model, contents="[[demo status=503]]")
