"""Anthropic's messages and tools: what a request asks for, or why the provider would refuse it.

In: the decoded JSON body, its parameters checked (`anthropic_params`). Out: an `Ask`. Raises
Refused, with the path of what is wrong.
"""

import re
from typing import Any

from control.demo.anthropic_params import EXTRA, invalid
from control.demo.anthropic_schema import check_schema
from control.demo.ask import Ask, Result, Tool
from control.demo.base import Refused
from control.demo.text import canonical

# fmt: off
_BLOCKS = {
    "text": {"text", "citations", "cache_control"},
    "image": {"source", "cache_control"},
    "document": {"source", "title", "context", "citations", "cache_control"},
    "tool_use": {"id", "name", "input", "caller", "cache_control"},
    "tool_result": {"tool_use_id", "content", "is_error", "cache_control"},
    "thinking": {"thinking", "signature"},
    "redacted_thinking": {"data"},
}
_BLOCKS_OF = {
    "user": {"text", "image", "document", "tool_result"},
    "assistant": {"text", "tool_use", "thinking", "redacted_thinking"},
}
_TOOL_KEYS = {
    "name", "description", "input_schema", "cache_control", "type", "strict", "allowed_callers", "defer_loading",
    "input_examples", "eager_input_streaming",
}
# fmt: on
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_TOOL_ID = re.compile(r"[a-zA-Z0-9_-]+")
_NO_PREFILL = re.compile(r"claude-(opus|sonnet)-4-[6-9]|claude-[a-z]+-[5-9]")
_MEDIA = ("image/jpeg", "image/png", "image/gif", "image/webp")


