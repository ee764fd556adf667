"""gateway.yaml changed under a running gateway: taken over without a lost request, or refused without a trace."""

import concurrent.futures
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
import yaml

from control.reload import RefusedError, _swap
from control.staged import Staged
from extproc.paths import Paths
from tests.envoy.harness import (
    ADMIN_KEY,
    GATEWAY,
    PROVIDER_KEY,
    Config,
    Gateway,
    Simulator,
    ask,
    bearer,
    free_port,
    marker,
    running,
    wait_until,
)
from tests.envoy.test_processes import memory_has

NOTICED_S = 40.0  # five are promised; a loaded machine gets more
NEW_KEY = "sk-provider-after-rotation-99"


@pytest.fixture(scope="module")
def rotated() -> Iterator[Simulator]:
    """A provider that takes the new key only."""
    simulator = Simulator(api_key=NEW_KEY)
    yield simulator
    simulator.stop()


@pytest.fixture(scope="module")
def config(config: Config, rotated: Simulator) -> Config:
    config["providers"]["by-variable"] = {"format": "openai", "base_url": f"{rotated.url}/v1", "credential": "${KEY}"}
    config["providers"]["by-file"] = {
        "format": "anthropic",
        "base_url": f"{rotated.url}/v1",
        "credential_file": str(Path(config["data_dir"]).parent / "key"),
    }
    (Path(config["data_dir"]).parent / "key").write_text("sk-old-key-in-a-file\n")
    config["models"] += [{"name": name, "provider": name} for name in ("by-variable", "by-file")]
    return config


@pytest.fixture(scope="module")
def gateway(config: Config) -> Iterator[Gateway]:
    with running(config, {"KEY": "sk-old-key-in-a-variable"}) as gateway:
        yield gateway


def state(gateway: Gateway) -> dict[str, Any]:
    answer = gateway.http.get("/v1/config", headers=bearer(ADMIN_KEY))
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def write(gateway: Gateway, config: dict[str, Any]) -> None:
    """As an editor does that replaces the file."""
    temporary = gateway.file.with_suffix(".new")
    temporary.write_text(yaml.safe_dump(config))
    temporary.rename(gateway.file)


def reload(
    gateway: Gateway, env: dict[str, str] | None = None, *, where: tuple[str, ...] | None = None
) -> tuple[int, str, str]:
    """`gateway reload`: exit code, stdout, stderr. `where`: told by other options than its file."""
    command = [GATEWAY, "reload", *(where or ("--config", str(gateway.file)))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | (env or {}))
    return done.returncode, done.stdout, done.stderr


def with_model(config: dict[str, Any], name: str, provider: str = "openai") -> dict[str, Any]:
    model = {"name": name, "provider": provider, "upstream_name": "openai-model", "price": {"input": 1, "output": 4}}
    return config | {"models": [*config["models"], model]}


def served(gateway: Gateway, model: str) -> bool:
    try:
        return gateway.client().chat.completions.create(**ask("hi", model)).model == model
    except openai.APIError:
        return False


def refusals(gateway: Gateway) -> float:
    found = re.search(r'gateway_config_reloads_total\{result="refused"\} (\d+)', gateway.http.get("/metrics").text)
    assert found
    return float(found[1])


def test_the_first_version_is_told(gateway: Gateway) -> None:
    now = state(gateway)
    assert (now["status"], now["problems"], now["file"]) == ("applied", [], str(gateway.file))
    assert re.fullmatch("[0-9a-f]{12}", now["version"])
    assert set(now["envoy"]) == {"cds.json", "lds.json", "rds-ingress.json", "rds-fallback.json"}
    assert gateway.http.get("/v1/config", headers=bearer()).status_code == 403
    assert gateway.http.get("/v1/config").status_code == 401


