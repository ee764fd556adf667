"""Answers that pass by Envoy alone, while what stands beside it is away: workers, the shared state, the disk."""

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest

from extproc.paths import Paths
from tests.envoy.books import Books, served
from tests.envoy.harness import Config, Gateway, Simulator, ask, at_once, bearer, marker, wait_until
from tests.envoy.scripted import Scripted, whole

ERROR = json.dumps({"error": {"message": "Say it otherwise", "type": "invalid_request_error"}}).encode()
STREAMED = pytest.mark.parametrize("streamed", [True, False], ids=["stream", "whole"])


@pytest.fixture(scope="module")
def config(passing_config: Config) -> Config:
    """Who waits for a worker that hangs is not given up on meanwhile."""
    passing_config["routing"]["first_byte_timeout"] = "60s"
    return passing_config


def post(gateway: Gateway, model: str, streamed: bool, text: str = "hi") -> Any:
    return gateway.http.post("/v1/chat/completions", json=ask(text, model, stream=streamed), headers=bearer())


@pytest.fixture
def unattended(gateway: Gateway) -> Iterator[Gateway]:
    """Nobody starts what has ended."""
    supervisor = psutil.Process(gateway.process.pid)
    supervisor.suspend()
    yield gateway
    for worker in gateway.processes("gateway worker"):
        worker.resume()
    supervisor.resume()
    back(gateway)


def back(gateway: Gateway) -> None:
    def well() -> bool:
        return {answer.status_code for answer in at_once(lambda: post(gateway, "gpt", True))} == {200}

    wait_until(lambda: all(takes_requests(gateway, index) for index in (0, 1)), 20, "the workers to come back")
    wait_until(well, 20, "them to serve")


class Held:
    """A provider's answer that comes when it is let go."""

    def __init__(self, scripted: Scripted) -> None:
        self.go, self._scripted = threading.Event(), scripted

        def answer(_: Any) -> Iterator[bytes]:
            self.go.wait(60)
            yield whole(ERROR, status=400)

        scripted.does(answer)

    def asked(self, times: int) -> bool:
        return len(self._scripted.calls) == times


@STREAMED
@pytest.mark.parametrize("ends", [psutil.Process.kill, psutil.Process.suspend], ids=["dead", "hanging"])
def test_where_the_worker_is_gone_another_tells_by_the_status(
    unattended: Gateway, scripted: Scripted, ends: Callable[[psutil.Process], None], streamed: bool
) -> None:
    held = Held(scripted)
    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(post, unattended, "odd", streamed) for _ in range(8)]
        wait_until(lambda: held.asked(8), 10, "the provider to be asked")
        for worker in unattended.processes("gateway worker 0"):
            ends(worker)
        held.go.set()
        answers = [each.result() for each in running]
    assert {answer.status_code for answer in answers} == {400}
    assert {answer.headers["x-gateway-attempts"] for answer in answers} == {"1"}
    for answer in answers:
        row = unattended.row(answer.headers["x-gateway-request-id"])
        assert (row["status"], row["http_status"], row["error_code"]) == ("failed", 400, "invalid_request_error")
        assert (row["input_tokens"], row["output_tokens"]) == (0, 0)


@STREAMED
def test_where_all_are_gone_the_operator_is_told(unattended: Gateway, scripted: Scripted, streamed: bool) -> None:
    held, before = Held(scripted), unread(unattended)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(post, unattended, "odd", streamed)
        wait_until(lambda: held.asked(1), 10, "the provider to be asked")
        for worker in unattended.processes("gateway worker"):
            worker.kill()
        held.go.set()
        answer = running.result()
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "answer_unread")
    request_id = answer.headers["x-gateway-request-id"]
    row = unattended.row(request_id)
    assert (row["status"], row["error_code"], row["attempts"]) == ("failed", "answer_unread", 1)
    wait_until(lambda: unread(unattended) == before + 1, 10, "the count")
    psutil.Process(unattended.process.pid).resume()  # it is what writes the log

    def lines() -> list[dict[str, Any]]:
        return [json.loads(line) for line in unattended.log().splitlines() if request_id in line]

    wait_until(lines, 10, "a line")
    assert [(line["level"], line["event"]) for line in lines()] == [
        ("warning", "no worker was there to read an answer"),
    ]


def unread(gateway: Gateway) -> int:
    lines = gateway.http.get("/metrics").text.splitlines()
    (count,) = [line.rpartition(" ")[2] for line in lines if line.startswith("gateway_unread_answers_total ")]
    return int(count)


@STREAMED
def test_a_worker_that_is_to_end_waits_for_what_may_need_it(
    gateway: Gateway, scripted: Scripted, streamed: bool
) -> None:
    held = Held(scripted)
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(post, gateway, "odd", streamed) for _ in range(4)]
        wait_until(lambda: held.asked(4), 10, "the provider to be asked")
        for worker in gateway.processes("gateway worker"):
            worker.terminate()
        wait_until(lambda: not any(takes_requests(gateway, index) for index in (0, 1)), 10, "them to take no more")
        held.go.set()
        answers = [each.result() for each in running]
    assert [answer.json()["error"]["message"] for answer in answers] == ["Say it otherwise"] * 4
    back(gateway)


def takes_requests(gateway: Gateway, worker: int) -> bool:
    with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
        probe.connect(str(Paths.of(gateway.data_dir).worker_socket(worker)))
        return True
    return False


@STREAMED
@pytest.mark.parametrize("ends", [psutil.Process.kill, psutil.Process.suspend], ids=["dead", "hanging"])
@pytest.mark.parametrize("when", ["before", "during"])
def test_without_the_shared_state_all_is_answered_and_charged_afterwards(
    gateway: Gateway, primary: Simulator, when: str, ends: Callable[[psutil.Process], None], streamed: bool
) -> None:
    books, rows = Books(gateway, "team-a"), len(gateway.rows(team_id="team-a"))
    (valkey,) = gateway.processes("valkey-server")
    text = f"A story {marker(first_byte_ms=700, chunks=20, chunk_interval_ms=20)}"
    with ThreadPoolExecutor(4) as pool:
        if when == "before":
            ends(valkey)
        running = [pool.submit(post, gateway, "gpt", streamed, text) for _ in range(4)]
        if when == "during":
            wait_until(lambda: len(primary.recent()) == 4, 10, "the provider to be asked")
            ends(valkey)
        answers = [each.result() for each in running]
    if valkey.is_running():
        valkey.resume()
    assert [answer.status_code for answer in answers] == [200] * 4
    wait_until(lambda: "gateway_ledger_up 1" in gateway.http.get("/metrics").text.splitlines(), 20, "the state")
    books.close(4, rows)
    assert served(primary) == books.used
    for answer in answers:
        row = gateway.row(answer.headers["x-gateway-request-id"])
        assert (row["status"], row["native"], row["estimated"]) == ("success", True, False)
