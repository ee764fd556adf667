"""A chat completion request in the terms of Google's generateContent. Pure.

In: a ChatRequest and its target. Out: the JSON body, as a dict; or InvalidRequest for what cannot be said there.
Called by `adapters.google`. Source: ai.google.dev/api/generate-content, /gemini-api/docs/openai, /thought-signatures.
"""

import mimetypes
import re
from typing import Any

from extproc.adapters import parts, toolids, tools
from extproc.adapters.params import Table, check, refusal
from extproc.chat import Message, ToolCall, messages
from extproc.errors import InvalidRequest
from extproc.records import ChatRequest, Target

_TABLE = Table(translated=frozenset({"n", "seed", "frequency_penalty", "presence_penalty"}))

_SAMPLING = {
    "temperature": "temperature",
    "top_p": "topP",
    "seed": "seed",
    "frequency_penalty": "frequencyPenalty",
    "presence_penalty": "presencePenalty",
}

# Gemini 2 takes a thinking budget in tokens, Gemini 3 and later a level. Both tables are Google's own, of its OpenAI
# surface: ai.google.dev/gemini-api/docs/openai, "Thinking".
_BUDGET_MODELS = re.compile(r"(models/)?gemini-2")
_BUDGET_TOKENS = {"none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24576}
_LEVELS = ("minimal", "low", "medium", "high", "xhigh")

# Models before Gemini 3 do not check signatures. For calls that another model made, Google names this value to pass.
_UNSIGNED_MODELS = re.compile(r"(models/)?(gemini-[12]|gemma)")
_NO_SIGNATURE = "skip_thought_signature_validator"

Json = dict[str, Any]


def request_body(chat: ChatRequest, target: Target) -> Json:
    """The generateContent request. Raises InvalidRequest."""
    check(chat.body, target, _TABLE)
    system, contents = _conversation(messages(chat), target)
    if not contents:
        raise InvalidRequest("messages: there is nothing for the model to answer.", param="messages")
    body: Json = {"contents": contents}
    if system:
        body["systemInstruction"] = {"parts": system}
    if config := _generation_config(chat, target):
        body["generationConfig"] = config
    return body | _tools(chat, target)


def _generation_config(chat: ChatRequest, target: Target) -> Json:
    config: Json = {theirs: chat.body[ours] for ours, theirs in _SAMPLING.items() if chat.body.get(ours) is not None}
    if chat.max_tokens:
        config["maxOutputTokens"] = chat.max_tokens
    if chat.n > 1:
        config["candidateCount"] = chat.n
    if stops := parts.stops(chat):
        config["stopSequences"] = stops
    wanted = parts.response_format(chat)
    if wanted is not None:
        config["responseMimeType"] = "application/json"
        if wanted.schema is not None:
            config["responseJsonSchema"] = wanted.schema
    if (effort := chat.body.get("reasoning_effort")) is not None:
        config["thinkingConfig"] = _thinking(effort, target)
    return config


def _thinking(effort: str, target: Target) -> Json:
    if _BUDGET_MODELS.match(target.upstream_name):
        if effort in _BUDGET_TOKENS:
            return {"thinkingBudget": _BUDGET_TOKENS[effort]}
    elif effort in _LEVELS:
        return {"thinkingLevel": effort}
    raise refusal("reasoning_effort", target, f" at the level {effort[:20]}")


def _conversation(conversation: list[Message], target: Target) -> tuple[list[Json], list[Json]]:
    """The system instruction's parts and the contents, in which `user` and `model` alternate."""
    system: list[Json] = []
    contents: list[Json] = []
    names: dict[str, str] = {}  # of the functions called so far, by call id: a result must repeat the name
    parts.refuse_names(conversation)
    for index, message in enumerate(conversation):
        at = f"messages[{index}]"
        parts.refuse_unknown(message, at)
        if message.role in ("system", "developer"):
            system += _content(message, at, target, texts_only=True)
        elif message.role == "assistant":
            calls = message.tool_calls or ()
            names.update({toolids.split(call.id)[0]: call.function.name for call in calls if call.function})
            parts.add_turn(contents, "model", "parts", _assistant(message, at, target))
        elif message.role == "tool":
            parts.add_turn(contents, "user", "parts", [_tool_result(message, at, target, names)])
        elif message.role == "user":
            parts.add_turn(contents, "user", "parts", _content(message, at, target))
        else:
            raise InvalidRequest(f"{at}.role: this model knows no such role.", param=f"{at}.role")
    return system, contents


def _assistant(message: Message, at: str, target: Target) -> list[Json]:
    found = _content(message, at, target, texts_only=True)
    if message.refusal:
        found.append({"text": message.refusal})
    calls = [_call(call, f"{at}.tool_calls[{index}]") for index, call in enumerate(message.tool_calls or ())]
    if calls and "thoughtSignature" not in calls[0] and not _UNSIGNED_MODELS.match(target.upstream_name):
        calls[0]["thoughtSignature"] = _NO_SIGNATURE  # of parallel calls only the first is signed
    return found + calls


def _call(call: ToolCall, at: str) -> Json:
    if call.function is None:
        raise InvalidRequest(f"{at}.type: this model takes function calls only.", param=f"{at}.type")
    call_id, signature = toolids.split(call.id)
    arguments = parts.arguments(call.function.arguments, f"{at}.function.arguments")
    part: Json = {"functionCall": {"id": call_id, "name": call.function.name, "args": arguments}}
    if signature := signature or _extra_signature(call):
        part["thoughtSignature"] = signature
    return part


def _extra_signature(call: ToolCall) -> str | None:
    """Where Google's own OpenAI surface puts it, for clients that come from there."""
    google = (call.extra_content or {}).get("google")
    signature = google.get("thought_signature") if isinstance(google, dict) else None
    return signature if isinstance(signature, str) else None


def _tool_result(message: Message, at: str, target: Target, names: dict[str, str]) -> Json:
    call_id = toolids.split(message.tool_call_id or "")[0]
    name = names.get(call_id)
    if name is None:
        raise InvalidRequest(f"{at}.tool_call_id: answers no tool call before it.", param=f"{at}.tool_call_id")
    output = "".join(part["text"] for part in _content(message, at, target, texts_only=True))
    return {"functionResponse": {"id": call_id, "name": name, "response": {"output": output}}}


def _content(message: Message, at: str, target: Target, *, texts_only: bool = False) -> list[Json]:
    found = []
    for index, part in enumerate(parts.listed(message.content)):
        here = f"{at}.content[{index}]"
        translated = _text_part(part, here) or (None if texts_only else _media_part(part, here))
        if translated is None:
            raise refusal(f"{here}.type", target)
        found.append(translated)
    return found


def _text_part(part: Json, at: str) -> Json | None:
    if part["type"] == "text":
        return {"text": parts.text(part, at)}
    if part["type"] == "refusal":
        return {"text": str(part.get("refusal") or "")}
    return None


def _media_part(part: Json, at: str) -> Json | None:
    readers = {"image_url": parts.image, "input_audio": parts.audio, "file": parts.file}
    reader = readers.get(part["type"])
    return _source(reader(part, at)) if reader else None


def _source(source: parts.Inline | parts.Link) -> Json:
    if isinstance(source, parts.Inline):
        return {"inlineData": {"mimeType": source.media_type, "data": source.data}}
    media_type = mimetypes.guess_type(source.url.partition("?")[0])[0]
    return {"fileData": {"fileUri": source.url} | ({"mimeType": media_type} if media_type else {})}


def _tools(chat: ChatRequest, target: Target) -> Json:
    offer = tools.offer(chat, target)
    functions = [function for function, _ in offer.functions]
    if not functions:
        return {}
    strict = any(function.strict for function in functions)
    mode = {"auto": "VALIDATED" if strict else "AUTO", "none": "NONE"}.get(offer.choice, "ANY")
    config: Json = {"mode": mode} | ({"allowedFunctionNames": [offer.name]} if offer.name else {})
    shown: Json = {"tools": [{"functionDeclarations": [_declaration(function) for function in functions]}]}
    return shown if mode == "AUTO" else shown | {"toolConfig": {"functionCallingConfig": config}}


def _declaration(function: tools.Function) -> Json:
    declaration: Json = {"name": function.name}
    if function.description:
        declaration["description"] = function.description
    if function.parameters and _takes_arguments(function.parameters):  # an object of nothing is refused
        declaration["parametersJsonSchema"] = function.parameters
    return declaration


def _takes_arguments(schema: Json) -> bool:
    said = {key for key, value in schema.items() if value}
    return bool(said - {"type", "title", "description", "$schema"})
