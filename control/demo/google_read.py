"""Google's request: what it asks for, or why the provider would refuse it.

In: the decoded JSON body, the model and whether it is to be streamed, which the path says. Out: an `Ask`. Raises
Refused, with the path of what is wrong.
"""

import base64
import re
from typing import Any

import msgspec

from control.demo.ask import Ask, Result, Tool
from control.demo.base import Refused, is_number, is_whole
from control.demo.google_fields import bad_payload, fields_of, invalid, listed
from control.demo.google_schema import check_schema, response_schema
from control.demo.text import canonical

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
_EFFORT_OF_BUDGET = ((0, "none"), (64, "low"), (1024, "medium"))
SIGNATURE = b"demo-thought:"
_SKIP_SIGNATURES = {"skip_thought_signature_validator", "context_engineering_is_the_way_to_go"}


class _Turn(msgspec.Struct):
    """What one content holds, for the rules about the order of turns."""

    role: str
    text: str = ""
    calls: list[str] = []
    responses: list[str] = []
    signed: bool = True  # its first function call carries a signature


class Reader:
    """Reads one request's contents and tools; raises Refused on the way."""

    def __init__(self, data: dict[str, Any], model: str, *, stream: bool) -> None:
        self.data = fields_of(data, _FIELDS, "")
        self.model = model
        self.is_stream = stream
        self.texts: list[str] = []
        self.images = 0
        self.results: list[Result] = []

    def ask(self) -> Ask:
        """Its meaning."""
        data = self.data
        if not data.get("contents"):
            raise invalid("* GenerateContentRequest.contents: contents is not specified\n")
        system = self._system()
        contents = listed(data["contents"], "contents")
        turns = [self._content(f"contents[{at}]", content) for at, content in enumerate(contents)]
        self._check_turns(turns)
        tools = self._tools()
        choice = self._tool_choice(tools)
        config = fields_of(data.get("generationConfig", {}), _CONFIG, "generation_config")
        _check_config(config)
        schema = response_schema(config)
        if schema is not None and tools and not self.model.startswith("gemini-3"):
            raise invalid("Function calling with a response mime type: 'application/json' is unsupported")
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
        content = fields_of(self.data["systemInstruction"], {"role", "parts"}, "system_instruction")
        start = len(self.texts)
        for at, part in enumerate(listed(content.get("parts", []), "system_instruction.parts")):
            self._part(f"system_instruction.parts[{at}]", part, _Turn("user"))
        return "".join(self.texts[start:])

    def _content(self, path: str, content: Any) -> _Turn:
        fields = fields_of(content, {"role", "parts"}, path)
        role = fields.get("role", "user")
        if role not in ("user", "model", "function"):
            raise invalid("Please use a valid role: user, model.")
        parts = listed(fields.get("parts", []), f"{path}.parts")
        if not parts:
            text = f"* GenerateContentRequest.{path}.parts: contents.parts must not be empty.\n"
            raise invalid(text)
        turn = _Turn("user" if role == "function" else role, calls=[], responses=[])
        if role == "model":
            self.results = []
        for at, part in enumerate(parts):
            self._part(f"{path}.parts[{at}]", part, turn)
        return turn

    def _part(self, path: str, part: Any, turn: _Turn) -> None:
        fields = fields_of(part, _PART, path)
        data = [key for key in fields if key in _PART_DATA]
        if len(data) != 1:
            one = "required oneof field 'data' must have one initialized field"
            raise invalid(f"* GenerateContentRequest.{path}.data: {one}\n")
        value = fields[data[0]]
        match data[0]:
            case "text":
                if not isinstance(value, str):
                    raise bad_payload(f"Invalid value at '{path}.text' (TYPE_STRING)", f"{path}.text")
                self.texts.append(value)
                turn.text += value
            case "inlineData":
                blob = fields_of(value, {"mimeType", "data", "displayName"}, f"{path}.inline_data")
                _check_blob(blob, path)
                self.images += blob["mimeType"].startswith("image/")
            case "fileData":
                file = fields_of(value, {"mimeType", "fileUri", "displayName"}, f"{path}.file_data")
                if not isinstance(file.get("fileUri"), str) or "://" not in file["fileUri"]:
                    raise invalid(f"* GenerateContentRequest.{path}.file_data.file_uri: is not a URI\n")
                self.images += 1
            case "functionCall":
                self._function_call(path, value, fields.get("thoughtSignature"), turn)
            case "functionResponse":
                self._function_response(path, value, turn)

    def _function_call(self, path: str, value: Any, signature: Any, turn: _Turn) -> None:
        call = fields_of(value, {"id", "name", "args", "partialArgs", "willContinue"}, f"{path}.function_call")
        name, arguments = call.get("name"), call.get("args", {})
        if not isinstance(name, str) or not isinstance(arguments, dict):
            raise bad_payload(f"Invalid value at '{path}.function_call.args'", f"{path}.function_call")
        if signature is not None and not _is_signature(signature):
            raise invalid("Corrupted thought signature.")
        if not turn.calls:
            turn.signed = signature is not None
        turn.calls.append(name)
        self.texts += [name, canonical(arguments)]

    def _function_response(self, path: str, value: Any, turn: _Turn) -> None:
        allowed = {"id", "name", "response", "parts", "willContinue", "scheduling"}
        response = fields_of(value, allowed, f"{path}.function_response")
        name = response.get("name")
        if not isinstance(name, str) or not name:
            raise invalid(f"* GenerateContentRequest.{path}.function_response.name: Name cannot be empty.\n")
        if not isinstance(response.get("response", {}), dict):
            raise bad_payload(f"Invalid value at '{path}.function_response.response' (Struct)", path)
        turn.responses.append(name)
        text = canonical(response.get("response", {}))
        self.texts.append(text)
        self.results.append(Result(name, text))

    def _check_turns(self, turns: list[_Turn]) -> None:
        """Calls follow a user's turn; as many responses follow; Gemini 3 wants the signatures of the current turn."""
        current = max((at for at, turn in enumerate(turns) if turn.role == "user" and turn.text), default=0)
        if turns[-1].role == "model" and turns[-1].calls:
            raise invalid("Please ensure that function call turn is followed by a function response turn.")
        for at, turn in enumerate(turns):
            before = turns[at - 1] if at else _Turn("model")
            if turn.calls and before.role != "user":
                text = "Please ensure that function call turn comes immediately after a user turn or after a function "
                raise invalid(f"{text}response turn.")
            if turn.responses and not before.calls:
                text = "Please ensure that function response turn comes immediately after a function call turn."
                raise invalid(text)
            if before.calls and len(turn.responses) != len(before.calls):
                text = "Please ensure that the number of function response parts is equal to the number of function "
                raise invalid(f"{text}call parts of the function call turn.")
            if turn.calls and not turn.signed and at > current and self.model.startswith("gemini-3"):
                raise _unsigned(turn.calls[0], at + 1)

    def _tools(self) -> list[Tool]:
        tools = []
        for at, tool in enumerate(listed(self.data.get("tools", []), "tools")):
            fields = fields_of(tool, _TOOL, f"tools[{at}]")
            path = f"tools[{at}].function_declarations"
            for index, item in enumerate(listed(fields.get("functionDeclarations", []), path)):
                tools.append(self._declaration(f"{path}[{index}]", item))
        return tools

    def _declaration(self, path: str, item: Any) -> Tool:
        fields = fields_of(item, _DECLARATION, path)
        name = fields.get("name")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            text = "Invalid function name. Must start with a letter or an underscore. Must be alphanumeric (a-z, A-Z, "
            raise invalid(f"* GenerateContentRequest.{path}.name: {text}0-9), underscores (_), dots (.) or dashes.\n")
        if "parameters" in fields and "parametersJsonSchema" in fields:
            raise invalid(f"* GenerateContentRequest.{path}: only one of parameters and parameters_json_schema\n")
        schema = fields.get("parametersJsonSchema")
        if schema is None and "parameters" in fields:
            schema = check_schema(fields["parameters"], f"{path}.parameters")
        self.texts += [name, fields.get("description", "")]
        return Tool(name, schema or {})

    def _tool_choice(self, tools: list[Tool]) -> str:
        config = fields_of(self.data.get("toolConfig", {}), {"functionCallingConfig", "retrievalConfig"}, "tool_config")
        allowed = {"mode", "allowedFunctionNames"}
        calling = fields_of(config.get("functionCallingConfig", {}), allowed, "tool_config.function_calling_config")
        mode, names = calling.get("mode", "AUTO"), calling.get("allowedFunctionNames", [])
        if mode not in ("AUTO", "ANY", "NONE", "VALIDATED", "MODE_UNSPECIFIED"):
            at = "tool_config.function_calling_config.mode"
            raise bad_payload(f"Invalid value at '{at}', \"{mode}\"", at)
        if mode == "ANY" and not tools:
            raise invalid("Function calling config is set without function_declarations.")
        if names and mode not in ("ANY", "VALIDATED"):
            raise invalid("allowed_function_names should be set only when function calling mode is ANY.")
        for name in names:
            if not any(tool.name == name for tool in tools):
                raise invalid(f"allowed_function_names contains {name}, which is not in function_declarations.")
        if mode == "ANY":
            return "=" + names[0] if len(names) == 1 else "any"
        return "none" if mode == "NONE" else "auto"


