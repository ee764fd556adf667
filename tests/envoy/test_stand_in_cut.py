"""A stand-in of another format that answered in vain: its answer was of no use, too slow, or torn before it was whole.

Its provider had read the request all the same: that much is charged beside what the next one uses.
"""

import json
from typing import Any

import pytest

from tests.envoy.books import Books
from tests.envoy.harness import ADMIN_KEY, Config, Gateway, Simulator, ask, bearer, wait_until
from tests.envoy.scripted import RESET, Scripted, whole
from tests.envoy.stand_in import StandIn, answer_of, with_stand_in

TEAM = "team-a"
ERROR = {"type": "error", "error": {"type": "api_error", "message": "Nothing came of it"}}


@pytest.fixture(scope="module")
def config(passing_config: Config, scripted: Scripted) -> Config:
    """One deadline for all: the third one has to answer within it, on a busy machine too."""
    passing_config["routing"]["first_byte_timeout"] = "5s"
    return with_stand_in(passing_config, scripted, "gpt-b")


def post(gateway: Gateway) -> Any:
    return gateway.http.post("/v1/chat/completions", json=ask("hi there", "odd"), headers=bearer())


@pytest.mark.parametrize("vain", ["too slow", "torn", "of no use"])
@pytest.mark.parametrize("next_one", ["answers", "fails"])
def test_its_input_is_charged(
    gateway: Gateway, scripted: Scripted, second: Simulator, next_one: str, vain: str
) -> None:
    if next_one == "fails":
        second.faults({"format": "openai", "status": 503})
    first, rest = {
        "too slow": answer_of(False),
        "torn": ([*answer_of(False)[0], RESET], []),
        "of no use": ([whole(json.dumps(ERROR).encode())], []),
    }[vain]
    books, rows = Books(gateway, TEAM), len(gateway.rows(team_id=TEAM))
    stand_in = StandIn(gateway, scripted, first, rest)
    answer = post(gateway)
    stand_in.go.set()
    assert (answer.status_code == 200) is (next_one == "answers")
    row = gateway.row(answer.headers["x-gateway-request-id"])
    assert (row["attempts"], row["status"]) == (3, "fallback" if next_one == "answers" else "failed")
    assert (row["output_tokens"] > 0) is (next_one == "answers")
    assert row["outrun_tokens"] == row["estimated_input_tokens"]
    paid = row["outrun_tokens"] + row["input_tokens"] + 4 * row["output_tokens"]
    assert row["cost_usd"] == pytest.approx(paid / 1e6)
    wait_until(lambda: books.held == 0, 10, "the hold to be settled")
    assert (books.used, books.held) == (books.audited + row["outrun_tokens"], 0)
    assert len(gateway.rows(team_id=TEAM)) == rows + 1


def test_a_page_of_html_from_a_stand_in_is_no_stream(gateway: Gateway, scripted: Scripted, second: Simulator) -> None:
    """No more than from who is asked first: an error with its status, and nothing billed."""
    second.faults({"format": "openai", "status": 503})
    page = whole(b"<html>\n\n<script>alert(1)</script>\n\n</html>", content_type="text/html")
    scripted.does(lambda call: [page if call.path.endswith("/messages") else whole(b"{}", status=503)])
    answer = gateway.http.post("/v1/chat/completions", json=ask("hi there", "odd", stream=True), headers=bearer())
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "provider_error")
    row = gateway.row(answer.headers["x-gateway-request-id"])
    assert (row["status"], row["http_status"], row["input_tokens"]) == ("failed", 502, 0)


@pytest.mark.parametrize("length", [10, 1_500_000], ids=["without usage", "too long for Envoy to write fields into"])
def test_a_whole_answer_that_has_to_be_read_again(gateway: Gateway, scripted: Scripted, length: int) -> None:
    """By then it is in the client's format."""
    said = {"type": "message", "stop_reason": "end_turn", "content": [{"type": "text", "text": "x" * length}]}
    usage = {"usage": {"input_tokens": 9, "output_tokens": 400}} if length > 10 else {}
    answered = whole(json.dumps(said | usage).encode())
    scripted.does(lambda call: [answered if call.path.endswith("/messages") else whole(b"{}", status=503)])
    headers = bearer() | {"x-gateway-metadata": "body"}
    answer = gateway.http.post("/v1/chat/completions", json=ask("hi there", "odd"), headers=headers)
    assert (answer.status_code, answer.headers["x-gateway-model"]) == (200, "another")
    assert answer.json()["choices"][0]["message"]["content"] == "x" * length
    row = gateway.row(answer.headers["x-gateway-request-id"])
    assert (row["status"], row["estimated"]) == ("fallback", not usage)
    assert row["output_tokens"] == 400 or not usage


def test_one_that_is_torn_with_nobody_left_is_charged_as_the_first_would_be(
    gateway: Gateway, scripted: Scripted
) -> None:
    admin = bearer(ADMIN_KEY)
    StandIn(gateway, scripted, [*answer_of(False)[0], RESET], [])
    assert gateway.http.post("/v1/providers/openai-b/drain", headers=admin).status_code == 200
    try:

        def drained() -> bool:
            answers.append(post(gateway))
            return gateway.row(answers[-1].headers["x-gateway-request-id"])["attempts"] == 2

        answers: list[Any] = []
        wait_until(drained, 10, "the third to be out of use")
    finally:
        gateway.http.post("/v1/providers/openai-b/enable", headers=admin)
    assert answers[-1].status_code == 502
    row = gateway.row(answers[-1].headers["x-gateway-request-id"])
    assert (row["status"], row["estimated"], row["outrun_tokens"]) == ("failed", True, 0)
    assert row["input_tokens"] > 0
