"""`make fuzz`: plays bytes to the transport for a while, led by what code they reach (atheris) where that is installed.

In: SECONDS. Out: exit code 0, or the finding: the bytes, and what went wrong with them. Findings become test cases.
"""

import logging
import os
import random
import sys
import tempfile
import time
from pathlib import Path

try:
    import atheris
except ImportError:
    atheris = None  # then by chance alone

if atheris is not None:
    with atheris.instrument_imports(include=["extproc.transport"]):
        from tests.transport.player import play
else:
    from tests.transport.player import play

_LONGEST = 2048
_REPORT_S = 30.0


def main(seconds: float) -> None:
    """Fuzz for so long."""
    logging.disable()  # sessions that raise are part of the scripts
    seeds = [os.urandom(size) for size in (1, 30, 200, 600, 2000) for _ in range(20)]
    if atheris is None:
        by_chance(seconds)
        return
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(seeds):
            (Path(folder) / str(number)).write_bytes(seed)
        options = [f"-max_total_time={seconds:.0f}", f"-max_len={_LONGEST}", "-print_final_stats=1", folder]
        atheris.Setup([sys.argv[0], *options], play)
        atheris.Fuzz()


def by_chance(seconds: float) -> None:
    """Random scripts; prints the seed of one that fails."""
    end, said, count = time.monotonic() + seconds, time.monotonic(), 0
    while time.monotonic() < end:
        seed = random.getrandbits(64)
        rng = random.Random(seed)
        data = rng.randbytes(rng.randrange(_LONGEST))
        try:
            play(data)
        except Exception:
            print(f"finding: {data.hex()}", file=sys.stderr)
            raise
        count += 1
        if time.monotonic() - said > _REPORT_S:
            said = time.monotonic()
            print(f"{count} scripts, no finding", flush=True)
    print(f"{count} scripts, no finding")


if __name__ == "__main__":
    main(float(sys.argv[1]))
