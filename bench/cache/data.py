"""The two sets, split once and for all: one part to choose on, the other to report on.

In: `../shared/data/cache` beside the repository (CLINC150, CC BY 3.0; GPTCache's mock_data, MIT). Out: prompts with a
label. Two prompts with the same label may share an answer. CLINC150: its own `val` to choose on, `test` to report on;
out-of-scope prompts have a label each. GPTCache: rows of odd index to choose on, of even index to report on; the
label is the original sentence.
"""

import gzip
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "data" / "cache"
Part = Literal["choose", "report"]


class Prompt(NamedTuple):
    """`label` is what decides whether a hit is right."""

    text: str
    label: str


def available() -> bool:
    """Whether the sets are on this machine."""
    return (FOLDER / "clinc150.json.gz").is_file() and (FOLDER / "gptcache_pairs.json").is_file()


def clinc(part: Part) -> tuple[list[Prompt], list[Prompt]]:
    """In scope, and out of scope."""
    raw: dict[str, list[tuple[str, str]]] = msgspec.json.decode(
        gzip.decompress((FOLDER / "clinc150.json.gz").read_bytes())
    )
    name = {"choose": "val", "report": "test"}[part]
    inside = [Prompt(text, intent) for text, intent in raw[name]]
    outside = [Prompt(text, f"out of scope {at}") for at, (text, _) in enumerate(raw[f"oos_{name}"])]
    return inside, outside


def gptcache(part: Part) -> tuple[list[Prompt], list[Prompt]]:
    """All originals, which are cached, and this part's rewordings, which are asked."""
    rows: list[dict[str, str]] = msgspec.json.decode((FOLDER / "gptcache_pairs.json").read_bytes())
    odd = {"choose": 1, "report": 0}[part]
    cached = [Prompt(row["origin"], row["origin"]) for row in rows]
    return cached, [Prompt(row["similar"], row["origin"]) for at, row in enumerate(rows) if at % 2 == odd]


def support() -> tuple[list[Prompt], list[Prompt]]:
    """CLINC150's `train` and `test` together, as support traffic is made from them: nothing is chosen on either."""
    raw = msgspec.json.decode(gzip.decompress((FOLDER / "clinc150.json.gz").read_bytes()))
    inside = [Prompt(text, intent) for text, intent in raw["train"] + raw["test"]]
    outside = [text for text, _ in raw["oos_train"] + raw["oos_test"]]
    return inside, [Prompt(text, f"out of scope {at}") for at, text in enumerate(outside)]
