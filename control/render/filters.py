"""HTTP filters of the ingress and of the loopback.

In: what each is told. Out: filters as Envoy takes them; `control.render.listeners` puts them into their order.
"""

from collections.abc import Sequence
from string import Template
from typing import Any

from control.render.access_log import access_log
from control.render.bootstrap import asset
from control.render.names import BUFFER_BYTES, any_of, grpc_service, seconds
from control.render.routes import EXT_PROC
from extproc.adapters.usage import COUNTED, PATHS
from extproc.errors import AnswerUnread, ProviderError
from extproc.exchange import passing
from extproc.exchange.replies import ATTEMPTS, TO_CLIENT
from extproc.wire import (
    ANSWER_METADATA,
    H_ATTEMPTS,
    H_TARGET,
    H_TOLD,
    H_UNREAD,
    LINE_END,
    LOG_ATTEMPT,
    M_ANSWERED,
    M_CUT,
    M_OUTCOME,
    M_PASSING,
    M_SEVERAL,
    M_SSE,
    M_USAGE,
    METADATA,
    P_FIELDS,
    P_ID,
    P_RATES,
    P_SIGN,
    P_TARGET,
    P_TOLD,
    P_WORKER,
    USAGE_METADATA,
    worker_cluster,
)

Document = dict[str, Any]

# What an attempt tells of its provider: whether it streamed, and how long it wants to be left alone.
_ATTEMPT_HEADERS = ("content-type", "retry-after", "retry-after-ms")
_SLACK_S = 5.0
# Of a request, each after up to twice the last one's wait, 0.5 s at most: 4 s in all. Longer than a worker's start, and
# soon over for a request that kills its workers.
_TRIES = 20


def remove_headers(matchers: list[Document], add: dict[str, str] | None = None) -> Document:
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


def ext_proc(*, cluster: str, request_body: bool, idle_s: float) -> Document:
    """Envoy sends what it has of a message at once and lets the worker answer when it likes: one burst in, one out. The
    body comes in pieces, which nobody could translate one by one, so the worker waits for the last and answers with the
    whole. Without `request_body` it has that already. Where nothing remains to be done with the answer, the worker ends
    the stream, and Envoy does not ask. What it may have to wait for is a slow client or provider, which is for the
    stream's idle timeout to end (`idle_s`), so the worker's own time is longer; one that hangs is found by HTTP/2's
    PING. A request whose worker dies, or hangs, before it has said a word of it goes to another as it came: nothing was
    sent anywhere yet, and its hold is known by its id. Where all workers are away it waits for the first that is back.
    Of more than 64 KiB Envoy keeps no copy. An attempt after the first has no other worker that knows of it."""
    service = grpc_service(cluster)
    service["retry_policy"] = {
        "retry_on": "connect-failure,refused-stream,unavailable" + (",reset" if request_body else ""),
        "num_retries": _TRIES if request_body else 3,
        "retry_back_off": {"base_interval": "0.02s", "max_interval": "0.5s"},
    }
    return {
        "name": EXT_PROC,
        "typed_config": any_of(
            "envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor",
            grpc_service=service,
            failure_mode_allow=False,
            status_on_error={"code": "ServiceUnavailable"},
            message_timeout=seconds(idle_s + _SLACK_S),
            send_body_without_waiting_for_header_response=True,
            allow_content_length_header=True,
            processing_mode={
                "request_header_mode": "SEND",
                "request_body_mode": "STREAMED" if request_body else "NONE",
                "response_header_mode": "SEND",
                "response_body_mode": "STREAMED",
                "request_trailer_mode": "SKIP",
                "response_trailer_mode": "SKIP",
            },
            # :path, :authority and x-envoy-* are the worker's to set; they are how it routes and sets deadlines.
            mutation_rules={"allow_all_routing": True, "allow_envoy": True},
            metadata_options={"receiving_namespaces": {"untyped": [METADATA]}},
        ),
    }


