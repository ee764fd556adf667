"""Listeners: the ingress that clients speak to, and the internal one that attempts after the first go through."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from control.render import doors, ops
from control.render.access_log import access_log, request_log
from control.render.clusters import CREDENTIAL_HEADERS, SIGNATURE_HEADERS
from control.render.filters import answered, buffer, ext_proc, json_usage, native_answers, remove_headers, router
from control.render.local_replies import local_replies, unread_replies
from control.render.names import BUFFER_BYTES, FALLBACK_ROUTES, INGRESS_ROUTES, any_of, seconds
from control.render.tls import transport_socket
from extproc.paths import Paths
from extproc.settings import Settings
from extproc.wire import (
    H_CLIENT,
    H_FALLBACK,
    INTERNAL_PREFIX,
    LOG_REQUEST,
    WORKERS,
    fallback_cluster,
    worker_cluster,
)

Document = dict[str, Any]

_HCM = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


def render(settings: Settings, paths: Paths) -> list[Document]:
    """The ingress by each of its addresses, one fallback listener a worker, and one for probes and metrics, where they
    have a port."""
    result = [*_ingress(settings, paths), *(_fallback(index, settings, paths) for index in range(settings.workers))]
    if settings.listen.ops is not None:
        result.append(ops.listener(settings.listen.ops))
    for listener in result:
        listener["@type"] = "type.googleapis.com/envoy.config.listener.v3.Listener"
    return result


def _ingress(settings: Settings, paths: Paths) -> Iterator[Document]:
    """TCP port, unix socket, and the socket of our own requests."""
    listen = settings.listen
    if listen.port is not None:
        address: Document = {"socket_address": {"address": listen.host, "port_value": listen.port}}
        tls = {"transport_socket": transport_socket(listen.tls, paths)} if listen.tls else {}
        yield _entrance("ingress", address, _ingress_manager(settings, paths, by_address=True), **tls)
    if listen.unix_socket is not None:
        yield _entrance(
            "unix",
            _pipe(listen.unix_socket, listen.unix_socket_mode),
            _ingress_manager(settings, paths, by_address=False),
        )
    yield _entrance("inside", _pipe(paths.inside_socket, "0600"), _ingress_manager(settings, paths, by_address=False))


def _pipe(path: Path, mode: str) -> Document:
    return {"pipe": {"path": str(path.absolute()), "mode": int(mode, 8)}}


def _entrance(name: str, address: Document, manager: Document, **chain: Any) -> Document:
    return {
        "name": name,
        "traffic_direction": "INBOUND",  # what `drain_listeners?inboundonly` closes: the loopback goes on
        "address": address,
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        "filter_chains": [{"filters": [manager], **chain}],
    }


def _ingress_manager(settings: Settings, paths: Paths, *, by_address: bool) -> Document:
    # Responses pass the filters from the last to the first.
    native = settings.streams.same_format == "native"
    filters = [
        remove_headers([{"prefix": INTERNAL_PREFIX}, {"prefix": "x-envoy-"}], add=_client(settings, by_address)),
        *doors.filters(settings, by_address=by_address),
        *([native_answers(settings.workers)] if native else []),
        # Routes enable it: what Envoy refuses before it has a route is told at once, and the connection closed; waiting
        # for a worker, who would be asked about that answer too, it would be closed without a word.
        {**ext_proc(cluster=WORKERS, request_body=True, idle_s=settings.timeouts.idle), "disabled": True},
        buffer(),
        *([json_usage()] if native else []),
        router(),
    ]
    return _manager(
        "ingress",
        INGRESS_ROUTES,
        filters,
        paths,
        access_log=[access_log(LOG_REQUEST), request_log(paths)],
        use_remote_address=True,
        xff_num_trusted_hops=settings.listen.trusted_hops,
        # Every client is outside: request ids, which the money goes by, are not taken from any. The list names an
        # address that nobody has: an empty one counts as none given, which makes insiders of private addresses.
        internal_address_config={"cidr_ranges": [{"address_prefix": "255.255.255.255", "prefix_len": 32}]},
        generate_request_id=True,
        preserve_external_request_id=False,
        stream_idle_timeout=seconds(settings.timeouts.idle),
        request_headers_timeout="30s",
        request_timeout=seconds(settings.timeouts.request),  # one that comes drop by drop is never idle
        common_http_protocol_options={"idle_timeout": "3600s", "headers_with_underscores_action": "DROP_HEADER"},
        # What nginx and HAProxy speak to a server unless told otherwise; refused, they see a connection that closes.
        http_protocol_options={"accept_http_10": True, "default_host_for_http_10": "gateway"},
        http2_protocol_options={
            "max_concurrent_streams": 1000,
            "initial_stream_window_size": 1024 * 1024,
            "initial_connection_window_size": 16 * 1024 * 1024,
        },
        delayed_close_timeout="0.5s",
        drain_timeout="1s",
        normalize_path=True,
        merge_slashes=True,
        # A team's id may have slashes in it: `/v1/teams/acme%2Fsearch`. No path is opened here but by its plain
        # letters, and control takes paths apart before it decodes them.
        path_with_escaped_slashes_action="KEEP_UNCHANGED",
        local_reply_config=local_replies(),
        server_header_transformation="PASS_THROUGH",
    )


def _client(settings: Settings, by_address: bool) -> dict[str, str]:
    """The client's address, for the worker and the control API, where a team has a list of its own."""
    if not any(team.allowed_ips for team in settings.teams):
        return {}
    return {H_CLIENT: "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%" if by_address else "127.0.0.1"}


def _fallback(worker: int, settings: Settings, paths: Paths) -> Document:
    """The other end of a worker's loopback. What the first provider's cluster put on the request comes off first: its
    credential must reach neither the worker nor the next provider. Internal headers came off there already."""
    take_off = [{"exact": name} for name in sorted({*CREDENTIAL_HEADERS.values(), *SIGNATURE_HEADERS})]
    filters = [
        remove_headers(take_off, add={H_FALLBACK: "1"}),
        ext_proc(cluster=worker_cluster(worker), request_body=False, idle_s=settings.timeouts.idle),
        answered(),
        buffer(),
        router(),
    ]
    manager = _manager(
        "fallback",
        FALLBACK_ROUTES,
        filters,
        paths,
        generate_request_id=False,
        preserve_external_request_id=True,
        stream_idle_timeout="0s",
        delayed_close_timeout="0s",  # there is no network between the two
        local_reply_config=unread_replies(),
    )
    return {
        "name": fallback_cluster(worker),
        "internal_listener": {},
        "bypass_overload_manager": True,  # these requests are in already
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        "filter_chains": [{"filters": [manager]}],
    }


def _manager(name: str, routes: str, filters: list[Document], paths: Paths, **options: Any) -> Document:
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": any_of(
            _HCM,
            stat_prefix=name,
            codec_type="AUTO",
            rds={
                "route_config_name": routes,
                "config_source": {
                    "resource_api_version": "V3",
                    "path_config_source": {"path": str(paths.envoy / f"rds-{routes}.json")},
                },
            },
            http_filters=filters,
            **options,
        ),
    }
