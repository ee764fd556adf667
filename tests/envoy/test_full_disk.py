"""A disk that is full, and has room again: a file system of a few MiB under a gateway's data directory."""

import contextlib
import json
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.envoy.books import Books
from tests.envoy.harness import GATEWAY, Config, Gateway, ask, at_once, bearer, running, wait_until
from tests.telemetry.collector import Collector, Span

# When the trouble begins, when it ends. The embedded state is on that disk too.
LINES = {
    "journal cannot be written; rows wait in memory": "journal is written again",
    "health cannot be written": "health is written again",
    "configuration cannot be taken over; tried again": "configuration can be taken over",
    "health is not shared now": "health is shared again",
    "ledger unavailable; the outage policy decides": "ledger answers again",
}


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    folder = tmp_path / "data"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder], check=False)
    if mounted.returncode != 0:
        pytest.skip("nothing can be mounted here: needs root")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path) -> Path:
    """A file that takes all there is, down to the last page."""
    filler = folder / "filler"
    with filler.open("wb", 0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    return filler


def told(gateway: Gateway) -> Counter[str]:
    """How often each line was logged."""
    return Counter(json.loads(line)["event"] for line in gateway.log().splitlines() if line.startswith("{"))


def test_a_full_disk_costs_no_request_and_is_told_once(
    new_config: Callable[[], Config], small: Path, collector: Collector
) -> None:
    config = new_config()
    config |= {"data_dir": str(small), "telemetry": {"otlp_endpoint": collector.url}}
    with running(config) as gateway:
        sent: list[str] = []

        def send() -> bool:
            asked = ask("hi", stream=bool(len(sent) % 2))  # of which the answer passes by Envoy alone
            answer = gateway.http.post("/v1/chat/completions", json=asked, headers=bearer())
            assert answer.status_code == 200, answer.text
            sent.append(answer.headers["x-gateway-request-id"])
            return True

        books = Books(gateway, "team-a")
        send()
        filler = fill(small)
        config["teams"].append({"id": "team-new", "keys": ["sk-new"]})
        gateway.file.write_text(yaml.safe_dump(config))
        wait_until(lambda: at_once(send) and LINES.keys() <= told(gateway).keys(), 60, "all to be in trouble")
        reload = subprocess.run(
            [GATEWAY, "reload", "--config", gateway.file], capture_output=True, text=True, check=False
        )
        assert (reload.returncode, "No space left" in reload.stderr) == (1, True), reload.stderr
        assert not list((small / "envoy").glob(".*.json.*")), "what could not be used is left behind"
        at_once(send)
        assert gateway.http.get("/v1/models", headers=bearer("sk-new")).status_code == 401
        filler.unlink()
        wait_until(lambda: at_once(send) and set(LINES.values()) <= told(gateway).keys(), 60, "all to be well")
        wait_until(
            lambda: gateway.http.get("/v1/models", headers=bearer("sk-new")).status_code == 200, 20, "the change"
        )
        wait_until(lambda: {row["request_id"] for row in gateway.rows()} == set(sent), 30, "every row")
        books.close(len(sent), 0)
        lines = told(gateway)
        workers = len(gateway.processes("gateway worker"))
        for begins, ends in LINES.items():
            assert (lines[begins], lines[ends]) == (workers, workers) if "ledger" in begins else (1, 1), begins
        wait_until(lambda: collector.traces >= len(sent), 30, "every trace")
        roots = Counter(span.trace_id.hex() for span in collector.spans if span.kind == Span.SPAN_KIND_SERVER)
        assert roots == Counter(request_id.replace("-", "") for request_id in sent)
