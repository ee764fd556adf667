"""What a request asks and what is answered, in no provider's format.

Made and read by `openai`, `anthropic`, `google` and `bedrock`.
"""

from typing import Any, Literal

import msgspec

Finish = Literal["stop", "stop_sequence", "length", "tool_calls", "refusal", "blocked"]
FormatName = Literal["openai", "anthropic", "google", "bedrock"]


class Tool(msgspec.Struct, frozen=True):
    """A function the client offers; `schema` is the JSON schema of its arguments."""

    name: str
    schema: dict[str, Any]


class Call(msgspec.Struct, frozen=True):
    """A function call in the answer."""

    name: str
    arguments: dict[str, Any]
    json: str  # the same arguments, as text


class Result(msgspec.Struct, frozen=True):
    """What a tool returned, as the client sent it back."""

    name: str
    text: str


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """A request, read out of its format."""

    format: FormatName
    model: str
    stream: bool = False
    texts: list[str] = []  # every text of the conversation that counts as input, in order
    images: int = 0
    system: str = ""
    user: str = ""  # the text of the last user message
    results: list[Result] = []  # of the tools, since the model last spoke
    tools: list[Tool] = []
    choice: str = "auto"  # auto | none | any | =name
    parallel: bool = True
    max_tokens: int | None = None
    stop: list[str] = []
    n: int = 1
    schema: dict[str, Any] | None = None  # answer with JSON of this schema; {} is any JSON object
    effort: str | None = None  # how hard to reason, when the request says
    cacheable: bool = True  # the system prompt may be served from the prompt cache
    include_usage: bool = False  # openai: stream_options.include_usage
    thinking: bool = False  # anthropic: show a thinking block


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """One answer; `pieces` are streamed one by one."""

    pieces: list[str]
    calls: list[Call] = []
    finish: Finish = "stop"
    stop_sequence: str | None = None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """All choices, and the tokens. `output_tokens` includes `reasoning_tokens`."""

    choices: list[Choice]
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """How the process wants answers to look, apart from what is asked."""

    seed: int = 0
    chunks: int | None = None  # pieces of a text answer
    huge: int | None = None  # bytes of a text answer
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    input_bytes_per_token: int | None = None
