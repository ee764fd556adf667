"""Two gateways, one state, one PostgreSQL: rows of both through either; the database away, the settler killed."""

import json
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from pyarrow import parquet

from extproc.process.logs import rfc3339
from tests.audit.postgres import PASSWORD, Postgres, postgres
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
    raw_post,
    running_pair,
    wait_until,
)

__all__ = ["postgres"]

ARRIVES_S = 40.0  # longest pause of the shipper, and a busy machine


@pytest.fixture(scope="module")
def gateways(new_config: Callable[[], Config], postgres: Postgres) -> Iterator[tuple[Gateway, Gateway]]:
    env, audit = {"AUDIT_URL": postgres.database()}, {"audit": {"url": "${AUDIT_URL}", "partition": "day"}}
    with running_pair(new_config() | audit, new_config() | audit, env) as pair:
        yield pair


def say(gateway: Gateway, text: str, key: str = TEAM_KEY, **more: Any) -> str:
    """Ask by the official SDK; the request's id."""
    answer = gateway.client(key).chat.completions.with_raw_response.create(**ask(text, **more))
    if more.get("stream"):
        list(answer.parse())
    return str(answer.headers["x-gateway-request-id"])


def seen(gateway: Gateway, key: str = ADMIN_KEY, **query: Any) -> dict[str, dict[str, Any]]:
    """Rows by request; none is there twice."""
    rows = gateway.rows(key, **query)
    assert max(Counter(row["request_id"] for row in rows).values(), default=1) == 1
    return {row["request_id"]: row for row in rows}


def await_rows(gateway: Gateway, *request_ids: str) -> dict[str, dict[str, Any]]:
    wait_until(lambda: set(request_ids) <= set(seen(gateway)), ARRIVES_S, "rows in the database")
    return seen(gateway)


def metric(gateway: Gateway, name: str) -> float:
    text = gateway.http.get("/metrics").text
    return float(next(line.split()[-1] for line in text.splitlines() if line.startswith(f"{name} ")))


def test_either_shows_the_rows_of_both(gateways: tuple[Gateway, Gateway]) -> None:
    one, two = gateways
    mine = [say(one, "whole"), say(one, "streamed", stream=True), say(one, "translated", model="claude")]
    theirs = [say(two, "of another team", key=OTHER_KEY), say(two, "mine too")]
    for key, model in ((TEAM_KEY, "nope"), (OTHER_KEY, "claude")):
        with pytest.raises(openai.APIStatusError):
            one.client(key).chat.completions.create(**ask("refused", model=model))
    text = f"left early {marker(chunks=60, chunk_interval_ms=50)}"
    with raw_post(two, ask(text, stream=True)) as connection:
        assert connection.recv(65536)
    wait_until(lambda: len(seen(one)) >= 8, ARRIVES_S, "all rows")
    rows = await_rows(one, *mine, *theirs)
    assert rows == seen(two)
    assert Counter(row["status"] for row in rows.values()) >= Counter(success=5, refused=2, cancelled=1)
    assert all(rows[request_id]["attempt_log"] for request_id in (*mine, *theirs))
    for gateway in gateways:
        series = gateway.http.get("/v1/usage/series", params={"window": "1h"}, headers=bearer(ADMIN_KEY)).json()
        longer = gateway.http.get("/v1/usage/series", params={"window": "24h"}, headers=bearer(ADMIN_KEY)).json()
        for found in (series, longer):
            assert sum(point["requests"] for point in found["points"]) == len(rows)
            tokens = sum(point["input_tokens"] + point["output_tokens"] for point in found["points"])
            assert tokens == sum(row["input_tokens"] + row["output_tokens"] for row in rows.values())


def test_a_team_sees_only_its_own(gateways: tuple[Gateway, Gateway]) -> None:
    one, two = gateways
    mine, theirs = say(one, "mine"), say(two, "theirs", key=OTHER_KEY)
    await_rows(one, mine, theirs)
    for gateway in gateways:
        assert {row["team_id"] for row in seen(gateway, TEAM_KEY).values()} == {"team-a"}
        assert {row["team_id"] for row in seen(gateway, OTHER_KEY).values()} == {"team-b"}
        expected = {(TEAM_KEY, mine): 200, (TEAM_KEY, theirs): 404, (ADMIN_KEY, theirs): 200, (OTHER_KEY, theirs): 200}
        for (key, request_id), status in expected.items():
            answer = gateway.http.get(f"/v1/requests/{request_id}", headers=bearer(key))
            assert answer.status_code == status
            assert status != 200 or answer.json() == seen(gateway)[request_id]


