"""Errors that Envoy answers itself, in OpenAI's shape: only those that never reached the worker's own mapping.

In: nothing. Out: the `local_reply_config` of the ingress, and that of the loopback. The first mapper that fits is
taken.
"""

from typing import Any

from control.render.names import CONTROL, any_of
from extproc.errors import (
    ControlUnavailable,
    GatewayError,
    HeadersTooLarge,
    InvalidApiKey,
    InvalidRequest,
    NoProviderAvailable,
    NotFound,
    Overloaded,
    PermissionDenied,
    ProviderError,
    ProviderTimeout,
    RequestTimeout,
    RequestTooLarge,
    TokensUnavailable,
)
from extproc.exchange.answering import too_large as answer_too_large
from extproc.wire import (
    H_CLUSTER,
    H_NO_PROVIDERS,
    H_REQUEST_ID,
    H_UNREAD,
    M_ANSWERED,
    M_TOLD,
    METADATA,
    OWN_ANSWER,
    WORKER_GONE,
)

Document = dict[str, Any]

# Envoy's word for it that a token's issuer could not be asked: jwt_authn_access_denied{Jwks_remote_fetch_is_failed}.
_NO_KEYS = "Jwks_remote_fetch_is_failed"
_OVERLOAD = "overload"  # ... that it is near `listen.max_memory`


def local_replies() -> Document:
    """Errors that Envoy answers itself, in OpenAI's shape. Only those that never reached the worker's mapping."""
    away = ControlUnavailable("The control process, which serves this path, does not answer now; chat requests go on.")
    full = Overloaded("The gateway has too many requests in hand now; try again.", retry_after_s=1)
    not_http = InvalidRequest("The request is not HTTP as this gateway takes it.")
    mappers = [
        *(_local_reply(status, away, where=f"xds.cluster_name == '{CONTROL}'") for status in (502, 503, 504)),
        _local_reply(400, not_http),
        _local_reply(401, TokensUnavailable("The issuer's keys cannot be fetched now; API keys work."), _NO_KEYS),
        _local_reply(401, InvalidApiKey("The token is not accepted: %LOCAL_REPLY_BODY%."), "jwt_authn"),
        _local_reply(403, InvalidApiKey("The token is not accepted: %LOCAL_REPLY_BODY%."), "jwt_authn"),  # its audience
        _local_reply(403, PermissionDenied("Requests from this address are not allowed."), "rbac_"),
        _local_reply(403, InvalidRequest("The connection cannot be upgraded.")),
        _local_reply(408, RequestTimeout("The request took too long to arrive.")),
        _local_reply(431, HeadersTooLarge("The request's headers are too many, or larger than 60 KiB.")),
        _local_reply(413, RequestTooLarge("The request body is larger than this gateway accepts.")),
        _local_reply(404, NotFound("There is no such path."), where=f"!('{H_CLUSTER}' in request.headers)"),
        _local_reply(404, ProviderError("The model was taken away while this request was decided.")),
        _local_reply(502, ProviderError("The provider could not be reached, or broke off its answer.")),
        _local_reply(503, full, where=f"response.code_details == '{_OVERLOAD}'"),
        _local_reply(503, NoProviderAvailable("The gateway cannot serve this request now.")),
        _local_reply(504, ProviderTimeout("The provider did not answer in time.")),
        _local_reply(501, not_http),
        _local_reply(500, answer_too_large(), "response_payload_too_large"),
        _local_reply(500, _Internal("The gateway failed to handle this request.")),
    ]
    return {"mappers": mappers}


def unread_replies() -> Document:
    """Of the loopback. If its worker died: what came of its attempt, for native_answer.lua; no further one is made, as
    that worker alone could say which (`clusters`). Else that it is no answer of the provider's, which the ingress
    cannot see."""
    status, told = (f"%DYNAMIC_METADATA({METADATA}:{key})%" for key in (M_ANSWERED, M_TOLD))
    unread = f"%UPSTREAM_WIRE_BYTES_RECEIVED% {status} {told}"
    gone = _where(f"response.code_details.startsWith('{WORKER_GONE}')")
    envoys = _where(f"!response.code_details.startsWith('{OWN_ANSWER}')")
    return {
        "mappers": [
            {"filter": gone, "headers_to_add": [_header(H_UNREAD, unread)]},
            {"filter": envoys, "headers_to_add": [_header(H_NO_PROVIDERS, "true")]},
        ]
    }


class _Internal(GatewayError):
    status, code = 500, "internal_error"


def _local_reply(status: int, error: GatewayError, details: str = "", *, where: str = "") -> Document:
    """`error` in the place of Envoy's `status`; only where the response code details have `details`, or `where` (CEL)
    holds, if given."""
    # An answer of the worker keeps its own words.
    which = f"contains('{details}')" if details else f"startsWith('{OWN_ANSWER}')"
    expression = f"response.code == {status} && {'' if details else '!'}response.code_details.{which}"
    if where:
        expression += f" && {where}"
    return {
        **({"status_code": error.status} if error.status != status else {}),
        "filter": _where(expression),
        "body_format_override": {"json_format": error.payload(), "content_type": "application/json"},
        "headers_to_add": [
            _header("x-gateway-request-id", f"%REQ({H_REQUEST_ID})%"),
            *([] if error.retry_after_s is None else [_header("retry-after", f"{error.retry_after_s:.0f}")]),
        ],
    }


def _where(expression: str) -> Document:
    return {
        "extension_filter": {
            "name": "envoy.access_loggers.extension_filters.cel",
            "typed_config": any_of(
                "envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter", expression=expression
            ),
        }
    }


def _header(name: str, value: str) -> Document:
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
