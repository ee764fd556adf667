"""Lines that are told once, however often what they tell of is tried."""

import logging

import pytest

from extproc.process.logs import Trouble


def test_a_trouble_is_told_when_it_begins_and_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    trouble = Trouble(logging.getLogger("test"), "away", "back", logging.ERROR)
    trouble.over()
    for reason in ("first", "second"):
        trouble.seen(reason)
    assert trouble.lasts
    trouble.over()
    trouble.over()
    trouble.seen("third")
    told = [(record.levelname, record.message, vars(record).get("reason")) for record in caplog.records]
    assert told == [("ERROR", "away", "first"), ("INFO", "back", None), ("ERROR", "away", "third")]
