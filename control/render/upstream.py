"""TLS towards others: verified against authorities, for the name of the host that is meant.

In: a host. Out: a cluster's transport socket, and how its address is found.
"""

import ipaddress
import os
import ssl
from pathlib import Path
from typing import Any

from control.render.names import any_of

Document = dict[str, Any]

_CA_FILES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")


def upstream_tls(host: str, ca_file: Path | None = None) -> Document:
    """TLS verified against `ca_file` or the system's authorities, for the host's own name. Raises ValueError."""
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": any_of(
            "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            sni=host,
            common_tls_context={
                "validation_context": {
                    "trusted_ca": {"filename": str(ca_file.absolute()) if ca_file else _ca_file()},
                    "match_typed_subject_alt_names": [
                        {"san_type": "IP_ADDRESS" if is_ip(host) else "DNS", "matcher": {"exact": host}}
                    ],
                }
            },
        ),
    }


def _ca_file() -> str:
    """The system's CA bundle; SSL_CERT_FILE overrides it, as for OpenSSL."""
    candidates = (os.environ.get("SSL_CERT_FILE"), ssl.get_default_verify_paths().cafile, *_CA_FILES)
    for candidate in candidates:
        if candidate and Path(candidate).is_file():
            return candidate
    raise ValueError("no CA bundle found on this system; set SSL_CERT_FILE")


def is_ip(host: str) -> bool:
    """Whether `host` is an address, not a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def found_by(host: str) -> Document:
    """How a cluster finds `host`."""
    return {"type": "STATIC"} if is_ip(host) else {"type": "LOGICAL_DNS", "dns_lookup_family": "V4_PREFERRED"}
