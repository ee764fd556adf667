"""Tokens of an identity provider in the place of keys, on a gateway that listens on a unix socket alone."""

import json
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import trustme
import yaml

from tests.envoy.harness import (
    ADMIN_KEY,
    TEAM_KEY,
    Config,
    Gateway,
    ask,
    bearer,
    free_port,
    running,
    wait_until,
)
from tests.envoy.tokens import AUDIENCE, Issuer, KeyServer

LOCAL, REMOTE = Issuer("https://login.example.com"), Issuer("https://remote.example.com")


@pytest.fixture(scope="module")
def folder(config: Config) -> Path:
    return Path(config["data_dir"]).parent


@pytest.fixture(scope="module")
def authority(folder: Path) -> trustme.CA:
    made = trustme.CA()
    made.cert_pem.write_to_path(folder / "ca.pem")
    return made


@pytest.fixture(scope="module")
def jwks_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def gateway(config: Config, folder: Path, authority: trustme.CA, jwks_port: int) -> Iterator[Gateway]:
    door = folder / "gateway.sock"
    config["listen"] = {"port": None, "unix_socket": str(door), "unix_socket_mode": "0660"}
    config["teams"] += [{"id": "by-token"}, {"id": "elsewhere", "allowed_ips": ["10.0.0.0/8"]}]
    (folder / "jwks.json").write_text(json.dumps(LOCAL.jwks()))
    config["auth"] = {
        "jwt": [
            {
                "issuer": LOCAL.name,
                "audiences": [AUDIENCE],
                "jwks_file": str(folder / "jwks.json"),
                "admin": {"claim": "realm.roles", "values": ["llm-admin"]},
            },
            {
                "issuer": REMOTE.name,
                "audiences": [AUDIENCE],
                "jwks_uri": f"https://127.0.0.1:{jwks_port}/jwks.json",
                "ca_file": str(folder / "ca.pem"),
                "team_claim": "groups",
                "teams": {"people-of-b": "team-b"},
            },
        ]
    }
    with running(config, transport=httpx.HTTPTransport(uds=str(door))) as gateway:
        gateway.transport = {"transport": httpx.HTTPTransport(uds=str(door))}  # a closed client closes its transport
        yield gateway


def chat(gateway: Gateway, key: str, **more: Any) -> Any:
    return gateway.client(key).chat.completions.with_raw_response.create(**ask("hi", **more))


def refusal(gateway: Gateway, key: str, **headers: str) -> tuple[int, str]:
    """Status and code of OpenAI's error."""
    with pytest.raises(openai.APIStatusError) as caught:
        gateway.client(key, default_headers=headers).chat.completions.create(**ask("hi"))
    assert set(caught.value.body) == {"message", "type", "param", "code"}  # type: ignore[arg-type]
    return caught.value.status_code, caught.value.code or ""


def test_the_socket_has_its_mode_and_keys_work_on_it_whole_and_streamed(gateway: Gateway, folder: Path) -> None:
    assert stat.S_IMODE((folder / "gateway.sock").stat().st_mode) == 0o660
    assert chat(gateway, TEAM_KEY).parse().model == "gpt"
    chunks: Any = list(gateway.client().chat.completions.create(**ask("hi", "claude"), stream=True))
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert gateway.row(chat(gateway, TEAM_KEY).headers["x-gateway-request-id"])["team_id"] == "team-a"


@pytest.mark.parametrize("team", ["by-token", ["others", "by-token"]], ids=["text", "list"])
def test_a_tokens_claim_names_the_team(gateway: Gateway, team: Any) -> None:
    answer = chat(gateway, LOCAL.token(team=team))
    assert gateway.row(answer.headers["x-gateway-request-id"])["team_id"] == "by-token"


@pytest.mark.parametrize(
    "token",
    [
        LOCAL.token(team="by-token", exp=int(time.time()) - 3600),
        LOCAL.token(team="by-token", aud="another"),
        LOCAL.token(team="by-token", iss="https://unknown.example.com"),
        Issuer(LOCAL.name).token(team="by-token"),
        LOCAL.token(team="by-token", head={"alg": "none"}),
        LOCAL.token(team="by-token").rpartition(".")[0] + ".",
        LOCAL.token(team="by-token", nbf=int(time.time()) + 3600),
        "eyJub25zZW5zZQ.e30.e30",
    ],
    ids=["expired", "audience", "issuer", "forged", "no algorithm", "no signature", "not yet", "nonsense"],
)
def test_a_bad_token_is_401_before_any_worker_sees_it(gateway: Gateway, token: str) -> None:
    assert refusal(gateway, token) == (401, "invalid_api_key")
    answer = gateway.http.get("/v1/me", headers=bearer(token))
    assert answer.status_code == 401
    assert answer.json()["error"]["message"].startswith("The token is not accepted: ")
    assert "x-gateway-request-id" in answer.headers


