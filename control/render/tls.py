"""TLS of the ingress: the gateway's certificate and the authorities of its clients', as secrets Envoy reads.

In: `listen.tls`. Out: a transport socket, and the files it waits for. They name the operator's files; private keys pass
through Envoy only. Envoy reads those again when a file is moved into the watched folder: `changed.json`, which says
what the files look like from outside, so a reload that sees other ones makes Envoy read them.
Source: envoyproxy.io/docs/envoy/latest/configuration/security/secret, "Example: certificate rotation".
"""

from pathlib import Path
from typing import Any

from control.render.names import any_of
from extproc.paths import Paths
from extproc.process.files import stamp_of
from extproc.settings import Listen, Tls

Document = dict[str, Any]

CERTIFICATE, CLIENT_CA = "tls/certificate.json", "tls/client_ca.json"
CHANGED = "tls/changed.json"  # for us alone: it moves, and Envoy looks again
_SDS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
_VERSIONS = {"1.2": "TLSv1_2", "1.3": "TLSv1_3"}
# Of TLS 1.2: forward secrecy and authenticated encryption only. Those of 1.3 are not a choice.
_CIPHERS = [
    "[ECDHE-ECDSA-AES128-GCM-SHA256|ECDHE-ECDSA-CHACHA20-POLY1305]",
    "[ECDHE-RSA-AES128-GCM-SHA256|ECDHE-RSA-CHACHA20-POLY1305]",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
]


def transport_socket(tls: Tls, paths: Paths) -> Document:
    """What the ingress' TCP port speaks."""
    common: Document = {
        "tls_params": {"tls_minimum_protocol_version": _VERSIONS[tls.min_version], "cipher_suites": _CIPHERS},
        "alpn_protocols": ["h2", "http/1.1"],
        "tls_certificate_sds_secret_configs": [_source(CERTIFICATE, paths)],
    }
    if tls.client_ca_file is not None:
        common["validation_context_sds_secret_config"] = _source(CLIENT_CA, paths)
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": any_of(
            "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            common_tls_context=common,
            require_client_certificate=tls.client_certificate_needed,
        ),
    }


def files(listen: Listen, paths: Paths) -> dict[str, Document]:
    """File name -> its content, for `control.render`."""
    tls = listen.tls
    if tls is None:
        return {}
    watched = {"watched_directory": {"path": str(paths.tls)}}
    certificate = {
        "certificate_chain": _file(tls.cert_file),
        "private_key": _file(tls.key_file),
        **watched,
    }
    result = {CERTIFICATE: _secret(CERTIFICATE, "tls_certificate", certificate)}
    if tls.client_ca_file is not None:
        context = {"trusted_ca": _file(tls.client_ca_file), **watched}
        result[CLIENT_CA] = _secret(CLIENT_CA, "validation_context", context)
    return {**result, CHANGED: {str(file): stamp_of(file) for file in tls.files}}


def inlined(context: Document, found: dict[str, Document]) -> Document:
    """A DownstreamTlsContext with the secrets in their places: `envoy --mode validate` reads no SDS."""
    common = dict(context["common_tls_context"])
    if common.pop("tls_certificate_sds_secret_configs", None):
        common["tls_certificates"] = [_content(found[CERTIFICATE], "tls_certificate")]
    if common.pop("validation_context_sds_secret_config", None):
        common["validation_context"] = _content(found[CLIENT_CA], "validation_context")
    return {**context, "common_tls_context": common}


def _content(document: Document, kind: str) -> Document:
    return {name: value for name, value in document["resources"][0][kind].items() if name != "watched_directory"}


def _source(name: str, paths: Paths) -> Document:
    source = {"path_config_source": {"path": str(paths.envoy / name)}, "resource_api_version": "V3"}
    return {"name": Path(name).stem, "sds_config": source}


def _secret(name: str, kind: str, content: Document) -> Document:
    return {"resources": [{"@type": _SDS, "name": Path(name).stem, kind: content}]}


def _file(path: Path) -> Document:
    return {"filename": str(path.absolute())}
