"""Envoy's request log says what the access log service says: a line makes the same row as the entry did."""

import contextlib
import os
import signal
import time
from typing import Any

import openai

from extproc.settle.logfile import entry, request_id
from extproc.settle.settle import settle_request
from tests.envoy.harness import Gateway, ask, marker, raw_post, wait_until

SAME = (
    "team_id",
    "model_requested",
    "model_used",
    "provider_used",
    "status",
    "error_code",
    "http_status",
    "attempts",
    "stream",
    "input_tokens",
    "cached_tokens",
    "finish_reason",
    "estimated",
    "received_at",
    "details",
)


def lines(gateway: Gateway) -> dict[str, bytes]:
    text = (gateway.data_dir / "requests.log").read_bytes()
    return {request_id(line) or "": line for line in text.splitlines()}


def quietly(gateway: Gateway, body: dict[str, Any]) -> None:
    with contextlib.suppress(openai.APIError, Exception):
        result = gateway.client().chat.completions.create(**body)
        if body.get("stream"):
            list(result)


def test_every_kind_of_end_reads_the_same(gateway: Gateway) -> None:
    for model in ("gpt", "claude", "gpt-ha", "nope"):
        for stream in (False, True):
            for text in (
                "hi",
                marker(status=503),
                marker(status=400),
                marker(reset="mid_stream", chunk_interval_ms=20),
            ):
                quietly(gateway, ask(text, model, stream=stream))
    with raw_post(gateway, ask(f"story {marker(chunks=50, chunk_interval_ms=40)}", stream=True)) as connection:
        connection.recv(4096)
    wait_until(lambda: len(gateway.rows()) == 33 and len(lines(gateway)) == 33, 10, "33 rows and lines")
    read = lines(gateway)
    for row in gateway.rows():
        again = settle_request(entry(read[row["request_id"]]), lambda *_: (0, 0))
        assert again is not None
        for name in SAME:
            ours = getattr(again, name)
            told = row[name]
            if name == "received_at":
                assert abs(ours - told) < 0.001 if isinstance(told, float) else True
            else:
                assert ours == told, (name, row)
        if not row["estimated"]:
            assert again.output_tokens == row["output_tokens"]


def test_a_request_without_a_key_is_not_in_it(gateway: Gateway) -> None:
    before = len(lines(gateway))
    gateway.http.post("/v1/chat/completions", json=ask("hi"))
    gateway.http.get("/v1/models")
    time.sleep(0.5)
    assert len(lines(gateway)) == before


def test_what_ended_while_the_settler_was_stopped_is_settled_later(gateway: Gateway) -> None:
    """The service's entries go nowhere; the file has them."""
    before = {row["request_id"] for row in gateway.rows()}
    settler = gateway.processes("gateway settler")[0]
    os.kill(settler.pid, signal.SIGKILL)
    for _ in range(20):
        quietly(gateway, ask("hi"))
    wait_until(lambda: len({row["request_id"] for row in gateway.rows()} - before) == 20, 20, "20 rows")


def test_the_file_is_rotated_and_nothing_is_lost(gateway: Gateway) -> None:
    log, before = gateway.data_dir / "requests.log", len(gateway.rows())
    with log.open("ab") as file:  # as if it had grown: an unreadable line, which is passed over
        file.write(b"x" * (33 * 1024 * 1024) + b"\n")
    wait_until(lambda: log.exists() and log.stat().st_size < 1024 * 1024, 20, "a new, small log")
    for _ in range(5):
        quietly(gateway, ask("hi"))
    wait_until(lambda: len(gateway.rows()) == before + 5, 10, "five more rows")
    wait_until(lambda: log.stat().st_size > 0, 10, "lines in the new log")
    wait_until(lambda: not log.with_suffix(".old").exists(), 10, "the old log to go")