@pytest.mark.parametrize("claims", [{}, {"team": "nobody"}, {"team": ""}, {"team": {"id": "by-token"}}])
def test_a_good_token_without_a_team_is_403(gateway: Gateway, claims: dict[str, Any]) -> None:
    assert refusal(gateway, LOCAL.token(**claims)) == (403, "permission_denied")
    assert gateway.http.get("/v1/me", headers=bearer(LOCAL.token(**claims))).status_code == 403


def test_no_client_can_say_what_a_token_said(gateway: Gateway) -> None:
    forged = {"x-gw-jwt-issuer": LOCAL.name, "x-gw-jwt-team": "team-a", "x-gw-jwt-admin": "llm-admin"}
    assert refusal(gateway, "sk-wrong", **forged) == (401, "invalid_api_key")
    assert refusal(gateway, LOCAL.token(team="nobody"), **forged) == (403, "permission_denied")
    assert gateway.http.get("/v1/usage", headers=forged).status_code == 401
    answer = gateway.http.get("/v1/me", headers=bearer(LOCAL.token(team="by-token")) | forged)
    assert answer.json() == {"role": "team", "team_id": "by-token"}
    answer = gateway.http.get("/v1/me", headers=bearer(TEAM_KEY) | forged)
    assert answer.json() == {"role": "team", "team_id": "team-a"}


def test_the_control_api_takes_tokens_of_teams_and_administrators(gateway: Gateway) -> None:
    team = bearer(LOCAL.token(team="by-token"))
    assert gateway.http.get("/v1/teams/by-token/usage", headers=team).status_code == 200
    assert gateway.http.get("/v1/teams/team-a/usage", headers=team).status_code == 403
    assert gateway.http.get("/v1/usage", headers=team).status_code == 403
    admin = bearer(LOCAL.token(realm={"roles": ["reader", "llm-admin"]}))
    assert gateway.http.get("/v1/usage", headers=admin).status_code == 200
    other = bearer(LOCAL.token(realm={"roles": ["reader"]}))
    assert gateway.http.get("/v1/usage", headers=other).status_code == 403


def test_a_client_of_the_socket_counts_as_this_machine(gateway: Gateway) -> None:
    token = LOCAL.token(team="elsewhere")
    assert refusal(gateway, token) == (403, "permission_denied")
    assert gateway.http.get("/v1/teams/elsewhere/usage", headers=bearer(token)).status_code == 403
    rows = gateway.rows(team_id="elsewhere")
    wait_until(lambda: gateway.rows(team_id="elsewhere"), 20, "a row of the refusal")
    rows = gateway.rows(team_id="elsewhere")
    assert {(row["status"], row["error_code"]) for row in rows} == {("refused", "permission_denied")}


def test_a_client_of_the_socket_gives_no_request_its_id(gateway: Gateway) -> None:
    headers = bearer() | {"x-request-id": "7c1e66cc-0000-4000-8000-000000000000"}
    answer = gateway.http.get("/v1/models", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["x-gateway-request-id"] != headers["x-request-id"]


def test_an_issuer_away_at_the_start_and_later(
    gateway: Gateway, folder: Path, authority: trustme.CA, jwks_port: int
) -> None:
    token = REMOTE.token(groups=["people-of-b"])
    assert refusal(gateway, token) == (503, "tokens_unavailable")
    assert chat(gateway, TEAM_KEY).parse().model == "gpt", "keys need no issuer"
    server = KeyServer(jwks_port, REMOTE, authority.issue_cert("127.0.0.1"), folder)
    headers = bearer(token) | {"connection": "close"}  # a connection is one of Envoy's threads', which learn apart

    def known_to_all_threads() -> bool:
        return all(gateway.http.get("/v1/models", headers=headers).status_code == 200 for _ in range(40))

    wait_until(known_to_all_threads, 30, "the issuer's keys")
    server.stop()
    for _ in range(5):
        answer = chat(gateway, REMOTE.token(groups=["people-of-b"]))
    assert gateway.row(answer.headers["x-gateway-request-id"])["team_id"] == "team-b"


def test_keys_in_a_file_are_rotated(gateway: Gateway, folder: Path) -> None:
    following = Issuer(LOCAL.name)
    new = bearer(following.token(team="by-token"))
    assert gateway.http.get("/v1/me", headers=new).status_code == 401
    (folder / "jwks.json").write_text(json.dumps(following.jwks()))
    wait_until(lambda: gateway.http.get("/v1/me", headers=new).status_code == 200, 40, "the new keys")
    assert gateway.http.get("/v1/me", headers=bearer(LOCAL.token(team="by-token"))).status_code == 401
    assert yaml.safe_load(gateway.file.read_text())["auth"], "gateway.yaml itself was not touched"
    assert gateway.http.get("/v1/me", headers=bearer(ADMIN_KEY)).json()["role"] == "admin"
