"""Clusters: providers with their credentials and TLS, and the failover chains. `render` has all, `own_clusters` too."""

from collections.abc import Iterable, Sequence
from string import Template
from typing import Any
from urllib.parse import urlsplit

from control.render.bootstrap import asset
from control.render.names import BUFFER_BYTES, UPSTREAM_HTTP, any_of, endpoints, seconds
from control.render.own_clusters import AT_ONCE, LIMITS, own_clusters
from control.render.tokens import jwks_clusters
from control.render.upstream import found_by, upstream_tls
from extproc.adapters.failures import CONTEXT_LENGTH_SIGNS, OUR_SIGNS
from extproc.paths import Paths
from extproc.settings import Provider, Settings
from extproc.wire import (
    ATTEMPT_METADATA,
    H_OURS,
    H_TOO_LONG,
    H_UNREAD,
    M_ROOMIER,
    METADATA,
    NOT_AGAIN,
    chain_cluster,
    fallback_cluster,
    provider_cluster,
)

Document = dict[str, Any]

CREDENTIAL_HEADERS = {
    "openai": "authorization",
    "azure": "api-key",
    "anthropic": "x-api-key",
    "google": "x-goog-api-key",
    "bedrock": "authorization",
}
SIGNATURE_HEADERS = ("x-amz-date", "x-amz-content-sha256", "x-amz-security-token")
_IDLE_S = 50.0  # shorter than providers' own keep-alive, so that we close first and never write to a dying connection
_OWN_HEADERS = ("x-gw-", "x-envoy-", "x-forwarded-")  # x-request-id stays: it helps when a provider is asked why


def render(settings: Settings, paths: Paths) -> list[Document]:
    """Every cluster."""
    indices = range(settings.workers)
    result = own_clusters(settings, paths)
    for name, provider in settings.providers.items():
        result.append(_provider(name, provider, settings, paths))
        result += [_chain(name, provider, index, settings, paths) for index in indices]
    result += jwks_clusters(settings.auth.jwt)
    for cluster in result:
        cluster["@type"] = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
    return result


def credential_header(provider: Provider) -> str:
    """The header in which a provider takes its credential."""
    return CREDENTIAL_HEADERS[provider.wire_format]


def _chain(name: str, provider: Provider, worker: int, settings: Settings, paths: Paths) -> Document:
    """Attempt n of a request goes to the n-th cluster here.

    The upstream filters that run are those of the composite cluster, for every attempt: so the provider's filters stand
    here too, and the fallback listener takes off what they put on.
    """
    fallback = {"name": fallback_cluster(worker)}
    clusters = [{"name": provider_cluster(name)}, *(fallback for _ in range(settings.routing.attempts - 1))]
    return {
        "name": chain_cluster(name, worker),
        "connect_timeout": "1s",
        "lb_policy": "CLUSTER_PROVIDED",
        "circuit_breakers": LIMITS,
        **_protocol(name, provider, paths, more=[_refusals()] if len(clusters) > 1 else []),
        "cluster_type": {
            "name": "envoy.clusters.composite",
            "typed_config": any_of("envoy.extensions.clusters.composite.v3.ClusterConfig", clusters=clusters),
        },
    }


_MOST_EJECTED_S = 1.0


def _ejection(settings: Settings) -> Document:
    """The circuit breaker of this Envoy alone: it needs no word from anybody, and bridges the time until the shared one
    is open. Ejected, a provider has no healthy host: with no panic threshold the attempt goes on to the next cluster of
    the chain at once. It is over long before the shared circuit lets its first probe through.
    """
    time_s = min(_MOST_EJECTED_S, settings.breaker.open_for / 2)
    return {
        "outlier_detection": {
            "consecutive_5xx": settings.breaker.consecutive_failures,
            "enforcing_consecutive_gateway_failure": 0,
            "enforcing_success_rate": 0,
            "interval": "0.1s",
            "base_ejection_time": seconds(time_s),
            "max_ejection_time": seconds(time_s),
            "max_ejection_percent": 100,
        },
        "common_lb_config": AT_ONCE,
    }


def _provider(name: str, provider: Provider, settings: Settings, paths: Paths) -> Document:
    cluster: Document = {
        "name": provider_cluster(name),
        "connect_timeout": seconds(settings.timeouts.connect),
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        "circuit_breakers": LIMITS,
        **_ejection(settings),
        **_protocol(name, provider, paths),
    }
    if provider.is_demo:
        pipe = {"pipe": {"path": str(paths.demo_socket)}}
        return cluster | {"type": "STATIC", "load_assignment": endpoints(name, [pipe])}
    url = urlsplit(provider.base_url or "")
    host, tls = url.hostname or "", url.scheme == "https"
    address: Document = {"socket_address": {"address": host, "port_value": url.port or (443 if tls else 80)}}
    cluster["load_assignment"] = endpoints(name, [address])
    return cluster | found_by(host)


