"""Which adapter speaks which format: rows of a table.

In: a target. Out: a new adapter for one attempt at it. Called by `extproc.plan`.
"""

from typing import Final

from extproc.adapters.anthropic import AnthropicAdapter
from extproc.adapters.base import Adapter
from extproc.adapters.bedrock import BedrockAdapter
from extproc.adapters.google import GoogleAdapter
from extproc.adapters.openai import OpenAIAdapter
from extproc.records import ProviderFormat, Target

_ADAPTERS: Final[dict[ProviderFormat, type[OpenAIAdapter | AnthropicAdapter | GoogleAdapter]]] = {
    "openai": OpenAIAdapter,
    "azure": OpenAIAdapter,  # the deployment and api-version are in the operator's base_url
    "anthropic": AnthropicAdapter,
    "google": GoogleAdapter,
    "bedrock": BedrockAdapter,
}


def adapter_for(target: Target, response_id: str, created: int, stream: bool) -> Adapter:
    """An adapter for one attempt. `created`: seconds since the epoch. The formats of a checked configuration exist."""
    return _ADAPTERS[target.format](target, response_id, created, stream)
