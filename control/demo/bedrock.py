"""Anthropic's models on Amazon Bedrock, as `POST /model/{name}/invoke` and `…/invoke-with-response-stream` answer.

In: Anthropic's request without model and stream, which are in the path, and with `anthropic_version` in its body.
Out: Anthropic's message, or its events in messages of AWS's event stream; errors `{"message"}` with their type in
`x-amzn-errortype`, or in a stream as an exception. What is asked and said is `anthropic`'s.
Source: docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_InvokeModelWithResponseStream.html.
"""

import base64
import struct
import zlib

import msgspec

from control.demo.anthropic import Anthropic
from control.demo.anthropic_params import check_parameters
from control.demo.anthropic_read import Reader
from control.demo.ask import Answer, Ask, FormatName
from control.demo.base import Meta, Refused, decode_object
from control.demo.faults import Faults
from control.demo.wire import Reply, Request

_VERSION = "bedrock-2023-05-31"
_TYPES = {
    400: "ValidationException",
    403: "AccessDeniedException",
    404: "ResourceNotFoundException",
    408: "ModelTimeoutException",
    424: "ModelErrorException",
    429: "ThrottlingException",
    500: "InternalServerException",
    503: "ServiceUnavailableException",
}
_PADDING = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


class Bedrock:
    """See the module."""

    name: FormatName = "bedrock"
    _anthropic = Anthropic()

    def authorize(self, request: Request, api_key: str) -> None:
        """`Authorization: Bearer KEY`, a Bedrock API key."""
        if request.headers.get("authorization") != f"Bearer {api_key}":
            raise Refused(403, "Authentication failed: Please make sure your API Key is valid.")

    def read(self, request: Request, body: bytes) -> Ask:
        """Raises Refused, as the API would."""
        model, _, manner = request.path.partition("/model/")[2].rpartition("/")
        try:
            data = decode_object(body)
        except ValueError as error:
            raise Refused(400, f"Malformed input request: {error}, please reformat your input and try again.") from None
        if data.pop("anthropic_version", None) != _VERSION:
            raise Refused(400, f'anthropic_version: "{_VERSION}" is required')
        for name in ("model", "stream"):
            if name in data:
                raise Refused(400, f"Malformed input request: #: extraneous key [{name}] is not permitted")
        data |= {"model": model, "stream": manner == "invoke-with-response-stream"}
        check_parameters(data)
        if model.startswith("unknown"):
            raise Refused(400, "The provided model identifier is invalid.")
        return msgspec.structs.replace(Reader(data).ask(), format=self.name)

    def reply(self, ask: Ask, answer: Answer, meta: Meta, faults: Faults) -> Reply:
        """Anthropic's `message`, or its events, framed."""
        said = self._anthropic.reply(ask, answer, meta, faults)
        frames = [_framed(frame, at, faults) for at, frame in enumerate(said.frames)] if ask.stream else said.frames
        kind = b"application/vnd.amazon.eventstream" if ask.stream else b"application/json"
        return msgspec.structs.replace(said, headers=_headers(kind, meta), frames=frames)

    def failure(self, refused: Refused, meta: Meta, /) -> Reply:
        """`{"message": …}`."""
        kind = refused.kind or _TYPES.get(refused.status, "InternalServerException")
        headers = _headers(b"application/json", meta, b"x-amzn-errortype: " + kind.encode() + b":http://internal/")
        body = msgspec.json.encode({"message": refused.message})
        return Reply(status=refused.status, headers=headers, frames=[body], weights=[0])


def _headers(kind: bytes, meta: Meta, *more: bytes) -> tuple[bytes, ...]:
    return b"content-type: " + kind, b"x-amzn-requestid: " + meta.unique.encode(), *more


def _framed(frame: bytes, at: int, faults: Faults) -> bytes:
    """An event of Anthropic's stream in AWS's frame; nonsense stays what it is."""
    name, found, data = frame.partition(b"\ndata: ")
    if not found or not name.startswith(b"event: "):
        return frame
    if name == b"event: error":
        kind = "modelStreamErrorException" if faults.error_in_stream == "true" else faults.error_in_stream or ""
        return message({"message": faults.message or "The model broke off."}, exception=kind)
    return message({"bytes": base64.b64encode(data.rstrip(b"\n")).decode(), "p": _PADDING[: at * 7 % 62]})


def message(payload: dict[str, str], exception: str | None = None) -> bytes:
    """One message of an event stream: a chunk, or an exception."""
    says = {":event-type": "chunk"} if exception is None else {":exception-type": exception}
    kind = "event" if exception is None else "exception"
    headers = b""
    for name, value in (says | {":content-type": "application/json", ":message-type": kind}).items():
        headers += b"%c%b\x07%b%b" % (len(name), name.encode(), struct.pack(">H", len(value)), value.encode())
    body = msgspec.json.encode(payload)
    prelude = struct.pack(">II", len(headers) + len(body) + 16, len(headers))
    whole = prelude + struct.pack(">I", zlib.crc32(prelude)) + headers + body
    return whole + struct.pack(">I", zlib.crc32(whole))
