"""A chat completion request in the terms of Anthropic's Messages API. Pure.

In: a ChatRequest and its target. Out: the JSON body, as a dict; or InvalidRequest for what cannot be said there.
Called by `adapters.anthropic`. Source: platform.claude.com/docs/en/api/messages and /api/openai-sdk.
"""

import base64
import binascii
import re
from typing import Any

from extproc.adapters import parts, toolids, tools
from extproc.adapters.params import Table, check, refusal
from extproc.adapters.schema import narrowed
from extproc.chat import Message, ToolCall, messages
from extproc.errors import InvalidRequest
from extproc.records import ChatRequest, Target

DEFAULT_MAX_TOKENS = 4096
MIN_THINKING_TOKENS = 1024
MIN_THINKING_TOP_P = 0.95

_TABLE = Table(
    translated=frozenset({"user", "safety_identifier"}),
    harmless={"seed": "best effort by OpenAI's own words, and Claude samples without one"},
)

# Models before adaptive thinking take a budget of tokens, those before thinking nothing; all newer ones take an effort.
# Source: platform.claude.com/docs/en/build-with-claude/extended-thinking, "Supported models".
_BEDROCK = r"(.*\banthropic\.)?"  # there, a model's name may be eu.anthropic.claude-haiku-4-5-20251001-v1:0, or its ARN
_NO_THINKING = re.compile(rf"{_BEDROCK}claude-(instant|2|3-(?!7))")
_BUDGET = re.compile(rf"{_BEDROCK}claude-(3-7-\w+|(opus|sonnet|haiku)-4(-[015])?)([-@]\d{{8}}|-latest)?(-v\d+(:\w+)*)?")
# From generation 5 on they think unless told not to; older ones only when told to, and some refuse to be told not to.
_ONLY_IF_ASKED = re.compile(rf"{_BEDROCK}claude-(instant|2|3|[a-z]+-4)")
# Since Opus 4.1 and Sonnet 4.5 a model takes temperature or top_p, since Opus 4.7 neither, or its default alone.
# Source: platform.claude.com/docs/en/about-claude/models/migration-guide; modelparams.dev#238 (probed).
_ONE_SAMPLING = re.compile(rf"{_BEDROCK}claude-(opus-4-1|[a-z]+-4-[5-9])")
_NO_SAMPLING = re.compile(rf"{_BEDROCK}claude-(opus-4-[7-9]|[a-z]+-[5-9])")
_BUDGET_TOKENS = {"minimal": 1024, "low": 2048, "medium": 8192, "high": 16384, "xhigh": 24576, "max": 32000}
_EFFORT = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh", "max": "max"}

Json = dict[str, Any]


def request_body(chat: ChatRequest, target: Target) -> Json:
    """The Messages request. Raises InvalidRequest."""
    check(chat.body, target, _TABLE)
    system, turns = _conversation(messages(chat), target)
    if not turns:
        raise InvalidRequest("messages: there is nothing for the model to answer.", param="messages")
    body: Json = {
        "model": target.upstream_name,
        "max_tokens": chat.max_tokens or target.max_output_tokens or DEFAULT_MAX_TOKENS,
        "messages": turns,
    }
    if system:
        body["system"] = system
    if chat.stream:
        body["stream"] = True
    if stops := parts.stops(chat):
        body["stop_sequences"] = stops
    if chat.body.get("service_tier") == "default" and target.format == "anthropic":
        body["service_tier"] = "standard_only"
    if user := chat.body.get("safety_identifier") or chat.body.get("user"):
        body["metadata"] = {"user_id": user}
    return body | _sampling(chat, target) | _tools(chat, target) | _output(chat, target) | _thinking(chat, target, body)


def _sampling(chat: ChatRequest, target: Target) -> Json:
    """What was asked for; of models that do not take all of it, without what is so anyway."""
    asked = {name: chat.body[name] for name in ("temperature", "top_p") if chat.body.get(name) is not None}
    if asked.get("temperature", 0) > 1:
        raise InvalidRequest("temperature: must be at most 1 for this model.", param="temperature")
    none = _NO_SAMPLING.match(target.upstream_name)
    if not none and (len(asked) < 2 or not _ONE_SAMPLING.match(target.upstream_name)):
        return asked
    asked = {name: value for name, value in asked.items() if value != 1}
    if none and asked:
        raise refusal(min(asked), target, ", but for 1")
    if len(asked) == 2:
        raise refusal("top_p", target, " together with temperature")
    return asked


