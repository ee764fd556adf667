"""Access logs: what the settler is told of requests and of attempts, by gRPC and in a file.

In: the name of a log. Out: loggers as Envoy takes them.
"""

from typing import Any

from control.render.names import SETTLER, any_of, grpc_service
from extproc.paths import Paths
from extproc.settle.logfile import LINE
from extproc.wire import M_TEAM, METADATA

Document = dict[str, Any]


def access_log(name: str, response_headers: tuple[str, ...] = ()) -> Document:
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


def request_log(paths: Paths) -> Document:
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
