"""Listeners: the ingress that clients speak to, and the internal one that attempts after the first go through."""

from typing import Any

from control.render.bootstrap import asset
from control.render.clusters import CREDENTIAL_HEADERS
from control.render.names import (
    BUFFER_BYTES,
    FALLBACK_ROUTES,
    INGRESS_ROUTES,
    SETTLER,
    WORKERS,
    any_of,
    grpc_service,
    seconds,
)
from control.render.routes import EXT_PROC
from extproc.errors import (
    GatewayError,
    NoProviderAvailable,
    ProviderError,
    ProviderTimeout,
    RequestTooLarge,
)
from extproc.paths import Paths
from extproc.settings import Settings
from extproc.settle.logfile import LINE
from extproc.wire import (
    ANSWER_METADATA,
    H_FALLBACK,
    H_REQUEST_ID,
    INTERNAL_PREFIX,
    LOG_ATTEMPT,
    LOG_REQUEST,
    M_SSE,
    M_TEAM,
    METADATA,
    OWN_ANSWER,
    USAGE_METADATA,
    fallback_cluster,
    worker_cluster,
)

Document = dict[str, Any]

_HCM = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
# What an attempt tells of its provider: whether it streamed, and how long it wants to be left alone.
_ATTEMPT_HEADERS = ("content-type", "retry-after", "retry-after-ms")
_MAX_SSE_EVENT_BYTES = 1024 * 1024


def render(settings: Settings, paths: Paths) -> list[Document]:
    """The ingress, and one fallback listener a worker."""
    result = [_ingress(settings, paths), *(_fallback(index, paths) for index in range(settings.workers))]
    for listener in result:
        listener["@type"] = "type.googleapis.com/envoy.config.listener.v3.Listener"
    return result


def _ingress(settings: Settings, paths: Paths) -> Document:
    # Responses pass the filters from the last to the first.
    native = settings.streams.same_format == "native"
    filters = [
        _remove_headers([{"prefix": INTERNAL_PREFIX}, {"prefix": "x-envoy-"}]),
        *([_lua("native_stream.lua")] if native else []),
        _ext_proc(cluster=WORKERS, body=True),
        *([_sse_usage()] if native else []),
        *([_json_usage()] if native and settings.response_metadata == "headers" else []),
        _router(),
    ]
    manager = _manager(
        "ingress",
        INGRESS_ROUTES,
        filters,
        paths,
        access_log=[_access_log(LOG_REQUEST), _request_log(paths)],
        use_remote_address=True,
        # Every client is outside: Envoy's own control headers (x-envoy-*) and request ids are not taken from any.
        internal_address_config={"cidr_ranges": []},
        generate_request_id=True,
        preserve_external_request_id=False,
        stream_idle_timeout=seconds(settings.timeouts.idle),
        request_headers_timeout="30s",
        common_http_protocol_options={"idle_timeout": "3600s", "headers_with_underscores_action": "REJECT_REQUEST"},
        http2_protocol_options={
            "max_concurrent_streams": 1000,
            "initial_stream_window_size": 1024 * 1024,
            "initial_connection_window_size": 16 * 1024 * 1024,
        },
        delayed_close_timeout="0.5s",
        drain_timeout="1s",
        normalize_path=True,
        merge_slashes=True,
        path_with_escaped_slashes_action="REJECT_REQUEST",
        local_reply_config=_local_replies(),
        server_header_transformation="PASS_THROUGH",
    )
    address = {"socket_address": {"address": settings.listen.host, "port_value": settings.listen.port}}
    return {
        "name": "ingress",
        "traffic_direction": "INBOUND",  # what `drain_listeners?inboundonly` closes: the loopback goes on
        "address": address,
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        "filter_chains": [{"filters": [manager]}],
    }


