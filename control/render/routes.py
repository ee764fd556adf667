"""Routes: what goes through the worker, what goes to the control API, and where a decided request goes."""

from typing import Any

from control.render.doors import CORS, cors_policy
from control.render.names import CONTROL, FALLBACK_ROUTES, INGRESS_ROUTES, any_of, seconds
from extproc.exchange.answering import MAX_ANSWER_BYTES
from extproc.settings import Settings
from extproc.wire import (
    H_CLUSTER,
    H_MODEL,
    H_OURS,
    H_TARGET,
    H_TOLD,
    H_TOO_LONG,
    M_TARGET,
    M_TOLD,
    METADATA,
    RETRY_ANYWHERE,
    model_route,
)

Document = dict[str, Any]

EXT_PROC = "envoy.filters.http.ext_proc"
ENABLED = any_of("envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute", overrides={})
DISABLED = any_of("envoy.config.route.v3.FilterConfig", disabled=True)
# About us or the provider, never about the client's input: 402 is the operator's balance, 404 a model that is no more.
RETRIABLE_STATUS = (401, 402, 403, 404, 408, 424, 429)

# An answer that nobody here could hold; one that does not say its size is found too late to ask another.
_TOO_LARGE = {"name": "content-length", "range_match": {"start": str(MAX_ANSWER_BYTES + 1), "end": str(2**63 - 1)}}

# Bedrock's 400 that is about the account and not about the request.
_OVER_QUOTA = {"name": "x-amzn-errortype", "string_match": {"prefix": "ServiceQuotaExceededException"}}


def ingress(settings: Settings) -> Document:
    """Routes of the ingress listener."""
    return _config(INGRESS_ROUTES, _ingress(settings))


def fallback(settings: Settings) -> Document:
    """Routes of the fallback listeners."""
    return _config(FALLBACK_ROUTES, _fallback(settings))


def _config(name: str, host: Document) -> Document:
    kind = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
    return {"@type": kind, "name": name, "virtual_hosts": [host]}


def _ingress(settings: Settings) -> Document:
    # Before the worker has decided there is no cluster header: these routes only choose who looks at the request.
    # (Of a direct response Envoy would know no CORS policy.)
    undecided = {"route": {"cluster_header": H_CLUSTER}}
    # Every path not named here is the control API's.
    data = [{"path": "/v1/chat/completions"}, {"path": "/v1/models"}, {"prefix": "/v1/models/"}]
    control: Document = {
        "match": {"prefix": "/"},
        "route": {"cluster": CONTROL, "timeout": "60s"},
        "typed_per_filter_config": {EXT_PROC: DISABLED},
    }
    return {
        "name": "gateway",
        "domains": ["*"],
        # For envoy/native_answer.lua, which takes it off.
        "include_attempt_count_in_response": settings.streams.same_format == "native",
        "typed_per_filter_config": {
            EXT_PROC: ENABLED,
            **({CORS: cors_policy(settings.cors)} if settings.cors.allow_origins else {}),
        },
        "routes": [
            *_of_each_model(settings, _decided(settings)),
            *({"name": "undecided", "match": match, **undecided} for match in data),
            {"name": "tunnel", "match": {"connect_matcher": {}}, **undecided},  # a route, or it waits for a body's end
            *([_elsewhere("/metrics")] if settings.listen.ops is not None else []),
            {**control, "name": "control"},
        ],
    }


def _elsewhere(path: str) -> Document:
    """A path that has a port of its own: control says that there is none here, in its own words."""
    return {
        "name": "elsewhere",
        "match": {"path": path},
        "route": {"cluster": CONTROL, "prefix_rewrite": "/elsewhere" + path, "timeout": "60s"},
        "typed_per_filter_config": {EXT_PROC: DISABLED},
    }


def _of_each_model(settings: Settings, route: Document) -> list[Document]:
    """The same route once for each model: in the log of an attempt its name is what tells the model."""
    return [
        {
            "name": model_route(model.name),
            "match": {
                "prefix": "/",
                "headers": [
                    {"name": H_MODEL, "string_match": {"exact": model.name}},
                    {"name": H_CLUSTER, "present_match": True},
                ],
            },
            **route,
        }
        for model in settings.models
    ]


def _decided(settings: Settings) -> Document:
    return {
        "route": {
            "cluster_header": H_CLUSTER,
            "timeout": seconds(settings.timeouts.request),
            "idle_timeout": seconds(settings.timeouts.idle),
            "retry_policy": {
                "retry_on": RETRY_ANYWHERE,  # the worker adds what only another provider helps against
                "retriable_headers": [
                    *({"name": name, "present_match": True} for name in (H_TOO_LONG, H_OURS)),
                    _TOO_LARGE,
                    _OVER_QUOTA,
                ],
                "retriable_status_codes": list(RETRIABLE_STATUS),
                "num_retries": settings.routing.attempts - 1,
                # The next attempt goes elsewhere, so there is nothing to wait for.
                "retry_back_off": {"base_interval": "0.001s", "max_interval": "0.002s"},
            },
        },
    }


def _fallback(settings: Settings) -> Document:
    """Where the worker says; its answer tells which target it came from."""
    told = [
        {
            "header": {"key": name, "value": f"%DYNAMIC_METADATA({METADATA}:{key})%"},
            "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
        }
        for name, key in ((H_TARGET, M_TARGET), (H_TOLD, M_TOLD))
    ]
    return {
        "name": "fallback",
        "domains": ["*"],
        "routes": [
            *_of_each_model(
                settings,
                {
                    # No deadlines: those of the ingress route bound this hop.
                    "route": {"cluster_header": H_CLUSTER, "timeout": "0s", "idle_timeout": "0s"},
                    "response_headers_to_add": told,
                },
            ),
            {"name": "undecided", "match": {"prefix": "/"}, "direct_response": {"status": 500}},
        ],
    }
