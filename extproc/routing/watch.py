"""A worker's view of providers' health, kept fresh from the settler's file.

In: `standings.json`, replaced by rename whenever there is news, and the bell that the settler rings then. Out:
`View.standings`. A look is one `stat`; a bell that was not heard costs a second. Without the settler the last standings
stay in force: open circuits become half-open by the clock.
"""

import logging
from pathlib import Path
from typing import Final

import msgspec

from extproc.doorbell import Bell
from extproc.routing.health import Standings
from extproc.routing.standing import View

log = logging.getLogger(__name__)

EVERY_S: Final = 1.0


async def watch(path: Path, view: View, bell: Bell) -> None:
    """Look whenever the bell is rung, until cancelled."""
    seen: tuple[int, int] | None = None
    while True:
        seen = look(path, view, seen)
        await bell.wait(EVERY_S)


def look(path: Path, view: View, seen: tuple[int, int] | None) -> tuple[int, int] | None:
    """Take over what is new. `seen`: what the last look returned."""
    try:
        found = path.stat()
        stamp = found.st_ino, found.st_mtime_ns
        if stamp != seen:
            view.standings = msgspec.json.decode(path.read_bytes(), type=Standings)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        log.error("providers' health cannot be read", extra={"reason": str(error)})
        return seen
    return stamp