def _fallback(worker: int, paths: Paths) -> Document:
    """The other end of a worker's loopback. What the first provider's cluster put on the request comes off first: its
    credential must reach neither the worker nor the next provider. Internal headers came off there already."""
    take_off = [{"exact": name} for name in sorted(set(CREDENTIAL_HEADERS.values()))]
    filters = [
        _remove_headers(take_off, add={H_FALLBACK: "1"}),
        _ext_proc(cluster=worker_cluster(worker), body=False),
        _buffer(),
        _router(),
    ]
    manager = _manager(
        "fallback",
        FALLBACK_ROUTES,
        filters,
        paths,
        generate_request_id=False,
        preserve_external_request_id=True,
        stream_idle_timeout="0s",
    )
    return {
        "name": fallback_cluster(worker),
        "internal_listener": {},
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


def _remove_headers(matchers: list[Document], add: dict[str, str] | None = None) -> Document:
    mutations: list[Document] = [{"remove_on_match": {"key_matcher": matcher}} for matcher in matchers]
    for name, value in (add or {}).items():
        mutations.append({"append": {"header": {"key": name, "value": value}}})
    return {
        "name": "envoy.filters.http.header_mutation",
        "typed_config": any_of(
            "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
            mutations={"request_mutations": mutations},
        ),
    }


def _ext_proc(*, cluster: str, body: bool) -> Document:
    service = grpc_service(cluster)
    service["retry_policy"] = {
        "retry_on": "connect-failure,refused-stream,unavailable",
        "num_retries": 3,
        "retry_back_off": {"base_interval": "0.005s", "max_interval": "0.05s"},
    }
    return {
        "name": EXT_PROC,
        "typed_config": any_of(
            "envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor",
            grpc_service=service,
            failure_mode_allow=False,
            status_on_error={"code": "ServiceUnavailable"},
            message_timeout="30s",
            max_message_timeout="60s",
            allow_mode_override=True,
            processing_mode={
                "request_header_mode": "SEND",
                "request_body_mode": "BUFFERED" if body else "NONE",
                "response_header_mode": "SEND" if body else "SKIP",
                "response_body_mode": "NONE",
                "request_trailer_mode": "SKIP",
                "response_trailer_mode": "SKIP",
            },
            # :path, :authority and x-envoy-* are the worker's to set; they are how it routes and sets deadlines.
            mutation_rules={"allow_all_routing": True, "allow_envoy": True},
            metadata_options={"receiving_namespaces": {"untyped": [METADATA]}},
        ),
    }


def _buffer() -> Document:
    """Gives the replaced body its content-length again: not every provider takes a chunked request."""
    return {
        "name": "envoy.filters.http.buffer",
        "typed_config": any_of("envoy.extensions.filters.http.buffer.v3.Buffer", max_request_bytes=BUFFER_BYTES),
    }


def _lua(name: str) -> Document:
    cut = ProviderError("The provider ended the stream before it was complete.")
    source = asset(name).replace("$cut_event", f"data: {cut.body().decode()}\\n\\n")
    source = source.replace("$answer_metadata", ANSWER_METADATA).replace("$sse_key", M_SSE)
    return {
        "name": "envoy.filters.http.lua",
        "typed_config": any_of(
            "envoy.extensions.filters.http.lua.v3.Lua", default_source_code={"inline_string": source}
        ),
    }


def _usage_rules() -> list[Document]:
    """Usage in OpenAI's shape, into dynamic metadata, for the settler."""
    paths = {
        "prompt_tokens": ("usage", "prompt_tokens"),
        "completion_tokens": ("usage", "completion_tokens"),
        "cached_tokens": ("usage", "prompt_tokens_details", "cached_tokens"),
        "reasoning_tokens": ("usage", "completion_tokens_details", "reasoning_tokens"),
    }
    return [
        {
            "selectors": [{"key": key} for key in path],
            "on_present": {"metadata_namespace": USAGE_METADATA, "key": name, "type": "NUMBER"},
        }
        for name, path in paths.items()
    ]


def _json_usage() -> Document:
    """Reads it out of whole answers, which then may pass without the worker."""
    return {
        "name": "envoy.filters.http.json_to_metadata",
        "typed_config": any_of(
            "envoy.extensions.filters.http.json_to_metadata.v3.JsonToMetadata",
            response_rules={"rules": _usage_rules()},
        ),
    }


def _sse_usage() -> Document:
    """Reads it out of a passing stream."""
    rules = [{"rule": rule} for rule in _usage_rules()]
    return {
        "name": "envoy.filters.http.sse_to_metadata",
        "typed_config": any_of(
            "envoy.extensions.filters.http.sse_to_metadata.v3.SseToMetadata",
            response_rules={
                "content_parser": {
                    "name": "envoy.content_parsers.json",
                    "typed_config": any_of("envoy.extensions.content_parsers.json.v3.JsonContentParser", rules=rules),
                },
                "max_event_size": _MAX_SSE_EVENT_BYTES,
            },
        ),
    }


def _router() -> Document:
    return {
        "name": "envoy.filters.http.router",
        "typed_config": any_of(
            "envoy.extensions.filters.http.router.v3.Router", upstream_log=[_access_log(LOG_ATTEMPT, _ATTEMPT_HEADERS)]
        ),
    }


def _access_log(name: str, response_headers: tuple[str, ...] = ()) -> Document:
    return {
        "name": "envoy.access_loggers.http_grpc",
        "typed_config": any_of(
            "envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
            common_config={
                "log_name": name,
                "transport_api_version": "V3",
                "grpc_service": grpc_service(SETTLER),
                "buffer_flush_interval": "0.1s",
                "buffer_size_bytes": 65536,
                "grpc_stream_retry_policy": {"num_retries": 10},
            },
            additional_response_headers_to_log=list(response_headers),
        ),
    }


def _request_log(paths: Paths) -> Document:
    """The same in a file, of authenticated requests: what the settler was not there to take, it reads."""
    return {
        "name": "envoy.access_loggers.file",
        "filter": {
            "metadata_filter": {
                "matcher": {"filter": METADATA, "path": [{"key": M_TEAM}], "value": {"present_match": True}},
                "match_if_key_not_found": False,
            }
        },
        "typed_config": any_of(
            "envoy.extensions.access_loggers.file.v3.FileAccessLog",
            path=str(paths.request_log),
            log_format={"json_format": LINE, "omit_empty_values": True},
        ),
    }


def _local_replies() -> Document:
    """Errors that Envoy answers itself, in OpenAI's shape. Only those that never reached the worker's mapping."""
    mappers = [
        _local_reply(413, RequestTooLarge("The request body is larger than this gateway accepts.")),
        _local_reply(404, ProviderError("There is no such path.")),
        _local_reply(502, ProviderError("The provider could not be reached.")),
        _local_reply(503, NoProviderAvailable("The gateway cannot serve this request now.")),
        _local_reply(504, ProviderTimeout("The provider did not answer in time.")),
        _local_reply(500, _Internal("The gateway failed to handle this request.")),
    ]
    return {"mappers": mappers}


class _Internal(GatewayError):
    status, code = 500, "internal_error"


def _local_reply(status: int, error: GatewayError) -> Document:
    # An answer of the worker keeps its own words.
    expression = f"response.code == {status} && !response.code_details.startsWith('{OWN_ANSWER}')"
    return {
        "filter": {
            "extension_filter": {
                "name": "envoy.access_loggers.extension_filters.cel",
                "typed_config": any_of(
                    "envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter", expression=expression
                ),
            }
        },
        "body_format_override": {"json_format": error.payload(), "content_type": "application/json"},
        "headers_to_add": [
            {
                "header": {"key": "x-gateway-request-id", "value": f"%REQ({H_REQUEST_ID})%"},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            }
        ],
    }
