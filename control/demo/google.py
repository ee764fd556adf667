"""Google Gemini, as `POST …/models/{model}:generateContent` and `:streamGenerateContent` answer.

In: the request of https://ai.google.dev/api/generate-content. Out: a `GenerateContentResponse` (indented, as the real
one is), or several as SSE with CRLF (`alt=sse`) or as one JSON array; errors as `{"error": {"code", "message",
"status", "details"}}`. Strict as the provider's proto JSON parser is: an unknown field anywhere, JSON-Schema keywords
inside `parameters` or `responseSchema` included, is 400 INVALID_ARGUMENT. Names may be camelCase or snake_case.

Function calls carry no id, but for models from `gemini-3.5` on. Models named `gemini-3…` sign the first call of every
step with `thoughtSignature` and refuse to go on without it (https://ai.google.dev/gemini-api/docs/thought-signatures).
"""

import base64
import re
from typing import Any

import msgspec

from control.demo.base import Meta, Refused, decode_object, disturbed, is_number, is_whole
from control.demo.faults import Faults
from control.demo.text import (
    Answer,
    Ask,
    Call,
    Choice,
    Finish,
    FormatName,
    Result,
    Tool,
    byte_length,
    call_bytes,
    canonical,
    tokens,
)
from control.demo.wire import Reply, Request

# fmt: off
_FIELDS = {
    "contents", "tools", "toolConfig", "safetySettings", "systemInstruction", "generationConfig", "cachedContent",
    "model", "labels", "serviceTier", "store",
}
_PART_DATA = {
    "text", "inlineData", "fileData", "functionCall", "functionResponse", "executableCode", "codeExecutionResult",
}
_PART = _PART_DATA | {"thought", "thoughtSignature", "partMetadata", "videoMetadata", "mediaResolution"}
_CONFIG = {
    "stopSequences", "responseMimeType", "responseModalities", "responseSchema", "responseJsonSchema",
    "candidateCount", "maxOutputTokens", "temperature", "topP", "topK", "seed", "presencePenalty", "frequencyPenalty",
    "responseLogprobs", "logprobs", "enableEnhancedCivicAnswers", "speechConfig", "thinkingConfig", "mediaResolution",
}
_SCHEMA = {
    "type", "format", "title", "description", "nullable", "enum", "maxItems", "minItems", "properties", "required",
    "minProperties", "maxProperties", "minLength", "maxLength", "pattern", "example", "anyOf", "propertyOrdering",
    "default", "items", "minimum", "maximum",
}
_TYPES = {"STRING", "NUMBER", "INTEGER", "BOOLEAN", "ARRAY", "OBJECT", "NULL"}
_TOOL = {
    "functionDeclarations", "googleSearch", "googleSearchRetrieval", "codeExecution", "urlContext", "computerUse",
    "fileSearch", "googleMaps",
}
_DECLARATION = {
    "name", "description", "behavior", "parameters", "parametersJsonSchema", "response", "responseJsonSchema",
}
# fmt: on
_RANGES = {"temperature": (0, 2), "topP": (0, 1), "presencePenalty": (-2, 2), "frequencyPenalty": (-2, 2)}
_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_.:-]{0,127}")
_PATH = re.compile(r"/models/([^/]+):(generateContent|streamGenerateContent)$")
_SNAKE = re.compile(r"_([a-z0-9])")
_EFFORT_OF_BUDGET = ((0, "none"), (64, "low"), (1024, "medium"))
_SIGNATURE = b"demo-thought:"
_SKIP_SIGNATURES = {"skip_thought_signature_validator", "context_engineering_is_the_way_to_go"}
_FINISH: dict[Finish, str] = {
    "stop": "STOP",
    "stop_sequence": "STOP",
    "length": "MAX_TOKENS",
    "tool_calls": "STOP",
    "refusal": "SAFETY",
    "blocked": "PROHIBITED_CONTENT",
}
_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_JSON = b"content-type: application/json; charset=UTF-8"
_HEADERS = (
    b"vary: Origin\r\nvary: X-Origin\r\nvary: Referer\r\nserver: scaffolding on HTTPServer2\r\n"
    b"x-xss-protection: 0\r\nx-frame-options: SAMEORIGIN\r\nx-content-type-options: nosniff",
)