@pytest.mark.parametrize("how", ["in place", "rename", "symlink"])
def test_a_change_is_noticed_however_it_is_made(gateway: Gateway, how: str) -> None:
    before, name = state(gateway)["version"], f"new-{how.replace(' ', '-')}"
    gateway.config = config = with_model(gateway.config, name)
    assert not served(gateway, name)
    if how == "in place":
        gateway.file.write_text(yaml.safe_dump(config))
    elif how == "rename":
        write(gateway, config)
    else:
        swap_as_kubernetes_does(gateway, config)
    wait_until(lambda: served(gateway, name), NOTICED_S, "the new model")
    now = state(gateway)
    assert now["version"] != before
    assert now["status"] == "applied"
    wait_until(lambda: '"event":"configuration applied"' in gateway.log(), 10, "a log line")


def swap_as_kubernetes_does(gateway: Gateway, config: dict[str, Any]) -> None:
    """A ConfigMap's file is a link through `..data`, which is a link to a folder and is replaced by another."""
    folder = gateway.file.parent
    (old := folder / "..old").mkdir()
    (new := folder / "..new").mkdir()
    (old / "gateway.yaml").write_text(gateway.file.read_text())
    (new / "gateway.yaml").write_text(yaml.safe_dump(config))
    (folder / "..data").symlink_to(old.name)
    gateway.file.unlink()
    gateway.file.symlink_to("..data/gateway.yaml")
    time.sleep(2)
    (folder / "..data_tmp").symlink_to(new.name)
    (folder / "..data_tmp").rename(folder / "..data")


def test_reload_forces_it_and_says_what_came_of_it(gateway: Gateway) -> None:
    gateway.config = with_model(gateway.config, "forced")
    write(gateway, gateway.config)
    code, out, _ = reload(gateway)
    assert code == 0
    assert out in ("applied\n", "unchanged\n"), "the watcher may have been first"
    wait_until(lambda: served(gateway, "forced"), 10, "the new model")
    assert reload(gateway)[:2] == (0, "unchanged\n")


def test_reload_takes_the_file_that_the_gateway_runs_by(gateway: Gateway) -> None:
    """And not the demo configuration, which would let in who knows its keys, and nobody else."""
    where = ("--data-dir", gateway.config["data_dir"])
    assert reload(gateway, where=where)[:2] == (0, "unchanged\n")
    gateway.config = with_model(gateway.config, "by-its-own-file")
    write(gateway, gateway.config)
    assert reload(gateway, where=where)[0] == 0
    wait_until(lambda: served(gateway, "by-its-own-file"), 10, "the new model")


def test_a_new_provider_and_one_that_goes(gateway: Gateway, second: Simulator) -> None:
    config = gateway.config
    provider = {"format": "openai", "base_url": second.base_url("openai"), "credential": PROVIDER_KEY}
    write(gateway, with_model(config | {"providers": config["providers"] | {"later": provider}}, "later", "later"))
    assert reload(gateway)[0] == 0
    wait_until(lambda: served(gateway, "later"), 10, "the new provider")
    assert (gateway.data_dir / "envoy" / "secrets" / "later.json").exists()
    for turn in range(2):  # its cluster stays for requests that know it, until the next change
        write(gateway, config)
        assert reload(gateway)[0] == 0
        gateway.config = config = with_model(config, f"one-more-{turn}")
    assert not (gateway.data_dir / "envoy" / "secrets" / "later.json").exists()
    assert not served(gateway, "later")


def test_a_key_is_taken_away(gateway: Gateway) -> None:
    teams = [{**team, "keys": ["sk-other-new"]} if team["id"] == "team-b" else team for team in gateway.config["teams"]]
    gateway.config |= {"teams": teams}
    write(gateway, gateway.config)
    assert reload(gateway)[0] == 0
    wait_until(lambda: gateway.http.get("/v1/models", headers=bearer("sk-other")).status_code == 401, 10, "a refusal")
    wait_until(
        lambda: gateway.http.get("/v1/models", headers=bearer("sk-other-new")).status_code == 200, 10, "all workers"
    )


