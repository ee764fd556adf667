"""What a connection tells its owner."""

import msgspec

from extproc.body.pieces import Body
from extproc.transport.fields import Fields
from extproc.transport.stream import Stream


class Request(msgspec.Struct, gc=False):
    """A stream was opened."""

    stream: Stream
    fields: Fields
    end: bool  # nothing follows


class Data(msgspec.Struct, gc=False):
    """A piece of a stream's body. To be given back by `consumed`."""

    stream: Stream
    payload: Body
    end: bool


class Reset(msgspec.Struct, gc=False):
    """A stream ended before its time; nothing can be sent on it."""

    stream: Stream


class Writable(msgspec.Struct, gc=False):
    """What waited on a stream is sent."""

    stream: Stream


Event = Request | Data | Reset | Writable
