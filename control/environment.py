"""The environment that the gateway's processes run in: what they need, and no provider credential.

In: the operator's environment and the checked settings. Out: the environment of the supervisor's second start, which
all children inherit.
"""

import re
from collections.abc import Mapping

from extproc.settings import Settings

# What a process needs to find its files, its locale and the system's certificates; and OpenTelemetry's own settings.
_NEEDED = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|TMPDIR|TZ|LANG|LANGUAGE|LC_.+|LD_LIBRARY_PATH|VIRTUAL_ENV|SSL_CERT_(FILE|DIR)"
    r"|PYTHON.+|OTEL_.+"
    # Where Envoy finds AWS credentials to sign with. Those that hold one themselves are not here: they would reach all.
    r"|AWS_(PROFILE|CONFIG_FILE|SHARED_CREDENTIALS_FILE|ROLE_ARN|ROLE_SESSION_NAME|WEB_IDENTITY_TOKEN_FILE|REGION"
    r"|CONTAINER_CREDENTIALS_(RELATIVE|FULL)_URI|CONTAINER_AUTHORIZATION_TOKEN_FILE)"
)
_LONG_ENOUGH_TO_SEARCH_CHARS = 8


def without_credentials(env: Mapping[str, str], settings: Settings) -> dict[str, str]:
    """The needed variables of `env`, less any that holds a provider's credential, alone or within a longer value."""
    credentials = [provider.credential for provider in settings.providers.values() if provider.credential]
    return {
        name: value
        for name, value in env.items()
        if _NEEDED.fullmatch(name) and not any(_holds(value, credential) for credential in credentials)
    }


def _holds(value: str, credential: str) -> bool:
    return value == credential or (len(credential) >= _LONG_ENOUGH_TO_SEARCH_CHARS and credential in value)
