"""OpenAI chat completions, as `POST …/chat/completions` answers.

In: the request of https://platform.openai.com/docs/api-reference/chat/create. Out: `chat.completion` or
`chat.completion.chunk` events, and errors `{"error": {"message", "type", "param", "code"}}`. Strict as the provider
is: unknown parameters, a `metadata` without `store`, `stream_options` without `stream`, unanswered tool calls are 400.
"""

import re
from typing import Any

import msgspec

from control.demo.base import Meta, Refused, decode_object, disturbed, is_number, is_whole, json_text
from control.demo.faults import Faults
from control.demo.text import (
    Answer,
    Ask,
    Call,
    Choice,
    FormatName,
    Result,
    Tool,
    byte_length,
    call_bytes,
    canonical,
    fragments,
)
from control.demo.wire import Reply, Request

# fmt: off
_PARAMETERS = frozenset({
    "audio", "frequency_penalty", "function_call", "functions", "logit_bias", "logprobs", "max_completion_tokens",
    "max_tokens", "messages", "metadata", "modalities", "model", "n", "parallel_tool_calls", "prediction",
    "presence_penalty", "prompt_cache_key", "prompt_cache_retention", "reasoning_effort", "response_format",
    "safety_identifier", "seed", "service_tier", "stop", "store", "stream", "stream_options", "temperature",
    "tool_choice", "tools", "top_logprobs", "top_p", "user", "verbosity", "web_search_options",
})
_MESSAGE_KEYS = {
    "system": {"role", "content", "name"},
    "developer": {"role", "content", "name"},
    "user": {"role", "content", "name"},
    "assistant": {"role", "content", "name", "tool_calls", "refusal", "audio", "function_call", "annotations"},
    "tool": {"role", "content", "tool_call_id"},
}
# fmt: on
_KINDS: dict[str, type] = {
    "tools": list,
    "metadata": dict,
    "stream_options": dict,
    "response_format": dict,
    "stream": bool,
    "reasoning_effort": str,
}
_RANGES = {"temperature": (0, 2), "top_p": (0, 1), "presence_penalty": (-2, 2), "frequency_penalty": (-2, 2)}
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_REASONING = re.compile(r"o\d|gpt-5")  # these take max_completion_tokens only, and no sampling parameters
_DATED = re.compile(r"\d{4}-\d{2}-\d{2}$|[/:]")
_FINISH = {
    "stop": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "refusal": "stop",
    "blocked": "content_filter",
}
_TYPES = {401: "invalid_request_error", 403: "permission_error", 429: "rate_limit_exceeded"}
_CODES = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}
# Real streams carry a field of random padding, on by default, in every event.
_PADDING = [b',"obfuscation":"%b"' % (b"aZ3kQ9xW7pLm2c"[: index * 5 % 15]) for index in range(16)]


class OpenAI:
    """See the module."""

    name: FormatName = "openai"

    def authorize(self, request: Request, api_key: str) -> None:
        """`Authorization: Bearer KEY`; `api-key: KEY` on the paths of Azure's deployments."""
        given = request.headers.get("authorization")
        if "/deployments/" in request.path and given is None:
            given = f"Bearer {request.headers.get('api-key', '')}"
        if given is None:
            raise Refused(
                401,
                "You didn't provide an API key. You need to provide your API key in an Authorization header using "
                "Bearer auth (i.e. Authorization: Bearer YOUR_KEY).",
            )
        if given != f"Bearer {api_key}":
            raise Refused(401, "Incorrect API key provided.", code="invalid_api_key")

    def read(self, request: Request, body: bytes) -> Ask:
        """Raises Refused, as the API would."""
        try:
            data = decode_object(body)
        except ValueError as error:
            raise Refused(400, f"We could not parse the JSON body of your request. ({error})") from None
        if "/deployments/" in request.path:
            data.setdefault("model", request.path.split("/deployments/")[1].split("/")[0])
        _check_parameters(data)
        model: str = data["model"]
        if model.startswith("unknown"):
            text = f"The model `{model}` does not exist or you do not have access to it."
            raise Refused(404, text, code="model_not_found")
        return _Reader(data).ask()

    def reply(self, ask: Ask, answer: Answer, meta: Meta, faults: Faults) -> Reply:
        """A `chat.completion`, or its chunks."""
        writer = _Writer(ask, answer, meta, faults)
        frames, weights = writer.stream() if ask.stream else writer.whole()
        kind = b"text/event-stream; charset=utf-8" if ask.stream else b"application/json"
        headers = (b"content-type: " + kind, *_headers(meta))
        return Reply(status=200, headers=headers, frames=frames, weights=weights, sse=ask.stream)

    def failure(self, refused: Refused, meta: Meta, /) -> Reply:
        """`{"error": …}`, indented as the real one is."""
        body = msgspec.json.format(msgspec.json.encode({"error": _error(refused)}), indent=2)
        headers = (b"content-type: application/json", *_headers(meta))
        return Reply(status=refused.status, headers=headers, frames=[body], weights=[0])


