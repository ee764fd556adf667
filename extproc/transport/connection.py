"""An HTTP/2 connection as a server sees it, without any I/O. RFC 9113.

In: what was read, in pieces of any size, to `receive`. Out: events, and by `sender.take()` the bytes to write. Nothing
the peer sends raises: a broken stream is reset, a broken connection says GOAWAY and is `closed`. Fed by
`extproc.transport.calls`.

Deliberately absent: priorities (read and ignored), push, CONNECT, and any way of being a client.
"""

import struct
from collections import OrderedDict
from collections.abc import Callable

from extproc.body.pieces import Body
from extproc.transport import frame
from extproc.transport.calm import Calm
from extproc.transport.events import Data, Event, Request, Reset, Writable
from extproc.transport.fields import HEADER_LIST_BYTES, BlockDecoder, Fields
from extproc.transport.frame import Code, ConnectionFault, Setting, StreamFault
from extproc.transport.reader import FrameReader, unpad
from extproc.transport.sending import Sender
from extproc.transport.stream import Stream

MAX_STREAMS = 4096  # at once; Envoy opens another connection for more
CONNECTION_WINDOW = 16 * 1024 * 1024
_REMEMBERED = 1024  # closed streams
_DRAIN_PING = b"draining"
_LAST_ID = 2**31 - 1


