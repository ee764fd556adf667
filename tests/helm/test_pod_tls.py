"""TLS in a pod: certificate and key from a Secret, mounted with `extraVolumes`, and renewed while it serves."""

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from tests.envoy.harness import PROVIDER_KEY, Simulator, ask, bearer, free_port, wait_until
from tests.helm import image
from tests.helm.chart import gateway_yaml, pod_of, render
from tests.helm.node import POSSIBLE, Files, Pod

pytestmark = pytest.mark.skipif(not POSSIBLE, reason="no mount namespaces here: needs root")
HOST = "llm.example.com"
WHERE = "/etc/gateway/tls"


@pytest.fixture(scope="module")
def authorities() -> list[trustme.CA]:
    """One for each certificate: by who is trusted one sees which is shown."""
    return [trustme.CA(), trustme.CA()]


def issued(authority: trustme.CA) -> Files:
    """A Secret of the type kubernetes.io/tls."""
    made = authority.issue_cert(HOST)
    chain = b"".join(blob.bytes() for blob in made.cert_chain_pems)
    return {"tls.crt": chain.decode(), "tls.key": made.private_key_pem.bytes().decode()}


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def pod(authorities: list[trustme.CA], port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    provider = Simulator()
    tls = {"cert_file": f"{WHERE}/tls.crt", "key_file": f"{WHERE}/tls.key"}
    values: dict[str, Any] = {
        "config": {
            "listen": {"port": port, "ops": {"port": free_port()}, "tls": tls},
            "providers": {"openai": {"format": "openai", "base_url": provider.base_url("openai")}},
            "models": [{"name": "gpt", "provider": "openai"}],
            "teams": [{"id": "team-a", "keys": ["sk-team"]}],
        },
        "credentials": {"openai": {"secret": "llm-keys", "key": "openai"}},
        "extraVolumes": [{"name": "tls", "secret": {"secretName": "gateway-tls"}}],
        "extraVolumeMounts": [{"name": "tls", "mountPath": WHERE, "readOnly": True}],
    }
    manifests = render(values)
    running = Pod(
        pod_of(manifests),
        image.build(tmp_path_factory.mktemp("image")),
        tmp_path_factory.mktemp("pod"),
        configs={"gw-llm-gateway": {"gateway.yaml": gateway_yaml(manifests)}},
        secrets={"llm-keys": {"openai": PROVIDER_KEY}, "gateway-tls": issued(authorities[0])},
    )
    try:
        running.start()
        yield running
    finally:
        running.kill()
        provider.stop()


def served(port: int, authority: trustme.CA, folder: Path) -> bool:
    """Whether a client that trusts this authority alone has an answer."""
    trusted = folder / "ca.pem"
    authority.cert_pem.write_to_path(str(trusted))
    context = ssl.create_default_context(cafile=str(trusted))
    with httpx.Client(verify=context, timeout=30) as client:
        try:
            answer = client.post(
                f"https://127.0.0.1:{port}/v1/chat/completions",
                json=ask("Hello"),
                headers=bearer("sk-team") | {"host": HOST},
                extensions={"sni_hostname": HOST},
            )
        except httpx.ConnectError:  # it is another's
            return False
    return answer.status_code == 200


def test_a_mounted_certificate_is_shown_and_its_renewal_taken_over(
    pod: Pod, port: int, authorities: list[trustme.CA], tmp_path: Path
) -> None:
    first, second = authorities
    assert served(port, first, tmp_path)
    before = {one.name: one.process.pid for one in [*pod.mains, *pod.sidecars] if one.process}
    pod.volumes.update(secrets={"gateway-tls": issued(second)})
    wait_until(lambda: served(port, second, tmp_path), 30, "the new certificate")
    assert not served(port, first, tmp_path)
    mixed = issued(first) | {"tls.key": issued(second)["tls.key"]}
    pod.volumes.update(secrets={"gateway-tls": mixed})
    # There is no Envoy beside `watch` to ask beforehand: the one that serves keeps what it has, and says so.
    wait_until(lambda: "configuration refused" in pod["watch"].log(), 30, "a pair that does not fit")
    refused = next(line for line in pod["watch"].log().splitlines() if "configuration refused" in line)
    assert "listen.tls: Envoy cannot use these files" in refused
    assert pod["watch"].log().count("configuration applied") == 1
    assert all(served(port, second, tmp_path) for _ in range(20))
    pod.volumes.update(secrets={"gateway-tls": issued(first)})
    wait_until(lambda: served(port, first, tmp_path), 30, "a pair that fits again")
    after = {one.name: one.process.pid for one in [*pod.mains, *pod.sidecars] if one.process and not one.process.poll()}
    assert after == before, "nobody was restarted"


def test_the_private_key_is_where_it_is_needed_and_nowhere_else(pod: Pod) -> None:
    look = f"cat {WHERE}/tls.key; grep -rl 'PRIVATE KEY' /var/lib/gateway /etc/gateway 2>/dev/null"
    assert "PRIVATE KEY" in pod["envoy"].run(["bash", "-c", look]).stdout
    for name in ("extproc", "control"):
        assert pod[name].run(["bash", "-c", look]).stdout == ""
