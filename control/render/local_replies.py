"""Errors that Envoy answers itself, in OpenAI's shape: only those that never reached the worker's own mapping.

In: nothing. Out: the ingress' `local_reply_config`.
"""

from typing import Any

from control.render.names import any_of
from extproc.errors import GatewayError, NoProviderAvailable, ProviderError, ProviderTimeout, RequestTooLarge
from extproc.wire import H_REQUEST_ID, OWN_ANSWER

Document = dict[str, Any]


def local_replies() -> Document:
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