def _headers(meta: Meta) -> tuple[bytes, ...]:
    return (
        b"x-request-id: req_" + meta.unique.encode(),
        b"openai-version: 2020-10-01\r\nopenai-organization: demo\r\nopenai-processing-ms: 12\r\n"
        b"x-ratelimit-limit-requests: 500\r\nx-ratelimit-limit-tokens: 200000\r\n"
        b"x-ratelimit-remaining-requests: 499\r\nx-ratelimit-remaining-tokens: 199996\r\n"
        b"x-ratelimit-reset-requests: 120ms\r\nx-ratelimit-reset-tokens: 1ms",
    )


def _error(refused: Refused) -> dict[str, Any]:
    usual = _TYPES.get(refused.status, "server_error" if refused.status >= 500 else "invalid_request_error")
    code = refused.code or _CODES.get(refused.status)
    return {"message": refused.message, "type": refused.kind or usual, "param": refused.param, "code": code}


def _invalid(param: str, message: str, code: str | None = None) -> Refused:
    return Refused(400, message, param=param, code=code)


def _check_parameters(data: dict[str, Any]) -> None:
    """Top-level parameters: known, of the right type, in range, allowed together."""
    for name in data:
        if name not in _PARAMETERS:
            raise _invalid(name, f"Unknown parameter: '{name}'.", "unknown_parameter")
    if not isinstance(data.get("model"), str) or not data["model"]:
        raise Refused(400, "you must provide a model parameter")
    messages = data.get("messages")
    if messages is None:
        raise _invalid("messages", "Missing required parameter: 'messages'.", "missing_required_parameter")
    if not isinstance(messages, list):
        raise _invalid("messages", "Invalid type for 'messages': expected an array of objects.", "invalid_type")
    if not messages:
        text = "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array."
        raise _invalid("messages", text, "empty_array")
    for name, kind in _KINDS.items():
        if not isinstance(data.get(name), kind | None):
            raise _invalid(name, f"Invalid type for '{name}'.", "invalid_type")
    _check_numbers(data)
    _check_combinations(data)


def _check_numbers(data: dict[str, Any]) -> None:
    for name, (low, high) in _RANGES.items():
        value = data.get(name)
        if value is None:
            continue
        if not is_number(value):
            raise _invalid(name, f"Invalid type for '{name}': expected a decimal.", "invalid_type")
        if not low <= value <= high:
            side = "above_max" if value > high else "below_min"
            text = f"Invalid '{name}': decimal {side.replace('_', ' ')} value. Expected {low} to {high}, got {value}."
            raise _invalid(name, text, f"decimal_{side}_value")
    for name, high in (("max_tokens", 1 << 31), ("max_completion_tokens", 1 << 31), ("n", 128)):
        value = data.get(name)
        if value is not None and not is_whole(value):
            raise _invalid(name, f"Invalid type for '{name}': expected an integer.", "invalid_type")
        if value is not None and not 1 <= value <= high:
            raise _invalid(name, f"Invalid '{name}': integer out of range. Expected 1 to {high}, got {value}.")


def _check_combinations(data: dict[str, Any]) -> None:
    if data.get("stream_options") is not None and not data.get("stream"):
        text = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        raise _invalid("stream_options", text)
    if data.get("metadata") and not data.get("store"):
        raise _invalid("metadata", "The 'metadata' parameter is only allowed when 'store' is enabled.")
    if data.get("max_tokens") is not None and data.get("max_completion_tokens") is not None:
        raise _invalid("max_tokens", "Setting 'max_tokens' and 'max_completion_tokens' at once is not supported.")
    if data.get("tool_choice") is not None and not data.get("tools"):
        raise _invalid("tool_choice", "'tool_choice' is only allowed when 'tools' are specified.")
    if data.get("parallel_tool_calls") is not None and not data.get("tools"):
        raise _invalid("parallel_tool_calls", "'parallel_tool_calls' is only allowed when 'tools' are specified.")
    if _REASONING.match(data["model"]):
        if data.get("max_tokens") is not None:
            text = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'"
            raise _invalid("max_tokens", f"{text} instead.", "unsupported_parameter")
        if data.get("temperature") not in (None, 1):
            text = "Unsupported value: 'temperature' does not support this value with this model."
            raise _invalid("temperature", f"{text} Only the default (1) value is supported.", "unsupported_value")


