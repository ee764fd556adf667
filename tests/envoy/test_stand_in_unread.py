"""A stand-in of another format, whose answer is with the worker behind the loopback when that worker is killed.

The one entry that Envoy has of the request tells who was asked and what that one bills, whichever way it comes to the
settler.
"""

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest

from tests.envoy.books import Books
from tests.envoy.harness import Config, Gateway, ask, at_once, bearer, wait_until
from tests.envoy.scripted import Scripted, whole
from tests.envoy.stand_in import StandIn, answer_of, with_stand_in

STREAMED = pytest.mark.parametrize("streamed", [True, False], ids=["stream", "whole"])
TEAM = "team-a"


@pytest.fixture(scope="module")
def config(passing_config: Config, scripted: Scripted) -> Config:
    """A third one is not up."""
    passing_config["routing"]["first_byte_timeout"] = "60s"
    return with_stand_in(passing_config, scripted, "dead-ha")


@pytest.fixture
def unattended(gateway: Gateway) -> Iterator[Gateway]:
    """Nobody starts what has ended, until the test is over."""
    supervisor = psutil.Process(gateway.process.pid)
    supervisor.suspend()
    yield gateway
    supervisor.resume()


@pytest.fixture(autouse=True)
def _well(gateway: Gateway) -> None:
    """What the test before has killed is back."""

    def well() -> bool:
        body = ask("hi", "gpt")
        post = gateway.http.post
        answers = at_once(lambda: post("/v1/chat/completions", json=body, headers=bearer()))
        return {answer.status_code for answer in answers} == {200}

    wait_until(well, 20, "the gateway to serve")


def post(gateway: Gateway, streamed: bool) -> httpx.Response:
    """As much of the answer as comes."""
    body = ask("hi there", "odd", stream=streamed)
    with gateway.http.stream("POST", "/v1/chat/completions", json=body, headers=bearer()) as answer:
        with contextlib.suppress(httpx.RemoteProtocolError):
            answer.read()
        return answer


def kill(gateway: Gateway, *titles: str) -> None:
    for process in [each for title in titles for each in gateway.processes(title)]:
        process.kill()


def settled(gateway: Gateway, answer: httpx.Response) -> dict[str, Any]:
    """The row, once a supervisor is there again who sees to it."""
    psutil.Process(gateway.process.pid).resume()
    return gateway.row(answer.headers["x-gateway-request-id"])


@STREAMED
@pytest.mark.parametrize("killed", [("gateway worker",), ("gateway worker", "gateway settler")], ids=len)
@pytest.mark.parametrize("begun", [True, False], ids=["begun", "not begun"])
def test_the_stand_in_is_charged(
    unattended: Gateway, scripted: Scripted, begun: bool, killed: tuple[str, ...], streamed: bool
) -> None:
    """The settler's entry is the same whether it was there when it came or reads it in Envoy's file."""
    books, rows = Books(unattended, TEAM), len(unattended.rows(team_id=TEAM))
    first, rest = answer_of(streamed)
    stand_in = StandIn(unattended, scripted, first if begun else [], rest if begun else first + rest)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(post, unattended, streamed)
        wait_until(stand_in.began, 10, "the stand-in to be asked")
        kill(unattended, *killed)
        answer = running.result()
        stand_in.go.set()
    assert answer.headers["x-gateway-provider"] == "other"
    assert (streamed and begun) or answer.json()["error"]["code"] == "answer_unread"
    row = settled(unattended, answer)
    assert (row["status"], row["attempts"], stand_in.times_asked) == ("failed", 2, 1)
    assert (row["model_used"], row["provider_used"]) == ("another", "other")
    assert row["estimated"]
    assert row["input_tokens"] > 0
    assert (row["output_tokens"] > 0) is begun
    assert row["cost_usd"] == pytest.approx((row["input_tokens"] + 4 * row["output_tokens"]) / 1e6)
    books.close(1, rows)


@STREAMED
@pytest.mark.parametrize("told_by", ["another", "nobody"])
def test_an_error_is_not_charged(unattended: Gateway, scripted: Scripted, told_by: str, streamed: bool) -> None:
    """One that came while the worker hung, which was killed then. Another worker, if there is one, tells the status."""
    books, rows = Books(unattended, TEAM), len(unattended.rows(team_id=TEAM))
    stand_in = StandIn(unattended, scripted, [], [whole(b"{}", status=400)])
    first = unattended.processes("gateway worker 0")
    others = unattended.processes("gateway worker 1")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(post, unattended, streamed)
        wait_until(stand_in.began, 10, "the stand-in to be asked")
        for worker in first + others:
            worker.suspend()
        stand_in.go.set()
        wait_until(stand_in.began, 10, "its answer")
        for worker in first:
            worker.kill()
        for worker in others:
            if told_by == "another":
                worker.resume()
            else:
                worker.kill()
        answer = running.result()
    row = settled(unattended, answer)
    assert (row["status"], row["attempts"], row["provider_used"]) == ("failed", 2, "other")
    assert (row["input_tokens"], row["output_tokens"]) == (0, 0)
    books.close(1, rows)