class Connection:
    """The state machine of one connection."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.closed = False  # after a fault: write what `sender` has, then hang up
        self.sender = Sender()
        self.streams: dict[int, Stream] = {}  # the open ones
        self._recent: OrderedDict[int, Code] = OrderedDict()  # closed; why they take no more. CANCEL: by us
        self._last_id = 0
        self._accept_up_to = _LAST_ID  # lowered by draining
        self._calm = Calm(clock)
        self._decoder = BlockDecoder()
        self._reader = FrameReader()
        self._credit = CONNECTION_WINDOW
        self._events: list[Event] = []
        self._handlers = (
            self._on_data,
            self._on_headers,
            self._on_priority,
            self._on_rst_stream,
            self._on_settings,
            self._on_push_promise,
            self._on_ping,
            self._on_goaway,
            self._on_window_update,
        )
        ours = {Setting.MAX_CONCURRENT_STREAMS: MAX_STREAMS, Setting.MAX_HEADER_LIST_SIZE: HEADER_LIST_BYTES}
        self.sender.raw(frame.settings(ours) + frame.window_update(0, CONNECTION_WINDOW - frame.DEFAULT_WINDOW))

    # --- what the owner calls ------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> list[Event]:
        """Take what was read; returns what it means."""
        events: list[Event] = []
        self._events = events
        try:
            if not self.closed:
                for kind, flags, stream_id, payload in self._reader.feed(data):
                    try:
                        if kind < len(self._handlers):
                            self._handlers[kind](flags, stream_id, payload)
                        else:
                            self._calm.disturb()  # unknown: ignored, section 4.1
                    except StreamFault as fault:
                        self._fault(fault)
        except ConnectionFault as fault:
            self.close(fault.code, str(fault))
        return events

    def go_on(self) -> list[Event]:
        """Send more of what was too much for one turn; returns what that means."""
        events: list[Event] = []
        self._events = events
        self._sent_queue(self.sender.go_on())
        return events

    def consumed(self, stream: Stream, size: int) -> None:
        """`size` bytes of a stream's DATA are out of the way: the peer may send as many more, told in batches."""
        stream.owed += size
        if stream.owed >= frame.DEFAULT_WINDOW // 2:
            owed, stream.owed = stream.owed, 0
            self.grant(stream, owed)

    def grant(self, stream: Stream, more: int) -> None:
        """Let the peer send `more` bytes on a stream."""
        if not stream.half_closed and stream.id in self.streams:
            stream.credit += more
            self.sender.raw(frame.window_update(stream.id, more))

    def end(self, stream: Stream, block: bytes) -> None:
        """End our side with a header block. A peer that is still sending is told to stop: section 8.1."""
        stream.ended = True
        self.sender.headers(stream, block, end=True)
        if not stream.queue:
            self._sent_all(stream)

    def reset(self, stream: Stream, code: Code) -> None:
        """End a stream at once."""
        self.sender.reset(stream.id, code)
        self._forget(stream, Code.CANCEL)

    def drain(self) -> None:
        """Take no new streams once the peer has heard of it (section 6.8); those that are open go on."""
        self.sender.raw(frame.goaway(_LAST_ID, Code.NO_ERROR) + frame.frame(frame.PING, 0, 0, _DRAIN_PING))

    @property
    def drained(self) -> bool:
        """Whether draining has come to its end."""
        return self._accept_up_to != _LAST_ID and not self.streams

    def close(self, code: Code, reason: str) -> None:
        """Say why, and take nothing more."""
        self.closed = True
        self.sender.raw(frame.goaway(min(self._last_id, self._accept_up_to), code, reason))

    # --- frames --------------------------------------------------------------------------------------------------

    def _fault(self, fault: StreamFault) -> None:
        if fault.stream_id > self._last_id:
            raise ConnectionFault(fault.code, str(fault))  # an idle stream cannot be reset
        self._calm.disturb()
        self.sender.reset(fault.stream_id, fault.code)
        stream = self.streams.get(fault.stream_id)
        if stream is None:
            self._remember(fault.stream_id, Code.CANCEL)
        else:
            self._forget(stream, Code.CANCEL)
            self._events.append(Reset(stream))

    # --- streams -------------------------------------------------------------------------------------------------

    def _on_headers(self, flags: int, stream_id: int, block: bytes) -> None:
        if not stream_id & 1:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "HEADERS on a stream that no client opens")
        fields = self._decoder.decode(block)  # whatever becomes of it: the table must stay in step
        end = bool(flags & frame.END_STREAM)
        stream = self.streams.get(stream_id)
        if stream is not None:
            self._on_trailers(stream, fields, end)
        elif stream_id > self._last_id:
            self._last_id = stream_id
            self._open(stream_id, fields, end)
        else:
            why = self._recent.get(stream_id, Code.PROTOCOL_ERROR)
            if why is not Code.CANCEL:
                raise ConnectionFault(why, "HEADERS on a closed stream")

    def _open(self, stream_id: int, fields: Fields, end: bool) -> None:
        if stream_id > self._accept_up_to:
            self._remember(stream_id, Code.CANCEL)  # the peer knows from GOAWAY that it is not served
            return
        if fields.request_problem is not None:
            raise StreamFault(Code.PROTOCOL_ERROR, stream_id, fields.request_problem)
        if len(self.streams) >= MAX_STREAMS:
            raise StreamFault(Code.REFUSED_STREAM, stream_id, "too many streams")
        stream = self.streams[stream_id] = Stream(stream_id, self.sender.initial_window, fields.get(b"content-length"))
        if end:
            self._half_close(stream)
        self._events.append(Request(stream, fields, end))

    def _on_trailers(self, stream: Stream, fields: Fields, end: bool) -> None:
        if stream.half_closed:
            raise StreamFault(Code.STREAM_CLOSED, stream.id, "HEADERS after the end")
        if not end or fields.problem is not None or not fields.is_trailer:
            raise StreamFault(Code.PROTOCOL_ERROR, stream.id, "malformed trailers")
        self._half_close(stream)
        self._events.append(Data(stream, b"", end=True))

    def _on_data(self, flags: int, stream_id: int, payload: Body) -> None:
        size = len(payload)
        self._take_credit(size)
        stream = self.streams.get(stream_id)
        if stream is None:
            self._closed_stream(stream_id)
            return
        if stream.half_closed:
            raise StreamFault(Code.STREAM_CLOSED, stream_id, "DATA after the end")
        stream.credit -= size
        if stream.credit < 0:
            raise StreamFault(Code.FLOW_CONTROL_ERROR, stream_id, "more DATA than the window allows")
        if flags & frame.PADDED:
            payload = unpad(bytes(payload))
            self.consumed(stream, size - len(payload))
        if stream.left is not None:
            stream.left -= len(payload)
        if flags & frame.END_STREAM:
            self._half_close(stream)
        elif not payload:
            self._calm.disturb()
        self._events.append(Data(stream, payload, bool(flags & frame.END_STREAM)))

    def _closed_stream(self, stream_id: int) -> None:
        """DATA that no stream takes: an error, or what was on its way when we reset the stream."""
        if stream_id == 0 or stream_id > self._last_id:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "DATA on an idle stream")
        self._calm.disturb()
        if self._recent.get(stream_id) is Code.STREAM_CLOSED:
            raise ConnectionFault(Code.STREAM_CLOSED, "DATA on a closed stream")

    def _take_credit(self, size: int) -> None:
        self._credit -= size
        if self._credit < 0:
            raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "more DATA than the connection's window allows")
        if self._credit < CONNECTION_WINDOW // 2:
            self.sender.raw(frame.window_update(0, CONNECTION_WINDOW - self._credit))
            self._credit = CONNECTION_WINDOW

    def _half_close(self, stream: Stream) -> None:
        stream.half_closed = True
        if stream.left:
            raise StreamFault(Code.PROTOCOL_ERROR, stream.id, "content-length is not the body's")

    def _on_rst_stream(self, flags: int, stream_id: int, payload: bytes) -> None:  # noqa: ARG002
        if len(payload) != 4:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "RST_STREAM must have 4 bytes")
        self._not_idle(stream_id)
        self._calm.disturb()
        stream = self.streams.get(stream_id)
        if stream is not None:
            self._forget(stream, Code.STREAM_CLOSED)
            self._events.append(Reset(stream))

    def _on_priority(self, flags: int, stream_id: int, payload: bytes) -> None:  # noqa: ARG002
        self._calm.disturb()
        if stream_id == 0:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "PRIORITY of the connection")
        if len(payload) != 5:
            raise StreamFault(Code.FRAME_SIZE_ERROR, stream_id, "PRIORITY must have 5 bytes")

    def _on_push_promise(self, flags: int, stream_id: int, payload: bytes) -> None:  # noqa: ARG002
        raise ConnectionFault(Code.PROTOCOL_ERROR, "clients cannot push")

    def _sent_all(self, stream: Stream) -> None:
        if not stream.half_closed:
            self.sender.reset(stream.id, Code.NO_ERROR)
        self._forget(stream, Code.STREAM_CLOSED if stream.half_closed else Code.CANCEL)

    def _sent_queue(self, streams: list[Stream]) -> None:
        for stream in streams:
            if stream.ended:
                self._sent_all(stream)
            else:
                self._events.append(Writable(stream))

    def _forget(self, stream: Stream, why: Code) -> None:
        if self.streams.pop(stream.id, None) is not None:
            self.sender.forget(stream)
            self._remember(stream.id, why)

    def _remember(self, stream_id: int, why: Code) -> None:
        self._recent[stream_id] = why
        if len(self._recent) > _REMEMBERED:
            self._recent.popitem(last=False)

    def _not_idle(self, stream_id: int) -> None:
        if stream_id == 0 or stream_id > self._last_id:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a frame on an idle stream")

    # --- the connection ------------------------------------------------------------------------------------------

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        self._calm.disturb()
        if stream_id:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "SETTINGS of a stream")
        if len(payload) % 6 or (flags & frame.ACK and payload):
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "SETTINGS has a wrong size")
        if flags & frame.ACK:
            return
        self.sender.raw(frame.frame(frame.SETTINGS, frame.ACK, 0))  # before what new windows let through
        for name, value in struct.iter_unpack(">HI", payload):
            self._setting(name, value)

    def _setting(self, name: int, value: int) -> None:
        if name == Setting.INITIAL_WINDOW_SIZE:
            if value > frame.MAX_WINDOW:
                raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE too large")
            self._sent_queue(self.sender.change_initial_window(value, self.streams.values()))
        elif name == Setting.MAX_FRAME_SIZE:
            if not frame.FRAME_BYTES <= value < 2**24:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "MAX_FRAME_SIZE out of range")
            self.sender.frame_bytes = value
        elif name == Setting.HEADER_TABLE_SIZE:
            self.sender.resize_table = True
        elif name == Setting.ENABLE_PUSH and value > 1:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "ENABLE_PUSH out of range")

    def _on_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        self._calm.disturb()
        if stream_id:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "PING of a stream")
        if len(payload) != 8:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "PING must have 8 bytes")
        if not flags & frame.ACK:
            self.sender.raw(frame.frame(frame.PING, frame.ACK, 0, payload))
        elif payload == _DRAIN_PING:
            self._accept_up_to = self._last_id
            self.sender.raw(frame.goaway(self._last_id, Code.NO_ERROR))

    def _on_goaway(self, flags: int, stream_id: int, payload: bytes) -> None:  # noqa: ARG002
        if stream_id:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "GOAWAY of a stream")
        if len(payload) < 8:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "GOAWAY too short")
        self._calm.disturb()  # its streams end by themselves, and the peer hangs up

    def _on_window_update(self, flags: int, stream_id: int, payload: bytes) -> None:  # noqa: ARG002
        if len(payload) != 4:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "WINDOW_UPDATE must have 4 bytes")
        more = int.from_bytes(payload, "big") & frame.MAX_WINDOW
        if stream_id:
            self._not_idle(stream_id)
        if not more:
            raise _zero_window(stream_id)
        if not stream_id:
            self._sent_queue(self.sender.grant(more))
        elif (stream := self.streams.get(stream_id)) is not None and self.sender.grant_stream(stream, more):
            self._sent_queue([stream])


def _zero_window(stream_id: int) -> Exception:
    reason = "WINDOW_UPDATE of nothing"
    return (
        StreamFault(Code.PROTOCOL_ERROR, stream_id, reason)
        if stream_id
        else ConnectionFault(Code.PROTOCOL_ERROR, reason)
    )
