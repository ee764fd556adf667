"""The commands that ask a running gateway, as they are run: tables, JSON, errors of one line, exit codes."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from pyarrow import parquet

from tests.envoy.harness import (
    ADMIN_KEY,
    GATEWAY,
    OTHER_KEY,
    TEAM_KEY,
    Config,
    Gateway,
    ask,
    bearer,
    free_port,
    running,
    wait_until,
)


@pytest.fixture(scope="module")
def gateway(config: Config) -> Iterator[Gateway]:
    """With two requests in its books."""
    with running(config) as gateway:
        for model in ("gpt", "claude"):
            gateway.client().chat.completions.create(**ask("hi", model))
        wait_until(lambda: len(gateway.rows()) == 2, 20, "the rows")
        yield gateway


def environment(gateway: Gateway, key: str | None = ADMIN_KEY) -> dict[str, str]:
    known = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    return known | {"GATEWAY_URL": gateway.url} | ({"GATEWAY_KEY": key} if key else {})


def run(gateway: Gateway, *arguments: str, key: str | None = ADMIN_KEY) -> tuple[int, str, str]:
    done = subprocess.run(
        [GATEWAY, *arguments], check=False, env=environment(gateway, key), capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stdout, done.stderr


def told(gateway: Gateway, *arguments: str, key: str | None = ADMIN_KEY) -> str:
    code, out, err = run(gateway, *arguments, key=key)
    assert code == 0, err
    return out


def test_export_says_all_that_the_api_does(gateway: Gateway, tmp_path: Path) -> None:
    lines = told(gateway, "export").splitlines()
    assert [json.loads(line) for line in lines] == gateway.rows()
    assert json.loads(told(gateway, "export", "--model", "claude"))["model_used"] == "claude"
    assert told(gateway, "export", "--until", "2020-01-01T00:00:00Z") == ""
    assert told(gateway, "export", key=OTHER_KEY) == ""
    code, out, err = run(gateway, "export", "--team", "team-a", "-o", str(tmp_path / "x"), key=OTHER_KEY)
    assert (code, out, list(tmp_path.iterdir())) == (3, "", [])
    assert "another team" in err


def test_export_without_pyarrow_and_without_place(gateway: Gateway, tmp_path: Path) -> None:
    lacking = "import sys; sys.modules['pyarrow'] = None; from control.cli import main; main()"
    command = [sys.executable, "-c", lacking, "export", "--format", "parquet", "-o", str(tmp_path / "x")]
    done = subprocess.run(command, check=False, env=environment(gateway), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (
        1,
        "error: Parquet needs pyarrow: pip install 'llm-gateway[parquet]'\n",
    )
    code, _, err = run(gateway, "export", "-o", str(tmp_path / "none" / "x"))
    assert (code, err) == (1, f"error: {tmp_path / 'none' / 'x'}: cannot be written: No such file or directory\n")
    assert list(tmp_path.iterdir()) == []


def test_export_as_parquet_has_the_rows_and_their_types(gateway: Gateway, tmp_path: Path) -> None:
    told(gateway, "export", "--format", "parquet", "-o", str(tmp_path / "rows.parquet"))
    table = parquet.read_table(tmp_path / "rows.parquet")
    rows, shown = table.to_pylist(), gateway.rows()
    assert [row["request_id"] for row in rows] == [row["request_id"] for row in shown]
    for row, as_shown in zip(rows, shown, strict=True):
        assert row["received_at"] == datetime.fromisoformat(as_shown["received_at"])
        assert (row["cost_usd"], row["input_tokens"]) == (as_shown["cost_usd"], as_shown["input_tokens"])
        assert json.loads(row["attempt_log"]) == as_shown["attempt_log"]
    assert set(table.column_names) == set(shown[0])
    told(gateway, "export", "--format", "parquet", "--model", "nobody's", "-o", str(tmp_path / "none.parquet"))
    assert parquet.read_table(tmp_path / "none.parquet").num_rows == 0


def test_an_output_that_is_no_file_is_written_to_and_stays(gateway: Gateway, tmp_path: Path) -> None:
    pipe, link, table = tmp_path / "pipe", tmp_path / "link", tmp_path / "rows"
    os.mkfifo(pipe)
    table.write_text("old")
    link.symlink_to(table)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE, text=True) as reader:
        told(gateway, "export", "-o", str(pipe))
        assert reader.stdout
        assert len(reader.stdout.read().splitlines()) == 2
    assert pipe.is_fifo()
    told(gateway, "export", "-o", str(link))
    assert link.is_symlink()
    assert len(table.read_text().splitlines()) == 2


@pytest.mark.parametrize("command", [["export"], ["export", "--format", "parquet"], ["usage"], ["usage", "--json"]])
def test_a_full_disk_behind_standard_output_is_told_in_a_line(gateway: Gateway, command: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [GATEWAY, *command], check=False, env=environment(gateway), stdout=full, stderr=subprocess.PIPE, text=True
        )
    expected = "error: standard output cannot be written: No space left on device\n"
    assert (done.returncode, done.stderr.removeprefix("2 requests\n")) == (1, expected)


def test_tables_for_people_and_json_for_programs(gateway: Gateway) -> None:
    assert "team-a" in told(gateway, "usage")
    usage = json.loads(told(gateway, "usage", "--json"))
    assert {team["team_id"] for team in usage["teams"]} >= {"team-a", "team-b"}
    mine = json.loads(told(gateway, "usage", "--json", key=TEAM_KEY))
    assert mine["team_id"] == "team-a"
    assert "team-b" in told(gateway, "teams")
    assert json.loads(told(gateway, "teams", "--json"))["teams"]
    table = told(gateway, "requests")
    assert "claude" in table
    assert "success" in table
    rows = [json.loads(line) for line in told(gateway, "requests", "--json", "--model", "gpt").splitlines()]
    assert [row["model_used"] for row in rows] == ["gpt"]
    assert told(gateway, "requests", key=OTHER_KEY) == "No requests.\n"
    picture = told(gateway, "top")
    assert "team-a" in picture
    assert "anthropic" in picture
    assert json.loads(told(gateway, "top", "--json", "--looks", "1"))["requests"]


def test_a_keys_life(gateway: Gateway) -> None:
    code, out, err = run(gateway, "keys", "create", "team-a", "--name", "ci", "--expires-in", "1h")
    assert (code, out[:4], len(out.splitlines())) == (0, "gwk_", 1)
    key = out.strip()
    assert key not in err
    listed = told(gateway, "keys", "list", "team-a")
    assert key not in listed
    assert key[-4:] in listed
    (made,) = [k for k in json.loads(told(gateway, "keys", "list", "team-a", "--json"))["keys"] if k["name"] == "ci"]
    new = told(gateway, "keys", "rotate", "team-a", made["key_id"], "--overlap", "0s").strip()
    assert told(gateway, "keys", "revoke", "team-a", made["key_id"]) == f"{made['key_id']} revoked\n"
    assert gateway.http.get("/v1/me", headers=bearer(key)).status_code == 401
    assert json.loads(told(gateway, "usage", "--json", key=new))["team_id"] == "team-a"


def test_a_teams_life(gateway: Gateway) -> None:
    told(gateway, "teams", "create", "cli", "budget.daily_tokens=1000", "models=[gpt]")
    told(gateway, "teams", "set", "cli", "budget.daily_tokens=null", "limits.requests_per_minute=5")
    team = json.loads(told(gateway, "teams", "show", "cli", "--json"))
    assert (team["budget"]["daily_tokens"], team["limits"]["requests_per_minute"]) == (None, 5)
    assert "the API" in told(gateway, "teams")
    told(gateway, "teams", "delete", "cli")
    assert run(gateway, "teams", "show", "cli")[0] == 2


def test_the_key_from_a_file(gateway: Gateway, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{ADMIN_KEY}\n")
    told(gateway, "usage", "--key-file", str(file), key=None)


@pytest.mark.parametrize(
    ("arguments", "key", "code", "line"),
    [
        (("usage",), "sk-wrong", 3, "error: Incorrect API key provided."),
        (("teams",), TEAM_KEY, 3, "error: This needs an admin key."),
        (("usage", "--team", "team-b"), TEAM_KEY, 3, "error: This API key belongs to another team."),
        (("usage",), None, 2, "error: no key: set GATEWAY_KEY, or name a file with --key-file"),
        (("usage", "--key-file", "/nowhere"), None, 2, "error: /nowhere: cannot be read: No such file"),
        (("usage", "--url", "gateway:80"), ADMIN_KEY, 2, "error: --url must begin with http:// or https://"),
        (("usage", "--url", f"http://127.0.0.1:{free_port()}"), ADMIN_KEY, 1, "error: no gateway answers at"),
        (("keys", "list", "nobody"), ADMIN_KEY, 2, "error: There is no team nobody."),
        (("keys", "rotate", "team-a", "0"), ADMIN_KEY, 2, "error: Team team-a has no key 0."),
        (("teams", "set", "team-a", "budget"), ADMIN_KEY, 2, "error: not NAME=VALUE"),
        (("teams", "set", "team-a", "budget.daly_tokens=1"), ADMIN_KEY, 2, "error: budget.daly_tokens: unknown key"),
        (("requests", "--follow"), "sk-wrong", 3, "error: Incorrect API key provided."),
    ],
)
def test_errors_are_one_line_and_an_exit_code(
    gateway: Gateway, arguments: tuple[str, ...], key: str | None, code: int, line: str
) -> None:
    got, out, err = run(gateway, *arguments, key=key)
    assert (got, out, err.count("\n")) == (code, "", 1), err
    assert err.startswith(line)


class _OtherServer(BaseHTTPRequestHandler):
    """Answers whatever is asked, with JSON."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"object": "list"}')


