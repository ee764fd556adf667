"""Log lines about one request name it, and its trace: the client's where it had one."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from extproc.process.logs import JsonLines
from extproc.settle.als import Entries
from extproc.settle.follow import WAIT_S, Follower
from extproc.settle.journal import connect
from extproc.settle.recent import Recent
from extproc.settle.retention import Retention
from extproc.settle.settle import settle_request
from extproc.settle.writer import Row, Writer
from protos.gen import accesslog_pb2 as pb
from tests.settle.builders import attempt, audit, decision, entry, message

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [json.loads(JsonLines("test").format(record)) for record in caplog.records]


def test_metadata_that_cannot_be_read(caplog: pytest.LogCaptureFixture) -> None:
    broken = entry(request_id="r7", decision=decision(request_id="r7", traceparent=PARENT), outcome="no JSON")
    settle_request(pb.HTTPAccessLogEntry.FromString(broken), lambda *_: (0, 0))
    (line,) = lines(caplog)
    assert (line["event"], line["request_id"], line["trace_id"]) == ("unreadable metadata", "r7", TRACE)


def test_a_decision_that_cannot_be_read_has_no_trace_to_tell(caplog: pytest.LogCaptureFixture) -> None:
    settle_request(pb.HTTPAccessLogEntry.FromString(entry(request_id="r7", decision="no JSON")), lambda *_: (0, 0))
    (line,) = lines(caplog)
    assert line["request_id"] == "r7"
    assert "trace_id" not in line


def test_an_entry_that_cannot_be_settled(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def take(self, log_name: str, entry: pb.HTTPAccessLogEntry) -> None:
            raise ValueError("no")

        def unreadable(self) -> None:
            pass

    given = entry(request_id="r7", decision=decision(request_id="r7", traceparent=PARENT))
    Entries(Broken()).receive("", message(given, log_name="request"))
    (line,) = lines(caplog)
    assert (line["request_id"], line["trace_id"]) == ("r7", TRACE)


@pytest.mark.parametrize(
    "rows",
    [
        [audit("r7", traceparent=PARENT, input_tokens=2**70)],
        [audit("r7", traceparent=PARENT), attempt("r7", status=2**70)],
    ],
    ids=["of a request", "of an attempt"],
)
def test_a_row_that_cannot_be_written(caplog: pytest.LogCaptureFixture, tmp_path: Any, rows: list[Row]) -> None:
    writer = Writer(lambda: connect(tmp_path / "journal.db"), Retention(86_400.0))
    writer.start()
    for row in rows:
        writer.add(row)
    writer.close(10)
    (line,) = (line for line in lines(caplog) if line["event"] == "row cannot be written")
    assert (line["request_id"], line["trace_id"]) == ("r7", TRACE)


async def test_a_line_of_envoys_log_that_cannot_be_read(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """As Envoy writes it; but for its time."""
    made = msgspec.json.encode(decision(request_id="r7", traceparent=PARENT)).decode()
    line = {"id": "r7", "start": "no time", "decision": made}
    (tmp_path / "requests.log").write_text(json.dumps(line) + "\n")
    paths = (tmp_path / "requests.log", tmp_path / "admin.sock")
    follower = Follower(*paths, Recent(), lambda _: set(), lambda *_: None, unwritten=lambda: 0)
    await follower.step(0.0)
    await follower.step(WAIT_S)
    (told,) = lines(caplog)
    assert (told["event"], told["request_id"]) == ("unreadable line in the request log", "r7")
    assert told["trace_id"] == TRACE
