"""Short texts for a student network to be taught on: no answers, no labels, and none of the texts it is judged by.

In: WordNet 3.0's data files (Debian's `wordnet-base` has them; WordNet licence), the questions of `train.outcomes` and
`train.everyday`, docstrings of Python's own library. Out: glosses and examples, those questions and docstrings sentence
by sentence, questions made of WordNet's words by `PATTERNS`, and variants of all these that differ by a word or two, as
candidates of a look-up do.
"""

import ast
import random
import re
import sysconfig
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

from train import everyday, outcomes

FILES = ("noun", "verb", "adj", "adv")
KINDS = {"1": "noun", "2": "verb", "3": "adj", "4": "adv", "5": "adj"}  # of WordNet's sense keys
SEED = 1
PATTERNS = (
    """
how do i {verb} a {noun}|how do i {verb} my {noun}|how can i {verb} the {noun} on my {noun}
what is the {noun} of {noun}|what is a {noun}|what's the {adj} {noun} for {noun}|can you {verb} my {noun}
can you tell me about {noun}|i want to {verb} my {noun}|i need to {verb} a {adj} {noun}|i would like to {verb} {noun}
please {verb} the {noun}|is the {noun} {adj}|is there a {noun} for {noun}|are there any {adj} {noun}s in {noun}
why is my {noun} so {adj}|why did my {noun} {verb}|when does the {noun} {verb}|when will my {noun} be {adj}
where can i {verb} a {noun}|where is my {noun}|who can {verb} the {noun}|which {noun} is {adj}
how many {noun}s are in a {noun}|how much is a {noun}|how long does it take to {verb} a {noun}|how {adj} is my {noun}
do i need a {noun} to {verb} in {noun}|does {noun} {verb}|should i {verb} or {verb} the {noun}
explain {noun} in simple terms|give me a {noun} about {noun}|{verb} {adv} {noun}|tell me how to {verb} {adv}
my {noun} was {adj} and i could not {verb}|let me know if the {noun} is {adj}|what does it mean to {verb} {adv}
what should i do if my {noun} does not {verb}|i lost my {noun} in the {noun}|set my {noun} to {adj}
show me the {noun} from last {noun}|could you help me {verb} the {adj} {noun}|what are the {adj}est {noun}s to {verb}
what's up with the {noun}|thanks for the {noun}|how would you say {noun} in {noun}
difference between {noun} and {noun}|write a {adj} {noun} about {noun}|i don't know how to {verb}|no, i said {noun}
""".replace("\n", "|")
    .strip("|")
    .split("|")
)


def corpus(wordnet: Path, most_glosses: int, made: int, varied: int) -> list[str]:
    """Texts, each once, shuffled: some glosses, `made` by pattern and `varied` beside what was read."""
    rng = random.Random(SEED)
    words = Words(wordnet, rng)
    asked = [sentence for prompt in _prompts() for sentence in _sentences(prompt)] + list(_documentation())
    patterns = [_filled(rng, words) for _ in range(made)]
    glosses = list(dict.fromkeys(_glosses(wordnet)))
    texts = rng.sample(glosses, min(len(glosses), most_glosses)) + asked + patterns
    texts += [_variant(rng, rng.choice(texts), words) for _ in range(varied)]
    found = list(dict.fromkeys(texts))
    rng.shuffle(found)
    return found


class Words:
    """Words by kind; one is drawn as often as its meanings were counted in texts, to the power of 3/4."""

    def __init__(self, wordnet: Path, rng: random.Random) -> None:
        self._rng = rng
        counts: dict[str, dict[str, int]] = {kind: {} for kind in FILES}
        for line in (wordnet / "cntlist.rev").read_text("latin-1").splitlines():
            sense, _, count = line.split(" ")
            word, _, kind = sense.partition("%")
            of_kind = counts[KINDS[kind[0]]]
            of_kind[word] = of_kind.get(word, 0) + int(count)
        self._words = {kind: [word.replace("_", " ") for word in counts[kind]] for kind in FILES}
        self._heaps = {kind: list(accumulate(count**0.75 for count in counts[kind].values())) for kind in FILES}

    def draw(self, kind: str) -> str:
        """One of a kind."""
        return self._rng.choices(self._words[kind], cum_weights=self._heaps[kind])[0]


def _glosses(wordnet: Path) -> Iterator[str]:
    """Definitions and examples."""
    for kind in FILES:
        for line in (wordnet / f"data.{kind}").read_text("latin-1").splitlines():
            gloss = line.partition(" | ")[2]
            yield from (part.strip(' ";') for part in re.findall(r'"[^"]+"|[^;"]+', gloss) if len(part) > 8)


def _documentation() -> Iterator[str]:
    """Sentences of the docstrings of Python's own library: prose about software, with its names."""
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        if "site-packages" in path.parts or "test" in path.parts:
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
                yield from _sentences(" ".join(text.split()))


def _prompts() -> Iterator[str]:
    for prompts in (outcomes.mmlu().prompts, outcomes.llmrouter().prompts, [text for _, text in everyday.prompts()]):
        yield from prompts


def _sentences(prompt: str) -> list[str]:
    return [part for part in re.split(r"(?<=[.?!])\s+|\n+", prompt.strip()) if 8 < len(part) < 300]


def _filled(rng: random.Random, words: Words) -> str:
    return re.sub(r"{(\w+)}", lambda found: words.draw(found[1]), rng.choice(PATTERNS))


def _variant(rng: random.Random, text: str, words: Words) -> str:
    """A word left out, moved, or another one, once or twice."""
    parts = text.split()
    for _ in range(rng.choice((1, 1, 2))):
        at = rng.randrange(len(parts)) if len(parts) > 2 else 0
        what = rng.random()
        if what < 0.3 and len(parts) > 3:
            parts.pop(at)
        elif what < 0.5:
            parts.insert(rng.randrange(len(parts)), parts.pop(at))
        else:
            parts[at] = words.draw(rng.choice(FILES))
    return " ".join(parts)
