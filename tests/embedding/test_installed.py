"""What is missing of the models is named."""

from pathlib import Path

import pytest

from extproc.embedding import installed


def test_nothing_is_missing_here() -> None:
    assert installed.lacking() == []


def test_a_missing_file_and_a_missing_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in installed.FILES[1:]:
        (tmp_path / name).touch()
    monkeypatch.setattr(installed, "find_spec", lambda _: None)
    assert installed.lacking(tmp_path) == [f"{tmp_path}/static.npy is missing", "onnxruntime is not installed"]


def test_other_files_have_another_fingerprint(tmp_path: Path) -> None:
    for name in installed.FILES:
        (tmp_path / name).write_bytes(b"some")
    before = installed.fingerprint(tmp_path)
    assert installed.fingerprint(tmp_path) == before
    (tmp_path / installed.FILES[-1]).write_bytes(b"other")
    assert len({before, installed.fingerprint(tmp_path), installed.fingerprint()}) == 3
    assert len(before) == 8
