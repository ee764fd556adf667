"""Names of our own clusters and routes, and small pieces that several rendered files use."""

from typing import Any

SETTLER = "settler"
CONTROL = "control"
FALLBACK_ROUTES = "fallback"
INGRESS_ROUTES = "ingress"

BUFFER_BYTES = 64 * 1024 * 1024  # bodies up to 32 MiB grow when translated (base64, other field names)

UPSTREAM_HTTP = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def any_of(kind: str, **fields: Any) -> dict[str, Any]:
    """A protobuf Any of type `kind`."""
    return {"@type": f"type.googleapis.com/{kind}", **fields}


def seconds(value: float) -> str:
    """A protobuf Duration in JSON."""
    return f"{value:.9f}".rstrip("0").rstrip(".") + "s"


def grpc_service(cluster: str) -> dict[str, Any]:
    """A GrpcService of Envoy's own gRPC client to `cluster`."""
    return {"envoy_grpc": {"cluster_name": cluster}}


def endpoints(name: str, addresses: list[dict[str, Any]]) -> dict[str, Any]:
    """Cluster `name`'s endpoints."""
    return {
        "cluster_name": name,
        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}} for address in addresses]}],
    }