def _protocol(name: str, provider: Provider, paths: Paths, more: Sequence[Document] = ()) -> Document:
    """How a provider is spoken to: TLS for https, and HTTP/2 where it is offered by ALPN; plain http is HTTP/1.1."""
    url = urlsplit(provider.base_url or "")
    tls = url.scheme == "https" and not provider.is_demo
    config: Document = {"auto_config": {}} if tls else {"explicit_http_config": {"http_protocol_options": {}}}
    options = any_of(
        UPSTREAM_HTTP,
        common_http_protocol_options={"idle_timeout": seconds(_IDLE_S)},
        http_filters=_upstream_filters(name, provider, paths, more),
        **config,
    )
    return {
        "typed_extension_protocol_options": {UPSTREAM_HTTP: options},
        **({"transport_socket": upstream_tls(url.hostname or "")} if tls else {}),
    }


def _refusals() -> Document:
    names = {
        "too_long": H_TOO_LONG,
        "ours": H_OURS,
        "attempt": ATTEMPT_METADATA,
        "decided": METADATA,
        "roomier": M_ROOMIER,
        "length_signs": _listed(CONTEXT_LENGTH_SIGNS),
        "our_signs": _listed(OUR_SIGNS),
    }
    return _lua("refusals", Template(asset("refusals.lua")).substitute(names))


def _listed(signs: Iterable[str]) -> str:
    return ", ".join(f'"{sign}"' for sign in signs)


def _lua(name: str, source: str) -> Document:
    return {
        "name": name,
        "typed_config": any_of(
            "envoy.extensions.filters.http.lua.v3.Lua", default_source_code={"inline_string": source}
        ),
    }


def _upstream_filters(name: str, provider: Provider, paths: Paths, more: Sequence[Document]) -> list[Document]:
    """On the way out: our own headers off, the provider's credential on. On the way back: whether no other is asked."""
    filters: list[Document] = [
        {
            "name": "envoy.filters.http.header_mutation",
            "typed_config": any_of(
                "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
                mutations={
                    "request_mutations": [
                        {"remove_on_match": {"key_matcher": {"prefix": prefix}}} for prefix in _OWN_HEADERS
                    ],
                    # Envoy's own word, which providers behind an Envoy say of us. Here the loopback's note does.
                    "response_mutations": [
                        {"remove": NOT_AGAIN},
                        {"append": {"header": {"key": NOT_AGAIN, "value": f"%RESP({H_UNREAD}):1%"}}},
                    ],
                },
            ),
        },
        *more,
    ]
    if provider.wire_format == "google":
        filters.append(_lua("retry_delay", asset("retry_delay.lua")))
    if provider.credential and not provider.is_demo:
        filters.append(_credential_injector(name, provider, paths))
    if provider.signing_region:
        filters.append(_signing(provider.signing_region))
    filters.append(
        {
            "name": "envoy.filters.http.upstream_codec",
            "typed_config": any_of("envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec"),
        }
    )
    return filters


def _signing(region: str) -> Document:
    """AWS's signature over headers and body, with what Envoy finds in its environment, files, or at the instance."""
    return {
        "name": "envoy.filters.http.aws_request_signing",
        "typed_config": any_of(
            "envoy.extensions.filters.http.aws_request_signing.v3.AwsRequestSigning",
            service_name="bedrock",
            region=region,
        ),
    }


def _credential_injector(name: str, provider: Provider, paths: Paths) -> Document:
    return {
        "name": "envoy.filters.http.credential_injector",
        "typed_config": any_of(
            "envoy.extensions.filters.http.credential_injector.v3.CredentialInjector",
            overwrite=True,
            credential={
                "name": "envoy.http.injected_credentials.generic",
                "typed_config": any_of(
                    "envoy.extensions.http.injected_credentials.generic.v3.Generic",
                    header=credential_header(provider),
                    credential={
                        "name": provider_cluster(name),
                        "sds_config": {
                            "resource_api_version": "V3",
                            "path_config_source": {"path": str(paths.secrets / f"{name}.json")},
                        },
                    },
                ),
            },
        ),
    }
