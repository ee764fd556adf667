"""The files that gateway.yaml names: credentials and public keys are read, certificates looked at.

In: checked settings. Out: the same, with what was read in them. Private keys are for Envoy alone: of those nothing is
read here. Every problem is reported at once.
"""

import ssl
from collections.abc import Iterator
from pathlib import Path

import msgspec
from pydantic import ValidationError

from extproc.settings.auth import Auth, JwtIssuer
from extproc.settings.problems import SettingsError
from extproc.settings.providers import Provider
from extproc.settings.whole import Settings


def with_files(settings: Settings) -> Settings:
    """`settings` with each `credential_file` and `jwks_file` read. Raises SettingsError."""
    problems = list(_certificates(settings))
    providers = {
        name: _with_credential(provider, f"providers.{name}", problems) for name, provider in settings.providers.items()
    }
    issuers = [_with_keys(issuer, f"auth.jwt[{index}]", problems) for index, issuer in enumerate(settings.auth.jwt)]
    if problems:
        raise SettingsError(problems)
    return settings.model_copy(update={"providers": providers, "auth": Auth.model_construct(jwt=issuers)})


def _with_credential(provider: Provider, path: str, problems: list[str]) -> Provider:
    if provider.credential_file is None:
        return provider
    path += ".credential_file"
    credential = _text(provider.credential_file, path, problems)
    if credential is None:
        return provider
    credential = credential.strip()
    if provider.credential is not None:
        problems.append(f"{path}: not together with credential")
    elif not credential or not credential.isprintable():
        problems.append(f"{path}: must hold the credential on one line")
    return provider.model_copy(update={"credential": credential})


def _with_keys(issuer: JwtIssuer, path: str, problems: list[str]) -> JwtIssuer:
    if issuer.jwks_file is None:
        return issuer
    path += ".jwks_file"
    text = _text(issuer.jwks_file, path, problems)
    if text is None:
        return issuer
    if issuer.jwks is not None:
        problems.append(f"{path}: not together with jwks")
    try:
        return JwtIssuer.model_validate(issuer.model_dump() | {"jwks": msgspec.json.decode(text)})
    except msgspec.DecodeError:
        problems.append(f"{path}: is not JSON")
    except ValidationError as error:
        problems += [f"{path}: {item['msg'].removeprefix('Value error, ')}" for item in error.errors()]
    return issuer


def _certificates(settings: Settings) -> Iterator[str]:
    """What is wrong with the files of TLS, as far as it can be seen without the private key."""
    problems: list[str] = []
    if tls := settings.listen.tls:
        _certificate(tls.cert_file, "listen.tls.cert_file", problems)
        _readable(tls.key_file, "listen.tls.key_file", problems)
        if tls.client_ca_file is not None:
            _certificate(tls.client_ca_file, "listen.tls.client_ca_file", problems)
    for index, issuer in enumerate(settings.auth.jwt):
        if issuer.ca_file is not None:
            _certificate(issuer.ca_file, f"auth.jwt[{index}].ca_file", problems)
    yield from problems


def _certificate(file: Path, path: str, problems: list[str]) -> None:
    text = _text(file, path, problems)
    if text is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError):
        problems.append(f"{path}: {file} holds no certificate in PEM that can be read")


def _readable(file: Path, path: str, problems: list[str]) -> None:
    try:
        file.open("rb").close()
    except OSError as error:
        problems.append(_unreadable(path, error))


def _text(file: Path, path: str, problems: list[str]) -> str | None:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        problems.append(_unreadable(path, error))
    return None


def _unreadable(path: str, error: OSError | UnicodeDecodeError) -> str:
    return f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}"
