"""Files that change together: all new ones are on disk before the first takes its place, so that a disk that is full
stops nothing half-way; whatever happens then, each can be put back by a rename.

In: paths, and what they are to hold. Out: all of them replaced, or none. Used by a reload, for Envoy's files and ours.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from extproc.process.files import beside


class Staged:
    """Within `with`: `put` each in turn. Left by an exception, all that were put are put back."""

    def __init__(self, contents: Mapping[Path, bytes]) -> None:
        self._contents = contents
        self._new: dict[Path, Path] = {}
        self._old: dict[Path, Path | None] = {}

    def __enter__(self) -> "Staged":
        """Write all of them beside their places. Raises OSError, with nothing left behind."""
        try:
            for path, data in self._contents.items():
                self._new[path] = beside(path, data)
        except BaseException:
            self._clear()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Put back, if need be; leave nothing behind."""
        try:
            if kind is not None:
                self._put_back()
        finally:
            self._clear()

    def put(self, path: Path) -> None:
        """The new one takes its place, by rename. Raises OSError."""
        old = path.with_name(f".{path.name}.before")
        old.unlink(missing_ok=True)
        try:
            old.hardlink_to(path)
        except FileNotFoundError:
            self._old[path] = None
        else:
            self._old[path] = old
        os.replace(self._new.pop(path), path)  # noqa: PTH105 - rename is the point

    def _put_back(self) -> None:
        for path, old in self._old.items():
            if old is None:
                path.unlink(missing_ok=True)
            else:
                os.replace(old, path)  # noqa: PTH105 - rename is the point

    def _clear(self) -> None:
        for left in (*self._new.values(), *self._old.values()):
            if left is not None:
                left.unlink(missing_ok=True)