class Google:
    """See the module."""

    name: FormatName = "google"

    def authorize(self, request: Request, api_key: str) -> None:
        """`x-goog-api-key: KEY`, or `key=KEY` in the query."""
        in_query = re.search(r"(?:^|&)key=([^&]*)", request.query)
        given = request.headers.get("x-goog-api-key") or (in_query[1] if in_query else None)
        if given is None:
            text = "Method doesn't allow unregistered callers (callers without established identity). Please use API "
            raise Refused(403, f"{text}Key or other form of API consumer identity to call this API.")
        if given != api_key:
            text = "API key not valid. Please pass a valid API key."
            reason = {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "API_KEY_INVALID",
                "domain": "googleapis.com",
                "metadata": {"service": "generativelanguage.googleapis.com"},
            }
            raise Refused(400, text, details=[reason])

    def read(self, request: Request, body: bytes) -> Ask:
        """Raises Refused, as the API would."""
        match = _PATH.search(request.path)
        if match is None:
            raise Refused(404, "Requested entity was not found.")
        try:
            data = decode_object(body)
        except ValueError as error:
            raise Refused(400, f"Invalid JSON payload received. {error}") from None
        if match[1].startswith("unknown"):
            text = f"models/{match[1]} is not found for API version v1beta, or is not supported for {match[2]}. "
            raise Refused(404, f"{text}Call ListModels to see the list of available models and their methods.")
        return _Reader(data, match[1], stream=match[2] == "streamGenerateContent").ask()

    def reply(self, ask: Ask, answer: Answer, meta: Meta, faults: Faults) -> Reply:
        """One response, or several. `sse` of the ask's stream is settled by `as_array` for calls without alt=sse."""
        writer = _Writer(ask, answer, meta, faults)
        frames, weights = writer.stream() if ask.stream else writer.whole()
        kind = b"content-type: text/event-stream" if ask.stream else _JSON
        return Reply(status=200, headers=(kind, *_HEADERS), frames=frames, weights=weights, sse=ask.stream)

    def failure(self, refused: Refused, _meta: Meta, /) -> Reply:
        """`{"error": …}`, indented; with RetryInfo when there is a delay in seconds."""
        error: dict[str, Any] = {"code": refused.status, "message": refused.message, "status": _status(refused)}
        details = list(refused.details or ())
        if refused.retry_after and refused.retry_after.isdigit():
            delay = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{refused.retry_after}s"}
            details.append(delay)
        if details:
            error["details"] = details
        body = msgspec.json.format(msgspec.json.encode({"error": error}), indent=2)
        return Reply(status=refused.status, headers=(_JSON, *_HEADERS), frames=[body], weights=[0])


def as_array(reply: Reply) -> Reply:
    """A stream without `alt=sse` is one JSON array, element by element."""
    if not reply.sse:
        return reply
    frames = [
        (b"[" if at == 0 else b",\r\n") + frame.removeprefix(b"data: ").rstrip()
        for at, frame in enumerate(reply.frames)
    ]
    return Reply(
        status=reply.status,
        headers=(_JSON, *_HEADERS),
        frames=[*frames, b"]\r\n"],
        weights=[*reply.weights, 0],
        sse=True,
    )


def _status(refused: Refused) -> str:
    return refused.kind or _STATUSES.get(refused.status, "INTERNAL" if refused.status >= 500 else "INVALID_ARGUMENT")


def _invalid(message: str) -> Refused:
    return Refused(400, message)


def _fields(value: Any, allowed: set[str], path: str) -> dict[str, Any]:
    """`value` as an object with camelCase keys. Raises Refused for any other value, and for a field not allowed."""
    if not isinstance(value, dict):
        raise _bad_payload(f"Invalid value at '{path}' (type.googleapis.com/google.protobuf.Struct)", path)
    out = {}
    for key, item in value.items():
        name = _SNAKE.sub(lambda match: match[1].upper(), key)
        if name not in allowed:
            at = f" at '{path}'" if path else ""
            raise _bad_payload(f'Invalid JSON payload received. Unknown name "{key}"{at}: Cannot find field.', path)
        if item is not None:
            out[name] = item
    return out


