"""OpenAI's request: what it asks for, or why the provider would refuse it.

In: the decoded JSON body. Out: an `Ask`. Raises Refused, with the parameter's name.
"""

import re
from typing import Any

from control.demo.ask import Ask, Result, Tool
from control.demo.base import Refused, is_number, is_whole
from control.demo.text import canonical

# fmt: off
_PARAMETERS = frozenset({
    "audio", "frequency_penalty", "function_call", "functions", "logit_bias", "logprobs", "max_completion_tokens",
    "max_tokens", "messages", "metadata", "modalities", "model", "n", "parallel_tool_calls", "prediction",
    "presence_penalty", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "reasoning_effort",
    "response_format", "safety_identifier", "seed", "service_tier", "stop", "store", "stream", "stream_options",
    "temperature", "tool_choice", "tools", "top_logprobs", "top_p", "user", "verbosity", "web_search_options",
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


def _invalid(param: str, message: str, code: str | None = None) -> Refused:
    return Refused(400, message, param=param, code=code)


def check_parameters(data: dict[str, Any]) -> None:
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


class Reader:
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
        """Its meaning."""
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
            tools=_shown(data.get("tool_choice"), tools),
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
        if kind == "text":
            if not isinstance(part.get("text"), str):
                raise _invalid(f"{path}.text", f"Missing required parameter: '{path}.text'.")
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


def _shown(choice: Any, tools: list[Tool]) -> list[Tool]:
    """The tools that may be called: all, if `choice` does not list some."""
    match choice:
        case {"type": "allowed_tools", "allowed_tools": {"tools": [*allowed]}}:
            return [tool for tool in tools if {"type": "function", "function": {"name": tool.name}} in allowed]
    return tools


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
        case {"type": "allowed_tools", "allowed_tools": {"mode": "auto" | "required" as mode}} if _shown(choice, tools):
            return _tool_choice(mode, tools)
    raise _invalid("tool_choice", "Invalid value for 'tool_choice': not a function in 'tools'.")
