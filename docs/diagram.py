"""Draws the states of an exchange into ARCHITECTURE.md, from the table that the code runs by.

In: TRANSITIONS of `extproc.exchange.states`, and the file. Out: the file with the lines between its two markers
replaced, or, with `--check`, exit code 1 if they differ. Run by `make diagram` and `make check`.
"""

import sys
from pathlib import Path

from extproc.exchange.states import TRANSITIONS, State

FILE = Path(__file__).resolve().parent.parent / "ARCHITECTURE.md"
BEGIN = "<!-- drawn by `make diagram` from TRANSITIONS in extproc/exchange/states.py -->\n"
END = "<!-- end of the drawing -->\n"


def diagram() -> str:
    """The table as a Mermaid state diagram: one line for each move, its event behind the colon."""
    moves = [
        f"    {before.value} --> {after.value}: {event.name.lower().replace('_', ' ')}"
        for (before, event), targets in TRANSITIONS.items()
        for after in targets
    ]
    ends = [f"    [*] --> {State.START.value}", *moves, f"    {State.DONE.value} --> [*]"]
    return "\n".join(["```mermaid", "stateDiagram-v2", *ends, "```", ""])


def drawn(text: str) -> str:
    """`text` with the diagram between its markers. Raises ValueError where a marker is missing."""
    before, found, rest = text.partition(BEGIN)
    _, found_end, after = rest.partition(END)
    if not (found and found_end):
        raise ValueError(f"{FILE.name}: the markers of the diagram are missing")
    return before + BEGIN + diagram() + END + after


def main() -> int:
    """Rewrite the file, or check it. Returns the exit code."""
    text = FILE.read_text(encoding="utf-8")
    wanted = drawn(text)
    if "--check" in sys.argv:
        return int(text != wanted)
    FILE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