def answered() -> Document:
    """Notes the status of a stand-in's answer: see `local_replies.unread_replies`."""
    status = {"metadata_namespace": METADATA, "key": M_ANSWERED, "type": "STRING"}
    return {
        "name": "envoy.filters.http.header_to_metadata",
        "typed_config": any_of(
            "envoy.extensions.filters.http.header_to_metadata.v3.Config",
            response_rules=[{"header": ":status", "on_header_present": status}],
        ),
    }


def buffer() -> Document:
    """Gives a body that the worker replaced its content-length again: not every provider takes a chunked request."""
    return {
        "name": "envoy.filters.http.buffer",
        "typed_config": any_of("envoy.extensions.filters.http.buffer.v3.Buffer", max_request_bytes=BUFFER_BYTES),
    }


def _error(message: str) -> str:
    return ProviderError(message).body().decode()


_UNREAD = AnswerUnread("The gateway failed to read the provider's answer.")

# What envoy/native_stream.lua and native_answer.lua call by the names that stand here.
NAMES = {
    "cut_event": f"data: {_error('The provider ended the stream before it was complete.')}\\n\\n",
    "unread_body": _UNREAD.body().decode().replace("'", "\\'"),
    "unread": _UNREAD.code,
    "to_client": ", ".join(f'["{name}"] = true' for name in sorted(TO_CLIENT)),
    "answer_metadata": ANSWER_METADATA,
    "sse_key": M_SSE,
    "usage_metadata": USAGE_METADATA,
    "usage_key": M_USAGE,
    "cut_key": M_CUT,
    "several": M_SEVERAL,
    "counted": " and ".join(f'counts["{name}"]' for name in COUNTED),
    "metadata": METADATA,
    "outcome": M_OUTCOME,
    "passing": M_PASSING,
    "p_id": P_ID,
    "p_worker": P_WORKER,
    "p_target": P_TARGET,
    "p_told": P_TOLD,
    "p_fields": P_FIELDS,
    "p_rates": P_RATES,
    "p_sign": P_SIGN,
    "h_attempts": H_ATTEMPTS,
    "h_target": H_TARGET,
    "h_told": H_TOLD,
    "h_unread": H_UNREAD,
    "line_end": LINE_END,
    "attempts": ATTEMPTS,
    "method": passing.METHOD,
}


def native_answers(workers: int) -> Document:
    """What remains to be done with answers that none of so many workers sees."""
    clusters = ", ".join(f'"{worker_cluster(index)}"' for index in range(workers))
    source = "".join(asset(f"{name}.lua") for name in ("gateway_fields", "native_stream", "native_answer"))
    return {
        "name": "envoy.filters.http.lua",
        "typed_config": any_of(
            "envoy.extensions.filters.http.lua.v3.Lua",
            default_source_code={"inline_string": Template(source).substitute(NAMES, workers=clusters)},
        ),
    }


def json_usage() -> Document:
    """Reads it out of whole answers, which then may pass without the worker; it holds their headers until it has."""
    return {
        "name": "envoy.filters.http.json_to_metadata",
        "typed_config": any_of(
            "envoy.extensions.filters.http.json_to_metadata.v3.JsonToMetadata",
            response_rules={
                "rules": _usage_rules(PATHS),
                "allow_content_types_regex": {"regex": "(?i)application/json *(;.*)?"},  # Azure names a charset
            },
        ),
    }


def _usage_rules(paths: Sequence[tuple[str, ...]]) -> list[Document]:
    """Counts of OpenAI's `usage` into dynamic metadata, each under its dotted path, for the settler."""
    return [
        {
            "selectors": [{"key": key} for key in ("usage", *path)],
            "on_present": {"metadata_namespace": USAGE_METADATA, "key": ".".join(path), "type": "NUMBER"},
        }
        for path in paths
    ]


def router() -> Document:
    return {
        "name": "envoy.filters.http.router",
        "typed_config": any_of(
            "envoy.extensions.filters.http.router.v3.Router", upstream_log=[access_log(LOG_ATTEMPT, _ATTEMPT_HEADERS)]
        ),
    }
