"""OpenAI chat completions, as `POST …/chat/completions` answers.

In: the request of https://platform.openai.com/docs/api-reference/chat/create. Out: `chat.completion` or
`chat.completion.chunk` events, and errors `{"error": {"message", "type", "param", "code"}}`. Strict as the provider
is: unknown parameters, a `metadata` without `store`, `stream_options` without `stream`, unanswered tool calls are 400.
"""

import msgspec

from control.demo.ask import Answer, Ask, FormatName
from control.demo.base import Meta, Refused, decode_object
from control.demo.faults import Faults
from control.demo.openai_read import Reader, check_parameters
from control.demo.openai_write import Writer, error_body
from control.demo.wire import Reply, Request


class OpenAI:
    """See the module."""

    name: FormatName = "openai"

    def authorize(self, request: Request, api_key: str) -> None:
        """`Authorization: Bearer KEY`; `api-key: KEY` on the paths of Azure's deployments."""
        given = request.headers.get("authorization")
        if "/deployments/" in request.path and given is None:
            given = f"Bearer {request.headers.get('api-key', '')}"
        if given is None:
            raise Refused(
                401,
                "You didn't provide an API key. You need to provide your API key in an Authorization header using "
                "Bearer auth (i.e. Authorization: Bearer YOUR_KEY).",
            )
        if given != f"Bearer {api_key}":
            raise Refused(401, "Incorrect API key provided.", code="invalid_api_key")

    def read(self, request: Request, body: bytes) -> Ask:
        """Raises Refused, as the API would."""
        try:
            data = decode_object(body)
        except ValueError as error:
            raise Refused(400, f"We could not parse the JSON body of your request. ({error})") from None
        if "/deployments/" in request.path:
            data.setdefault("model", request.path.split("/deployments/")[1].split("/")[0])
        check_parameters(data)
        model: str = data["model"]
        if model.startswith("unknown"):
            text = f"The model `{model}` does not exist or you do not have access to it."
            raise Refused(404, text, code="model_not_found")
        return Reader(data).ask()

    def reply(self, ask: Ask, answer: Answer, meta: Meta, faults: Faults) -> Reply:
        """A `chat.completion`, or its chunks."""
        writer = Writer(ask, answer, meta, faults)
        frames, weights = writer.stream() if ask.stream else writer.whole()
        kind = b"text/event-stream; charset=utf-8" if ask.stream else b"application/json"
        headers = (b"content-type: " + kind, *_headers(meta))
        return Reply(status=200, headers=headers, frames=frames, weights=weights, sse=ask.stream)

    def failure(self, refused: Refused, meta: Meta, /) -> Reply:
        """`{"error": …}`, indented as the real one is."""
        body = msgspec.json.format(msgspec.json.encode({"error": error_body(refused)}), indent=2)
        headers = (b"content-type: application/json", *_headers(meta))
        return Reply(status=refused.status, headers=headers, frames=[body], weights=[0])


def _headers(meta: Meta) -> tuple[bytes, ...]:
    return (
        b"x-request-id: req_" + meta.unique.encode(),
        b"openai-version: 2020-10-01\r\nopenai-organization: demo\r\nopenai-processing-ms: 12\r\n"
        b"x-ratelimit-limit-requests: 500\r\nx-ratelimit-limit-tokens: 200000\r\n"
        b"x-ratelimit-remaining-requests: 499\r\nx-ratelimit-remaining-tokens: 199996\r\n"
        b"x-ratelimit-reset-requests: 120ms\r\nx-ratelimit-reset-tokens: 1ms",
    )
