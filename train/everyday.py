"""What people ask, and the tier a person would choose: train/everyday.txt, read.

In: the file. Out: (tier, prompt) pairs; where a prompt carries a text ("[paste]") there are three of it, with prose of
changing length from the file's own sentences, so that a long text alone does not make a request hard.
"""

from pathlib import Path

PROMPTS = Path(__file__).with_name("everyday.txt")
PROSE = (
    "The committee met on Tuesday in the small hall and began a little late. ",
    "Mrs Hartley reported that the roof had been repaired and that the bill was lower than expected. ",
    "There was some talk about the summer fair, and most of those present preferred the second weekend of July. ",
    "The river rose quickly in the night, but by the morning the road to the village was open again. ",
    "Our customers told us that they liked the new shop, though several found the parking difficult. ",
    "He left the house early, walked along the canal and thought about the letter he had not answered. ",
    "Sales went up in the north and down in the south, which nobody at the table could quite explain. ",
    "The school will be closed on Friday, and parents are asked to collect the children before noon. ",
)
LENGTHS = (3, 14, 60)  # sentences


def prompts() -> list[tuple[str, str]]:
    """All of them, in the order of the file."""
    lines = [line for line in PROMPTS.read_text("utf-8").splitlines() if line and not line.startswith("#")]
    pairs = [(tier, text.strip()) for tier, _, text in (line.partition(":") for line in lines)]
    return [(tier, filled) for tier, text in pairs for filled in _filled(text)]


def _filled(text: str) -> list[str]:
    if "[paste]" not in text:
        return [text]
    return [text.replace("[paste]", "\n\n" + "".join(PROSE[i % len(PROSE)] for i in range(n))) for n in LENGTHS]
