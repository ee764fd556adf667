"""What a process has loaded lies in large pages afterwards, and is what it was."""

import mmap
import subprocess
import sys

import pytest

_COLLAPSE = 25  # MADV_COLLAPSE
_PROGRAM = """
from pathlib import Path
from extproc.process.memory import use_large_pages

def large_kib():
    rows = (row.split() for row in Path("/proc/self/smaps_rollup").read_text().splitlines())
    return next(int(row[1]) for row in rows if row[0] == "AnonHugePages:")

texts = [f"{n:0200d}" for n in range(50_000)]
before = large_kib()
use_large_pages()
assert texts == [f"{n:0200d}" for n in range(50_000)]
print(before, large_kib())
"""


def _collapses() -> bool:
    """Whether this kernel makes large pages when asked, of memory that surely could be one."""
    try:
        with mmap.mmap(-1, 6 * 1024 * 1024, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as room:
            room.write(b"x" * len(room))
            room.madvise(_COLLAPSE)
    except OSError:
        return False
    return True


@pytest.mark.skipif(not (sys.platform == "linux" and _collapses()), reason="the kernel makes no large pages when asked")
def test_what_is_loaded_lies_in_large_pages() -> None:
    run = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True)
    before, after = (int(each) for each in run.stdout.split())
    assert after > before  # how many of the 12 MiB and more depends on how fragmented memory is
