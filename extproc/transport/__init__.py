"""How Envoy's gRPC calls reach us: `lean`, our own, for unix sockets; `grpcio` for anything else (ADR 8)."""

from extproc.transport.session import Server, Services


def server(kind: str, services: Services) -> Server:
    """The transport named `lean` or `grpcio`. Only what is used is loaded."""
    if kind == "lean":
        from extproc.transport.lean import LeanServer  # noqa: PLC0415

        return LeanServer(services)
    from extproc.transport.grpcio import GrpcioServer  # noqa: PLC0415

    return GrpcioServer(services)
