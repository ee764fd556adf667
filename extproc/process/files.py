"""Files that others read while they are replaced: each is there whole, the one before or the new one.

In: a path and bytes. Out: the file, by rename; or a stamp, by which a reader knows that it is another one.
"""

import os
import tempfile
from pathlib import Path

Stamp = tuple[int, int] | None  # of no file: None


def stamp_of(path: Path) -> Stamp:
    """Another one after each change: of a file written anew, of one renamed to this name, of where a link leads."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def replace_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write `data` to `path` by rename, so that a reader (Envoy watches for the rename) never sees half a file."""
    temporary = beside(path, data, mode)
    try:
        os.replace(temporary, path)  # noqa: PTH105 - rename is the point
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def beside(path: Path, data: bytes, mode: int = 0o600) -> Path:
    """A new file in the folder of `path`, with `data`. Raises OSError, with nothing left behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        os.fchmod(handle, mode)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return Path(temporary)
