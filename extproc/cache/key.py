"""What a request is known by in the cache. Pure.

In: the partition, what the model name stands for, the client's request. Out: a `Key`. Two requests have the same key
only if nothing but the following tells them apart:

- `metadata`, `stream`, `stream_options`, `user`, `safety_identifier`, `prompt_cache_key`: they say who asks and how the
  answer travels, not what it is. All else is part of the key, parameters we have never heard of included;
- the order of keys in JSON objects and white space between them; a known parameter that is null or absent; 1 or 1.0 as
  the value of a parameter;
- Unicode: message texts are compared in normal form C (never K: it would make x² of x2). Line ends CR LF and CR are LF;
- white space at both ends of a text of the roles user, system and developer. Inside a text it counts, and so it does in
  an assistant's text, which may be the beginning of the answer;
- a content of one text part and nothing else, or the text itself.

Of a large request (`chat.LARGE_BYTES`) the messages are compared as they were sent: writing and hashing 10 MiB more
would hold up all others.

The key is made of two halves: the context (all but the content of the last message) and that content. Requests whose
contexts agree and whose last contents do not are what the semantic cache compares.
"""

import hashlib
import unicodedata
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from extproc.chat import encoded
from extproc.records import ChatRequest

SHARED: Final = "shared"
MAX_TEXT_CHARS: Final = 4_000  # of a last message that similar ones are looked for; longer ones are found exactly only

_VERSION: Final = 1  # changed when the same request must get another key
_NOT_PART: Final = frozenset(
    {"metadata", "stream", "stream_options", "user", "safety_identifier", "prompt_cache_key", "model", "messages"}
)
# Known to mean the same null or absent.
_NULLABLE: Final = frozenset(
    {
        *("n", "max_tokens", "max_completion_tokens", "stop", "temperature", "top_p", "seed", "logit_bias"),
        *("presence_penalty", "frequency_penalty", "logprobs", "top_logprobs", "reasoning_effort", "verbosity"),
        *("tools", "tool_choice", "parallel_tool_calls", "functions", "function_call", "response_format"),
        *("modalities", "audio", "prediction", "service_tier", "store", "web_search_options"),
    }
)
_TRIMMED: Final = frozenset({"user", "system", "developer"})


class Key(msgspec.Struct, frozen=True):
    """`digest` and `context`: SHA-256, hex. Both depend on the partition, so they never meet across partitions."""

    partition: str
    digest: str  # of the whole request: x-gateway-cache-key
    context: str  # of all but the content of the last message
    text: str | None = None  # that content, if it is a user's text alone; None: nothing similar is looked for


def partition_of(team_id: str, *, shared: bool) -> str:
    """Whose entries a team sees: its own, or those of all teams that share. No team's id can be taken for the other."""
    return SHARED if shared else f"team:{team_id}"


def key_of(partition: str, subject: str, chat: ChatRequest) -> Key:
    """The key of `chat`. `subject`: what its model name stands for. Raises InvalidRequest: nested too deeply."""
    if chat.large is not None:
        sent = {"version": _VERSION, "partition": partition, "subject": subject, "sent": chat.large.messages_hash}
        digest = hashlib.sha256(encoded({**sent, "parameters": _parameters(chat.body)}, order="sorted")).hexdigest()
        return Key(partition, digest, digest)
    *turns, last = [_message(message) for message in chat.body["messages"]]
    content = last.pop("content", None)
    context = {
        "version": _VERSION,
        "partition": partition,
        "subject": subject,
        "parameters": _parameters(chat.body),
        "turns": turns,
        "last": last,
    }
    context_digest = hashlib.sha256(encoded(context, order="sorted")).digest()
    digest = hashlib.sha256(context_digest + encoded(content, order="sorted")).hexdigest()
    text = content if last.get("role") == "user" and isinstance(content, str) and content else None
    return Key(partition, digest, context_digest.hex(), text if text and len(text) <= MAX_TEXT_CHARS else None)


def _parameters(body: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _number(value)
        for name, value in body.items()
        if name not in _NOT_PART and not (value is None and name in _NULLABLE) and not (name == "n" and value == 1)
    }


def _number(value: Any) -> Any:
    """1.0 is 1."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    trimmed = message.get("role") in _TRIMMED
    return {**message, "content": _content(message.get("content"), trimmed=trimmed)}


def _content(content: Any, *, trimmed: bool) -> Any:
    if isinstance(content, list):
        if len(content) != 1 or set(content[0]) != {"type", "text"} or content[0]["type"] != "text":
            return [_part(part) for part in content]
        content = content[0]["text"]
    if not isinstance(content, str):
        return content
    text = normal(content)
    return text.strip() if trimmed else text


def _part(part: Mapping[str, Any]) -> Mapping[str, Any]:
    text = part.get("text")
    return {**part, "text": normal(text)} if isinstance(text, str) else part


def normal(text: str) -> str:
    """Normal form C, line ends LF."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text if text.isascii() else unicodedata.normalize("NFC", text)
