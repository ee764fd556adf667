"""A team's limits changed while two gateways on one state serve it: in force on every worker of both."""

from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

from tests.envoy.harness import (
    ADMIN_KEY,
    Config,
    Gateway,
    ask,
    at_once,
    bearer,
    running_pair,
    wait_until,
)

IN_FORCE_S = 10.0  # it takes less than one; a busy machine may take longer


@pytest.fixture(scope="module")
def gateways(new_config: Callable[[], Config]) -> Iterator[tuple[Gateway, Gateway]]:
    teams = [
        {"id": "a", "keys": ["sk-a"], "budget": {"daily_tokens": 1_000_000}, "auto_downgrade": True},
        {"id": "b", "keys": ["sk-b", "sk-b2"]},
    ]
    with running_pair(new_config() | {"teams": teams}, new_config() | {"teams": teams}) as pair:
        yield pair


def admin(gateway: Gateway, method: str, path: str, body: Any = None, status: int = 200, **headers: str) -> Any:
    answer = gateway.http.request(method, path, json=body, headers=bearer(ADMIN_KEY) | headers)
    assert answer.status_code == status, answer.text
    return answer.json()


def codes(gateway: Gateway, key: str = "sk-a") -> set[str | None]:
    """How some requests at one moment are answered."""
    client = gateway.client(key)

    def code() -> str | None:
        try:
            client.chat.completions.create(**ask("hi"), max_tokens=16)
        except openai.APIStatusError as error:
            return error.code
        return None

    return set(at_once(code))


def in_force(gateways: tuple[Gateway, Gateway], code: str | None, key: str = "sk-a") -> None:
    for gateway in gateways:
        wait_until(lambda gateway=gateway: codes(gateway, key) == {code}, IN_FORCE_S, f"{code} everywhere")


def test_a_limit_changed_on_one_gateway_holds_on_both_and_a_top_up_is_room_on_both(
    gateways: tuple[Gateway, Gateway],
) -> None:
    one, two = gateways
    in_force(gateways, None)
    used = admin(one, "GET", "/v1/teams/a/usage")["daily"]["used_tokens"]
    admin(one, "PATCH", "/v1/teams/a", {"budget": {"daily_tokens": used}})
    in_force(gateways, "budget_exceeded")
    usage = admin(two, "GET", "/v1/teams/a/usage")
    assert usage["source"] == "ledger"
    assert (usage["daily"]["limit_tokens"], usage["auto_downgrade_active"]) == (used, True)
    grant = {"window": "daily", "unit": "tokens", "amount": 100_000}
    for _ in range(2):
        admin(two, "POST", "/v1/teams/a/topups", grant, **{"idempotency-key": "more"})
    in_force(gateways, None)
    usage = admin(one, "GET", "/v1/teams/a/usage")
    assert (usage["daily"]["limit_tokens"], usage["auto_downgrade_active"]) == (used + 100_000, False)
    admin(two, "DELETE", "/v1/teams/a/overrides")
    wait_until(
        lambda: admin(one, "GET", "/v1/teams/a/usage")["daily"]["limit_tokens"] == 1_100_000, IN_FORCE_S, "the file"
    )
    actions = [entry["action"] for entry in admin(one, "GET", "/v1/audit")["entries"]]
    assert actions == ["team.reset", "team.topup", "team.update"]


def test_models_and_rates(gateways: tuple[Gateway, Gateway]) -> None:
    one, _ = gateways
    admin(one, "PATCH", "/v1/teams/b", {"models": ["claude"]})
    in_force(gateways, "model_not_allowed", "sk-b")
    assert [model.id for model in gateways[1].client("sk-b").models.list()] == ["claude"]
    admin(one, "PATCH", "/v1/teams/b", {"models": ["*"], "limits": {"requests_per_minute": 0}})
    in_force(gateways, "rate_limit_exceeded", "sk-b")
    admin(one, "PATCH", "/v1/teams/b", {"limits": {"requests_per_minute": None}})
    in_force(gateways, None, "sk-b")


def good(gateways: tuple[Gateway, Gateway], key: str, *, now: bool) -> None:
    """Waits until every worker and the control API of both gateways know `key`, or refuse it: as wrong, or as one of
    too many wrong ones from here within a minute."""
    wanted = {None} if now else {"invalid_api_key", "rate_limit_exceeded"}
    for gateway in gateways:
        wait_until(lambda gateway=gateway: codes(gateway, key) <= wanted, IN_FORCE_S, key)
        wait_until(
            lambda gateway=gateway: (gateway.http.get("/v1/me", headers=bearer(key)).status_code == 200) is now,
            *(IN_FORCE_S, f"the control API: {key}"),
        )


def test_keys_made_rotated_and_revoked_on_one_gateway_are_so_on_both(gateways: tuple[Gateway, Gateway]) -> None:
    one, two = gateways
    made = admin(one, "POST", "/v1/teams/b/keys", {"name": "ci"}, status=201)
    good(gateways, made["key"], now=True)
    new = admin(two, "POST", f"/v1/teams/b/keys/{made['key_id']}/rotate", {"overlap": "2s"}, status=201)
    good(gateways, new["key"], now=True)
    good(gateways, made["key"], now=False)  # when the overlap has passed
    of_file = admin(one, "GET", "/v1/teams/b/keys")["keys"][1]
    for key_id in (new["key_id"], of_file["key_id"]):
        admin(one, "DELETE", f"/v1/teams/b/keys/{key_id}")
    for key in (new["key"], "sk-b2"):
        good(gateways, key, now=False)
    good(gateways, "sk-b", now=True)
    assert made["key"] not in one.log() + two.log()


def test_a_team_made_at_run_time_is_served_within_its_limits(gateways: tuple[Gateway, Gateway]) -> None:
    one, two = gateways
    admin(one, "POST", "/v1/teams", {"id": "new", "limits": {"requests_per_minute": 1000}}, status=201)
    key = admin(one, "POST", "/v1/teams/new/keys", status=201)["key"]
    good(gateways, key, now=True)
    admin(two, "PATCH", "/v1/teams/new", {"budget": {"daily_tokens": 1}})
    in_force(gateways, "budget_exceeded", key)
    assert {row["team_id"] for row in one.rows(key)} == {"new"}
    admin(two, "DELETE", "/v1/teams/new")
    good(gateways, key, now=False)


def test_the_state_killed_a_change_stays_and_new_workers_have_it(gateways: tuple[Gateway, Gateway]) -> None:
    one, _ = gateways
    admin(one, "PATCH", "/v1/teams/a", {"models": ["claude"]})
    in_force(gateways, "model_not_allowed")
    for title in ("valkey-server", "gateway worker"):
        for process in one.processes(title):
            process.kill()
    in_force(gateways, "model_not_allowed")
    admin_models = admin(one, "GET", "/v1/teams/a")["models"]
    assert admin_models == ["claude"]
    wait_until(
        lambda: admin(one, "GET", "/v1/teams/a/usage")["source"] == "ledger", IN_FORCE_S, "the ledger to be back"
    )
