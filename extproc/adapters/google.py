"""Google's Gemini API: generateContent and streamGenerateContent.

In: a client's request; Google's responses, one per event of a stream. Out: a generateContent request; chunks. Made by
`adapters.registry`. A stream has no terminal event: it was whole if every candidate came to a finish reason.
Source: ai.google.dev/api/generate-content, /gemini-api/docs/troubleshooting, google.rpc.Status (AIP-193).
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from extproc.adapters import toolids
from extproc.adapters.base import Chunk
from extproc.adapters.failures import Problem, classify, duration_s, retry_after_s
from extproc.adapters.google_request import request_body
from extproc.adapters.reader import AnswerReader, decode
from extproc.body.sse import Event
from extproc.chat import encoded
from extproc.errors import GatewayError, NoUsableAnswer
from extproc.records import ChatRequest, ProviderRequest, Usage

# By upper-case name: proxies and older versions write them in lower case. What is not here is an ordinary end.
_FINISH_REASONS = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "LANGUAGE": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
    "IMAGE_SAFETY": "content_filter",
    "IMAGE_PROHIBITED_CONTENT": "content_filter",
    "IMAGE_RECITATION": "content_filter",
    "MODEL_ARMOR": "content_filter",
    "ESCALATION": "content_filter",
}
# The model produced something that is no answer, and OpenAI's API has no finish reason for that.
_FAILED = frozenset(
    {
        "MALFORMED_FUNCTION_CALL",
        "UNEXPECTED_TOOL_CALL",
        "TOO_MANY_TOOL_CALLS",
        "MALFORMED_RESPONSE",
        "MISSING_THOUGHT_SIGNATURE",
    }
)


class _FunctionCall(msgspec.Struct):
    name: str = ""
    id: str | None = None
    args: dict[str, Any] | None = None


class _Part(msgspec.Struct, rename="camel"):
    text: str | None = None
    thought: bool | None = None
    thought_signature: str | None = None
    function_call: _FunctionCall | None = None


class _Content(msgspec.Struct):
    parts: list[_Part] | None = None


class _Candidate(msgspec.Struct, rename="camel"):
    index: int = 0
    content: _Content | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct, frozen=True, rename="camel"):
    prompt_token_count: int | None = None
    tool_use_prompt_token_count: int | None = None
    candidates_token_count: int | None = None
    thoughts_token_count: int | None = None
    cached_content_token_count: int | None = None


class _PromptFeedback(msgspec.Struct, rename="camel"):
    block_reason: str | None = None


class _Detail(msgspec.Struct, rename="camel"):
    """Of the kinds of google.rpc detail, what ErrorInfo and RetryInfo have."""

    reason: str | None = None
    retry_delay: str | None = None


class _Error(msgspec.Struct):
    code: int | None = None
    message: str | None = None
    status: str | None = None
    details: list[_Detail] | None = None


class _Response(msgspec.Struct, rename="camel"):
    candidates: list[_Candidate] | None = None
    usage_metadata: _Usage | None = None
    prompt_feedback: _PromptFeedback | None = None
    error: _Error | None = None


_RESPONSE = msgspec.json.Decoder(_Response)
_ERRORS = msgspec.json.Decoder(list[_Response] | _Response)


class GoogleAdapter(AnswerReader):
    """One attempt at a provider that speaks Google's format."""

    _counts: _Usage | None = None  # the latest
    _blocked = False  # Google refused the prompt: there will be no candidate
    _one_call = False  # the client takes no second one, of which Google has no word

    def request(self, chat: ChatRequest) -> ProviderRequest:
        """The generateContent request for `chat`. Raises InvalidRequest."""
        self._one_call = chat.body.get("parallel_tool_calls") is False
        name = self._target.upstream_name
        model = name if "/" in name else f"models/{name}"
        method = "streamGenerateContent?alt=sse" if chat.stream else "generateContent"
        body = encoded(request_body(chat, self._target))
        return ProviderRequest(f"/{model}:{method}", (("content-type", "application/json"),), body)

    def _on_event(self, event: Event) -> list[Chunk]:
        return self._on_response(event.data)

    def _on_body(self, body: bytes) -> list[Chunk]:
        chunks = self._on_response(body)
        for choice in self._begun:  # a whole body is whole, said or not
            self._finish_reasons.setdefault(choice, "stop")
        return chunks

    def _on_response(self, data: bytes) -> list[Chunk]:
        response = decode(_RESPONSE, data)
        if response.error is not None:
            self._fail(response.error.code or 500, _problem(response.error))
            return []
        if response.usage_metadata is not None:
            self._counts = response.usage_metadata  # each is the total so far
        chunks = [chunk for candidate in response.candidates or () for chunk in self._on_candidate(candidate)]
        if response.prompt_feedback is not None and response.prompt_feedback.block_reason:
            chunks += self._block(response.prompt_feedback.block_reason)
        return chunks

    def _on_candidate(self, candidate: _Candidate) -> list[Chunk]:
        reason = (candidate.finish_reason or "").upper()
        if reason in _FAILED:
            self._usage = self._total()
            self._error = NoUsableAnswer(f"{self._target.provider} produced no usable answer ({reason.lower()}).")
            return []
        if reason and reason != "FINISH_REASON_UNSPECIFIED":
            self._finish_reasons[candidate.index] = _FINISH_REASONS.get(reason, "stop")
        found = candidate.content.parts if candidate.content else None
        return [chunk for part in found or () if (chunk := self._on_part(candidate.index, part)) is not None]

    def _on_part(self, choice: int, part: _Part) -> Chunk | None:
        call = part.function_call
        if call is not None:
            if self._one_call and choice in self._tools:
                return None  # what it still lacks the model asks for again, when it has the first one's result
            own_id = f"call_{self._response_id}_{choice}_{self._tools.get(choice, 0)}"  # Gemini 2 gives none
            call_id = toolids.sign(call.id or toolids.short(own_id), part.thought_signature)
            return self._tool_start(choice, call_id, call.name, msgspec.json.encode(call.args or {}).decode())
        if part.text and not part.thought:  # thoughts have no place in a chat completion
            return self._chunk(choice, {"content": part.text})
        return None

    def _block(self, reason: str) -> list[Chunk]:
        self._blocked = True
        self._finish_reasons[0] = "content_filter"
        return [self._chunk(0, {"refusal": f"The prompt was blocked by the provider ({reason})."})]

    def _on_end(self) -> list[Chunk]:
        """The last chunks. They wait for the end, for early models give a finish reason with every piece."""
        if not self._finish_reasons or not (self._blocked or self._begun <= self._finish_reasons.keys()):
            return []
        self._complete = True
        for choice in self._tools:
            if self._finish_reasons.get(choice) == "stop":
                self._finish_reasons[choice] = "tool_calls"
        finish = [self._chunk(choice, {}, reason) for choice, reason in sorted(self._finish_reasons.items())]
        return [*finish, *self._count_at_last(self._total())]

    def _total(self) -> Usage | None:
        """Google counts the cached part in the prompt, and thoughts beside the candidates. None: not told."""
        counts = self._counts
        if counts is None:
            return None
        thoughts = counts.thoughts_token_count or 0
        return Usage(
            input_tokens=(counts.prompt_token_count or 0) + (counts.tool_use_prompt_token_count or 0),
            output_tokens=(counts.candidates_token_count or 0) + thoughts,
            cached_tokens=counts.cached_content_token_count or 0,
            reasoning_tokens=thoughts,
        )

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> GatewayError:
        """What the client is told of an error status. Some surfaces wrap the error object in a list."""
        try:
            read = decode(_ERRORS, body)
            first = read[0] if isinstance(read, list) else read
            problem = _problem(first.error)
        except (msgspec.DecodeError, ValueError, RecursionError, IndexError):
            problem = Problem()
        return classify(self._target.provider, status, problem, retry_after_s(headers, self._created))


def _problem(error: _Error | None) -> Problem:
    if error is None:
        return Problem()
    details = error.details or ()
    return Problem(
        message=error.message,
        code=next((detail.reason for detail in details if detail.reason), error.status),
        retry_after_s=next((duration_s(detail.retry_delay) for detail in details if detail.retry_delay), None),
    )