FIXED = {
    "listen": {"port": 1, "unix_socket": "/tmp/new.sock"},
    "workers": 3,
    "state": {"url": "redis://elsewhere:6379"},
    "streams": {"same_format": "extproc"},
}
NAMED = ("listen.port", "listen.unix_socket", "workers", "state", "streams")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"routing": {"atempts": 3}}, ["routing.atempts: unknown key; did you mean attempts?"]),
        (FIXED, [f"{name}: cannot be changed while the gateway runs; restart it" for name in NAMED]),
    ],
    ids=["wrong", "needs a restart"],
)
def test_a_bad_one_is_refused_and_the_old_one_stays(gateway: Gateway, change: dict[str, Any], says: list[str]) -> None:
    good, before, refused = gateway.config, state(gateway), refusals(gateway)
    files = {file: file.read_bytes() for file in (gateway.data_dir / "envoy").rglob("*.json")}
    write(gateway, good | change)
    code, _, err = reload(gateway)
    now = state(gateway)
    wait_until(lambda: "configuration refused; the one before stays in force" in gateway.log(), 10, "a log line")
    write(gateway, good)
    assert code == 2
    assert err.splitlines() == [f"{gateway.file}: {text}" for text in says]
    assert (now["version"], now["loaded_at"], now["status"]) == (before["version"], before["loaded_at"], "refused")
    assert now["problems"] == says
    assert refusals(gateway) > refused
    assert {file: file.read_bytes() for file in (gateway.data_dir / "envoy").rglob("*.json")} == files
    assert served(gateway, "gpt")
    assert reload(gateway)[:2] == (0, "unchanged\n")
    assert "gateway_config_last_reload_successful 1" in gateway.http.get("/metrics").text


async def test_what_envoy_refuses_all_the_same_is_put_back_and_told(gateway: Gateway) -> None:
    file = gateway.data_dir / "envoy" / "lds.json"
    good = file.read_bytes()
    listeners = json.loads(good) | {"version_info": "bad"}
    listeners["resources"][0]["address"]["socket_address"]["address"] = "not-an-address"
    bad = json.dumps(listeners).encode()
    with pytest.raises(RefusedError, match=r"Envoy refused lds\.json"), Staged({file: bad}) as staged:
        await _swap({file.name: bad}, Paths.of(gateway.data_dir), staged)
    assert file.read_bytes() == good
    assert state(gateway)["envoy"]["lds.json"]["rejected"] == 1
    assert 'gateway_envoy_config_rejected_total{file="lds.json"} 1' in gateway.http.get("/metrics").text
    assert served(gateway, "gpt")


def test_what_envoy_would_refuse_never_reaches_it(gateway: Gateway) -> None:
    """Our types and Envoy's accept it, Envoy itself does not: it is asked before anything is replaced."""
    good = gateway.config
    provider = {"format": "openai", "base_url": "http://" + "a" * 300 + "/v1"}
    bad = with_model(good | {"providers": good["providers"] | {"long": provider}}, "long", "long")
    write(gateway, bad | {"timeouts": {"connect": 1e-10}})
    code, _, err = reload(gateway)
    write(gateway, good)
    assert (code, "Envoy" in err) == (2, True), err
    assert state(gateway)["envoy"]["cds.json"]["rejected"] == 0
    assert reload(gateway)[0] == 0


def test_a_key_in_the_environment_is_rotated(gateway: Gateway) -> None:
    assert not served(gateway, "by-variable")
    assert reload(gateway, {"KEY": NEW_KEY})[:2] == (0, "applied\n")
    wait_until(lambda: served(gateway, "by-variable"), 10, "the new key")
    gateway.config = with_model(gateway.config, "after-rotation")
    write(gateway, gateway.config)
    wait_until(lambda: served(gateway, "after-rotation"), NOTICED_S, "a change that the watcher notices")
    assert served(gateway, "by-variable"), "the watcher's reload knows the new key"


def test_a_key_in_a_file_is_rotated(gateway: Gateway) -> None:
    assert not served(gateway, "by-file")
    (gateway.file.parent / "key").write_text(NEW_KEY)
    wait_until(lambda: served(gateway, "by-file"), NOTICED_S, "the new key")


def test_no_process_that_lives_on_has_a_key_in_memory(gateway: Gateway) -> None:
    wait_until(lambda: not gateway.processes("gateway reload"), 20, "reloads to end")
    for process in [psutil.Process(gateway.process.pid), *gateway.processes("gateway ")]:
        assert not memory_has(process.pid, NEW_KEY.encode()), process.cmdline()
        assert not memory_has(process.pid, PROVIDER_KEY.encode()), process.cmdline()
    assert NEW_KEY not in gateway.log()
    for file in gateway.data_dir.rglob("*"):
        if file.is_file() and "secrets" not in file.parts:
            assert NEW_KEY.encode() not in file.read_bytes(), file
    assert all(file.stat().st_mode & 0o077 == 0 for file in (gateway.data_dir / "envoy" / "secrets").iterdir())


