"""An issuer of tokens for tests: makes and signs them, and serves its public keys over HTTPS."""

import base64
import http.server
import json
import ssl
import threading
import time
from pathlib import Path
from typing import Any

import trustme
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

AUDIENCE = "llm-gateway"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Issuer:
    """Signs with ES256 (RFC 7518, 3.4)."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._key = ec.generate_private_key(ec.SECP256R1())

    def jwks(self) -> dict[str, Any]:
        numbers = self._key.public_key().public_numbers()
        point = {"x": _base64(numbers.x.to_bytes(32, "big")), "y": _base64(numbers.y.to_bytes(32, "big"))}
        return {"keys": [{"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "1", **point}]}

    def token(self, *, head: dict[str, Any] | None = None, **claims: Any) -> str:
        first = {"alg": "ES256", "typ": "JWT", "kid": "1"} | (head or {})
        body = {"iss": self.name, "aud": AUDIENCE, "exp": int(time.time()) + 600} | claims
        parts = (_base64(json.dumps(part).encode()) for part in (first, body))
        text = ".".join(parts)
        r, s = decode_dss_signature(self._key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{text}.{_base64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


class KeyServer:
    """Where an issuer's public keys are fetched from."""

    def __init__(self, port: int, issuer: Issuer, certificate: trustme.LeafCert, folder: Path) -> None:
        body = json.dumps(issuer.jwks()).encode()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.private_key_and_cert_chain_pem.write_to_path(pem := folder / "jwks.pem")
        context.load_cert_chain(pem)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
