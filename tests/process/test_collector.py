"""What a process has loaded is looked through by no collection, and what requests make seldom."""

import subprocess
import sys

_PROGRAM = """
import gc
from extproc.process.collector import tune_collector

loaded = [[number] for number in range(100_000)]
tune_collector()
assert gc.get_freeze_count() > len(loaded)
assert len(gc.get_objects()) < 10_000
assert gc.get_threshold()[0] >= 20_000
"""


def test_what_is_loaded_is_frozen_and_collections_are_few() -> None:
    subprocess.run([sys.executable, "-c", _PROGRAM], check=True)
