"""Whether what similar questions are found with is there, and which: files and a library, none of them loaded.

In: the folder of the models. Out: what is missing, in words, for `gateway check` (a worker finds out by loading); and
a mark of the files, for `extproc.cache.vectors`.
"""

import hashlib
from importlib.util import find_spec
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "data"
FILES = ("static.npy", "vocabulary.txt", "minilm.onnx")


def lacking(folder: Path = FOLDER) -> list[str]:
    """What this installation does not have of it."""
    files = [f"{folder / name} is missing" for name in FILES if not (folder / name).is_file()]
    return files if find_spec("onnxruntime") else [*files, "onnxruntime is not installed"]


def fingerprint(folder: Path = FOLDER) -> bytes:
    """8 bytes that change with any of the files: vectors that others made are of another kind. About 20 ms."""
    digest = hashlib.sha256()
    for name in FILES:
        with (folder / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.digest()[:8]
