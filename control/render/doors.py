"""What stands between a client and the worker: which pages, which addresses, which tokens. Envoy's own filters.

In: settings. Out: filters, in the order of a request. A filter whose setting is empty is not there.
"""

import re
from typing import Any

from control.render.names import any_of
from control.render.tokens import tokens
from extproc.settings import Cors, Listen, Settings
from extproc.wire import H_METADATA

Document = dict[str, Any]

CORS = "envoy.filters.http.cors"
_FOR_EVERYBODY = ("/healthz", "/readyz")
_ALLOW_METHODS = "GET, POST, PATCH, DELETE"
# What OpenAI's SDK for browsers sends, and what this gateway knows beside it.
_ALLOW_HEADERS = (
    *("authorization", "content-type", "accept", "cache-control", "idempotency-key", "traceparent", "tracestate"),
    *("openai-organization", "openai-project", "openai-beta", H_METADATA),
    *(f"x-stainless-{name}" for name in ("arch", "lang", "os", "package-version", "retry-count", "runtime")),
    *(f"x-stainless-{name}" for name in ("runtime-version", "timeout", "helper-method", "poll-helper")),
)
_EXPOSE_HEADERS = (
    *(f"x-gateway-{name}" for name in ("request-id", "model", "provider", "cache", "cache-key", "routing", "attempts")),
    *(f"x-ratelimit-{what}-{of}" for what in ("limit", "remaining", "reset") for of in ("tokens", "requests")),
    *("retry-after", "age"),
)


def filters(settings: Settings, *, by_address: bool) -> list[Document]:
    """Those that are set. `by_address`: whether the listener's clients have one."""
    return [
        *([_cors()] if settings.cors.allow_origins else []),
        *([_addresses(settings.listen)] if by_address and settings.listen.allowed_ips else []),
        *([tokens(settings.auth.jwt)] if settings.auth.jwt else []),
    ]


def _cors() -> Document:
    """What it allows stands in the routes: before one is chosen it knows nothing."""
    return {"name": CORS, "typed_config": any_of("envoy.extensions.filters.http.cors.v3.Cors")}


def cors_policy(cors: Cors) -> Document:
    """For the routes."""
    return any_of(
        "envoy.extensions.filters.http.cors.v3.CorsPolicy",
        allow_origin_string_match=[_origin(origin) for origin in cors.allow_origins],
        allow_methods=_ALLOW_METHODS,
        allow_headers=", ".join(_ALLOW_HEADERS),
        expose_headers=", ".join(_EXPOSE_HEADERS),
        max_age=str(int(cors.max_age)),
        allow_credentials=cors.allow_credentials,
    )


def _origin(origin: str) -> Document:
    if origin == "*":
        return {"safe_regex": {"regex": ".*"}}
    scheme, _, host = origin.partition("://*.")
    return {"safe_regex": {"regex": f"{scheme}://[^/]+\\.{re.escape(host)}"}} if host else {"exact": origin}


def _addresses(listen: Listen) -> Document:
    """A client's address is the connection's, or what `trusted_hops` make of x-forwarded-for."""
    networks = [network.split("/") for network in listen.allowed_ips]
    principals = [{"remote_ip": {"address_prefix": base, "prefix_len": int(length)}} for base, length in networks]
    probes = [{"url_path": {"path": {"exact": path}}} for path in _FOR_EVERYBODY]
    policies = {
        "allowed_ips": {"permissions": [{"any": True}], "principals": principals},
        "probes": {"permissions": probes, "principals": [{"any": True}]},
    }
    return {
        "name": "envoy.filters.http.rbac",
        "typed_config": any_of(
            "envoy.extensions.filters.http.rbac.v3.RBAC", rules={"action": "ALLOW", "policies": policies}
        ),
    }
