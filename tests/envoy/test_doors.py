"""The TCP door: TLS and its rotation under traffic, client certificates, addresses, pages of browsers."""

import concurrent.futures
import socket
import ssl
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
import trustme
import yaml
from cryptography import x509

from tests.envoy.harness import (
    ADMIN_KEY,
    GATEWAY,
    OTHER_KEY,
    TEAM_KEY,
    Config,
    Gateway,
    ask,
    bearer,
    marker,
    running,
    wait_until,
)
from tests.envoy.test_processes import memory_has

ORIGIN = "https://app.example.com"


class Files:
    """What cert-manager would write."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority, self.clients = trustme.CA(), trustme.CA()
        self.authority.cert_pem.write_to_path(folder / "ca.pem")
        self.clients.cert_pem.write_to_path(folder / "clients.pem")
        self.issue()

    def issue(self, key_of: trustme.LeafCert | None = None) -> None:
        """A new certificate in the place of the one before, and its key, or another's."""
        made = self.authority.issue_cert("localhost", "127.0.0.1")
        for name, blob in (("tls.key", (key_of or made).private_key_pem), ("tls.crt", made.cert_chain_pems[0])):
            blob.write_to_path(self.folder / f"{name}.new")
            (self.folder / f"{name}.new").rename(self.folder / name)

    def context(self, client: trustme.LeafCert | None = None) -> ssl.SSLContext:
        """A client's, with its own certificate, or without."""
        context = ssl.create_default_context(cafile=self.folder / "ca.pem")
        if client is not None:
            client.configure_cert(context)
        return context


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def config(config: Config, files: Files) -> Config:
    config["listen"] |= {
        "tls": {"cert_file": str(files.folder / "tls.crt"), "key_file": str(files.folder / "tls.key")},
        "trusted_hops": 1,
        "allowed_ips": ["127.0.0.1", "203.0.113.0/24"],
    }
    config["teams"][1]["allowed_ips"] = ["203.0.113.7"]
    config["cors"] = {"allow_origins": [ORIGIN, "https://*.corp.example"]}
    return config


@pytest.fixture(scope="module")
def gateway(config: Config, files: Files) -> Iterator[Gateway]:
    with running(config, verify=files.context()) as gateway:
        yield gateway


