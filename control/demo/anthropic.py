"""Anthropic Messages, as `POST …/messages` answers.

In: the request of https://docs.claude.com/en/api/messages. Out: a `message`, or the events of
https://docs.claude.com/en/api/messages-streaming (every one with its `event:` line), and errors
`{"type": "error", "error": {"type", "message"}, "request_id"}`. Strict as the provider is: `anthropic-version` and
`max_tokens` are needed, unknown fields anywhere are 400, every `tool_use` needs its `tool_result` first in the next
message, newer models take no prefill and no sampling parameters, and
API version 2026-10-21 none for any model (https://platform.claude.com/docs/en/api/migration-2026-10-21).
"""

import msgspec

from control.demo.anthropic_params import check_parameters, check_removed
from control.demo.anthropic_read import Reader
from control.demo.anthropic_write import Writer, error_body
from control.demo.ask import Answer, Ask, FormatName
from control.demo.base import Meta, Refused, decode_object
from control.demo.faults import Faults
from control.demo.wire import Reply, Request

_VERSIONS = ("2023-06-01", "2026-10-21")


class Anthropic:
    """See the module."""

    name: FormatName = "anthropic"

    def authorize(self, request: Request, api_key: str) -> None:
        """`x-api-key: KEY`, or `Authorization: Bearer KEY` as the SDKs send since API version 2026-10-21."""
        given = request.headers.get("x-api-key")
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        if given is None and scheme == "Bearer":
            given = bearer
        if given is None:
            raise Refused(401, "x-api-key header is required")
        if given != api_key:
            raise Refused(401, "invalid x-api-key")

    def read(self, request: Request, body: bytes) -> Ask:
        """Raises Refused, as the API would."""
        version = request.headers.get("anthropic-version")
        if version is None:
            raise Refused(400, "anthropic-version: header is required")
        if version not in _VERSIONS:
            raise Refused(400, f'anthropic-version: "{version}" is not a valid version')
        try:
            data = decode_object(body)
        except ValueError as error:
            raise Refused(400, f"The request body is not valid JSON: {error}") from None
        if version != "2023-06-01":
            check_removed(data)
        check_parameters(data)
        if data["model"].startswith("unknown"):
            raise Refused(404, f"model: {data['model']}")
        return Reader(data).ask()

    def reply(self, ask: Ask, answer: Answer, meta: Meta, faults: Faults) -> Reply:
        """A `message`, or its events."""
        writer = Writer(ask, answer, meta, faults)
        frames, weights = writer.stream() if ask.stream else writer.whole()
        kind = b"text/event-stream; charset=utf-8" if ask.stream else b"application/json"
        headers = (b"content-type: " + kind, *_headers(meta))
        return Reply(status=200, headers=headers, frames=frames, weights=weights, sse=ask.stream)

    def failure(self, refused: Refused, meta: Meta, /) -> Reply:
        """`{"type": "error", …}`."""
        error = {"type": "error", "error": error_body(refused), "request_id": f"req_{meta.unique[:24]}"}
        headers = (b"content-type: application/json", *_headers(meta))
        return Reply(status=refused.status, headers=headers, frames=[msgspec.json.encode(error)], weights=[0])


def _headers(meta: Meta) -> tuple[bytes, ...]:
    return (
        b"request-id: req_" + meta.unique[:24].encode(),
        b"anthropic-organization-id: 00000000-0000-4000-8000-000000000000\r\n"
        b"anthropic-ratelimit-requests-limit: 4000\r\nanthropic-ratelimit-requests-remaining: 3999\r\n"
        b"anthropic-ratelimit-requests-reset: 2025-01-02T03:04:05Z\r\n"
        b"anthropic-ratelimit-tokens-limit: 400000\r\nanthropic-ratelimit-tokens-remaining: 399000\r\n"
        b"anthropic-ratelimit-tokens-reset: 2025-01-02T03:04:05Z",
    )
