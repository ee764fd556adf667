"""Google Gemini, as `POST …/models/{model}:generateContent` and `:streamGenerateContent` answer.

In: the request of https://ai.google.dev/api/generate-content. Out: a `GenerateContentResponse` (indented, as the real
one is), or several as SSE with CRLF (`alt=sse`) or as one JSON array; errors as `{"error": {"code", "message",
"status", "details"}}`. Strict as the provider's proto JSON parser is: an unknown field anywhere, JSON-Schema keywords
inside `parameters` or `responseSchema` included, is 400 INVALID_ARGUMENT. Names may be camelCase or snake_case.

Function calls carry no id, but for models from `gemini-3.5` on. Models named `gemini-3…` sign the first call of every
step with `thoughtSignature` and refuse to go on without it (https://ai.google.dev/gemini-api/docs/thought-signatures).
"""

import re
from typing import Any

import msgspec

from control.demo.ask import Answer, Ask, FormatName
from control.demo.base import Meta, Refused, decode_object
from control.demo.faults import Faults
from control.demo.google_read import Reader
from control.demo.google_write import Writer, status
from control.demo.wire import Reply, Request

_PATH = re.compile(r"/models/([^/]+):(generateContent|streamGenerateContent)$")
_JSON = b"content-type: application/json; charset=UTF-8"
_HEADERS = (
    b"vary: Origin\r\nvary: X-Origin\r\nvary: Referer\r\nserver: scaffolding on HTTPServer2\r\n"
    b"x-xss-protection: 0\r\nx-frame-options: SAMEORIGIN\r\nx-content-type-options: nosniff",
)


class Google:
    """See the module."""

    name: FormatName = "google"

    def authorize(self, request: Request, api_key: str) -> None:
        """`x-goog-api-key: KEY`, or `key=KEY` in the query."""
        in_query = re.search(r"(?:^|&)key=([^&]*)", request.query)
        given = request.headers.get("x-goog-api-key") or (in_query[1] if in_query else None)
        if given is None:
            text = "Method doesn't allow unregistered callers (callers without established identity). Please use API "
            raise Refused(403, f"{text}Key or other form of API consumer identity to call this API.")
        if given != api_key:
            text = "API key not valid. Please pass a valid API key."
            reason = {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "API_KEY_INVALID",
                "domain": "googleapis.com",
                "metadata": {"service": "generativelanguage.googleapis.com"},
            }
            raise Refused(400, text, details=[reason])

    def read(self, request: Request, body: bytes) -> Ask:
        """Raises Refused, as the API would."""
        match = _PATH.search(request.path)
        if match is None:
            raise Refused(404, "Requested entity was not found.")
        try:
            data = decode_object(body)
        except ValueError as error:
            raise Refused(400, f"Invalid JSON payload received. {error}") from None
        if match[1].startswith("unknown"):
            text = f"models/{match[1]} is not found for API version v1beta, or is not supported for {match[2]}. "
            raise Refused(404, f"{text}Call ListModels to see the list of available models and their methods.")
        return Reader(data, match[1], stream=match[2] == "streamGenerateContent").ask()

    def reply(self, ask: Ask, answer: Answer, meta: Meta, faults: Faults) -> Reply:
        """One response, or several. `sse` of the ask's stream is settled by `as_array` for calls without alt=sse."""
        writer = Writer(ask, answer, meta, faults)
        frames, weights = writer.stream() if ask.stream else writer.whole()
        kind = b"content-type: text/event-stream" if ask.stream else _JSON
        return Reply(status=200, headers=(kind, *_HEADERS), frames=frames, weights=weights, sse=ask.stream)

    def failure(self, refused: Refused, _meta: Meta, /) -> Reply:
        """`{"error": …}`, indented; with RetryInfo when there is a delay in seconds."""
        error: dict[str, Any] = {"code": refused.status, "message": refused.message, "status": status(refused)}
        details = list(refused.details or ())
        if refused.retry_after and refused.retry_after.isdigit():
            delay = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{refused.retry_after}s"}
            details.append(delay)
        if details:
            error["details"] = details
        body = msgspec.json.format(msgspec.json.encode({"error": error}), indent=2)
        return Reply(status=refused.status, headers=(_JSON, *_HEADERS), frames=[body], weights=[0])


def as_array(reply: Reply) -> Reply:
    """A stream without `alt=sse` is one JSON array, element by element."""
    if not reply.sse:
        return reply
    frames = [
        (b"[" if at == 0 else b",\r\n") + frame.removeprefix(b"data: ").rstrip()
        for at, frame in enumerate(reply.frames)
    ]
    return Reply(
        status=reply.status,
        headers=(_JSON, *_HEADERS),
        frames=[*frames, b"]\r\n"],
        weights=[*reply.weights, 0],
        sse=True,
    )