class Reader:
    """Reads one request's messages and tools; raises Refused on the way."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data
        self.texts: list[str] = []
        self.images = 0
        self.user = ""
        self.results: list[Result] = []
        self.cached = "cache_control" in data
        self.pending: dict[str, str] = {}  # ids of tool_use blocks in the message before -> name

    def ask(self) -> Ask:
        """Its meaning."""
        data = self.data
        system = self._system()
        for index, message in enumerate(data["messages"]):
            self._message(index, message)
        if self.pending:
            raise self._unanswered(len(data["messages"]) - 1)
        self._check_last(data["messages"][-1])
        tools = self._tools()
        choice, parallel = _tool_choice(data.get("tool_choice"), tools)
        thinking = (data.get("thinking") or {}).get("type") in ("enabled", "adaptive")
        config = data.get("output_config") or {}
        return Ask(
            format="anthropic",
            model=data["model"],
            stream=bool(data.get("stream")),
            texts=self.texts,
            images=self.images,
            system=system,
            user=self.user,
            results=self.results,
            tools=tools,
            choice=choice,
            parallel=parallel,
            max_tokens=data["max_tokens"],
            stop=data.get("stop_sequences") or [],
            schema=_schema(config),
            effort=_effort(data, config) if thinking else None,
            cacheable=self.cached,
            thinking=thinking,
        )

    def _system(self) -> str:
        system = self.data.get("system", "")
        if isinstance(system, list):
            start = len(self.texts)
            for at, block in enumerate(system):
                self._block(f"system.{at}", block, {"text"})
            return "".join(self.texts[start:])
        if not isinstance(system, str):
            raise invalid("system: Input should be a valid string")
        self.texts.append(system)
        return system

    def _message(self, index: int, message: Any) -> None:
        path = f"messages.{index}"
        if not isinstance(message, dict):
            raise invalid(f"{path}: Input should be a valid dictionary")
        for key in message:
            if key not in ("role", "content"):
                raise invalid(f"{path}.{key}: {EXTRA}")
        role, content = message.get("role"), message.get("content")
        if role == "system":
            text = 'messages: Unexpected role "system". The Messages API accepts a top-level `system` parameter, not '
            raise invalid(f'{text}"system" as an input message role.')
        if role not in _BLOCKS_OF:
            raise invalid(f"{path}.role: Input should be 'user' or 'assistant'")
        if index == 0 and role != "user":
            raise invalid('messages: first message must use the "user" role')
        last = index == len(self.data["messages"]) - 1
        if not content and not (last and role == "assistant"):
            raise invalid(f"{path}: all messages must have non-empty content except for the optional final assistant")
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(blocks, list):
            raise invalid(f"{path}.content: Input should be a valid list")
        self._blocks(index, role, blocks)

    def _blocks(self, index: int, role: str, blocks: list[Any]) -> None:
        """The blocks of one message. Tool results must answer exactly the calls before, ahead of everything else."""
        expected, self.pending = self.pending, {}
        results: list[Result] = []
        said = []
        for at, block in enumerate(blocks):
            path = f"messages.{index}.content.{at}"
            kind = self._block(path, block, _BLOCKS_OF[role])
            if kind == "text":
                said.append(block["text"])
            if kind == "tool_result":
                name = expected.pop(block["tool_use_id"], None)
                if name is None:
                    text = f"unexpected `tool_use_id` found in `tool_result` blocks: {block['tool_use_id']}"
                    raise invalid(f"{path}: {text}. Each `tool_result` must have a `tool_use` in the message before.")
                results.append(Result(name, self.texts[-1]))
            elif expected:
                self.pending = expected
                raise self._unanswered(index - 1)
        if expected:
            self.pending = expected
            raise self._unanswered(index - 1)
        self.results = self.results + results if role == "user" else []
        if role == "user" and said:
            self.user = "".join(said)

    def _unanswered(self, index: int) -> Refused:
        ids = ", ".join(self.pending)
        text = f"messages.{index}: `tool_use` ids were found without `tool_result` blocks immediately after: {ids}. "
        return invalid(f"{text}Each `tool_use` block must have a corresponding `tool_result` in the next message.")

    def _block(self, path: str, block: Any, allowed: set[str]) -> str:
        kind = block.get("type") if isinstance(block, dict) else None
        if kind not in allowed:
            tags = ", ".join(f"'{name}'" for name in sorted(allowed))
            raise invalid(f"{path}: Input tag '{kind}' does not match any of the expected tags: {tags}")
        for key in block:
            if key != "type" and key not in _BLOCKS[kind]:
                raise invalid(f"{path}.{kind}.{key}: {EXTRA}")
        self.cached = self.cached or "cache_control" in block
        match kind:
            case "text":
                self._text(path, block.get("text"))
            case "image":
                self._image(path, block.get("source"))
            case "document":
                self._document(path, block.get("source"))
            case "tool_use":
                self._tool_use(path, block)
            case "tool_result":
                self._tool_result(path, block)
            case "thinking":
                if not isinstance(block.get("signature"), str):
                    raise invalid(f"{path}.thinking.signature: Field required")
        return str(kind)

    def _text(self, path: str, text: Any) -> None:
        if not isinstance(text, str):
            raise invalid(f"{path}.text.text: Input should be a valid string")
        if not text.strip():
            empty = "must be non-empty" if not text else "must contain non-whitespace text"
            raise invalid(f"messages: text content blocks {empty}")
        self.texts.append(text)

    def _image(self, path: str, source: Any) -> None:
        match source:
            case {"type": "base64", "media_type": str(media), "data": str(data), **rest} if not rest:
                if media not in _MEDIA:
                    raise invalid(f"{path}.image.source.base64.media_type: Input should be one of {_MEDIA}")
                if not data or data.startswith("data:"):
                    raise invalid(f"{path}.image.source.base64.data: invalid base64 data")
            case {"type": "url", "url": str(url), **rest} if not rest:
                if not url.startswith(("https://", "http://")):
                    raise invalid(f"{path}.image.source.url.url: Only HTTPS URLs are supported.")
            case _:
                raise invalid(f"{path}.image.source: Input should be a valid image source")
        self.images += 1

    def _document(self, path: str, source: Any) -> None:
        match source:
            case {"type": "text", "media_type": "text/plain", "data": str(data)}:
                self.texts.append(data)
            case {"type": "base64", "media_type": "application/pdf", "data": str()} | {"type": "url", "url": str()}:
                pass
            case {"type": "file", "file_id": str()}:  # uploaded before; which files exist is not simulated
                pass
            case _:
                raise invalid(f"{path}.document.source: Input should be a valid document source")

    def _tool_use(self, path: str, block: dict[str, Any]) -> None:
        if not isinstance(block.get("id"), str) or not _TOOL_ID.fullmatch(block["id"]):
            raise invalid(f"{path}.tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'")
        if not isinstance(block.get("name"), str):
            raise invalid(f"{path}.tool_use.name: Field required")
        if not isinstance(block.get("input"), dict):
            raise invalid(f"{path}.tool_use.input: Input should be a valid dictionary")
        self.pending[block["id"]] = block["name"]
        self.texts += [block["name"], canonical(block["input"])]

    def _tool_result(self, path: str, block: dict[str, Any]) -> None:
        if not isinstance(block.get("tool_use_id"), str):
            raise invalid(f"{path}.tool_result.tool_use_id: Field required")
        content = block.get("content", "")
        if isinstance(content, list):
            start = len(self.texts)
            for at, inner in enumerate(content):
                self._block(f"{path}.tool_result.content.{at}", inner, {"text", "image", "document"})
            content = "".join(self.texts[start:])
            del self.texts[start:]
        if not isinstance(content, str):
            raise invalid(f"{path}.tool_result.content: Input should be a valid string")
        self.texts.append(canonical(content))

    def _check_last(self, message: dict[str, Any]) -> None:
        if message["role"] != "assistant":
            return
        if _NO_PREFILL.match(self.data["model"]):
            text = "This model does not support assistant message prefill. The conversation must end with a user "
            raise invalid(f"{text}message.")
        if isinstance(message["content"], str) and message["content"] != message["content"].rstrip():
            raise invalid("messages: final assistant content cannot end with trailing whitespace")

    def _tools(self) -> list[Tool]:
        tools: list[Tool] = []
        for at, tool in enumerate(self.data.get("tools") or []):
            path = f"tools.{at}"
            if not isinstance(tool, dict) or tool.get("type", "custom") != "custom":
                raise invalid(f"{path}: only custom tools are supported here")
            for key in tool:
                if key not in _TOOL_KEYS:
                    raise invalid(f"{path}.custom.{key}: {EXTRA}")
            name, schema = tool.get("name"), tool.get("input_schema")
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise invalid(f"{path}.custom.name: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'")
            if not isinstance(schema, dict):
                raise invalid(f"{path}.custom.input_schema: Field required")
            if schema.get("type") != "object":
                raise invalid(f"{path}.custom.input_schema.type: Input should be 'object'")
            if any(other.name == name for other in tools):
                raise invalid("tools: Tool names must be unique.")
            if tool.get("strict"):
                check_schema(f"{path}.custom", schema)
            self.texts += [name, tool.get("description") or ""]
            tools.append(Tool(name, schema))
        return tools


def _tool_choice(choice: Any, tools: list[Tool]) -> tuple[str, bool]:
    if choice is None:
        return "auto", True
    kind = choice.get("type") if isinstance(choice, dict) else None
    if kind not in ("auto", "any", "tool", "none"):
        raise invalid("tool_choice: Input tag should be one of 'auto', 'any', 'tool', 'none'")
    allowed = {"type"} | ({"name"} if kind == "tool" else set())
    allowed |= set() if kind == "none" else {"disable_parallel_tool_use"}
    for key in choice:
        if key not in allowed:
            raise invalid(f"tool_choice.{kind}.{key}: {EXTRA}")
    if not tools and kind != "none":
        raise invalid("tool_choice may only be specified while providing tools.")
    if kind == "tool" and not any(tool.name == choice.get("name") for tool in tools):
        raise invalid(f"Tool '{choice.get('name')}' not found in provided tools")
    name = "=" + choice["name"] if kind == "tool" else str(kind)
    return name, not choice.get("disable_parallel_tool_use", False)


def _effort(data: dict[str, Any], config: dict[str, Any]) -> str:
    budget = data["thinking"].get("budget_tokens")
    if budget is None:
        return str(config.get("effort", "medium"))
    return "low" if budget <= 2048 else "medium" if budget <= 8192 else "high"


def _schema(config: dict[str, Any]) -> dict[str, Any] | None:
    for key in config:
        if key not in ("effort", "format"):
            raise invalid(f"output_config.{key}: {EXTRA}")
    match config.get("format"):
        case None:
            return None
        case {"type": "json_schema", "schema": dict(schema), **rest} if not rest:
            check_schema("output_config.format.schema", schema)
            return schema
    raise invalid("output_config.format: Input should be a valid json_schema format")