def test_a_server_that_is_no_gateway(gateway: Gateway) -> None:
    with HTTPServer(("127.0.0.1", 0), _OtherServer) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        got, _, err = run(gateway, "usage", "--url", url)
    assert (got, err) == (1, f"error: what answers at {url} is no gateway\n")


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """What is started in a script's background ignores Ctrl-C, and so would a command started by it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
def test_following_goes_on_over_a_restart_of_the_gateway(gateway: Gateway, tmp_path: Path) -> None:
    """Each request once, in order, and a word of the gateway's absence; Ctrl-C ends it."""
    known = [row["request_id"] for row in gateway.rows()]
    following = subprocess.Popen(
        [GATEWAY, "requests", "--follow", "--json"],
        env=environment(gateway),
        stdout=subprocess.PIPE,
        stderr=(tmp_path / "err").open("wb"),
    )
    lines: list[bytes] = []
    threading.Thread(target=lambda: lines.extend(iter(following.stdout.readline, b"")), daemon=True).start()

    def asked() -> str:
        answer = gateway.http.post("/v1/chat/completions", json=ask("hi"), headers=bearer())
        return answer.headers["x-gateway-request-id"]

    def shown() -> list[str]:
        return [told for line in list(lines) if (told := json.loads(line)["request_id"]) not in known]

    first = asked()
    wait_until(lambda: shown() == [first], 20, "the first request")
    assert gateway.stop() == 0
    wait_until(lambda: "waiting for it" in (tmp_path / "err").read_text(), 20, "a word of it")
    with running(gateway.config):
        second = asked()
        wait_until(lambda: len(shown()) > 1, 20, "the second request")
        time.sleep(2.5)  # two more looks: nothing is shown twice
        assert shown() == [first, second]
        assert len(lines) == len(set(lines))
        following.send_signal(signal.SIGINT)
        assert following.wait(10) == 130
        assert (tmp_path / "err").read_text().count("waiting for it") == 1
