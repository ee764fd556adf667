"""The Dockerfile: its steps are the script's, versions are pinned, nobody is root, what is not needed is not there."""

import re
from pathlib import Path

import pytest

from tests.helm import image
from tests.helm.chart import ROOT
from tests.helm.node import UID


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return image.build(tmp_path_factory.mktemp("image"))


def test_it_runs_the_steps_that_are_tested() -> None:
    assert re.findall(r"^RUN docker/build-root\.sh (\w+) /tree$", image.DOCKERFILE, re.M) == ["packages", "gateway"]
    stages = re.findall(r"^FROM (\S+)", image.DOCKERFILE, re.M)
    assert stages == ["python:${PYTHON}"] * 2, "one base, so that what was built for it runs on it"
    assert re.search(r"^ARG PYTHON=3\.\d+\.\d+-slim-\w+$", image.DOCKERFILE, re.M), "pinned to the patch version"
    assert re.search(rf"^USER {UID}:{UID}$", image.DOCKERFILE, re.M)
    sent = (ROOT / ".dockerignore").read_text().split()
    assert sent[0] == "*", "nothing is sent that is not named"
    for copied in re.findall(r"^COPY (?!--from)(.+) \S+$", image.DOCKERFILE, re.M):
        assert all(f"!{name.split('/')[0]}" in sent for name in copied.split()), copied


def test_what_is_in_the_tree(tree: Path) -> None:
    lib = tree / "opt" / "gateway" / "lib"
    assert (tree / "opt" / "gateway" / "bin" / "gateway").stat().st_mode & 0o777 == 0o755
    assert not (lib / "envoy").exists(), "Envoy has its own image"
    assert not list(lib.glob("**/tests")), "none of the packages' tests"
    assert not list(lib.glob("pytest*")), "none of our tools"
    for package in ("extproc", "control", "protos", "numpy"):
        assert list((lib / package).glob("__pycache__/*.pyc")), f"{package} is compiled: the root is read-only"
    assert [path.name for path in (tree / "opt").iterdir()] == ["gateway"], "nothing beside it"
    files = [path for path in tree.rglob("*") if path.is_file() and not path.is_symlink()]
    assert sum(path.stat().st_size for path in files) < 270e6
