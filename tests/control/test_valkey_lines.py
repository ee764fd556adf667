"""The embedded state's lines, in the form of all others."""

import json
from pathlib import Path

import pytest

from control.output import Lines, Stderr
from control.valkey import as_json


@pytest.mark.parametrize(
    ("line", "level", "event"),
    [
        (b"22697:M 24 Nov 2026 13:59:19.579 # Short write while writing", "warning", "Short write while writing"),
        (b"22697:M 24 Nov 2026 13:59:19.579 * Ready", "info", "Ready"),
        (
            b"7:M 24 Nov 2026 13:59:19.579 # Valkey is now ready to exit, bye",
            "info",
            "Valkey is now ready to exit, bye",
        ),
        (b"7:signal-handler (1795997560) Received SIGTERM", "info", "Received SIGTERM"),
        (b"of another form", "info", "of another form"),
    ],
)
def test_a_line_keeps_its_level_but_where_it_is_no_warning(line: bytes, level: str, event: str) -> None:
    made = json.loads(as_json(line) or b"{}")
    assert (made["level"], made["process"], made["event"]) == (level, "valkey", event)


def test_its_advice_at_every_start_is_left_out_and_all_around_it_told(tmp_path: Path) -> None:
    with (tmp_path / "stderr").open("wb") as file:
        stderr = Stderr(file.fileno())
        head = b"7:M 24 Nov 2026 13:59:19.579 # "
        advice = head + b"WARNING Memory overcommit must be enabled! Without it, a background save may fail.\n"
        lines = Lines(stderr, as_json)
        lines.feed(advice)
        lines.feed(head + b"Short write\n" + advice + head + b"Disk")
        lines.feed(b" full\n")
        stderr.close()
    told = [json.loads(text)["event"] for text in (tmp_path / "stderr").read_text().splitlines()]
    assert told == ["Short write", "Disk full"]
