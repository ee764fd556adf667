"""What a provider is sent for a request written as a dict."""

import json
from typing import Any, cast

from extproc.adapters.registry import adapter_for
from extproc.chat import parse_chat
from extproc.records import ProviderFormat, ProviderRequest, Target

HELLO = [{"role": "user", "content": "Hello"}]
WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
UPSTREAM = {
    "openai": "gpt-4o",
    "azure": "gpt-4o",
    "anthropic": "claude-sonnet-4-6",
    "google": "gemini-3-flash",
    "bedrock": "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
}


def target(fmt: str, **fields: Any) -> Target:
    known = {"model": "the-model", "upstream_name": UPSTREAM[fmt], "provider": "acme", "format": fmt}
    return Target(**{**known, **fields})


def ask(fmt: str, *, to: dict[str, Any] | None = None, **fields: Any) -> ProviderRequest:
    """The provider request for a client's request of these fields. Raises what the adapter raises."""
    chat = parse_chat(json.dumps({"model": "the-model", "messages": HELLO, **fields}).encode())
    adapter = adapter_for(target(cast(ProviderFormat, fmt), **(to or {})), "chatcmpl-1", 1_700_000_000, chat.stream)
    return adapter.request(chat)


def body(fmt: str, *, to: dict[str, Any] | None = None, **fields: Any) -> Any:
    """The JSON of `ask`."""
    return json.loads(ask(fmt, to=to, **fields).body)
