"""The API through a real Envoy, as its document has it: fuzzed with a fixed seed, and the data plane by every role."""

from ipaddress import IPv4Address
from itertools import count

import pytest

from control.openapi.operations import DATA_PLANE
from tests.envoy.fuzz_api import Fuzz
from tests.envoy.harness import ADMIN_KEY, OTHER_KEY, TEAM_KEY, Config, Gateway, ask, at_once, bearer, wait_until

SEED = 20261124
EXAMPLES = 4  # valid ones of each operation, and as many broken ones


@pytest.fixture(scope="module")
def config(config: Config) -> Config:
    config["listen"] |= {"host": "localhost", "trusted_hops": 1}
    config["models"].append({"name": "meta/llama", "provider": "openai"})
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
    wait_until(lambda: set(at_once(lambda: status("GET", url, key))) == {401}, 10, "both workers to refuse it")
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


def test_a_teams_id_may_have_slashes(gateway: Gateway) -> None:
    """They are escaped in a path, where they are the id's and not the path's."""
    admin = bearer(ADMIN_KEY)
    name, path = "acme/search/usage", "/v1/teams/acme%2Fsearch%2Fusage"
    assert gateway.http.post("/v1/teams", json={"id": name}, headers=admin).status_code == 201
    made = gateway.http.post(f"{path}/keys", json={}, headers=admin).json()
    wait_until(lambda: gateway.http.get("/v1/models", headers=bearer(made["key"])).status_code == 200, 10, "the key")
    budget = {"budget": {"daily_tokens": 1000}}
    grant = {"window": "daily", "unit": "tokens", "amount": 500}
    calls: list[tuple[str, str, object]] = [
        ("GET", path, None),
        ("PATCH", path, budget),
        ("POST", f"{path}/topups", grant),
        ("GET", f"{path}/usage", None),
        ("GET", f"{path}/keys", None),
        ("POST", f"{path}/keys/{made['key_id']}/rotate", {}),
        ("DELETE", f"{path}/overrides", None),
        ("DELETE", f"{path}/keys/{made['key_id']}", None),
        ("DELETE", path, None),
    ]
    for method, where, body in calls:
        headers = admin | {"idempotency-key": "once"}
        answer = gateway.http.request(method, where, json=body, headers=headers)
        assert answer.status_code < 300, (method, where, answer.text)
        assert answer.json().get("team_id", name) == name
    for wrong in ("/v1/teams/acme/search/usage", "/%2Fmetrics", "/ui%2Fapp.js", "/v1%2Fteams"):
        assert gateway.http.get(wrong, headers=admin).status_code == 404, wrong


def test_a_models_name_may_have_slashes(gateway: Gateway) -> None:
    for name in ("meta/llama", "meta%2Fllama"):
        assert gateway.http.get(f"/v1/models/{name}", headers=bearer()).json()["id"] == "meta/llama"
    assert gateway.client().models.retrieve("meta/llama").id == "meta/llama"


@pytest.mark.parametrize("header", [{"a_b": "c"}, {"a_b": "c", "x-request-id": "d"}])
def test_a_header_with_an_underscore_is_left_out_not_a_reason_to_hang_up(
    gateway: Gateway, header: dict[str, str]
) -> None:
    assert gateway.http.get("/v1/models", headers=bearer() | header).status_code == 200


def test_what_envoy_cannot_read_is_refused_in_our_words(gateway: Gateway) -> None:
    answer = gateway.http.get("/v1/models/a%00b", headers=bearer())
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request_error")


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b'{"budget": {"daily_tokens": 5}, "budget": {}}', "budget"),
        (b'{"budget": {"daily_tokens": 5, "monthly_tokens": 6, "daily_tokens": 7}}', "daily_tokens"),
        (b'{"limits": {}, "lim\\u0069ts": {}}', "limits"),
    ],
)
def test_what_is_said_twice_is_refused_by_name(gateway: Gateway, body: bytes, name: str) -> None:
    answer = gateway.http.patch("/v1/teams/team-a", content=body, headers=bearer(ADMIN_KEY))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)


def test_whatever_is_sent_there_is_no_500_and_answers_are_as_documented(gateway: Gateway) -> None:
    fuzz = Fuzz(gateway)
    fuzz.prepare()
    for operation in fuzz.operations:
        fuzz.play(operation, EXAMPLES, SEED)
    assert {200, 201, 400, 401, 403, 404} <= fuzz.statuses.keys()
    log = gateway.log()
    assert "request failed" not in log
    assert "exchange failed" not in log
