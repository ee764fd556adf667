"""The ext_proc service: Envoy's gRPC streams -> exchanges. A thin shell; the only file of the walk that knows grpc.

In: one bidirectional stream per HTTP request on this worker's unix socket. Out: the exchange's replies, in order.
A generic handler on the method path takes raw bytes, so no generated service is needed.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import grpc

from extproc.exchange import Exchange, Live, Options, State
from extproc.pipeline import Pipeline

METHOD = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_concurrent_streams", 1_000_000),
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 1000),
    ("grpc.http2.bdp_probe", 0),
)


class ExtProcServer(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio ships no types
    """Serves ext_proc on a unix socket."""

    def __init__(self, pipeline: Pipeline, options: Options) -> None:
        self._pipeline = pipeline
        self._options = options
        self._live = Live()
        self._server = grpc.aio.server(options=_OPTIONS)
        self._server.add_generic_rpc_handlers((self,))
        self._handler = grpc.stream_stream_rpc_method_handler(self._process)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """grpc asks which handler serves a method; ours is the only one."""
        return self._handler if handler_call_details.method == METHOD else None

    async def _process(self, messages: AsyncIterator[bytes], _: object) -> AsyncIterator[bytes]:
        exchange = Exchange(self._pipeline, self._live, self._options)
        try:
            async for message in messages:
                yield await exchange.receive(message)
                if exchange.state is State.DONE:
                    return
        finally:
            exchange.close()

    async def start(self, socket: Path) -> None:
        """Bind and serve. Raises RuntimeError if the socket cannot be bound."""
        self._server.add_insecure_port(f"unix:{socket}")
        await self._server.start()

    async def stop(self, grace_s: float) -> None:
        """Refuse new streams, let running ones finish for up to `grace_s`."""
        await self._server.stop(grace_s)
