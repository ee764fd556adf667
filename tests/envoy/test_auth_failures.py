"""Wrong keys from one address, through Envoy: 401, then 429, on both planes; good keys pass all the while."""

import httpx
import openai
import pytest

from extproc.wrong_keys import MOST
from tests.envoy.harness import ADMIN_KEY, Config, Gateway, ask, bearer, wait_until


@pytest.fixture(scope="module")
def config(config: Config) -> Config:
    return config | {"workers": 1}


def fail(gateway: Gateway, method: str, path: str) -> list[httpx.Response]:
    """More failures than are answered 401, each with another forged address."""
    answers = []
    for turn in range(MOST + 3):
        headers = bearer(f"sk-guess-{turn}") | {"x-forwarded-for": f"192.0.2.{turn}"}
        answers.append(gateway.http.request(method, path, json=ask("hi"), headers=headers))
    return answers


def counted(gateway: Gateway) -> dict[str, float]:
    lines = gateway.http.get("/metrics").text.splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


BOTH_PLANES = {"/v1/chat/completions": "POST", "/v1/usage": "GET"}


@pytest.fixture(scope="module")
def failed(gateway: Gateway) -> dict[str, list[httpx.Response]]:
    return {path: fail(gateway, method, path) for path, method in BOTH_PLANES.items()}


@pytest.mark.parametrize("path", BOTH_PLANES)
def test_too_many_are_told_to_wait_and_a_good_key_never_is(
    gateway: Gateway, failed: dict[str, list[httpx.Response]], path: str
) -> None:
    answers = failed[path]
    statuses = [answer.status_code for answer in answers]
    assert statuses == [401] * MOST + [429] * 3
    last = answers[-1]
    assert last.json()["error"]["code"] == "rate_limit_exceeded"
    assert 1 <= int(last.headers["retry-after"]) <= 60
    if path == "/v1/chat/completions":
        with pytest.raises(openai.RateLimitError):
            gateway.client("sk-wrong").models.list()
    assert gateway.client().chat.completions.create(**ask("hi")).choices
    assert gateway.http.get("/v1/usage", headers=bearer(ADMIN_KEY)).status_code == 200


@pytest.mark.usefixtures("failed")
def test_they_are_counted_and_told_of_once(gateway: Gateway) -> None:
    wait_until(lambda: counted(gateway)["gateway_unauthenticated_requests_total"] >= MOST + 3, 10, "the settler")
    metrics = counted(gateway)
    assert metrics['gateway_control_unauthenticated_requests_total{limited="true"}'] >= 3
    assert metrics['gateway_control_unauthenticated_requests_total{limited="false"}'] == MOST
    assert gateway.log().count("many failed authentications") == 2  # a worker's and control's
    assert "sk-guess" not in gateway.log()