class _Reader:
    """Reads one request's messages and tools; raises Refused on the way."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data
        self.texts: list[str] = []
        self.images = 0
        self.system = ""
        self.user = ""
        self.results: list[Result] = []
        self.pending: dict[str, str] = {}  # tool_call_id -> name, of calls not answered yet

    def ask(self) -> Ask:
        data = self.data
        for index, message in enumerate(data["messages"]):
            self._message(f"messages[{index}]", message)
        self._answered(f"messages[{len(data['messages'])}]")
        tools = self._tools()
        return Ask(
            format="openai",
            model=data["model"],
            stream=bool(data.get("stream")),
            texts=self.texts,
            images=self.images,
            system=self.system,
            user=self.user,
            results=self.results,
            tools=tools,
            choice=_tool_choice(data.get("tool_choice"), tools),
            parallel=data.get("parallel_tool_calls") is not False,
            max_tokens=data.get("max_completion_tokens") or data.get("max_tokens"),
            stop=self._stop(),
            n=data.get("n") or 1,
            schema=self._schema(),
            effort=data.get("reasoning_effort"),
            include_usage=bool((data.get("stream_options") or {}).get("include_usage")),
        )

    def _message(self, path: str, message: Any) -> None:
        role = message.get("role") if isinstance(message, dict) else None
        if role not in _MESSAGE_KEYS:
            text = f"Invalid value: '{role}'. Supported values are: 'system', 'assistant', 'user', 'tool', 'developer'."
            raise _invalid(f"{path}.role", text, "invalid_value")
        for key in message:
            if key not in _MESSAGE_KEYS[role]:
                raise _invalid(f"{path}.{key}", f"Unknown parameter: '{path}.{key}'.", "unknown_parameter")
        if role == "tool":
            self._tool_result(path, message)
            return
        self._answered(path)
        text = self._content(path, role, message.get("content"), required=role != "assistant")
        if role == "user":
            self.user = text
        elif role == "assistant":
            self.results = []
            self._tool_calls(path, message)
        else:
            self.system += text

    def _content(self, path: str, role: str, content: Any, *, required: bool) -> str:
        if content is None and not required:
            return ""
        if isinstance(content, str):
            self.texts.append(content)
            return content
        if not isinstance(content, list):
            got = "null" if content is None else type(content).__name__
            text = f"Invalid value for 'content': expected a string or an array of content parts, got {got}."
            raise _invalid(f"{path}.content", text)
        said = [self._part(f"{path}.content[{at}]", role, part) for at, part in enumerate(content)]
        return "".join(said)

    def _part(self, path: str, role: str, part: Any) -> str:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            self.texts.append(part["text"])
            return str(part["text"])
        if kind == "refusal" and role == "assistant":
            return ""
        if kind == "image_url" and role == "user":
            url = part.get("image_url", {}).get("url") if isinstance(part.get("image_url"), dict) else None
            if not isinstance(url, str) or not re.match(r"https?://.|data:image/[a-z+.-]+;base64,.", url):
                text = "Invalid 'image_url': expected a URL or a base64-encoded data URL with an image MIME type."
                raise _invalid(f"{path}.image_url.url", text, "invalid_image_url")
            self.images += 1
            return ""
        if kind in ("input_audio", "file") and role == "user":
            return ""
        raise _invalid(f"{path}.type", f"Invalid value: '{kind}' is not a content part of role '{role}'.")

    def _tool_calls(self, path: str, message: dict[str, Any]) -> None:
        calls = message.get("tool_calls")
        if calls is None:
            if message.get("content") is None and message.get("refusal") is None:
                raise _invalid(f"{path}.content", "Invalid value for 'content': expected a string, got null.")
            return
        if not isinstance(calls, list) or not calls:
            raise _invalid(f"{path}.tool_calls", "Invalid 'tool_calls': expected a non-empty array.", "empty_array")
        for at, call in enumerate(calls):
            match call:
                case {"type": "function", "id": str(key), "function": {"name": str(name), "arguments": str(text)}}:
                    self.pending[key] = name
                    self.texts += [name, canonical(text)]
                case _:
                    raise _invalid(f"{path}.tool_calls[{at}]", "Invalid tool call: needs id, type and function.")

    def _tool_result(self, path: str, message: dict[str, Any]) -> None:
        name = self.pending.pop(message.get("tool_call_id", ""), None)
        if name is None:
            text = "messages with role 'tool' must be a response to a preceeding message with 'tool_calls'."
            raise _invalid(path, f"Invalid parameter: {text}")
        start = len(self.texts)
        self._content(path, "tool", message.get("content"), required=True)
        text = canonical("".join(self.texts[start:]))
        self.texts[start:] = [text]
        self.results.append(Result(name, text))

    def _answered(self, path: str) -> None:
        if self.pending:
            missing = ", ".join(self.pending)
            text = "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
            text += f"'tool_call_id'. The following tool_call_ids did not have response messages: {missing}"
            raise _invalid(f"{path}.role", text)

    def _tools(self) -> list[Tool]:
        tools = []
        for at, tool in enumerate(self.data.get("tools") or []):
            function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
            if not isinstance(function, dict):
                raise _invalid(f"tools[{at}]", "Missing required parameter: 'function'.")
            name, schema = function.get("name"), function.get("parameters") or {}
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                text = f"Invalid 'tools[{at}].function.name': expected a string that matches '^[a-zA-Z0-9_-]+$'."
                raise _invalid(f"tools[{at}].function.name", text, "invalid_value")
            if not isinstance(schema, dict) or (schema and schema.get("type") != "object"):
                text = f"Invalid schema for function '{name}': schema must be a JSON Schema of 'type: \"object\"'."
                raise _invalid(f"tools[{at}].function.parameters", text, "invalid_function_parameters")
            self.texts += [name, function.get("description") or ""]
            tools.append(Tool(name, schema))
        return tools

    def _stop(self) -> list[str]:
        stop = self.data.get("stop") or []
        stop = [stop] if isinstance(stop, str) else stop
        if not isinstance(stop, list) or len(stop) > 4 or not all(isinstance(item, str) and item for item in stop):
            raise _invalid("stop", "Invalid 'stop': expected a string or an array of up to 4 strings.")
        return stop

    def _schema(self) -> dict[str, Any] | None:
        wanted = self.data.get("response_format") or {"type": "text"}
        match wanted:
            case {"type": "text"}:
                return None
            case {"type": "json_object"}:
                if not any("json" in text.lower() for text in self.texts):
                    text = "'messages' must contain the word 'json' in some form, to use 'response_format' of type "
                    raise _invalid("messages", f"{text}'json_object'.")
                return {}
            case {"type": "json_schema", "json_schema": {"name": str(name), "schema": dict(schema)} as spec}:
                if spec.get("strict") and schema.get("additionalProperties") is not False:
                    text = f"Invalid schema for response_format '{name}': In context=(), 'additionalProperties' is "
                    raise _invalid("response_format", f"{text}required to be supplied and to be false.")
                return schema
        raise _invalid("response_format", "Invalid 'response_format'.", "invalid_value")


def _tool_choice(choice: Any, tools: list[Tool]) -> str:
    match choice:
        case None | "auto":
            return "auto"
        case "none":
            return "none"
        case "required":
            return "any"
        case {"type": "function", "function": {"name": str(name)}} if any(tool.name == name for tool in tools):
            return "=" + name
    raise _invalid("tool_choice", "Invalid value for 'tool_choice': not a function in 'tools'.")


class _Writer:
    """Writes one answer."""

    def __init__(self, ask: Ask, answer: Answer, meta: Meta, faults: Faults) -> None:
        self.ask, self.answer, self.meta, self.faults = ask, answer, meta, faults
        # The API answers with the dated name of the model that an alias stands for.
        self.model = ask.model if _DATED.search(ask.model) else f"{ask.model}-2025-08-07"

    def usage(self) -> dict[str, Any]:
        answer = self.answer
        return {
            "prompt_tokens": answer.prompt_tokens,
            "completion_tokens": answer.output_tokens,
            "total_tokens": answer.prompt_tokens + answer.output_tokens,
            "prompt_tokens_details": {"cached_tokens": answer.cached_tokens, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": answer.reasoning_tokens,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }

    def call_id(self, choice: int, index: int) -> str:
        return f"call_{self.meta.unique[:18]}{choice:03d}{index:03d}"

    def whole(self) -> tuple[list[bytes], list[int]]:
        body: dict[str, Any] = {
            "id": f"chatcmpl-{self.meta.unique[:29]}",
            "object": "chat.completion",
            "created": self.meta.created,
            "model": self.model,
            "choices": [self._choice(index, choice) for index, choice in enumerate(self.answer.choices)],
            "usage": self.usage(),
            "service_tier": "default",
            "system_fingerprint": "fp_demo000000",
        }
        if self.faults.no_usage:
            del body["usage"]
        raw = msgspec.json.encode(body)
        if self.faults.malformed_sse:
            raw = raw[: len(raw) * 2 // 3]
        return [raw], [sum(map(_weight, self.answer.choices))]

    def _choice(self, index: int, choice: Choice) -> dict[str, Any]:
        text: str | None = "".join(choice.pieces)
        refusal = text if choice.finish == "refusal" else None
        if refusal is not None or (choice.calls and not text):
            text = None
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": refusal, "annotations": []}
        if choice.calls:
            message["tool_calls"] = [
                {"id": self.call_id(index, at), "type": "function", "function": _function(call)}
                for at, call in enumerate(choice.calls)
            ]
        finish = None if self.faults.no_done else _FINISH[choice.finish]
        return {"index": index, "message": message, "logprobs": None, "finish_reason": finish}

    def stream(self) -> tuple[list[bytes], list[int]]:
        frames: list[bytes] = []
        weights: list[int] = []
        for index, choice in enumerate(self.answer.choices):
            self._choice_frames(index, choice, frames, weights)
        if self.ask.include_usage and not self.faults.no_usage:
            usage = b',"choices":[],"usage":' + msgspec.json.encode(self.usage())
            frames.append(self._opening() + usage + _PADDING[1] + b"}\n\n")
            weights.append(0)
        if not self.faults.no_done:
            frames.append(b"data: [DONE]\n\n")
            weights.append(0)
        return disturbed(frames, weights, self.faults, _error_event(self.faults))

    def _opening(self) -> bytes:
        model = json_text(self.model)
        named = b'data: {"id":"chatcmpl-%b","object":"chat.completion.chunk","created":%d,"model":"%b"'
        values = (self.meta.unique[:29].encode(), self.meta.created, model)
        return named % values + b',"service_tier":"default","system_fingerprint":"fp_demo000000"'

    def _choice_frames(self, index: int, choice: Choice, frames: list[bytes], weights: list[int]) -> None:
        before = self._opening() + b',"choices":[{"index":%d,"delta":' % index
        usage = b',"usage":null' if self.ask.include_usage else b""
        after = [b',"logprobs":null,"finish_reason":null}]' + usage + padding + b"}\n\n" for padding in _PADDING]

        def add(delta: bytes, weight: int) -> None:
            frames.append(before + delta + after[len(frames) & 15])
            weights.append(weight)

        if choice.pieces or not choice.calls:
            add(b'{"role":"assistant","content":"","refusal":null}', 0)
        key = b'{"refusal":"' if choice.finish == "refusal" else b'{"content":"'
        # The loop that a load test pays for: local names, no calls but the encoder's.
        encode, start, at = msgspec.json.encode, before + key, len(frames)
        frames += [
            b'%b%b"}%b' % (start, encode(piece)[1:-1], after[(at + i) & 15]) for i, piece in enumerate(choice.pieces)
        ]
        weights += map(byte_length, choice.pieces)
        for at, call in enumerate(choice.calls):
            role = b'"role":"assistant","content":null,"refusal":null,' if at == 0 and not choice.pieces else b""
            head = (at, self.call_id(index, at).encode(), call.name.encode())
            named = b'"tool_calls":[{"index":%d,"id":"%b","type":"function","function":{"name":"%b","arguments":""}}]}'
            add(b"{" + role + named % head, byte_length(call.name))
            for piece in fragments(call.json):
                argument = b'{"tool_calls":[{"index":%d,"function":{"arguments":"%b"}}]}' % (at, json_text(piece))
                add(argument, byte_length(piece))
        if not self.faults.no_done:
            finish = b'{},"logprobs":null,"finish_reason":"%b"}]' % _FINISH[choice.finish].encode()
            frames.append(before + finish + usage + _PADDING[3] + b"}\n\n")
            weights.append(0)


def _function(call: Call) -> dict[str, str]:
    return {"name": call.name, "arguments": call.json}


def _weight(choice: Choice) -> int:
    return sum(map(byte_length, choice.pieces)) + sum(map(call_bytes, choice.calls))


def _error_event(faults: Faults) -> bytes:
    kind = "server_error" if faults.error_in_stream == "true" else faults.error_in_stream
    text = faults.message or "The server had an error while processing your request. Sorry about that!"
    error = {"error": {"message": text, "type": kind, "param": None, "code": None}}
    return b"data: " + msgspec.json.encode(error) + b"\n\n"
