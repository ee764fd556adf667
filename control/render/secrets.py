"""Provider credentials as file SDS secrets: the only place where they are written, the only reader is Envoy."""

from typing import Any

from extproc.settings import Settings
from extproc.wire import provider_cluster


def render(settings: Settings) -> dict[str, dict[str, Any]]:
    """Provider name -> its SDS secret, for providers that have a credential."""
    return {
        name: {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            "name": provider_cluster(name),
            "generic_secret": {"secret": {"inline_string": _value(provider.wire_format, provider.credential)}},
        }
        for name, provider in settings.providers.items()
        if provider.credential and not provider.is_demo
    }


def _value(wire_format: str, credential: str) -> str:
    return f"Bearer {credential}" if wire_format in ("openai", "bedrock") else credential
