"""The word tables of the guards: what numbers, units, dates, languages and kinds of things are called.

In: `extproc/data/guards.txt`. Out: sets and maps of case-folded words, with which `extproc.cache.facts` reads prompts.
"""

from importlib import resources

POLITE = (
    r"^(?:(?:hi|hello|hey|dear|good (?:morning|afternoon|evening))(?: there| all| team)?[,!. ]+)+"
    r"|\b(?:please|kindly|thanks(?: a lot| in advance)?|thank you(?: in advance| very much)?)[,.! ]*$"
    r"|[,.! ]*\b(?:please|kindly)\b,?"
)


def _sections() -> dict[str, list[str]]:
    sections: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in resources.files("extproc.data").joinpath("guards.txt").read_text("utf-8").splitlines():
        if line.startswith("["):
            lines = sections[line.strip("[]")] = []
        elif line and not line.startswith("#"):
            lines.append(line)
    return sections


def _set(lines: list[str]) -> frozenset[str]:
    return frozenset(word for line in lines for word in line.split())


def _map(lines: list[str]) -> dict[str, str]:
    """Each word to the head of its line; a line without a colon holds heads only."""
    forms: dict[str, str] = {}
    for line in lines:
        head, colon, rest = line.partition(":")
        forms |= dict.fromkeys((head, *rest.split()), head) if colon else {word: word for word in line.split()}
    return forms


def _opposites(lines: list[str]) -> dict[str, frozenset[str]]:
    found: dict[str, frozenset[str]] = {}
    for line in lines:
        for word in line.split():
            found[word] = found.get(word, frozenset()) | (frozenset(line.split()) - {word})
    return found


def _degrees(graded: dict[str, str]) -> dict[str, str]:
    """`larger` -> `big+`, `largest` -> `big++`."""
    forms = {"better": "good+", "best": "good++", "worse": "bad+", "worst": "bad++", "further": "far+"}
    forms |= {"farther": "far+", "farthest": "far++", "least": "few++", "fewer": "few+", "fewest": "few++"}
    for word, base in graded.items():
        stem = word[:-1] + "i" if word[-1] == "y" else word.removesuffix("e")
        stem += stem[-1] if word in ("big", "hot", "thin") else ""
        forms |= {f"{stem}er": f"{base}+", f"{stem}est": f"{base}++"}
    return forms


_TABLES = _sections()
NUMBERS = _map(_TABLES["numbers"])
MULTIPLES = _set(_TABLES["multiples"])
ROMAN_AFTER = _set(_TABLES["roman after"])
NEGATIONS = _set(_TABLES["negations"])
NEGATIVE_PREFIXES = tuple(_TABLES["negative prefixes"][0].split())
UNITS = _map(_TABLES["units"])
DATES = _map(_TABLES["dates"])
DATES_IN_CONTEXT = _set(_TABLES["dates in context"])
PERIODS = _set(_TABLES["periods"])
LANGUAGES = _set(_TABLES["languages"])
MARKED = _set(_TABLES["marked"]) | LANGUAGES
OPPOSITES = _opposites(_TABLES["opposites"])
DEGREES = _degrees(_map(_TABLES["graded"]))
ASKS = _set(_TABLES["asks"])
ASKS_AFTER_HOW = _set(_TABLES["asks after how"])
OWNERS = _map(_TABLES["owners"])
STOPWORDS = _set(_TABLES["stopwords"])
FUNCTION_WORDS = {
    line.partition(":")[0]: frozenset(line.partition(":")[2].split()) for line in _TABLES["function words"]
}
