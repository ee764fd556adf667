"""A child process: kept alive with back-off, its words passed on, ended in time, gone with its parent."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest
import redis

from control.output import Stderr
from control.supervise import FIRST_DELAY_S, HEALTHY_AFTER_S, LONGEST_DELAY_S, Child, Process, next_delay_s
from control.valkey import shut_down
from tests.budget.conftest import Valkey


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(15):
        while not condition():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.02)


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Callable[..., Child]]:
    """Starts `sh -c SCRIPT`; what it prints is in the file `stderr`."""
    children: list[Child] = []
    with (tmp_path / "stderr").open("wb", 0) as file:
        stderr = Stderr(file.fileno())

        def run(script: str, grace_s: float = 5.0) -> Child:
            child = Child(Process(name="it", argv=("sh", "-c", script), grace_s=grace_s), os.environ, stderr)
            children.append(child)
            child.start()
            return child

        yield run
        for child in children:
            await child.stop()
        stderr.close()


def test_the_back_off_doubles_to_a_limit_and_ends_with_a_long_life() -> None:
    delays = [0.0]
    while delays[-1] < LONGEST_DELAY_S:
        delays.append(next_delay_s(delays[-1], 0.1))
    assert delays[1:4] == [FIRST_DELAY_S, 2 * FIRST_DELAY_S, 4 * FIRST_DELAY_S]
    assert next_delay_s(LONGEST_DELAY_S, 0.1) == LONGEST_DELAY_S
    assert next_delay_s(LONGEST_DELAY_S, HEALTHY_AFTER_S) == FIRST_DELAY_S


async def test_a_child_that_ends_is_started_again_and_logged(
    start: Callable[..., Child], caplog: pytest.LogCaptureFixture
) -> None:
    child = start("exit 3")
    await until(lambda: child.deaths >= 3)
    assert child.last_end == "exit code 3"
    told = [record for record in caplog.records if record.message == "child ended; restarting it"]
    assert [vars(record)["restart_in_s"] for record in told[:3]] == [0.1, 0.2, 0.4]
    assert {vars(record)["child"] for record in told} == {"it"}


async def test_a_killed_child_is_told_by_its_signal(start: Callable[..., Child]) -> None:
    child = start("kill -9 $$")
    await until(lambda: child.deaths)
    assert child.last_end == "signal SIGKILL"


async def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    child = Child(Process(name="it", argv=("/no/such/program",)), os.environ, Stderr())
    child.start()
    await until(lambda: child.deaths)
    await child.stop()
    assert child.last_end.startswith("could not be started: ")


async def test_its_lines_are_passed_on_whole_and_the_last_ones_kept(
    start: Callable[..., Child], tmp_path: Path
) -> None:
    child = start(
        "printf 'half a ' >&2; sleep 0.1; echo line >&2; for n in 1 2 3 4 5 6 7 8; do echo $n >&2; done; sleep 60"
    )
    await until(lambda: "8" in child.lines.tail)
    await until(lambda: (tmp_path / "stderr").read_text().endswith("7\n8\n"))
    assert (tmp_path / "stderr").read_text().startswith("half a line\n1\n")
    assert list(child.lines.tail) == list("12345678")


async def test_stop_asks_then_kills(start: Callable[..., Child]) -> None:
    polite, deaf = start("exec sleep 60"), start("trap '' TERM; echo deaf >&2; while :; do sleep 1; done", grace_s=0.2)
    await until(lambda: "deaf" in deaf.lines.tail)
    await asyncio.gather(polite.stop(), deaf.stop())
    assert polite.deaths == deaf.deaths == 0, "an end that was asked for is no death"


@pytest.mark.parametrize("answer", [True, False, OSError("not there")])
async def test_who_is_bidden_farewell_is_sent_a_signal_only_when_he_will_not_go(
    answer: bool | OSError, tmp_path: Path
) -> None:
    async def farewell() -> bool:
        if isinstance(answer, OSError):
            raise answer
        if answer:
            (tmp_path / "bidden").touch()
        return answer

    script = "trap 'echo signal >&2; exit' TERM; echo up >&2; until [ -e bidden ]; do sleep 0.05; done"
    process = Process(name="it", argv=("sh", "-c", f"cd {tmp_path}; {script}"), farewell=farewell)
    child = Child(process, os.environ, Stderr())
    child.start()
    await until(lambda: "up" in child.lines.tail)
    await child.stop()
    assert ("signal" in child.lines.tail) == (answer is not True)


async def test_valkey_goes_when_it_is_bidden_farewell() -> None:
    server = Valkey("--appendonly", "yes", "--appendfsync", "everysec").start()
    client = redis.Redis(unix_socket_path=str(server.socket))
    client.set("kept", "value")
    assert await shut_down(server.socket)
    with pytest.raises((FileNotFoundError, ConnectionRefusedError)):
        await shut_down(server.socket)
    server.start()
    assert client.get("kept") == b"value"
    server.close()


async def test_a_reader_who_stops_reading_stops_nobody(tmp_path: Path) -> None:
    """Our stderr is a pipe that is full: lines are dropped, the child runs on."""
    read, write = os.pipe()
    stderr = Stderr(write)
    finished = tmp_path / "finished"
    line = "head -c 60000 /dev/zero | tr '\\0' x >&2; echo >&2"
    script = f"i=0; while [ $i -lt 40 ]; do {line}; i=$((i+1)); done; touch {finished}; sleep 60"
    child = Child(Process(name="it", argv=("sh", "-c", script)), os.environ, stderr)
    child.start()
    await until(finished.exists)
    await child.stop()
    os.close(read)
    stderr.close()
    os.close(write)


PARENT = """
import asyncio, os, sys
from control.output import Stderr
from control.supervise import Child, Process
async def main():
    child = Child(Process(name="it", argv=("sleep", "600")), os.environ, Stderr())
    child.start()
    await asyncio.sleep(0.5)
    print(child._running.pid, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells a child of its parent's death")
def test_nothing_is_left_when_the_supervisor_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with contextlib.suppress(psutil.NoSuchProcess):
                if child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
                    time.sleep(0.02)
                    continue
            return
        pytest.fail("the child lives on")
