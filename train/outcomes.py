"""Which model answered which prompt right: the two public sets the router is trained and measured on.

In: the folder `../shared/data/routing` (or the one given), which is not part of this repository. Out: `Outcomes`, and
its split. A prompt's side is fixed by the hash of its subject (MMLU: whole subjects are held out) or of its text
(LLMRouter), so nothing can drift between training and measuring. MMLU's outcomes are of RouteLLM (Apache-2.0): Mixtral
8x7B against GPT-4 1106; LLMRouter's of ulab-uiuc/LLMRouter (MIT): nine models, a score of 0 to 1 each.
"""

import csv
import gzip
import hashlib
import io
import json
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

DEFAULT = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "routing"
MMLU = "routellm_mmlu_responses.tar.gz"
LLMROUTER = "llmrouter_train.json.gz"
SHA256 = {
    MMLU: "81165432aac7e7622ece55f8a0cb5e3d649f743bc43637f898ae3026b8486fff",
    LLMROUTER: "1512d1cfbd7fb29d343aa596d35c5a919284c23e56cd2a6c0a9ff1e28ccef6e5",
}
WEAK_MMLU, STRONG_MMLU = "mistralai/Mixtral-8x7B-Instruct-v0.1", "gpt-4-1106-preview"
# The best of the nine on the whole, and those of 7 to 9 billion parameters that a gateway would route to instead.
STRONG = "llama-3.1-nemotron-51b-instruct"
WEAK = ("mistral-7b-instruct-v0.3", "llama-3.1-8b-instruct", "gemma-2-9b-it", "qwen2.5-7b-instruct")

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Outcomes:
    """Prompts, and what each model made of them (0 to 1, one number a prompt)."""

    prompts: list[str]
    held_out: NDArray[np.bool_]
    groups: list[str]  # what must not be split between folds of a validation
    models: dict[str, Floats]

    def part(self, keep: NDArray[np.bool_]) -> "Outcomes":
        """The prompts where `keep` is true."""
        at = np.flatnonzero(keep)
        return Outcomes(
            [self.prompts[i] for i in at],
            self.held_out[at],
            [self.groups[i] for i in at],
            {name: values[at] for name, values in self.models.items()},
        )


def mmlu(folder: Path = DEFAULT) -> Outcomes:
    """RouteLLM's answers to MMLU. Held out: the subjects whose hash is 0 modulo 3 (14 of 57). Raises SystemExit."""
    rows: list[tuple[str, str, bool, bool]] = []
    with tarfile.open(fileobj=io.BytesIO(_read(folder, MMLU))) as archive:
        for member in sorted(archive.getmembers(), key=lambda member: member.name):
            if member.name.endswith(".csv") and (file := archive.extractfile(member)):
                subject = Path(member.name).stem.removeprefix("mmlu_")
                rows += [
                    (subject, row["prompt"], row[WEAK_MMLU] == "True", row[STRONG_MMLU] == "True")
                    for row in csv.DictReader(io.TextIOWrapper(file, encoding="utf-8"))
                ]
    subjects, prompts, weak, strong = zip(*rows, strict=True)
    held_out = np.array([hashed(f"mmlu:{subject}") % 3 == 0 for subject in subjects])
    right = {WEAK_MMLU: np.array(weak, float), STRONG_MMLU: np.array(strong, float)}
    return Outcomes(list(prompts), held_out, list(subjects), right)


def llmrouter(folder: Path = DEFAULT) -> Outcomes:
    """LLMRouter's training set. Held out: the prompts whose hash is 0 modulo 5. Raises SystemExit."""
    entries = json.loads(gzip.decompress(_read(folder, LLMROUTER)))
    prompts = [entry["question"] for entry in entries]
    held_out = np.array([hashed(f"llmrouter:{prompt}") % 5 == 0 for prompt in prompts])
    models = {name: np.array([entry["scores"][name] for entry in entries]) for name in entries[0]["scores"]}
    return Outcomes(prompts, held_out, prompts, models)


def hashed(text: str) -> int:
    """A number that is the same everywhere and for ever."""
    return int(hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8], 16)


def stripped(prompt: str) -> str:
    """An exam question without its answer options and its last line, as a person would ask it."""
    question = re.sub(r"\s*Answer:\s*$", "", prompt)
    return re.sub(r"(\n[A-J][.)] .*)+$", "", question, flags=re.DOTALL).strip()


def rephrased(prompt: str) -> str:
    """The same question in other clothes: options in one line of another form, a courtesy before and after."""
    head, *options = re.split(r"\n[A-J][.)] ", re.sub(r"\s*Answer:\s*$", "", prompt))
    choices = f" The choices are: {'; '.join(option.strip() for option in options)}." if options else ""
    return f"Could you help me with this one? {head.strip()}{choices} Thanks."


def _read(folder: Path, name: str) -> bytes:
    """The bytes of a data file, the very ones that the weights were made from. Raises SystemExit."""
    path = folder / name
    if not path.is_file():
        raise SystemExit(f"{path}: not there; the routing data is not part of this repository")
    data = path.read_bytes()
    if (found := hashlib.sha256(data).hexdigest()) != SHA256[name]:
        raise SystemExit(f"{path}: its SHA-256 is {found}, not {SHA256[name]}")
    return data
