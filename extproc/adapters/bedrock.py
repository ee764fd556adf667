"""Anthropic's models on Amazon Bedrock's runtime, by InvokeModel: Anthropic's format in AWS's frames.

In: a client's request; Anthropic's message, or its events, each in a message of an AWS event stream. Out: a request
whose path names model and manner; chunks. Made by `adapters.registry`.
Source: docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_InvokeModelWithResponseStream.html, and
/userguide/model-parameters-anthropic-claude-messages-request-response.html.
"""

from collections.abc import Mapping
from functools import cached_property
from urllib.parse import quote

import msgspec

from extproc.adapters.anthropic import AnthropicAdapter
from extproc.adapters.anthropic_request import request_body
from extproc.adapters.base import Chunk
from extproc.adapters.eventstream import EventStreamReader
from extproc.adapters.failures import Problem, classify, retry_after_s
from extproc.adapters.reader import decode
from extproc.body.sse import Event
from extproc.chat import encoded
from extproc.errors import GatewayError
from extproc.records import ChatRequest, ProviderRequest

API_VERSION = "bedrock-2023-05-31"

# The status of an exception that came inside a 200 stream, as it has it without one.
_STATUS_OF = {
    "exception:validationException": 400,
    "exception:modelTimeoutException": 408,
    "exception:modelStreamErrorException": 424,
    "exception:throttlingException": 429,
    "exception:internalServerException": 500,
    "exception:serviceUnavailableException": 503,
}


class _Chunk(msgspec.Struct):
    bytes: bytes  # base64 in the JSON; beside it stands padding


class _Error(msgspec.Struct, rename={"told": "Message"}):
    message: str | None = None
    told: str | None = None  # by what stands before the service


_CHUNK = msgspec.json.Decoder(_Chunk)
_ERROR = msgspec.json.Decoder(_Error)


class BedrockAdapter(AnthropicAdapter):
    """One attempt at a Bedrock runtime."""

    @cached_property
    def _reader(self) -> EventStreamReader:
        return EventStreamReader()

    def request(self, chat: ChatRequest) -> ProviderRequest:
        """The InvokeModel request for `chat`. Raises InvalidRequest."""
        body = request_body(chat, self._target)
        model = quote(body.pop("model"), safe=":")  # the name may be an ARN
        manner = "invoke-with-response-stream" if body.pop("stream", False) else "invoke"
        body["anthropic_version"] = API_VERSION
        return ProviderRequest(f"/model/{model}/{manner}", (("content-type", "application/json"),), encoded(body))

    def _on_event(self, event: Event) -> list[Chunk]:
        name = event.name.decode()
        if name == "event:chunk":
            return super()._on_event(Event(b"", decode(_CHUNK, event.data).bytes))
        if not (name.startswith("event:") or self._complete):
            self._fail(_STATUS_OF.get(name, 500), _problem(event.data, name.partition(":")[2]))
        return []

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> GatewayError:
        """What the client is told of an error status."""
        code = headers.get("x-amzn-errortype", "").partition(":")[0]
        return classify(self._target.provider, status, _problem(body, code), retry_after_s(headers, self._created))


def _problem(body: bytes, code: str) -> Problem:
    try:
        error = decode(_ERROR, body)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return Problem(code=code)
    return Problem(message=error.message or error.told, code=code)
