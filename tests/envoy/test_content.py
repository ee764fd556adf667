"""Messages in traces, where `telemetry.content` asks for them: every way an answer takes, and nowhere else."""

import json
import sqlite3
from typing import Any

import pytest

from extproc.paths import Paths
from tests.envoy.harness import Config, Gateway, ask, wait_until
from tests.telemetry.collector import Collector, plain

SECRET = "sk-live-8f7a6b5c4d3e2f1a0b9c"


@pytest.fixture(scope="module")
def config(config: Config, collector: Collector) -> Config:
    telemetry = {"otlp_endpoint": collector.url, "content": True}
    return config | {"telemetry": telemetry, "cache": {"exact": True, "coalesce_wait": "3s"}}


def told(collector: Collector, request_id: str, model: str) -> dict[str, Any]:
    trace = request_id.replace("-", "")
    wait_until(lambda: collector.trace(trace), 30, "the trace")
    span = collector.trace(trace)[f"chat {model}"]
    return {item.key: plain(item.value) for item in span.attributes}


@pytest.mark.parametrize("model", ["gpt", "claude", "gemini"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_both_sides_are_told(gateway: Gateway, collector: Collector, model: str, stream: bool) -> None:
    """Native and translated, whole and streamed; the second time from the cache, as the first was told."""
    found = []
    for _ in range(2):
        raw = gateway.client().chat.completions.with_raw_response.create(
            **ask(f"My key is {SECRET}, forget it {model} {stream}", model), stream=stream
        )
        answer = raw.parse()
        text = (
            "".join(chunk.choices[0].delta.content or "" for chunk in answer if chunk.choices)
            if stream
            else answer.choices[0].message.content
        )
        given = told(collector, raw.headers["x-gateway-request-id"], model)
        found.append((json.loads(given["gen_ai.input.messages"]), json.loads(given["gen_ai.output.messages"])))
        asked, answered = found[-1]
        assert asked[0]["role"] == "user"
        assert "forget it" in asked[0]["parts"][0]["content"]
        shown = answered[0]["parts"][0]["content"]
        assert text[:8] == shown[:8]
        assert answered[0]["finish_reason"] == "stop"
        gateway.row(raw.headers["x-gateway-request-id"])
    assert found[0] == found[1]


def test_no_secret_and_nowhere_else(gateway: Gateway, collector: Collector) -> None:
    assert SECRET.encode() not in b"".join(span.SerializeToString() for span in collector.spans)
    assert "forget it" not in gateway.log()
    assert "forget it" not in json.dumps(gateway.rows())
    assert "forget it" not in Paths.of(gateway.data_dir).request_log.read_text(errors="replace")
    journal = sqlite3.connect(gateway.data_dir / "journal.db")
    wait_until(lambda: journal.execute("SELECT count(*) FROM content").fetchone() == (0,), 10, "nothing to be kept")
