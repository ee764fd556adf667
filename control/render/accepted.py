"""Whether Envoy's own types accept a rendered file: what a running gateway asks before it takes over a change, where
there is no Envoy to ask (`whole.py`).

In: a file's name and content. Out: nothing, or ValueError. The types take half a second to import and as long to build
(betterproto2 and pydantic make a schema of each at its first use), so they are imported only where they are asked. A
gateway that starts does not ask: there nothing runs yet that a wrong file could harm, and Envoy says itself what it
does not accept.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import betterproto2
from envoy_data_plane.envoy.config.bootstrap.v3 import Bootstrap
from envoy_data_plane.envoy.service.discovery.v3 import DiscoveryResponse

Document = dict[str, Any]

_BOOTSTRAP = "bootstrap.json"


def require(files: Mapping[str, Document]) -> None:
    """Raise ValueError unless every file is what Envoy's types accept, `Any` fields included: an unknown or mistyped
    field is an error here."""
    for name, document in files.items():
        kind: type[betterproto2.Message] = Bootstrap if name == _BOOTSTRAP else DiscoveryResponse
        parse: Callable[[Document], betterproto2.Message] = kind.from_dict
        try:
            _register_types(document)
            parse(_readable(document))
        except Exception as error:
            raise ValueError(f"{name}: not what Envoy's types accept: {error}") from error


def _readable(node: Any) -> Any:
    """A copy without the fields that the types cannot read though they have them: no spelling of them is taken."""
    if isinstance(node, list):
        return [_readable(item) for item in node]
    if isinstance(node, dict):
        return {name: _readable(item) for name, item in node.items() if name != "consecutive_5xx"}
    return node


def _register_types(node: Any) -> None:
    """Import the module of every `@type` below `node`: an Any can hold only types that were imported."""
    if isinstance(node, list):
        for item in node:
            _register_types(item)
    elif isinstance(node, dict):
        if "@type" in node:
            package = node["@type"].rpartition("/")[2].rpartition(".")[0]
            importlib.import_module(f"envoy_data_plane.{package}")
        for item in node.values():
            _register_types(item)
