"""The hand-made tables of prompt pairs: `kind <tab> cached prompt <tab> new prompt`."""

from pathlib import Path

Pair = tuple[str, str, str]


def pairs(name: str) -> list[Pair]:
    """Rows of `near_misses` or `paraphrases`."""
    lines = Path(__file__).with_name(f"{name}.tsv").read_text("utf-8").splitlines()
    rows = [tuple(line.split("\t")) for line in lines if not line.startswith("#")]
    return [(kind, cached, new) for kind, cached, new in rows]
