"""Samples to stages."""

from pathlib import Path

from bench.stages import REST, STAGES, stage_of, table

ROOT = Path(__file__).resolve().parents[2]


def test_a_sample_is_of_its_innermost_stage() -> None:
    outer = ["<module> (gateway:8)", "_Peer.data_received (extproc/transport/lean.py:83)"]
    assert stage_of(outer) == "transport"
    assert stage_of([*outer, "parse_chat (extproc/chat.py:9)", "decode (msgspec/_core.c:1)"]) == "read"
    assert stage_of([*outer, "_Peer.wake (extproc/transport/lean.py:113)", "write (libc.so.6)"]) == "write to a socket"
    assert stage_of(["run_forever (loop.c:33192)", "read (libc.so.6)"]) == REST


def test_the_table_adds_up_and_waiting_is_no_work() -> None:
    lines = [
        "a (x.py:1);read_chat (extproc/chat.py:1) 30",
        "a (x.py:1);parse (extproc/exchange/frames.py:1) 10",
        "a (x.py:1);epoll_pwait (libc.so.6) 1000",
    ]
    _, read, messages, whole = table(lines, 400.0)
    assert read.split() == ["read", "75.0%", "300"]
    assert messages.split()[-2:] == ["25.0%", "100"]
    assert whole.split() == ["all", "400"]


def test_every_file_that_a_stage_names_is_there() -> None:
    for mark in (mark for _, marks in STAGES for mark in marks if mark.startswith("(")):
        assert (ROOT / mark[1:]).exists(), mark