def _unsigned(name: str, position: int) -> Refused:
    text = "Function call is missing a thought_signature in functionCall parts. This is required for tools to work "
    text += "correctly, and missing thought_signature may lead to degraded model performance. Additional data, "
    text += f"function call `default_api:{name}`, position {position}. Please refer to "
    return invalid(f"{text}https://ai.google.dev/gemini-api/docs/thought-signatures for more details.")


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
    return raw.startswith(SIGNATURE)


def _check_blob(blob: dict[str, Any], path: str) -> None:
    if not isinstance(blob.get("mimeType"), str) or "/" not in blob["mimeType"]:
        raise invalid(f"* GenerateContentRequest.{path}.inline_data.mime_type: must be a MIME type\n")
    data = blob.get("data")
    if not isinstance(data, str) or not data or data.startswith("data:"):
        at = f"{path}.inline_data.data"
        raise bad_payload(f"Invalid value at '{at}' (TYPE_BYTES), Base64 decoding failed", at)


def _check_config(config: dict[str, Any]) -> None:
    for name, (low, high) in _RANGES.items():
        value = config.get(name)
        if value is not None and not (is_number(value) and low <= value <= high):
            raise invalid(f"* GenerateContentRequest.generation_config.{name}: must be in the range [{low}, {high}]\n")
    for name, low, high in (("maxOutputTokens", 1, 1 << 31), ("candidateCount", 1, 8), ("topK", 1, 1 << 31)):
        value = config.get(name)
        if value is not None and not (is_whole(value) and low <= value <= high):
            raise invalid(f"* GenerateContentRequest.generation_config.{name}: must be from {low} to {high}\n")
    stops = config.get("stopSequences", [])
    if not isinstance(stops, list) or len(stops) > 5 or not all(isinstance(stop, str) and stop for stop in stops):
        raise invalid("* GenerateContentRequest.generation_config.stop_sequences: up to 5 non-empty strings\n")
    allowed = {"includeThoughts", "thinkingBudget", "thinkingLevel"}
    fields_of(config.get("thinkingConfig", {}), allowed, "generation_config.thinking_config")


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
