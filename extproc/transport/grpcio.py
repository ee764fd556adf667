"""The grpcio transport: the same sessions by grpcio's own server, on the same sockets. The lean one is measured by it,
and it is to be built on where others than our Envoy are to be served.

The only file that knows grpc. A generic handler on each method path takes raw bytes, so no generated service is needed.
"""

from collections.abc import AsyncIterator, Coroutine
from functools import partial
from pathlib import Path

import grpc

from extproc.transport.session import Reply, Service, Services

_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_concurrent_streams", 1_000_000),
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 1000),
    ("grpc.http2.bdp_probe", 0),
)


class GrpcioServer(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio ships no types
    """Serves services on a unix socket."""

    def __init__(self, services: Services) -> None:
        largest = max(service.max_message for service in services.values())
        self._server = grpc.aio.server(options=(*_OPTIONS, ("grpc.max_receive_message_length", largest)))
        self._server.add_generic_rpc_handlers((self,))
        self._handlers = {
            path: grpc.stream_stream_rpc_method_handler(partial(_serve, service)) for path, service in services.items()
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """grpc asks which handler serves a method."""
        return self._handlers.get(handler_call_details.method)

    async def start(self, socket: Path) -> None:
        """Bind and serve. Raises RuntimeError if the socket cannot be bound."""
        self._server.add_insecure_port(f"unix:{socket}")
        await self._server.start()

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, let running ones finish for up to `grace_s`, then end them."""
        await self._server.stop(grace_s)


async def _serve(service: Service, messages: AsyncIterator[bytes], _: object) -> AsyncIterator[bytes]:
    session = service.session()
    try:
        async for message in messages:
            reply = session.receive(message)
            if isinstance(reply, Coroutine):
                reply = await reply
            for each in _messages(reply):
                yield each
            if session.done:
                return
        for each in _messages(session.finish()):
            yield each
    finally:
        session.close()


def _messages(reply: Reply) -> tuple[bytes, ...]:
    return () if reply is None else tuple(map(bytes, reply if isinstance(reply, tuple) else (reply,)))