def _bad_payload(text: str, path: str) -> Refused:
    violation = {"field": path, "description": text} if path else {"description": text}
    details = [{"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [violation]}]
    return Refused(400, text, details=details)


def _list(value: Any, path: str) -> list[Any]:
    # Proto JSON takes a single message for a repeated field.
    if isinstance(value, dict):
        return [value]
    if not isinstance(value, list):
        raise _bad_payload(f"Invalid value at '{path}': not a list.", path)
    return value


class _Turn(msgspec.Struct):
    """What one content holds, for the rules about the order of turns."""

    role: str
    text: str = ""
    calls: list[str] = []
    responses: list[str] = []
    signed: bool = True  # its first function call carries a signature


class _Reader:
    """Reads one request's contents and tools; raises Refused on the way."""

    def __init__(self, data: dict[str, Any], model: str, *, stream: bool) -> None:
        self.data = _fields(data, _FIELDS, "")
        self.model = model
        self.is_stream = stream
        self.texts: list[str] = []
        self.images = 0
        self.results: list[Result] = []

    def ask(self) -> Ask:
        data = self.data
        if not data.get("contents"):
            raise _invalid("* GenerateContentRequest.contents: contents is not specified\n")
        system = self._system()
        contents = _list(data["contents"], "contents")
        turns = [self._content(f"contents[{at}]", content) for at, content in enumerate(contents)]
        self._check_turns(turns)
        tools = self._tools()
        choice = self._tool_choice(tools)
        config = _fields(data.get("generationConfig", {}), _CONFIG, "generation_config")
        _check_config(config)
        schema = _schema(config)
        if schema is not None and tools and not self.model.startswith("gemini-3"):
            raise _invalid("Function calling with a response mime type: 'application/json' is unsupported")
        return Ask(
            format="google",
            model=self.model,
            stream=self.is_stream,
            texts=self.texts,
            images=self.images,
            system=system,
            user=next((turn.text for turn in reversed(turns) if turn.role == "user" and turn.text), ""),
            results=self.results,
            tools=tools,
            choice=choice,
            max_tokens=config.get("maxOutputTokens"),
            stop=config.get("stopSequences", []),
            n=config.get("candidateCount", 1),
            schema=schema,
            effort=_effort(config),
        )

    def _system(self) -> str:
        if "systemInstruction" not in self.data:
            return ""
        content = _fields(self.data["systemInstruction"], {"role", "parts"}, "system_instruction")
        start = len(self.texts)
        for at, part in enumerate(_list(content.get("parts", []), "system_instruction.parts")):
            self._part(f"system_instruction.parts[{at}]", part, _Turn("user"))
        return "".join(self.texts[start:])

    def _content(self, path: str, content: Any) -> _Turn:
        fields = _fields(content, {"role", "parts"}, path)
        role = fields.get("role", "user")
        if role not in ("user", "model", "function"):
            raise _invalid("Please use a valid role: user, model.")
        parts = _list(fields.get("parts", []), f"{path}.parts")
        if not parts:
            text = f"* GenerateContentRequest.{path}.parts: contents.parts must not be empty.\n"
            raise _invalid(text)
        turn = _Turn("user" if role == "function" else role, calls=[], responses=[])
        if role == "model":
            self.results = []
        for at, part in enumerate(parts):
            self._part(f"{path}.parts[{at}]", part, turn)
        return turn

    def _part(self, path: str, part: Any, turn: _Turn) -> None:
        fields = _fields(part, _PART, path)
        data = [key for key in fields if key in _PART_DATA]
        if len(data) != 1:
            one = "required oneof field 'data' must have one initialized field"
            raise _invalid(f"* GenerateContentRequest.{path}.data: {one}\n")
        value = fields[data[0]]
        match data[0]:
            case "text":
                if not isinstance(value, str):
                    raise _bad_payload(f"Invalid value at '{path}.text' (TYPE_STRING)", f"{path}.text")
                self.texts.append(value)
                turn.text += value
            case "inlineData":
                blob = _fields(value, {"mimeType", "data", "displayName"}, f"{path}.inline_data")
                _check_blob(blob, path)
                self.images += blob["mimeType"].startswith("image/")
            case "fileData":
                file = _fields(value, {"mimeType", "fileUri", "displayName"}, f"{path}.file_data")
                if not isinstance(file.get("fileUri"), str) or "://" not in file["fileUri"]:
                    raise _invalid(f"* GenerateContentRequest.{path}.file_data.file_uri: is not a URI\n")
                self.images += 1
            case "functionCall":
                self._function_call(path, value, fields.get("thoughtSignature"), turn)
            case "functionResponse":
                self._function_response(path, value, turn)

    def _function_call(self, path: str, value: Any, signature: Any, turn: _Turn) -> None:
        call = _fields(value, {"id", "name", "args", "partialArgs", "willContinue"}, f"{path}.function_call")
        name, arguments = call.get("name"), call.get("args", {})
        if not isinstance(name, str) or not isinstance(arguments, dict):
            raise _bad_payload(f"Invalid value at '{path}.function_call.args'", f"{path}.function_call")
        if signature is not None and not _is_signature(signature):
            raise _invalid("Corrupted thought signature.")
        if not turn.calls:
            turn.signed = signature is not None
        turn.calls.append(name)
        self.texts += [name, canonical(arguments)]

    def _function_response(self, path: str, value: Any, turn: _Turn) -> None:
        allowed = {"id", "name", "response", "parts", "willContinue", "scheduling"}
        response = _fields(value, allowed, f"{path}.function_response")
        name = response.get("name")
        if not isinstance(name, str) or not name:
            raise _invalid(f"* GenerateContentRequest.{path}.function_response.name: Name cannot be empty.\n")
        if not isinstance(response.get("response", {}), dict):
            raise _bad_payload(f"Invalid value at '{path}.function_response.response' (Struct)", path)
        turn.responses.append(name)
        text = canonical(response.get("response", {}))
        self.texts.append(text)
        self.results.append(Result(name, text))

    def _check_turns(self, turns: list[_Turn]) -> None:
        """Calls follow a user's turn; as many responses follow; Gemini 3 wants the signatures of the current turn."""
        current = max((at for at, turn in enumerate(turns) if turn.role == "user" and turn.text), default=0)
        if turns[-1].role == "model" and turns[-1].calls:
            raise _invalid("Please ensure that function call turn is followed by a function response turn.")
        for at, turn in enumerate(turns):
            before = turns[at - 1] if at else _Turn("model")
            if turn.calls and before.role != "user":
                text = "Please ensure that function call turn comes immediately after a user turn or after a function "
                raise _invalid(f"{text}response turn.")
            if turn.responses and not before.calls:
                text = "Please ensure that function response turn comes immediately after a function call turn."
                raise _invalid(text)
            if before.calls and len(turn.responses) != len(before.calls):
                text = "Please ensure that the number of function response parts is equal to the number of function "
                raise _invalid(f"{text}call parts of the function call turn.")
            if turn.calls and not turn.signed and at > current and self.model.startswith("gemini-3"):
                raise _unsigned(turn.calls[0], at + 1)

    def _tools(self) -> list[Tool]:
        tools = []
        for at, tool in enumerate(_list(self.data.get("tools", []), "tools")):
            fields = _fields(tool, _TOOL, f"tools[{at}]")
            path = f"tools[{at}].function_declarations"
            for index, item in enumerate(_list(fields.get("functionDeclarations", []), path)):
                tools.append(self._declaration(f"{path}[{index}]", item))
        return tools

    def _declaration(self, path: str, item: Any) -> Tool:
        fields = _fields(item, _DECLARATION, path)
        name = fields.get("name")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            text = "Invalid function name. Must start with a letter or an underscore. Must be alphanumeric (a-z, A-Z, "
            raise _invalid(f"* GenerateContentRequest.{path}.name: {text}0-9), underscores (_), dots (.) or dashes.\n")
        if "parameters" in fields and "parametersJsonSchema" in fields:
            raise _invalid(f"* GenerateContentRequest.{path}: only one of parameters and parameters_json_schema\n")
        schema = fields.get("parametersJsonSchema")
        if schema is None and "parameters" in fields:
            schema = _check_schema(fields["parameters"], f"{path}.parameters")
        self.texts += [name, fields.get("description", "")]
        return Tool(name, schema or {})

    def _tool_choice(self, tools: list[Tool]) -> str:
        config = _fields(self.data.get("toolConfig", {}), {"functionCallingConfig", "retrievalConfig"}, "tool_config")
        allowed = {"mode", "allowedFunctionNames"}
        calling = _fields(config.get("functionCallingConfig", {}), allowed, "tool_config.function_calling_config")
        mode, names = calling.get("mode", "AUTO"), calling.get("allowedFunctionNames", [])
        if mode not in ("AUTO", "ANY", "NONE", "VALIDATED", "MODE_UNSPECIFIED"):
            at = "tool_config.function_calling_config.mode"
            raise _bad_payload(f"Invalid value at '{at}', \"{mode}\"", at)
        if mode == "ANY" and not tools:
            raise _invalid("Function calling config is set without function_declarations.")
        if names and mode not in ("ANY", "VALIDATED"):
            raise _invalid("allowed_function_names should be set only when function calling mode is ANY.")
        for name in names:
            if not any(tool.name == name for tool in tools):
                raise _invalid(f"allowed_function_names contains {name}, which is not in function_declarations.")
        if mode == "ANY":
            return "=" + names[0] if len(names) == 1 else "any"
        return "none" if mode == "NONE" else "auto"


def _unsigned(name: str, position: int) -> Refused:
    text = "Function call is missing a thought_signature in functionCall parts. This is required for tools to work "
    text += "correctly, and missing thought_signature may lead to degraded model performance. Additional data, "
    text += f"function call `default_api:{name}`, position {position}. Please refer to "
    return _invalid(f"{text}https://ai.google.dev/gemini-api/docs/thought-signatures for more details.")


def _is_signature(value: Any) -> bool:
    """One of ours, in either base64 alphabet, or a documented stand-in for histories from elsewhere."""
    if not isinstance(value, str):
        return False
    if value in _SKIP_SIGNATURES:
        return True
    try:
        raw = base64.b64decode(value.replace("-", "+").replace("_", "/"), validate=True)
    except ValueError:
        return False
    return raw.startswith(_SIGNATURE)


def _check_blob(blob: dict[str, Any], path: str) -> None:
    if not isinstance(blob.get("mimeType"), str) or "/" not in blob["mimeType"]:
        raise _invalid(f"* GenerateContentRequest.{path}.inline_data.mime_type: must be a MIME type\n")
    data = blob.get("data")
    if not isinstance(data, str) or not data or data.startswith("data:"):
        at = f"{path}.inline_data.data"
        raise _bad_payload(f"Invalid value at '{at}' (TYPE_BYTES), Base64 decoding failed", at)


def _check_config(config: dict[str, Any]) -> None:
    for name, (low, high) in _RANGES.items():
        value = config.get(name)
        if value is not None and not (is_number(value) and low <= value <= high):
            raise _invalid(f"* GenerateContentRequest.generation_config.{name}: must be in the range [{low}, {high}]\n")
    for name, low, high in (("maxOutputTokens", 1, 1 << 31), ("candidateCount", 1, 8), ("topK", 1, 1 << 31)):
        value = config.get(name)
        if value is not None and not (is_whole(value) and low <= value <= high):
            raise _invalid(f"* GenerateContentRequest.generation_config.{name}: must be from {low} to {high}\n")
    stops = config.get("stopSequences", [])
    if not isinstance(stops, list) or len(stops) > 5 or not all(isinstance(stop, str) and stop for stop in stops):
        raise _invalid("* GenerateContentRequest.generation_config.stop_sequences: up to 5 non-empty strings\n")
    allowed = {"includeThoughts", "thinkingBudget", "thinkingLevel"}
    _fields(config.get("thinkingConfig", {}), allowed, "generation_config.thinking_config")


def _schema(config: dict[str, Any]) -> dict[str, Any] | None:
    mime = config.get("responseMimeType", "text/plain")
    if mime not in ("text/plain", "application/json", "text/x.enum"):
        raise _invalid("* GenerateContentRequest.generation_config.response_mime_type: allowed mimetypes are ...\n")
    if "responseSchema" in config and "responseJsonSchema" in config:
        raise _invalid("* GenerateContentRequest.generation_config: only one of response_schema and json schema\n")
    schema = config.get("responseJsonSchema")
    if "responseSchema" in config:
        schema = _check_schema(config["responseSchema"], "generation_config.response_schema")
    if schema is not None and mime == "text/plain":
        raise _invalid("Response schema is only supported with response_mime_type application/json.")
    return (schema or {}) if mime == "application/json" else None


def _check_schema(schema: Any, path: str) -> dict[str, Any]:
    """A Google `Schema`, an OpenAPI subset; returns it with camelCase keys. Raises Refused for JSON Schema's own."""
    fields = _fields(schema, _SCHEMA, path)
    kind = fields.get("type")
    if isinstance(kind, list):
        text = f"Invalid JSON payload received. Unknown name \"type\" at '{path}': Proto field is not repeating, "
        raise _bad_payload(f"{text}cannot start list.", path)
    if kind is not None and str(kind).upper() not in _TYPES:
        raise _bad_payload(f"Invalid value at '{path}.type' (type.googleapis.com/Type), \"{kind}\"", f"{path}.type")
    if not all(isinstance(item, str) for item in fields.get("enum", [])):
        raise _bad_payload(f"Invalid value at '{path}.enum' (TYPE_STRING)", f"{path}.enum")
    if "properties" in fields:
        inner = fields["properties"].items()
        fields["properties"] = {
            name: _check_schema(value, f"{path}.properties[{at}].value") for at, (name, value) in enumerate(inner)
        }
    for name in fields.get("required", []):
        if name not in fields.get("properties", {}):
            raise _invalid(f"* GenerateContentRequest.{path}.required: property is not defined\n")
    if "items" in fields:
        fields["items"] = _check_schema(fields["items"], f"{path}.items")
    elif str(kind).upper() == "ARRAY":
        raise _invalid(f"* GenerateContentRequest.{path}.items: missing field.\n")
    if "anyOf" in fields:
        fields["anyOf"] = [_check_schema(item, f"{path}.any_of[{at}]") for at, item in enumerate(fields["anyOf"])]
    return fields


def _effort(config: dict[str, Any]) -> str | None:
    thinking = config.get("thinkingConfig")
    if not thinking:
        return None
    if "thinkingLevel" in thinking:
        return str(thinking["thinkingLevel"]).lower()
    budget = thinking.get("thinkingBudget", -1)
    if budget < 0:
        return "medium"
    return next((name for limit, name in _EFFORT_OF_BUDGET if budget <= limit), "high")


class _Writer:
    """Writes one answer."""

    def __init__(self, ask: Ask, answer: Answer, meta: Meta, faults: Faults) -> None:
        self.ask, self.answer, self.meta, self.faults = ask, answer, meta, faults
        self.signs = ask.model.startswith("gemini-3")
        self.ids = bool(re.match(r"gemini-3\.[5-9]|gemini-[4-9]", ask.model))
        raw = _SIGNATURE + bytes.fromhex(meta.unique) * 8
        self.signature = base64.b64encode(raw).decode()

    def usage(self, candidates: int) -> dict[str, Any]:
        """`candidates`: output tokens so far, without thoughts, which are counted apart and into the total."""
        answer = self.answer
        text = answer.prompt_tokens
        usage: dict[str, Any] = {"promptTokenCount": text}
        if candidates:
            usage["candidatesTokenCount"] = candidates
        usage["totalTokenCount"] = text + candidates + answer.reasoning_tokens
        if answer.cached_tokens:
            usage["cachedContentTokenCount"] = answer.cached_tokens
        usage["promptTokensDetails"] = [{"modality": "TEXT", "tokenCount": text}]
        if answer.reasoning_tokens:
            usage["thoughtsTokenCount"] = answer.reasoning_tokens
        return usage

    def response(self, candidates: list[dict[str, Any]], usage: dict[str, Any]) -> dict[str, Any]:
        out: dict[str, Any] = {"candidates": candidates}
        if self.answer.choices[0].finish == "blocked":
            out = {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}
        if not self.faults.no_usage:
            out["usageMetadata"] = usage
        return out | {"modelVersion": self.ask.model, "responseId": self.meta.unique[:23]}

    def whole(self) -> tuple[list[bytes], list[int]]:
        candidates = [self._candidate(at, choice) for at, choice in enumerate(self.answer.choices)]
        output = self.answer.output_tokens - self.answer.reasoning_tokens
        raw = msgspec.json.format(msgspec.json.encode(self.response(candidates, self.usage(output))), indent=2) + b"\n"
        if self.faults.malformed_sse:
            raw = raw[: len(raw) * 2 // 3]
        weight = sum(sum(map(byte_length, item.pieces)) + sum(map(call_bytes, item.calls)) for item in self._choices())
        return [raw], [weight]

    def _choices(self) -> list[Choice]:
        return self.answer.choices

    def _candidate(self, index: int, choice: Choice) -> dict[str, Any]:
        text = "".join(choice.pieces)
        parts: list[dict[str, Any]] = [{"text": text}] if text else []
        if text and self.signs and not choice.calls:
            parts[0]["thoughtSignature"] = self.signature
        parts += [self._call(at, call) for at, call in enumerate(choice.calls)]
        out: dict[str, Any] = (
            {"content": {"parts": parts, "role": "model"}} if parts else {"content": {"role": "model"}}
        )
        if not self.faults.no_done:
            out["finishReason"] = _FINISH[choice.finish]
        return out | {"index": index}

    def _call(self, at: int, call: Call) -> dict[str, Any]:
        inner: dict[str, Any] = {"name": call.name, "args": call.arguments}
        if self.ids:
            inner["id"] = f"{self.meta.unique[:6]}{at:02d}"
        return {"functionCall": inner} | ({"thoughtSignature": self.signature} if self.signs and at == 0 else {})

    def stream(self) -> tuple[list[bytes], list[int]]:
        frames: list[bytes] = []
        weights: list[int] = []
        done = 0
        for index, choice in enumerate(self.answer.choices):
            self._choice_frames(index, choice, done, frames, weights)
            done += tokens(sum(map(byte_length, choice.pieces)) + sum(map(call_bytes, choice.calls)))
        return disturbed(frames, weights, self.faults, _error_event(self.faults))

    def _choice_frames(self, index: int, choice: Choice, done: int, frames: list[bytes], weights: list[int]) -> None:
        """One response per piece, with the usage so far; the last one ends the candidate."""
        last: list[dict[str, Any]] = []
        size = 0
        pieces = choice.pieces
        if not self.signs and not choice.calls and pieces:
            pieces, final = pieces[:-1], pieces[-1]
            last = [{"text": final}]
        elif self.signs and not choice.calls and pieces:
            last = [{"text": "", "thoughtSignature": self.signature}]
        elif choice.calls:
            last = [{"text": ""}]
        sizes = [byte_length(piece) for piece in pieces]
        self._text_frames(index, pieces, sizes, done, frames)
        weights += sizes
        size += sum(sizes)
        for at, call in enumerate(choice.calls):
            size += call_bytes(call)
            self._add(frames, index, [self._call(at, call)], None, done + tokens(size))
            weights.append(call_bytes(call))
        carried = byte_length(last[0]["text"]) if last else 0
        self._add(frames, index, last, choice.finish, done + tokens(size + carried))
        weights.append(carried)

    def _text_frames(self, index: int, pieces: list[str], sizes: list[int], done: int, frames: list[bytes]) -> None:
        # The loop that a load test pays for: the tail is written once, with holes for the two counts that move.
        counted, encode = self.usage(1), msgspec.json.encode
        base = counted["totalTokenCount"] - 1
        counted["candidatesTokenCount"], counted["totalTokenCount"] = 111111111, 222222222
        tail = encode(self.response([], counted)).removeprefix(b'{"candidates":[]').replace(b"%", b"%%")
        tail = tail.replace(b"111111111", b"%d").replace(b"222222222", b"%d") + b"\r\n\r\n"
        head = b'data: {"candidates": [{"content": {"parts": [{"text": %%b}],"role": "model"},"index": %d}]' % index
        shape, size, bare = head + tail, 0, self.faults.no_usage
        for piece, length in zip(pieces, sizes, strict=True):
            size += length
            count = done + tokens(size)
            frames.append(shape % (encode(piece) if bare else (encode(piece), count, base + count)))

    def _add(
        self, frames: list[bytes], index: int, parts: list[dict[str, Any]], finish: Finish | None, count: int
    ) -> None:
        content = {"parts": parts, "role": "model"} if parts else {"role": "model"}
        candidate: dict[str, Any] = {"content": content}
        if finish is not None and not self.faults.no_done:
            candidate["finishReason"] = _FINISH[finish]
        response = self.response([candidate | {"index": index}], self.usage(count))
        frames.append(b"data: " + msgspec.json.encode(response) + b"\r\n\r\n")


def _error_event(faults: Faults) -> bytes:
    kind = "UNAVAILABLE" if faults.error_in_stream in ("true", None) else faults.error_in_stream
    text = faults.message or "The model is overloaded. Please try again later."
    code = next((status for status, name in _STATUSES.items() if name == kind), 503)
    return b"data: " + msgspec.json.encode({"error": {"code": code, "message": text, "status": kind}}) + b"\r\n\r\n"