def _conversation(conversation: list[Message], target: Target) -> tuple[list[Json], list[Json]]:
    """The system blocks and the turns. Instructions are gathered in front, as Anthropic's own OpenAI surface does."""
    system: list[Json] = []
    turns: list[Json] = []
    parts.refuse_names(conversation)
    for index, message in enumerate(conversation):
        at = f"messages[{index}]"
        parts.refuse_unknown(message, at)
        if message.role in ("system", "developer"):
            system += _content(message, at, target, texts_only=True)
        elif message.role == "assistant":
            parts.add_turn(turns, "assistant", "content", _assistant(message, at, target))
        elif message.role == "tool":
            parts.add_turn(turns, "user", "content", [_tool_result(message, at, target)])
        elif message.role == "user":
            parts.add_turn(turns, "user", "content", _content(message, at, target))
        else:
            raise InvalidRequest(f"{at}.role: this model knows no such role.", param=f"{at}.role")
    _trim_prefill(turns)
    return system, turns


def _trim_prefill(turns: list[Json]) -> None:
    """What the model is to go on from may not end with white space (langchain-google#1733)."""
    while turns and turns[-1]["role"] == "assistant" and turns[-1]["content"][-1]["type"] == "text":
        last = turns[-1]["content"][-1]
        last["text"] = last["text"].rstrip()
        if last["text"]:
            return
        turns[-1]["content"].pop()  # another text stands before it


def _assistant(message: Message, at: str, target: Target) -> list[Json]:
    blocks = _content(message, at, target, texts_only=True)
    if message.refusal:
        blocks = _telling([*blocks, {"type": "text", "text": message.refusal}])
    calls = message.tool_calls or ()
    return blocks + [_tool_use(call, f"{at}.tool_calls[{index}]") for index, call in enumerate(calls)]


def _tool_use(call: ToolCall, at: str) -> Json:
    if call.function is None:
        raise InvalidRequest(f"{at}.type: this model takes function calls only.", param=f"{at}.type")
    arguments = parts.arguments(call.function.arguments, f"{at}.function.arguments")
    return {"type": "tool_use", "id": toolids.plain(call.id), "name": call.function.name, "input": arguments}


def _tool_result(message: Message, at: str, target: Target) -> Json:
    if not message.tool_call_id:
        raise InvalidRequest(f"{at}.tool_call_id: is required.", param=f"{at}.tool_call_id")
    block: Json = {"type": "tool_result", "tool_use_id": toolids.plain(message.tool_call_id)}
    if content := _content(message, at, target):
        block["content"] = content
    return block


def _content(message: Message, at: str, target: Target, *, texts_only: bool = False) -> list[Json]:
    found = []
    for index, part in enumerate(parts.listed(message.content)):
        here = f"{at}.content[{index}]"
        block = _text_block(part, here) or (None if texts_only else _media_block(part, here, target))
        if block is None:
            raise refusal(f"{here}.type", target)
        if "cache_control" in part:  # Anthropic's own mark, which its users send through OpenAI's format too
            block["cache_control"] = part["cache_control"]
        found.append(block)
    return _telling(found)


def _telling(blocks: list[Json]) -> list[Json]:
    """Without texts of white space where there is no other text: Anthropic refuses such a message
    (LibreChat-AI/agents#124), and many a model says a line feed before it calls a tool."""
    texts = [block["text"] for block in blocks if block["type"] == "text"]
    if not texts or any(text and not text.isspace() for text in texts):
        return blocks
    return [block for block in blocks if block["type"] != "text"]


def _text_block(part: Json, at: str) -> Json | None:
    if part["type"] == "text":
        return {"type": "text", "text": parts.text(part, at)}
    if part["type"] == "refusal":
        return {"type": "text", "text": str(part.get("refusal") or "")}
    return None


def _media_block(part: Json, at: str, target: Target) -> Json | None:
    if part["type"] == "image_url":
        return {"type": "image", "source": _source(parts.image(part, at), f"{at}.image_url.url", target)}
    if part["type"] == "file":
        return _document(parts.file(part, at), f"{at}.file.file_data")
    return None


def _document(file: parts.Inline, at: str) -> Json:
    """Of files in base64 Anthropic takes PDFs; texts it takes as such."""
    source: Json = {"type": "base64", "media_type": file.media_type, "data": file.data}
    if file.media_type.startswith("text/"):
        source = {"type": "text", "media_type": "text/plain", "data": _plain(file.data, at)}
    return {"type": "document", "source": source} | ({"title": file.name} if file.name else {})


