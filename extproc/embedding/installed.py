"""Whether what similar questions are found with is there: files and a library, none of them loaded.

In: the folder of the models. Out: what is missing, in words. Called by `gateway check`; a worker finds out by loading.
"""

from importlib.util import find_spec
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "data"
FILES = ("static.npy", "vocabulary.txt", "minilm.onnx")


def lacking(folder: Path = FOLDER) -> list[str]:
    """What this installation does not have of it."""
    files = [f"{folder / name} is missing" for name in FILES if not (folder / name).is_file()]
    return files if find_spec("onnxruntime") else [*files, "onnxruntime is not installed"]
