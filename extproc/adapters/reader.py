"""The answer side that every adapter shares: a provider's bytes -> events or one body -> chunks, then a Final.

In: bytes, split anywhere. Out: chunks. A subclass reads one event or one whole body at a time and may raise what
decoding raises; nothing of that leaves `feed` or `finish`. Subclassed by the adapters of each format.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import cached_property
from typing import Any, Protocol, TypeVar

import msgspec

from extproc.adapters.base import Chunk, Final
from extproc.adapters.failures import Problem, classify
from extproc.adapters.usage import to_openai
from extproc.body.sse import Event, SseReader
from extproc.body.surrogates import repaired
from extproc.errors import GatewayError, ProviderError
from extproc.records import Target, Usage

T = TypeVar("T")

_UNREADABLE = (msgspec.DecodeError, ValueError, RecursionError)


class EventReader(Protocol):
    """Of a stream's bytes, split anywhere."""

    broken: bool  # nothing more can be read

    def feed(self, data: bytes) -> list[Event]:
        """The events that became whole with `data`."""

    def close(self) -> list[Event]:
        """The event that the end of the stream leaves, if any."""


class AnswerReader(ABC):
    """One provider's answer. `created`: seconds since the epoch; `stream`: it comes as an event stream."""

    def __init__(self, target: Target, response_id: str, created: int, stream: bool) -> None:
        self._target = target
        self._response_id = response_id
        self._created = created
        self._stream = stream
        self._body = bytearray()
        self._usage: Usage | None = None  # set when it is final
        self._complete = False
        self._error: GatewayError | None = None
        self._finish_reasons: dict[int, str] = {}  # by choice
        self._tools: dict[int, int] = {}  # how many tool calls each choice has begun
        self._begun: set[int] = set()  # choices whose role was sent

    @cached_property
    def _reader(self) -> EventReader:
        return SseReader()  # made when something comes to be read: most answers pass by Envoy alone

    # --- the contract ------------------------------------------------------------------------------------------------

    @property
    def complete(self) -> bool:
        """Whether the answer's own last word was fed."""
        return self._complete and self._error is None

    def feed(self, data: bytes) -> list[Chunk]:
        """The chunks that became whole with `data`. Never raises."""
        if not self._stream:
            self._body += data
            return []
        return [] if self._error else self._events(self._reader.feed(data))

    def finish(self) -> Final:
        """The end of the provider's bytes."""
        chunks: list[Chunk] = []
        if self._error is None:
            chunks = self._last_event() if self._stream else self._whole()
        if self._error is None:
            chunks += self._on_end()
        if self._error is None and not self._complete:
            self._error = ProviderError(f"{self._target.provider} broke off before the end of its answer.")
        return Final(
            usage=self._usage,
            finish_reason=self._finish_reasons.get(0),
            complete=self._error is None,
            error=self._error,
            chunks=tuple(chunks),
        )

    # --- for the subclass --------------------------------------------------------------------------------------------

    @abstractmethod
    def _on_event(self, event: Event) -> Iterable[Chunk]:
        """The chunks of one event."""

    @abstractmethod
    def _on_body(self, body: bytes) -> Iterable[Chunk]:
        """The chunks of a whole answer that was not streamed."""

    def _on_end(self) -> Iterable[Chunk]:
        """What is left to say at the end; here is the place to find out that the answer is complete."""
        return ()

    def _count_at_last(self, usage: Usage | None) -> list[Chunk]:
        """The chunk of usage, the last one; none where the provider said nothing of it, which is estimated then."""
        self._usage = usage
        return [] if usage is None else [{**self._envelope([]), "usage": to_openai(usage)}]

    def _fail(self, status: int, problem: Problem) -> None:
        """The provider reported an error inside its answer; nothing after it is read."""
        self._error = classify(self._target.provider, status, problem, problem.retry_after_s)

    def _chunk(self, choice: int, delta: dict[str, Any], finish_reason: str | None = None) -> Chunk:
        """A chunk of ours. The first of a choice carries the role, and the nulls that OpenAI's whole answers always
        have: clients read them by name."""
        if choice in self._begun:
            return self._envelope([{"index": choice, "delta": delta, "finish_reason": finish_reason}])
        self._begun.add(choice)
        delta = {"role": "assistant", "content": None, "refusal": None, **delta}
        return self._envelope([{"index": choice, "delta": delta, "logprobs": None, "finish_reason": finish_reason}])

    def _envelope(self, choices: list[dict[str, Any]]) -> Chunk:
        return {
            "id": self._response_id,
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": self._target.model,
            "choices": choices,
        }

    def _tool_start(self, choice: int, call_id: str, name: str, arguments: str = "") -> Chunk:
        """The first chunk of a tool call. Its index is counted by us, over the tools of this choice only."""
        index = self._tools.get(choice, 0)
        self._tools[choice] = index + 1
        function = {"name": name, "arguments": arguments}
        return self._chunk(
            choice, {"tool_calls": [{"index": index, "id": call_id, "type": "function", "function": function}]}
        )

    def _tool_arguments(self, choice: int, index: int, arguments: str) -> Chunk:
        return self._chunk(choice, {"tool_calls": [{"index": index, "function": {"arguments": arguments}}]})

    # --- inside ------------------------------------------------------------------------------------------------------

    def _events(self, events: list[Event]) -> list[Chunk]:
        chunks: list[Chunk] = []
        for event in events:
            try:
                chunks += self._on_event(event)
            except _UNREADABLE:
                self._unreadable()
            if self._error is not None:
                return chunks
        if self._reader.broken:
            self._unreadable()
        return chunks

    def _last_event(self) -> list[Chunk]:
        """An event without its blank line counts if it can be read; else the stream was cut inside it."""
        try:
            return [chunk for event in self._reader.close() for chunk in self._on_event(event)]
        except _UNREADABLE:
            return []

    def _whole(self) -> list[Chunk]:
        try:
            return list(self._on_body(bytes(self._body)))
        except _UNREADABLE:
            self._unreadable()
            return []

    def _unreadable(self) -> None:
        self._error = ProviderError(f"{self._target.provider} sent an answer that could not be read.")


def decode(decoder: msgspec.json.Decoder[T], data: bytes) -> T:
    """`data` decoded, with half surrogate pairs and broken UTF-8 replaced. Raises msgspec.DecodeError."""
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        mended = repaired(data)
        if mended == data:
            raise
        return decoder.decode(mended)