def _plain(data: str, at: str) -> str:
    try:
        return base64.b64decode(data, validate=True).decode()
    except (binascii.Error, ValueError):
        raise InvalidRequest(f"{at}: must be a text in UTF-8, in base64.", param=at) from None


def _source(source: parts.Inline | parts.Link, at: str, target: Target) -> Json:
    if isinstance(source, parts.Link):
        if target.format == "bedrock":
            raise refusal(at, target, " as a link; send the data itself")
        return {"type": "url", "url": source.url}
    return {"type": "base64", "media_type": source.media_type, "data": source.data}


def _tools(chat: ChatRequest, target: Target) -> Json:
    offer = tools.offer(chat, target)
    if not offer.functions:
        return {}
    shown = [_tool(function, cache_control, target) for function, cache_control in offer.functions]
    choice: Json = {"type": {"required": "any", "function": "tool"}.get(offer.choice, offer.choice)}
    if offer.name is not None:
        choice["name"] = offer.name
    if chat.body.get("parallel_tool_calls") is False and offer.choice != "none":
        choice["disable_parallel_tool_use"] = True
    return {"tools": shown} if choice == {"type": "auto"} else {"tools": shown, "tool_choice": choice}


def _tool(function: tools.Function, cache_control: Json | None, target: Target) -> Json:
    schema = function.parameters or {"type": "object", "properties": {}}
    if function.strict and function.parameters:
        schema = narrowed(schema, target, "tools")
    tool: Json = {"name": function.name, "input_schema": schema}
    if function.description:
        tool["description"] = function.description
    if function.strict:
        tool["strict"] = True
    if cache_control:
        tool["cache_control"] = cache_control
    return tool


def _output(chat: ChatRequest, target: Target) -> Json:
    """Structured output. Source: platform.claude.com/docs/en/build-with-claude/structured-outputs."""
    wanted = parts.response_format(chat)
    if wanted is None:
        return {}
    if wanted.schema is None:
        raise refusal("response_format", target, " without a schema; use json_schema")
    schema = narrowed(wanted.schema, target, "response_format")
    return {"output_config": {"format": {"type": "json_schema", "schema": schema}}}


def _thinking(chat: ChatRequest, target: Target, body: Json) -> Json:
    """`reasoning_effort`, in the terms of the model's generation."""
    effort = chat.body.get("reasoning_effort")
    if effort is None:
        return {}
    if effort not in (*_EFFORT, "none"):
        raise InvalidRequest("reasoning_effort: not a level this model knows.", param="reasoning_effort")
    model = target.upstream_name
    if effort == "none":
        return {} if _ONLY_IF_ASKED.match(model) else {"thinking": {"type": "disabled"}}
    if _NO_THINKING.match(model):
        raise refusal("reasoning_effort", target)
    if not _BUDGET.fullmatch(model):
        config = _output(chat, target).get("output_config", {})
        return {"thinking": {"type": "adaptive"}, "output_config": {**config, "effort": _EFFORT[effort]}}
    if _answers_tools(body):
        return {}  # it would have to begin with the thinking before the calls, for which OpenAI's API has no place
    _check_manual(chat, target)
    budget = min(_BUDGET_TOKENS[effort], body["max_tokens"] - 1)
    if budget < MIN_THINKING_TOKENS:
        raise InvalidRequest(
            f"reasoning_effort: needs max_completion_tokens above {MIN_THINKING_TOKENS} with this model.",
            param="reasoning_effort",
        )
    return {"thinking": {"type": "enabled", "budget_tokens": budget}}


def _answers_tools(body: Json) -> bool:
    """Whether the model is in the middle of a turn: what it is to read next are the results of its tools."""
    return any(block["type"] == "tool_result" for block in body["messages"][-1]["content"])


def _check_manual(chat: ChatRequest, target: Target) -> None:
    """Raises InvalidRequest for what a thinking budget excludes. Source: /build-with-claude/extended-thinking."""
    temperature, top_p = chat.body.get("temperature"), chat.body.get("top_p")
    if tools.offer(chat, target).choice in ("required", "function"):
        raise refusal("tool_choice", target, " together with reasoning_effort, if it forces a call")
    if temperature not in (None, 1):
        raise refusal("temperature", target, " together with reasoning_effort, but for 1")
    if top_p is not None and top_p < MIN_THINKING_TOP_P:
        raise refusal("top_p", target, f" together with reasoning_effort, below {MIN_THINKING_TOP_P}")
