"""The API through a real Envoy, as its document has it: fuzzed with a fixed seed, and the data plane by every role."""

from ipaddress import IPv4Address
from itertools import count

import pytest

from control.openapi.operations import DATA_PLANE
from tests.envoy.fuzz_api import Fuzz
from tests.envoy.harness import ADMIN_KEY, OTHER_KEY, TEAM_KEY, Config, Gateway, ask, bearer, wait_until

SEED = 20261124
EXAMPLES = 4  # valid ones of each operation, and as many broken ones


@pytest.fixture(scope="module")
def config(config: Config) -> Config:
    config["listen"]["trusted_hops"] = 1
    return config


def test_every_role_at_the_data_plane(gateway: Gateway) -> None:
    """Team keys alone; /v1/chat/completions and /v1/models show nothing of other teams. Each request is another
    address's, or too many refusals would be answered 429."""
    addresses = count(1)

    def status(method: str, path: str, key: str | None, body: object = None) -> int:
        headers = {"x-forwarded-for": str(IPv4Address("198.18.0.0") + next(addresses))} | (bearer(key) if key else {})
        return gateway.http.request(method, path, json=body, headers=headers).status_code

    admin = bearer(ADMIN_KEY)
    made = gateway.http.post("/v1/teams/team-a/keys", json={}, headers=admin).json()
    key, url = made["key"], "/v1/models"
    wait_until(lambda: status("GET", url, key) == 200, 10, "the key")
    gateway.http.delete(f"/v1/teams/team-a/keys/{made['key_id']}", headers=admin)
    wait_until(lambda: {status("GET", url, key) for _ in range(6)} == {401}, 10, "both workers to refuse it")
    roles = {"nobody": None, "wrong": "sk-wrong", "revoked": key, "admin": ADMIN_KEY, "team": TEAM_KEY}
    for operation in DATA_PLANE:
        for role, of_role in roles.items():
            body = ask("hi") if operation.body else None
            path = operation.path.replace("{id}", "claude")
            found = status(operation.method, path, of_role, body)
            assert found == (200 if role == "team" else 401), (operation.path, role)
    other = bearer(OTHER_KEY)  # may use gpt alone
    assert gateway.http.get("/v1/models/claude", headers=other).status_code == 404
    assert gateway.http.post("/v1/chat/completions", json=ask("hi", "claude"), headers=other).status_code == 403
    body = ask("hi", metadata={"team_id": "team-a"})
    assert gateway.http.post("/v1/chat/completions", json=body, headers=other).status_code == 403


@pytest.mark.parametrize("header", [{"a_b": "c"}, {"a_b": "c", "x-request-id": "d"}])
def test_a_header_with_an_underscore_is_left_out_not_a_reason_to_hang_up(
    gateway: Gateway, header: dict[str, str]
) -> None:
    assert gateway.http.get("/v1/models", headers=bearer() | header).status_code == 200


def test_what_envoy_cannot_read_is_refused_in_our_words(gateway: Gateway) -> None:
    answer = gateway.http.get("/v1/models/a%5Cb", headers=bearer())
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request_error")


def test_whatever_is_sent_there_is_no_500_and_answers_are_as_documented(gateway: Gateway) -> None:
    fuzz = Fuzz(gateway)
    fuzz.prepare()
    for operation in fuzz.operations:
        fuzz.play(operation, EXAMPLES, SEED)
    assert {200, 201, 400, 401, 403, 404} <= fuzz.statuses.keys()
    log = gateway.log()
    assert "request failed" not in log
    assert "exchange failed" not in log