def test_export_is_what_the_api_shows(gateways: tuple[Gateway, Gateway], tmp_path: Path) -> None:
    """Many pages, by a key that sees one team; each column of Parquet as the JSON has it."""
    one, two = gateways
    await_rows(one, say(one, "to export"), say(two, "to export too"))
    for key in (ADMIN_KEY, OTHER_KEY):
        env = {"PATH": "/usr/bin", "GATEWAY_KEY": key, "GATEWAY_URL": two.url}
        for kind in ("jsonl", "parquet"):
            command = [GATEWAY, "export", "--format", kind, "--output", str(tmp_path / kind)]
            done = subprocess.run(command, capture_output=True, text=True, env=env, check=True)
            assert done.stderr.endswith(f"{len(one.rows(key))} requests\n")
        exported = [json.loads(line) for line in (tmp_path / "jsonl").read_bytes().splitlines()]
        assert exported == one.rows(key)
        table = parquet.read_table(tmp_path / "parquet").to_pylist()
        for row, shown in zip(table, exported, strict=True):
            for name in ("received_at", "completed_at"):
                row[name] = rfc3339(row[name].timestamp())
            for name in ("steps_us", "attempt_log"):
                row[name] = json.loads(row[name])
            assert row == shown
    assert not list(tmp_path.glob(".*"))


def test_the_database_away_and_the_settler_killed(gateways: tuple[Gateway, Gateway], postgres: Postgres) -> None:
    one, _two = gateways
    before = await_rows(one, say(one, "before"))
    asked: list[str] = []
    postgres.stop()
    try:
        asked += [say(gateway, f"away {n}", stream=bool(n % 2)) for n in range(4) for gateway in gateways]
        answer = one.http.get("/v1/requests", headers=bearer(ADMIN_KEY))
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "audit_unavailable")
        assert one.http.get("/readyz").status_code == 200
        wait_until(lambda: metric(one, "gateway_audit_waiting") >= 4, 20, "rows to wait")
        with ThreadPoolExecutor(4) as threads:
            work = threads.map(lambda n: say(one, f"killed {n}"), range(12))
            (settler,) = one.processes("gateway settler")
            settler.kill()
            told = len(one.log())
            asked += work
        wait_until(lambda: one.processes("gateway settler") not in ([], [settler]), 20, "another settler")
        wait_until(lambda: metric(one, "gateway_audit_waiting") >= 16, 30, "all rows to wait")
        wait_until(lambda: "audit database does not take rows" in one.log()[told:], 20, "the operator to be told")
    finally:
        postgres.start()
    rows = await_rows(one, *asked)
    assert set(rows) == set(before) | set(asked)
    wait_until(lambda: all(metric(gateway, "gateway_audit_waiting") == 0 for gateway in gateways), ARRIVES_S, "quiet")
    assert metric(one, "gateway_audit_lag_seconds") == 0
    assert "audit database takes rows again" in one.log()


def test_no_one_is_shown_the_password(gateways: tuple[Gateway, Gateway]) -> None:
    one, two = gateways
    paths = ("/metrics", "/v1/config", "/v1/teams", "/v1/requests?model=x")
    said = [one.log(), two.log(), *(one.http.get(path, headers=bearer(ADMIN_KEY)).text for path in paths)]
    said += [" ".join(process.cmdline()) for process in one.processes("")]
    for command in ("check", "render"):
        env = {"AUDIT_URL": f"postgresql://gw:{PASSWORD}@127.0.0.1:1/gw", "PATH": "/usr/bin"}
        done = subprocess.run([GATEWAY, command, str(one.file)], capture_output=True, text=True, env=env, check=True)
        said += [done.stdout, done.stderr]
    assert not [text for text in said if PASSWORD in text]
    assert (one.data_dir / "runtime.json").stat().st_mode & 0o777 == 0o600
    assert any("audit: PostgreSQL at 127.0.0.1:1/gw, partitions of a day, kept for" in text for text in said)
