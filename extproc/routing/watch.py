"""A worker's view of providers' health, kept fresh from the settler's file.

In: `standings.json`, replaced by rename whenever there is news, and the bell that the settler rings then. Out:
`View.standings`. A look is one `stat`; a bell that was not heard costs a second. Without the settler the last standings
stay in force: open circuits become half-open by the clock.
"""

import logging
from pathlib import Path
from typing import Final

import msgspec

from extproc.process.doorbell import Bell
from extproc.process.logs import Trouble
from extproc.routing.health import Standings
from extproc.routing.standing import View

log = logging.getLogger(__name__)

EVERY_S: Final = 1.0


class Watch:
    """`path`: of the settler's file. `look` takes over what is new in it."""

    def __init__(self, path: Path, view: View) -> None:
        self._path = path
        self._view = view
        self._seen: tuple[int, int] | None = None
        self._unread = Trouble(
            log, "providers' health cannot be read; the last stays", "providers' health is read again", logging.ERROR
        )

    def look(self) -> None:
        """Take over what is new, if it can be read."""
        try:
            found = self._path.stat()
            stamp = found.st_ino, found.st_mtime_ns
            if stamp != self._seen:
                self._view.standings = msgspec.json.decode(self._path.read_bytes(), type=Standings)
        except FileNotFoundError:
            self._seen = None
        except (OSError, msgspec.DecodeError) as error:
            self._unread.seen(error)
        else:
            self._seen = stamp
            self._unread.over()

    async def run(self, bell: Bell) -> None:
        """Look whenever the bell is rung, until cancelled."""
        while True:
            self.look()
            await bell.wait(EVERY_S)
