"""The embedded state's lines, in the form of all others."""

import json

import pytest

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
    made = json.loads(as_json(line))
    assert (made["level"], made["process"], made["event"]) == (level, "valkey", event)
