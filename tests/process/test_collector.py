"""What a process has loaded is looked through by no collection, and what requests make seldom."""

import subprocess
import sys
from pathlib import Path

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


_SETTINGS = """
providers: {demo: {format: demo}}
models: [{name: m, provider: demo}]
teams: [{id: t, keys: [k]}]
"""
_WORKER = """
import gc, os, sys
import extproc.__main__ as worker
from extproc import runtime
from extproc.paths import Paths
from extproc.settings import parse
from pathlib import Path

class Server:
    def __init__(self, *_): pass

    async def start(self, _):
        print(gc.get_freeze_count() > 20_000, len(gc.get_objects()) < 10_000, flush=True)
        os._exit(0)

worker.make_server = Server
paths = Paths.of(Path(sys.argv[1]))
paths.sockets.mkdir(parents=True)
settings = parse(sys.argv[2], {})
runtime.write(settings, paths.runtime)
worker.run(paths.data_dir, 0)
"""


def test_a_worker_has_frozen_what_it_loaded_before_it_serves(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _WORKER, str(tmp_path / "data"), _SETTINGS]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "True True\n"
