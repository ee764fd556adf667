"""Envoy without the gateway: the baseline that overhead is measured against.

In: the gateway's own settings. Out: one static Envoy configuration: the listener, limits, timeouts and provider
clusters that the gateway renders, less every filter, log and retry that is the gateway's; two routes by path.
"""

import copy
from typing import Any

from control.render import clusters, listeners, routes
from control.render.bootstrap import render as render_bootstrap
from control.render.names import UPSTREAM_HTTP
from extproc.paths import Paths
from extproc.settings import Settings
from extproc.wire import provider_cluster

Document = dict[str, Any]

_OURS = ("access_log", "local_reply_config", "rds", "http_filters")


def render(settings: Settings, paths: Paths, port: int) -> Document:
    """The bootstrap document of an Envoy that listens on `port` of the loopback."""
    document = render_bootstrap(settings.listen, paths)
    del document["dynamic_resources"]
    names = {provider_cluster(name) for name in settings.providers}
    found = [_plain(cluster) for cluster in clusters.render(settings, paths) if cluster["name"] in names]
    document["static_resources"] = {"clusters": found, "listeners": [_listener(settings, paths, port)]}
    return document


def _plain(cluster: Document) -> Document:
    plain = copy.deepcopy(cluster)
    del plain["@type"]
    del plain["typed_extension_protocol_options"][UPSTREAM_HTTP]["http_filters"]
    return plain


def _listener(settings: Settings, paths: Paths, port: int) -> Document:
    listener = copy.deepcopy(next(item for item in listeners.render(settings, paths) if item["name"] == "ingress"))
    del listener["@type"]
    listener["address"]["socket_address"] |= {"address": "127.0.0.1", "port_value": port}
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    router = next(item for item in manager["http_filters"] if item["name"] == "envoy.filters.http.router")
    del router["typed_config"]["upstream_log"]
    for name in _OURS:
        manager.pop(name, None)
    manager["http_filters"] = [router]
    manager["route_config"] = {"name": "plain", "virtual_hosts": [_routes(settings)]}
    return listener


def _routes(settings: Settings) -> Document:
    found = routes.ingress(settings)["virtual_hosts"][0]["routes"]
    decided = next(item for item in found if "cluster_header" in item.get("route", {}))
    timeouts = {name: decided["route"][name] for name in ("timeout", "idle_timeout")}
    by_path = {"/v1/messages": "anthropic", "/v1/chat/completions": "openai"}
    return {
        "name": "plain",
        "domains": ["*"],
        "routes": [
            {"match": {"path": path}, "route": {"cluster": provider_cluster(name), **timeouts}}
            for path, name in by_path.items()
        ],
    }
