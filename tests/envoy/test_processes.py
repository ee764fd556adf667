"""What is killed, and what is never seen: processes that die, keys that must not leak, signals."""

import concurrent.futures
import contextlib
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from socket import SOCK_STREAM
from typing import Any

import openai
import psutil
import pytest

from control.render import encoded
from extproc.paths import Paths
from extproc.process.files import replace_file
from tests.envoy.harness import (
    ADMIN_KEY,
    GATEWAY,
    PROVIDER_KEY,
    Config,
    Gateway,
    Simulator,
    ask,
    at_once,
    bearer,
    marker,
    running,
    wait_until,
)


@pytest.fixture(scope="module")
def config(config: Config) -> Config:
    """As the shared one, but its provider keys come from the environment."""
    for provider in config["providers"].values():
        if "credential" in provider:
            provider["credential"] = "${PROVIDER_KEY}"
    return config


@pytest.fixture(scope="module")
def gateway(config: Config) -> Iterator[Gateway]:
    with running(config, {"PROVIDER_KEY": PROVIDER_KEY}) as gateway:
        yield gateway


def answers(gateway: Gateway, text: str = "hi", model: str = "gpt") -> bool:
    try:
        gateway.client().chat.completions.create(**ask(text, model))
    except openai.APIError:
        return False
    return True


def one(gateway: Gateway, title: str) -> psutil.Process:
    found = gateway.processes(title)
    assert len(found) == 1, title
    return found[0]


def back(gateway: Gateway, title: str, old: int, within_s: float = 10) -> None:
    """Wait for its successor to serve: a process that starts has no socket yet."""

    def there() -> bool:
        with contextlib.suppress(psutil.NoSuchProcess):
            return any(serves(process) for process in gateway.processes(title) if process.pid != old)
        return False

    wait_until(there, within_s, f"{title} to come back")


def test_a_killed_worker_takes_only_its_own_requests_with_it(gateway: Gateway, primary: Simulator) -> None:
    worker = one(gateway, "gateway worker 0")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        running = [pool.submit(answers, gateway, f"slow {marker(first_byte_ms=1000)}") for _ in range(8)]
        wait_until(lambda: len(primary.recent()) == 8, 10, "all of them to be sent")
        worker.kill()
        after = [pool.submit(answers, gateway) for _ in range(40)]
        results = [future.result() for future in running]
        assert all(future.result() for future in after), "new requests go to the other worker"
    assert any(results), "requests of the other worker went on"
    back(gateway, "gateway worker 0", worker.pid)
    wait_until(lambda: all(at_once(lambda: answers(gateway))), 10, "both workers to answer")


def test_a_worker_that_stays_away_costs_no_further_request(gateway: Gateway) -> None:
    """Envoy tries it again and again: what meets it then goes to the other one, every time."""
    killed: set[int] = set()

    def asked() -> bool:
        """Its first two successors die as they start."""
        assert not killed or all(at_once(lambda: answers(gateway)))
        for process in gateway.processes("gateway worker 0"):
            if process.pid not in killed and len(killed) == 3:
                return serves(process)
            if process.pid not in killed:
                killed.add(process.pid)
                process.kill()
        return False

    wait_until(asked, 30, "it to serve again")


@contextlib.contextmanager
def unattended(gateway: Gateway) -> Iterator[None]:
    """Nobody starts what has ended."""
    supervisor = psutil.Process(gateway.process.pid)
    supervisor.suspend()
    try:
        yield
    finally:
        supervisor.resume()


@contextlib.contextmanager
def successor_of(gateway: Gateway, socket: Path) -> Iterator[None]:
    """Another worker 0, which has taken the socket's place."""
    old = socket.stat().st_ino
    with psutil.Popen([GATEWAY, "worker", "0", "--data-dir", str(gateway.data_dir)]) as process:
        try:
            wait_until(lambda: socket.exists() and socket.stat().st_ino != old and serves(process), 20, "it to serve")
            yield
        finally:
            process.kill()


def retried(gateway: Gateway) -> int:
    """How often a request has found no worker: those that wait for one connection fail with it together, but are each
    tried again."""
    return gateway.counted("cluster.workers.upstream_rq_retry")


def test_where_all_workers_are_away_requests_wait_for_the_first_that_is_back(gateway: Gateway) -> None:
    """Its successor, which serves already, is put in its place when all of them have found nobody there."""
    socket = Paths.of(gateway.data_dir).worker_socket(0)
    aside = socket.with_suffix(".aside")
    workers = [one(gateway, f"gateway worker {index}") for index in range(2)]
    with unattended(gateway), successor_of(gateway, socket), concurrent.futures.ThreadPoolExecutor(12) as pool:
        socket.rename(aside)
        before = retried(gateway)
        for worker in workers:
            worker.kill()
        asked = [pool.submit(answers, gateway) for _ in range(12)]
        wait_until(lambda: retried(gateway) >= before + 12, 10, "them to find nobody")
        aside.rename(socket)
        assert all(future.result() for future in asked)
    for index, worker in enumerate(workers):
        back(gateway, f"gateway worker {index}", worker.pid)
    wait_until(lambda: all(at_once(lambda: answers(gateway))), 10, "both workers to answer")