def test_sighup_reloads(gateway: Gateway) -> None:
    before = state(gateway)["last_attempt_at"]
    gateway.process.send_signal(signal.SIGHUP)
    wait_until(lambda: state(gateway)["last_attempt_at"] != before, NOTICED_S, "an attempt")
    assert state(gateway)["status"] == "unchanged"


def test_without_a_gateway_there_is_nothing_to_reload(tmp_path: Path, gateway: Gateway) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(yaml.safe_dump(gateway.config | {"data_dir": str(tmp_path / "data")}))
    env = os.environ | {"KEY": "x"}
    done = subprocess.run(
        [GATEWAY, "reload", "--config", str(file)], capture_output=True, text=True, check=False, env=env
    )
    assert (done.returncode, done.stderr) == (1, f"error: no gateway runs on data_dir {tmp_path / 'data'}\n")


def reload_with(gateway: Gateway, extra: str, idle: str) -> bool:
    """A provider and a model more than in the beginning. Whether it is in force: the watcher may have been first."""
    provider = {"format": "openai", "base_url": f"http://127.0.0.1:{free_port()}/v1"}
    changed = with_model(gateway.config, extra, extra)
    changed = changed | {
        "providers": gateway.config["providers"] | {extra: provider},
        "timeouts": gateway.config["timeouts"] | {"idle": idle},
    }
    write(gateway, changed)
    return reload(gateway)[0] == 0


def test_reloads_under_load_cost_no_request_and_cut_no_stream(gateway: Gateway) -> None:
    """Streams that outlive reloads, and requests of every kind meanwhile; and every one of them in the books."""

    def rows() -> list[dict[str, Any]]:
        return gateway.rows(since=began)

    def applied() -> int:
        return int(json.loads((gateway.data_dir / "config.json").read_text())["applied"])

    began, before = time.time(), applied()
    stop, failures, done = threading.Event(), [], []

    def asks(model: str, stream: bool) -> None:
        client = gateway.client()
        while not stop.is_set():
            text = f"A story {marker(chunks=30, chunk_interval_ms=50)}" if stream else "hi"
            try:
                answer: Any = client.chat.completions.create(**ask(text, model), stream=stream)
                ends = [chunk.choices[0].finish_reason for chunk in answer if chunk.choices] if stream else ["stop"]
                assert ends[-1] == "stop"
                done.append(model)
                time.sleep(0.1)
            except Exception as error:
                failures.append(f"{model}, stream {stream}: {error!r}")

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for model, stream in [(model, stream) for model in ("gpt", "claude", "gemini-ha") for stream in (True, False)]:
            pool.submit(asks, model, stream)
        try:
            for turn in range(3):
                assert reload_with(gateway, f"extra-{turn}", idle=f"{6 + turn}s")  # the listener changes as well
                seen = len(done)
                wait_until(lambda seen=seen: len(done) > seen + 8 or failures, 20, "answers after it")  # type: ignore[misc]
        finally:
            stop.set()
    assert not failures
    wait_until(lambda: len(rows()) == len(done), 20, "every row")
    assert {row["status"] for row in rows()} == {"success"}
    assert applied() == before + 3


def test_workers_are_told_at_once(gateway: Gateway, config: Config) -> None:
    """They look by themselves as well, twice a second: until then who was just let in would be refused."""
    teams = [*config["teams"], {"id": "late", "keys": ["sk-late"]}]
    write(gateway, config | {"teams": teams})
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bell:
        bell.bind(str(Paths.of(gateway.data_dir).bell_socket(63)))
        bell.setblocking(False)
        assert reload(gateway)[:2] == (0, "applied\n")
        assert bell.recv(1)
    wait_until(lambda: gateway.http.get("/v1/models", headers=bearer("sk-late")).status_code == 200, 5, "the team")