def reload(gateway: Gateway, **listen: Any) -> tuple[int, str]:
    """Take over a changed `listen`: exit code, stderr."""
    gateway.config["listen"] |= listen
    temporary = gateway.file.with_suffix(".new")
    temporary.write_text(yaml.safe_dump(gateway.config))
    temporary.rename(gateway.file)
    command = [GATEWAY, "reload", "--config", str(gateway.file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


def handshake(gateway: Gateway, context: ssl.SSLContext) -> tuple[str, str | None, str]:
    """TLS version, ALPN's choice, and the certificate's serial number."""
    with (
        socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        certificate: Any = secure.getpeercert()
        return secure.version() or "", secure.selected_alpn_protocol(), certificate["serialNumber"]


def test_the_sdk_over_tls_whole_and_streamed(gateway: Gateway) -> None:
    assert gateway.client().chat.completions.create(**ask("hi")).model == "gpt"
    chunks: Any = list(gateway.client().chat.completions.create(**ask("hi", "claude"), stream=True))
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_http2_is_offered_and_used(gateway: Gateway, files: Files) -> None:
    with httpx.Client(http2=True, verify=files.context(), timeout=20) as client:
        answer = client.post(f"{gateway.url}/v1/chat/completions", json=ask("hi"), headers=bearer())
    assert (answer.status_code, answer.http_version) == (200, "HTTP/2")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1")
def test_versions_and_protocols(gateway: Gateway, files: Files) -> None:
    context = files.context()
    context.set_alpn_protocols(["http/1.1"])
    assert handshake(gateway, context)[:2] == ("TLSv1.3", "http/1.1")
    context = files.context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert handshake(gateway, context)[0] == "TLSv1.2"
    context.set_ciphers("AES128-GCM-SHA256")  # without forward secrecy
    with pytest.raises(ssl.SSLError):
        handshake(gateway, context)
    context = files.context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        handshake(gateway, context)


def test_when_the_certificate_ends_is_a_metric(gateway: Gateway, files: Files) -> None:
    made = x509.load_pem_x509_certificate((files.folder / "tls.crt").read_bytes())
    wanted = f"gateway_certificate_expiry {made.not_valid_after_utc.timestamp():.0f}"
    assert wanted in gateway.http.get("/metrics").text.replace(".0\n", "\n")


def test_plain_http_is_not_answered(gateway: Gateway) -> None:
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://127.0.0.1:{gateway.port}/healthz", timeout=20)


@pytest.mark.parametrize(
    ("forwarded", "status"),
    [("203.0.113.9", 200), ("198.51.100.1", 403), ("203.0.113.9, 198.51.100.1", 403), ("nonsense", 200)],
)
def test_an_address_counts_as_the_last_trusted_hop_tells_it(gateway: Gateway, forwarded: str, status: int) -> None:
    headers = bearer() | {"x-forwarded-for": forwarded}
    answer = gateway.http.post("/v1/chat/completions", json=ask("hi"), headers=headers)
    assert answer.status_code == status
    if status == 403:
        assert answer.json()["error"]["code"] == "permission_denied"
        assert "address" in answer.json()["error"]["message"]
        assert "x-gateway-request-id" in answer.headers


def test_probes_answer_everybody_and_metrics_do_not(gateway: Gateway) -> None:
    headers = {"x-forwarded-for": "198.51.100.1"}
    codes = [gateway.http.get(path, headers=headers).status_code for path in ("/healthz", "/readyz", "/metrics", "/ui")]
    assert codes == [200, 200, 403, 403]
    wait_until(lambda: refused(gateway) >= 2, 20, "the refusals in the metrics")


def refused(gateway: Gateway) -> float:
    lines = gateway.http.get("/metrics").text.splitlines()
    found = [line.rpartition(" ")[2] for line in lines if line.startswith("gateway_refused_addresses_total ")]
    return float(found[0]) if found else 0


def test_a_team_may_have_addresses_of_its_own(gateway: Gateway) -> None:
    here = openai.OpenAI(
        base_url=f"{gateway.url}/v1", api_key=OTHER_KEY, max_retries=0, http_client=httpx.Client(**gateway.transport)
    )
    with pytest.raises(openai.PermissionDeniedError) as caught:
        here.chat.completions.create(**ask("hi"))
    assert caught.value.code == "permission_denied"
    assert gateway.http.get("/v1/me", headers=bearer(OTHER_KEY)).status_code == 403
    there = {"x-forwarded-for": "203.0.113.7"}
    assert here.chat.completions.create(**ask("hi"), extra_headers=there).model == "gpt"
    assert gateway.http.get("/v1/me", headers=bearer(OTHER_KEY) | there).status_code == 200
    forged = {"x-gw-client": "203.0.113.7"}
    assert gateway.http.get("/v1/me", headers=bearer(OTHER_KEY) | forged).status_code == 403
    wait_until(lambda: len(gateway.rows(team_id="team-b")) == 2, 20, "both rows")
    assert {row["status"] for row in gateway.rows(team_id="team-b")} == {"refused", "success"}


def preflight(gateway: Gateway, origin: str, path: str = "/v1/chat/completions") -> httpx.Response:
    wanted = {"access-control-request-method": "POST", "access-control-request-headers": "authorization, content-type"}
    return gateway.http.options(path, headers={"origin": origin} | wanted)


@pytest.mark.parametrize("origin", [ORIGIN, "https://a.corp.example"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/usage"])
def test_a_page_that_may_call(gateway: Gateway, origin: str, path: str) -> None:
    answer = preflight(gateway, origin, path)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == origin
    assert {"authorization", "content-type"} <= set(answer.headers["access-control-allow-headers"].split(", "))
    for key, status in ((TEAM_KEY, 200), ("sk-wrong", 401)):
        headers = bearer(key) | {"origin": origin}
        answer = gateway.http.post("/v1/chat/completions", json=ask("hi"), headers=headers)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, origin)
    assert "x-gateway-request-id" in answer.headers["access-control-expose-headers"]


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://app.example.com", "https://a.corp.example.evil.net"]
)
def test_a_page_that_may_not(gateway: Gateway, origin: str) -> None:
    answer = preflight(gateway, origin)
    assert answer.status_code == 401
    assert not [name for name in answer.headers if name.startswith("access-control")]


class Traffic:
    """Streams and whole answers, on new and on kept connections, until told to stop."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._stop = threading.Event()
        self.failures: list[str] = []
        self.done = 0

    def __enter__(self) -> "Traffic":
        self._pool = concurrent.futures.ThreadPoolExecutor(4)
        for kept in (True, False):
            for stream in (True, False):
                self._pool.submit(self._ask, kept, stream)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown()

    def _ask(self, kept: bool, stream: bool) -> None:
        client = self._gateway.client()
        while not self._stop.wait(0.05):
            client = client if kept else self._gateway.client()
            try:
                text = f"hi {marker(chunks=10, chunk_interval_ms=50)}" if stream else "hi"
                answer: Any = client.chat.completions.create(**ask(text), stream=stream)
                ends = [chunk.choices[0].finish_reason for chunk in answer if chunk.choices] if stream else ["stop"]
                assert ends[-1] == "stop"
                self.done += 1
            except Exception as error:
                self.failures.append(repr(error))


def test_a_certificate_is_rotated_under_traffic(gateway: Gateway, files: Files) -> None:
    with Traffic(gateway) as traffic:
        for _ in range(2):
            before = handshake(gateway, files.context())[2]
            files.issue()
            wait_until(lambda old=before: handshake(gateway, files.context())[2] != old, 40, "the new certificate")
        done = traffic.done
        wait_until(lambda: traffic.done > done or traffic.failures, 20, "an answer after it")
    assert not traffic.failures


def test_a_key_that_does_not_fit_is_refused_and_the_old_certificate_stays(gateway: Gateway, files: Files) -> None:
    before = handshake(gateway, files.context())[2]
    files.issue(key_of=files.authority.issue_cert("localhost"))
    code, said = reload(gateway)
    assert (code, "tls.crt" in said or "KEY_VALUES_MISMATCH" in said) == (2, True), said
    assert handshake(gateway, files.context())[2] == before
    assert "gateway_config_last_reload_successful 0" in gateway.http.get("/metrics").text
    check = subprocess.run([GATEWAY, "check", str(gateway.file)], capture_output=True, text=True, check=False)
    assert (check.returncode, "listen.tls: Envoy: " in check.stderr) == (2, True), check.stderr
    files.issue()
    wait_until(lambda: handshake(gateway, files.context())[2] != before, 40, "the new certificate")


def test_client_certificates_are_turned_on_while_it_runs(gateway: Gateway, files: Files) -> None:
    tls = gateway.config["listen"]["tls"]
    assert reload(gateway, tls=tls | {"client_ca_file": str(files.folder / "clients.pem")})[0] == 0
    good = files.context(files.clients.issue_cert("client.example.com"))
    stranger = files.context(files.authority.issue_cert("client.example.com"))

    def answers(context: ssl.SSLContext) -> bool:
        try:
            return httpx.get(f"{gateway.url}/healthz", verify=context, timeout=20).status_code == 200
        except httpx.HTTPError:
            return False

    wait_until(lambda: not answers(files.context()), 20, "clients without a certificate to be turned away")
    assert not answers(stranger)
    client = openai.OpenAI(
        base_url=f"{gateway.url}/v1", api_key=TEAM_KEY, max_retries=0, http_client=httpx.Client(verify=good)
    )
    assert client.chat.completions.create(**ask("hi")).model == "gpt"
    optional = tls | {"client_ca_file": str(files.folder / "clients.pem"), "require_client_certificate": False}
    assert reload(gateway, tls=optional, allowed_ips=["203.0.113.0/24"])[0] == 0
    wait_until(lambda: answers(files.context()), 20, "clients without a certificate to be let in")
    assert not answers(stranger)
    # A connection that is kept goes on by the listener it was made to, until that has drained.
    wait_until(
        lambda: gateway.http.get("/v1/usage", headers=bearer(ADMIN_KEY)).status_code == 403,
        *(20, "this machine to be kept out"),
    )


def test_the_private_key_is_in_no_process_of_ours_and_in_no_file(gateway: Gateway, files: Files) -> None:
    key = (files.folder / "tls.key").read_bytes().splitlines()[1]
    for file in gateway.data_dir.rglob("*"):
        if file.is_file():
            assert key not in file.read_bytes(), file
    wait_until(lambda: not gateway.processes("gateway reload"), 20, "reloads to end")
    for process in [psutil.Process(gateway.process.pid), *gateway.processes("gateway ")]:
        assert not memory_has(process.pid, key), process.cmdline()
    assert stat.S_IMODE((gateway.data_dir / "envoy" / "tls").stat().st_mode) == 0o700
