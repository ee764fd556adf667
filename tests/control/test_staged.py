"""Files that change together, or not at all."""

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from control.staged import Staged

MOST_BYTES = 1_000


@pytest.fixture
def paths(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "old").write_bytes(b"old")
    return tmp_path / "old", tmp_path / "none"


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow beyond a size: the kernel's own way of saying that there is no room."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MOST_BYTES, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def held(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_each_takes_its_place_when_it_is_put(paths: tuple[Path, Path], tmp_path: Path) -> None:
    with Staged(dict.fromkeys(paths, b"new")) as staged:
        staged.put(paths[0])
        assert (paths[0].read_bytes(), paths[1].exists()) == (b"new", False)
        staged.put(paths[1])
    assert held(tmp_path) == {"old": b"new", "none": b"new"}


def test_after_an_error_all_are_as_before(paths: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), Staged(dict.fromkeys(paths, b"new")) as staged:  # noqa: PT012
        for path in paths:
            staged.put(path)
        raise RuntimeError
    assert held(tmp_path) == {"old": b"old"}


@pytest.mark.usefixtures("small_files")
def test_where_one_has_no_room_none_is_touched(paths: tuple[Path, Path], tmp_path: Path) -> None:
    inode = paths[0].stat().st_ino
    with pytest.raises(OSError, match="too large"), Staged({paths[0]: b"new", paths[1]: bytes(2 * MOST_BYTES)}):
        pytest.fail("it begins only when all are on disk")
    assert (held(tmp_path), paths[0].stat().st_ino) == ({"old": b"old"}, inode)
