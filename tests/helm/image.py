"""The gateway's image without a Docker: the tree that the Dockerfile's script builds, on this machine's own base.

In: the repository. Out: a folder, and what the Dockerfile says of the environment. As Docker does, the packages are
built once for a lock file and kept; the gateway's own part is built anew.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.helm.chart import ROOT

SCRIPT = ROOT / "docker" / "build-root.sh"
DOCKERFILE = (ROOT / "Dockerfile").read_text()
ENV = dict(re.findall(r"^ENV (\w+)=(\S+)$", DOCKERFILE, re.M))


def build(folder: Path) -> Path:
    """The tree, in `folder`."""
    packages = _packages()
    tree = folder / "tree"
    shutil.copytree(packages, tree, symlinks=True, copy_function=os.link)
    _step("gateway", tree)
    return tree


def _packages() -> Path:
    """The layer of the packages: made where there is none of this lock yet."""
    made_of = (ROOT / "requirements.lock").read_bytes() + SCRIPT.read_bytes()
    kept = ROOT / ".venv" / "image" / hashlib.sha256(made_of).hexdigest()[:16]
    with kept.parent.with_suffix(".lock").open("w") as lock:  # tests of several files want it at once
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            shutil.rmtree(kept.parent, ignore_errors=True)
            unfinished = kept.with_suffix(".unfinished")
            unfinished.mkdir(parents=True)
            _step("packages", unfinished)
            unfinished.rename(kept)
    return kept


def _step(name: str, tree: Path) -> None:
    """One step of the script; its files are written anew, never through a link into the layer below."""
    uv = str(Path(sys.executable).with_name("uv"))
    env = os.environ | {"UV": uv, "PYTHON": sys.executable}
    done = subprocess.run([str(SCRIPT), name, str(tree)], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