def serves(process: psutil.Process) -> bool:
    """Its door is open: its bell, which has an address too, is there long before."""
    return any(each.laddr and each.type == SOCK_STREAM for each in process.net_connections("unix"))


def test_requests_of_a_killed_worker_have_their_rows(gateway: Gateway, primary: Simulator) -> None:
    """Of those whose answers it would have translated; others go on without it (test_passing)."""
    pids, began = [one(gateway, f"gateway worker {index}").pid for index in range(2)], time.time()
    text = f"slow {marker(first_byte_ms=60_000)}"
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        running = [pool.submit(answers, gateway, text, "claude") for _ in range(6)]
        wait_until(lambda: primary.stats()["open"] == 6, 10, "all of them to be sent")
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        assert not any(future.result() for future in running)
    wait_until(lambda: len(gateway.rows(since=began)) == 6, 20, "six rows")
    assert {row["status"] for row in gateway.rows(since=began)} == {"failed"}
    for index, pid in enumerate(pids):
        back(gateway, f"gateway worker {index}", pid)
    wait_until(lambda: all(at_once(lambda: answers(gateway))), 10, "both workers to answer")


@contextlib.contextmanager
def sooner_pings(gateway: Gateway) -> Iterator[None]:
    """As rendered, but a worker is asked for a sign of life every 0.2 s, and has 0.8 s: not 10 s and 20 s."""
    file = gateway.data_dir / "envoy" / "cds.json"
    rendered = file.read_bytes()
    sooner = re.sub(rb'"interval": "10s",\s+"timeout": "20s"', b'"interval": "0.2s", "timeout": "0.8s"', rendered)
    assert sooner.count(b'"timeout": "0.8s"') == 1 + 2, "the workers' cluster, and one for each of them"
    put_clusters(gateway, json.loads(sooner) | {"version_info": "sooner"})
    try:
        yield
    finally:
        put_clusters(gateway, json.loads(rendered))


def put_clusters(gateway: Gateway, document: dict[str, Any]) -> None:
    replace_file(gateway.data_dir / "envoy" / "cds.json", encoded(document))

    def taken() -> bool:
        state = gateway.http.get("/v1/config", headers=bearer(ADMIN_KEY)).json()
        return bool(state["envoy"]["cds.json"]["version"] == document["version_info"])

    wait_until(taken, 10, "Envoy to take the clusters")


def test_a_worker_that_hangs_is_found_by_its_ping(gateway: Gateway, primary: Simulator) -> None:
    """Stopped, it still accepts connections. What it holds then goes to the other worker, as does what is asked after,
    and it has its share again when it goes on."""
    worker = one(gateway, "gateway worker 0")
    with sooner_pings(gateway), concurrent.futures.ThreadPoolExecutor(12) as pool:
        worker.suspend()
        try:
            for _ in range(10):  # it is passed over for a while, then tried again
                assert all(pool.map(lambda _: answers(gateway), range(24)))
        finally:
            worker.resume()
        wait_until(lambda: primary.stats()["open"] == 0, 10, "the worker to end what it had")
    wait_until(lambda: all(at_once(lambda: answers(gateway))), 10, "both workers to answer")
    assert one(gateway, "gateway worker 0").pid == worker.pid


def test_what_a_dead_worker_had_not_decided_is_decided_by_the_other(gateway: Gateway, primary: Simulator) -> None:
    """Stopped, it gets requests and says no word of them; then it dies."""
    worker, began = one(gateway, "gateway worker 0"), time.time()
    given = "cluster.workers.upstream_rq_total"
    worker.suspend()
    before = gateway.counted(given)
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(answers, gateway) for _ in range(12)]
        wait_until(lambda: gateway.counted(given) >= before + 12, 10, "Envoy to have given them to workers")
        assert not all(future.done() for future in asked), "some are in its hands"
        worker.kill()
        assert all(future.result() for future in asked)
    taken_over = re.search(
        r'gateway_taken_over_requests_total{result="decided"} (\d+)', gateway.http.get("/metrics").text
    )
    assert taken_over
    assert int(taken_over[1]) > 0
    back(gateway, "gateway worker 0", worker.pid)
    wait_until(lambda: len(gateway.rows(since=began)) == 12, 20, "twelve rows")
    assert {row["status"] for row in gateway.rows(since=began)} == {"success"}
    assert primary.total("requests") == 12


