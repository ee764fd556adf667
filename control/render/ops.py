"""The listener for those who run the gateway, where `listen.ops` says so: probes and metrics.

In: where. Out: a listener that knows three paths and nothing of the client API. It is no inbound listener: a drain
leaves it open, so that /readyz can say so.
"""

from typing import Any

from control.render.names import CONTROL, any_of
from extproc.settings import Ops
from extproc.wire import WORKERS

Document = dict[str, Any]

_HCM = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_READY = "/readyz"


def listener(where: Ops) -> Document:
    """/livez: Envoy answers. /readyz: it is not draining and knows a worker that is up. /metrics: control's."""
    manager = any_of(
        _HCM,
        stat_prefix="ops",
        codec_type="HTTP1",
        http_filters=[_ready(), _router()],
        route_config={"name": "ops", "virtual_hosts": [{"name": "ops", "domains": ["*"], "routes": _routes()}]},
        stream_idle_timeout="60s",
        request_headers_timeout="5s",
        common_http_protocol_options={"idle_timeout": "300s"},
    )
    return {
        "name": "ops",
        "address": {"socket_address": {"address": where.host, "port_value": where.port}},
        "bypass_overload_manager": True,  # a probe that fails would end what is only busy
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }


def _routes() -> list[Document]:
    return [
        {"match": {"path": "/livez"}, "direct_response": {"status": 200, "body": {"inline_string": "ok\n"}}},
        {"match": {"path": "/metrics"}, "route": {"cluster": CONTROL, "timeout": "30s"}},
        {"match": {"prefix": "/"}, "direct_response": {"status": 404}},
    ]


def _ready() -> Document:
    return {
        "name": "envoy.filters.http.health_check",
        "typed_config": any_of(
            "envoy.extensions.filters.http.health_check.v3.HealthCheck",
            pass_through_mode=False,
            headers=[{"name": ":path", "string_match": {"exact": _READY}}],
            cluster_min_healthy_percentages={WORKERS: {"value": 1}},
        ),
    }


def _router() -> Document:
    return {
        "name": "envoy.filters.http.router",
        "typed_config": any_of("envoy.extensions.filters.http.router.v3.Router"),
    }
