"""How Envoy's gRPC calls reach us: `lean`, our own, or `grpcio` (ADR 8). Both on unix sockets: nobody else is served.

session     what is served, whichever transport it is

lean        sockets under asyncio, around these, which do no I/O
  calls       gRPC calls -> sessions -> replies; `message`: gRPC on one stream
  connection  HTTP/2 as a server sees it: `reader`, `sending`, `stream`; `events`: what it tells
  frame       frames; `fields`: header blocks
  calm        how much of what does no work a peer may send; `credit`: memory for large messages
"""

from extproc.transport.session import Server, Services


def server(kind: str, services: Services) -> Server:
    """The transport named `lean` or `grpcio`. Only what is used is loaded."""
    if kind == "lean":
        from extproc.transport.lean import LeanServer  # noqa: PLC0415

        return LeanServer(services)
    from extproc.transport.grpcio import GrpcioServer  # noqa: PLC0415

    return GrpcioServer(services)
