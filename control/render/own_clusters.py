"""Clusters of the gateway's own processes, behind unix sockets, and of the loopback.

In: settings and paths. Out: the clusters of workers, settler, control and fallback listeners. Called by `clusters`.
"""

from pathlib import Path
from typing import Any

from control.render.names import BUFFER_BYTES, CONTROL, SETTLER, UPSTREAM_HTTP, any_of, endpoints
from extproc.paths import Paths
from extproc.settings import Settings
from extproc.wire import WORKERS, fallback_cluster, worker_cluster

Document = dict[str, Any]

# Envoy's defaults (1024 requests, 3 retries) turn a busy failover into 503s.
LIMITS = {
    "thresholds": [
        {
            "max_connections": 16384,
            "max_pending_requests": 65536,
            "max_requests": 65536,
            "max_retries": 65536,
            "track_remaining": False,
        }
    ]
}

# Who is ejected gets nothing more, were it the last; and that at once: by default Envoy's threads hear of what changes
# within a second of another change only after it, and for so long all requests went to a worker that was still away.
AT_ONCE: Document = {"healthy_panic_threshold": {"value": 0}, "update_merge_window": "0s"}

# A killed worker's socket refuses at once: one failure is proof enough, and a second later it is likely back. (Tried
# each 0.1 s, one that stays away costs four times as many requests of more than 64 KiB, which are tried once.)
# Where all are away they are asked all the same: requests wait for the first that is back (`filters.ext_proc`).
_EJECT_DEAD_WORKER: Document = {
    "outlier_detection": {
        "split_external_local_origin_errors": True,
        "consecutive_local_origin_failure": 1,
        "enforcing_consecutive_local_origin_failure": 100,
        "enforcing_success_rate": 0,
        "enforcing_local_origin_success_rate": 0,
        "enforcing_consecutive_gateway_failure": 0,
        "interval": "0.2s",
        "base_ejection_time": "0.3s",
        "max_ejection_time": "1s",
        "max_ejection_percent": 100,
    },
    "common_lb_config": AT_ONCE | {"healthy_panic_threshold": {"value": 1}},
}

# A worker that hangs does not answer a PING: what it holds fails then, and new requests go elsewhere.
_FIND_HANGING: Document = {"connection_keepalive": {"interval": "10s", "timeout": "20s"}}

# An endpoint counts as its weight / (requests it has + 1) ** bias.
_BIAS = 8


def own_clusters(settings: Settings, paths: Paths) -> list[Document]:
    """All of them."""
    indices = range(settings.workers)
    asked = _FIND_HANGING if settings.transport == "lean" else {}  # grpcio takes pings for an attack
    return [
        _workers([paths.worker_socket(index) for index in indices], asked),
        *(_local(worker_cluster(index), [paths.fallback_socket(index)], http2=True, more=asked) for index in indices),
        _local(SETTLER, [paths.settler_socket], http2=True),
        _local(CONTROL, [paths.control_socket], http2=False),
        *(_fallback(index) for index in indices),
    ]


def _workers(sockets: list[Path], more: Document) -> Document:
    """All of them, for requests. Of two, the first is asked unless it has twice as many in hand as the other: a process
    that runs often finds its code still in the caches, and needs a tenth to a fifth less CPU (ADR 12). Of more each
    has a core, so none comes before the others."""
    cluster = _local(WORKERS, sockets, http2=True, more=more) | _EJECT_DEAD_WORKER | {"lb_policy": "LEAST_REQUEST"}
    if len(sockets) == 2:
        weighed: list[Document] = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
        for endpoint, weight in zip(weighed, (2**_BIAS, 1), strict=True):
            endpoint["load_balancing_weight"] = weight
        bias = {"default_value": _BIAS, "runtime_key": "workers.active_request_bias"}
        cluster["least_request_lb_config"] = {"active_request_bias": bias}
    return cluster


def _local(name: str, sockets: list[Path], *, http2: bool, more: Document | None = None) -> Document:
    """One of our own processes behind unix sockets."""
    protocol = "http2_protocol_options" if http2 else "http_protocol_options"
    window = {"initial_stream_window_size": BUFFER_BYTES, "initial_connection_window_size": BUFFER_BYTES}
    options: Document = {"max_concurrent_streams": 2_000_000, **window, **(more or {})} if http2 else {}
    addresses = [{"pipe": {"path": str(socket)}} for socket in sockets]
    return _static(name, addresses) | {
        "typed_extension_protocol_options": {
            UPSTREAM_HTTP: any_of(UPSTREAM_HTTP, explicit_http_config={protocol: options})
        },
    }


def _fallback(worker: int) -> Document:
    """The loopback: attempts after the first enter the internal listener of the same name."""
    name = fallback_cluster(worker)
    return _static(name, [{"envoy_internal_address": {"server_listener_name": name}}]) | {
        "transport_socket": {
            "name": "envoy.transport_sockets.internal_upstream",
            "typed_config": any_of(
                "envoy.extensions.transport_sockets.internal_upstream.v3.InternalUpstreamTransport",
                transport_socket={
                    "name": "envoy.transport_sockets.raw_buffer",
                    "typed_config": any_of("envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"),
                },
            ),
        },
    }


def _static(name: str, addresses: list[Document]) -> Document:
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        "circuit_breakers": LIMITS,
        "load_assignment": endpoints(name, addresses),
    }
