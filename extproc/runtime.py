"""The runtime file: gateway.yaml as the serving processes see it.

In: checked Settings. Out: the same Settings as JSON, with everything expanded, demo stand-ins resolved, and no provider
credential: workers, settler and control cannot leak what they never had. Written by the supervisor, read at start.
"""

from pathlib import Path

from extproc.process.files import replace_file
from extproc.settings import Settings


def without_credentials(settings: Settings) -> Settings:
    """`settings` with provider credentials dropped and simulated providers turned into `format: demo`."""
    providers = {}
    for name, provider in settings.providers.items():
        changes: dict[str, object] = {"credential": None}
        if provider.is_demo and provider.format != "demo":
            changes |= {"format": "demo", "speaks": provider.format, "base_url": None}
        providers[name] = provider.model_copy(update=changes)
    return settings.model_copy(update={"providers": providers})


def write(settings: Settings, path: Path) -> None:
    """Write the runtime file atomically, readable by the owner only."""
    replace_file(path, encoded(settings))


def encoded(settings: Settings) -> bytes:
    """The content of a runtime file."""
    return without_credentials(settings).model_dump_json().encode()


def read(path: Path) -> Settings:
    """Read a runtime file written by `write`."""
    return Settings.model_validate_json(path.read_bytes())
