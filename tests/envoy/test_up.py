"""`gateway up` from its first line to its last: ready, signals, a drain that ends, nothing left behind."""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.envoy.harness import (
    GATEWAY,
    Config,
    Gateway,
    Simulator,
    ask,
    base_config,
    bearer,
    free_port,
    marker,
    raw_post,
    wait_until,
)


@pytest.fixture
def drain() -> str:
    return "2s"


@pytest.fixture
def config(simulators: tuple[Simulator, Simulator], tmp_path: Path, drain: str) -> Config:
    return base_config(tmp_path / "data", *simulators) | {"workers": 1, "timeouts": {"drain": drain}}


def left_behind(folder: Path) -> list[list[str]]:
    """Processes that still have to do with `folder`."""
    running = (process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"]))
    return [command for command in running if str(folder) in " ".join(command)]


@pytest.fixture
def streaming(config: dict[str, Any], tmp_path: Path) -> Iterator[tuple[Gateway, Any]]:
    """A gateway with a stream in flight that lasts 20 s."""
    gateway = Gateway(config)
    text = f"A story {marker(chunks=200, chunk_interval_ms=100)}"
    with raw_post(gateway, ask(text, stream=True)) as connection:
        assert b" 200 " in connection.recv(65536)
        yield gateway, connection
    gateway.process.kill()


def test_a_stream_longer_than_the_drain_is_cut_and_nobody_new_is_let_in(streaming: tuple[Gateway, Any]) -> None:
    gateway, _ = streaming
    began = time.monotonic()
    gateway.process.send_signal(signal.SIGTERM)
    wait_until(lambda: not listens(gateway), 10, "nobody new to be let in")
    assert gateway.process.poll() is None, "it drains"
    assert gateway.process.wait(20) == 0
    assert time.monotonic() - began > 1.9, "it was given its two seconds"
    assert "requests still in flight are cut off" in gateway.log()
    assert not left_behind(gateway.data_dir)


def listens(gateway: Gateway) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", gateway.port)) == 0


@pytest.mark.parametrize("drain", ["60s"])
def test_a_second_signal_ends_it_at_once(streaming: tuple[Gateway, Any]) -> None:
    gateway, _ = streaming
    gateway.process.send_signal(signal.SIGTERM)
    wait_until(lambda: not listens(gateway), 10, "the first to be heard")
    time.sleep(1)  # sooner, and it is taken for the same signal come twice
    gateway.process.send_signal(signal.SIGTERM)
    assert gateway.process.wait(20) == 1
    assert not left_behind(gateway.data_dir)


def test_when_the_supervisor_is_killed_everything_ends(streaming: tuple[Gateway, Any]) -> None:
    gateway, _ = streaming
    gateway.process.kill()
    gateway.process.wait(10)
    wait_until(lambda: not left_behind(gateway.data_dir), 10, "its children to end")


@pytest.fixture(scope="module")
def shared(simulators: tuple[Simulator, Simulator], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """For tests that leave it running; the last of them ends it."""
    config = base_config(tmp_path_factory.mktemp("up") / "data", *simulators)
    gateway = Gateway(config | {"workers": 1, "timeouts": {"drain": "2s", "request": "2s"}})
    yield gateway
    gateway.process.kill()


def test_a_stream_that_never_ends_is_cut(shared: Gateway) -> None:
    asked = ask(f"A story {marker(chunks=500, chunk_interval_ms=20)}", stream=True)
    with pytest.raises(httpx.RemoteProtocolError):
        shared.http.post("/v1/chat/completions", json=asked, headers=bearer())
    wait_until(shared.rows, 10, "a row")
    row = shared.rows()[0]
    assert (row["status"], row["error_code"]) == ("failed", "provider_timeout")
    assert row["output_tokens"] > 0


def test_a_second_gateway_on_the_same_data_is_refused(shared: Gateway) -> None:
    command = [GATEWAY, "up", "--config", str(shared.file), "--port", str(free_port())]
    refused = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.endswith(f"is in use by another gateway (process {shared.process.pid})\n")
    assert shared.http.post("/v1/chat/completions", json=ask("hi"), headers=bearer()).status_code == 200


def test_every_log_line_has_the_same_form(shared: Gateway) -> None:
    gateway = shared
    gateway.processes("gateway control")[0].kill()
    gateway.client().chat.completions.create(**ask("hi"))
    assert gateway.stop() == 0
    lines = [line for line in gateway.log().splitlines() if line.startswith("{")]
    assert {json.loads(line)["process"] for line in lines} >= {"gateway up", "settler", "control"}
    for line in lines:
        fields = json.loads(line)
        assert list(fields)[:4] == ["at", "level", "process", "event"], line
    others = [line for line in gateway.log().splitlines() if not line.startswith("{")]
    assert [line.split(" ")[0] for line in others] == ["configuration", "providers", "dashboard", "try"]


def test_not_ready_in_time_names_what_is_missing(config: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(json.dumps(config))
    command = [GATEWAY, "up", "--config", str(file), "--ready-timeout", "0.2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stdout) == (1, "")
    assert "error: not ready after 0.2 s: " in done.stderr
    assert not left_behind(Path(config["data_dir"]))


def test_a_child_that_keeps_ending_is_named_with_its_last_words(config: dict[str, Any], tmp_path: Path) -> None:
    """A file lies where Valkey wants a directory."""
    (tmp_path / "data" / "state").mkdir(parents=True)
    (tmp_path / "data" / "state" / "appendonlydir").write_text("")
    file = tmp_path / "gateway.yaml"
    file.write_text(json.dumps(config))
    done = subprocess.run(
        [GATEWAY, "up", "--config", str(file)], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "error: valkey keeps ending (exit code 1)" in done.stderr
    assert "last lines of valkey:" in done.stderr
    assert not left_behind(tmp_path / "data")


@pytest.mark.parametrize(
    ("whole_group", "number"), [(False, signal.SIGTERM), (True, signal.SIGINT)], ids=["make-SIGTERM", "group-SIGINT"]
)
def test_make_run_ends_when_all_is_down(
    config: dict[str, Any], tmp_path: Path, number: signal.Signals, whole_group: bool
) -> None:
    """Sent to make alone, as by `kill`, or to all, as by Ctrl-C."""
    root = Path(__file__).resolve().parent.parent.parent
    file = tmp_path / "gateway.yaml"
    file.write_text(json.dumps(config))
    env = os.environ | {"CONFIG": str(file), "PORT": str(free_port())}
    make = subprocess.Popen(
        ["make", "-s", "run"], cwd=root, env=env, stdout=subprocess.PIPE, text=True, process_group=0
    )
    assert make.stdout is not None
    assert make.stdout.readline() == f"ready http://127.0.0.1:{env['PORT']}\n"
    if whole_group:
        os.killpg(make.pid, number)
    else:
        make.send_signal(number)
    make.wait(30)
    assert not left_behind(tmp_path)