def test_what_hangs_for_good_is_replaced(new_config: Callable[[], Config]) -> None:
    """Stopped, they accept connections and say nothing, for longer than they are given."""
    with running(new_config(), {"GATEWAY_HANG_TIMEOUT": "4"}) as gateway:
        hung = {title: one(gateway, title) for title in ("gateway worker 0", "gateway settler", "gateway control")}
        for process in hung.values():
            process.suspend()
        for title, process in hung.items():
            back(gateway, title, process.pid, 30)
        told = [json.loads(line)["child"] for line in gateway.log().splitlines() if "answers no more" in line]
        assert sorted(told) == sorted(title.removeprefix("gateway ") for title in hung)
        wait_until(lambda: gateway.http.get("/readyz").status_code == 200, 20, "control to serve again")
        wait_until(lambda: all(at_once(lambda: answers(gateway))), 10, "both workers to answer")
        raw = gateway.client().chat.completions.with_raw_response.create(**ask("after"))
        assert gateway.row(raw.headers["x-gateway-request-id"])["status"] == "success"


@pytest.mark.parametrize("title", ["gateway settler", "gateway control", "valkey-server"])
def test_a_killed_helper_comes_back_and_no_request_fails(gateway: Gateway, title: str) -> None:
    process = one(gateway, title)
    process.kill()

    def all_well() -> bool:
        assert answers(gateway)
        again = [found for found in gateway.processes(title) if found.pid != process.pid]
        return bool(again) and gateway.http.get("/readyz").status_code == 200

    wait_until(all_well, 20, f"{title} to come back")
    raw = gateway.client().chat.completions.with_raw_response.create(**ask("after"))
    assert gateway.row(raw.headers["x-gateway-request-id"])["status"] == "success"


def test_a_killed_envoy_comes_back(gateway: Gateway) -> None:
    process = one(gateway, "envoy -c") if gateway.processes("envoy -c") else one(gateway, "_bin/envoy")
    process.kill()
    wait_until(lambda: answers(gateway), 15, "answers")


def test_a_dead_child_is_logged_and_its_paths_say_so(gateway: Gateway) -> None:
    process = one(gateway, "gateway control")
    process.kill()
    process.wait()
    for path in ("/readyz", "/v1/usage"):
        answer = gateway.http.get(path, headers=bearer(ADMIN_KEY))
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "control_unavailable")
        assert answer.headers["x-gateway-request-id"]
    back(gateway, "gateway control", process.pid)
    wait_until(lambda: re.search(r'"child":"control".*SIGKILL', gateway.log()), 5, "a log line")


def test_provider_keys_are_seen_by_the_provider_alone(gateway: Gateway, primary: Simulator) -> None:
    """Not in an answer, a log, an environment, a command line, or the memory of any Python process."""
    for body in (ask("hi"), ask(marker(status=401)), ask(marker(status=500), "gpt-ha"), ask("hi", "nope")):
        answer = gateway.http.post("/v1/chat/completions", json=body, headers=bearer())
        assert PROVIDER_KEY not in answer.text + str(answer.headers)
    assert PROVIDER_KEY not in gateway.log()
    processes = [psutil.Process(gateway.process.pid), *gateway.processes("gateway ")]
    assert len(processes) >= 5
    assert memory_has(os.getpid(), PROVIDER_KEY.encode()), "what is there is found"
    assert memory_has(one(gateway, "gateway worker 0").pid, b"team-a"), "in other processes too"
    for process in processes:
        assert PROVIDER_KEY not in str(process.environ())
        assert PROVIDER_KEY not in " ".join(process.cmdline())
        assert not memory_has(process.pid, PROVIDER_KEY.encode()), process.cmdline()
    for file in gateway.data_dir.rglob("*"):
        if file.is_file() and "secrets" not in file.parts:
            assert PROVIDER_KEY.encode() not in file.read_bytes(), file


def test_client_keys_are_in_no_log_and_no_runtime_file(gateway: Gateway) -> None:
    assert "sk-team" not in gateway.log()
    assert b"sk-team" not in (gateway.data_dir / "runtime.json").read_bytes()


def memory_has(pid: int, needle: bytes) -> bool:
    """Whether any writable memory of the process holds `needle`."""
    with Path(f"/proc/{pid}/mem").open("rb", 0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            match = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line)
            if not match:
                continue
            begin, end = (int(part, 16) for part in match.groups())
            try:
                memory.seek(begin)
                if needle in memory.read(end - begin):
                    return True
            except (OSError, ValueError, OverflowError):
                continue
    return False


def test_sigterm_lets_streams_finish(gateway: Gateway) -> None:
    """The last of this file: it ends the gateway."""
    text = f"A story {marker(chunks=20, chunk_interval_ms=100)}"
    stream = iter(gateway.client().chat.completions.create(**ask(text), stream=True))
    next(stream)
    gateway.process.send_signal(signal.SIGTERM)
    chunks = list(stream)
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert gateway.process.wait(20) == 0
    assert not [child for child in psutil.process_iter() if str(gateway.folder) in " ".join(_cmdline(child))]


def _cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
