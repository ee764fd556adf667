"""The guards: what they object to, what they let pass, and that they never fail."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.cache.facts import facts
from extproc.cache.guards import veto
from extproc.cache.words import stem

from .tables import pairs

NEAR_MISSES = pairs("near_misses")
PARAPHRASES = pairs("paraphrases")
TEXTS = st.text(max_size=80) | st.lists(
    st.sampled_from(
        [
            "What",
            "is",
            "not",
            "the",
            "`x`",
            "3",
            "km",
            "from",
            "Paris",
            "to",
            "Rome",
            "on",
            "May",
            "5,",
            "1999?",
            "II",
            "I'd",
            "can't",
            "than",
            "second",
            "°C",
        ]
    )
).map(" ".join)


def test_the_tables_are_whole() -> None:
    assert len(NEAR_MISSES) == len(PARAPHRASES) == 100
    assert len({(cached, new) for _, cached, new in NEAR_MISSES + PARAPHRASES}) == 200


@pytest.mark.parametrize(("kind", "cached", "new"), NEAR_MISSES)
def test_a_near_miss_is_vetoed_either_way(kind: str, cached: str, new: str) -> None:
    assert veto(facts(new), facts(cached))
    assert veto(facts(cached), facts(new))


def test_few_paraphrases_are_vetoed() -> None:
    """Hits lost to the guards alone; the whole cascade's are in test_cascade."""
    lost = [(cached, new, why) for _, cached, new in PARAPHRASES if (why := veto(facts(new), facts(cached)))]
    print(f"{len(lost)} of {len(PARAPHRASES)} paraphrases vetoed", *lost, sep="\n  ")
    assert len(lost) <= 5


@pytest.mark.parametrize(
    ("guard", "cached", "new"),
    [
        ("numbers", "Top ten songs", "Top 20 songs"),
        ("numbers", "Explain World War I", "Explain World War II"),
        ("numbers", "a budget of $1,500", "a budget of $15,00"),
        ("numbers", "Who was the first king?", "Who was the king?"),
        ("numbers", "Use port 80", "Use port 8080"),
        ("negation", "I want to pay", "I don't want to pay"),
        ("negation", "List all users", "List only users"),
        ("names", "weather in boston", "weather in denver"),
        ("names", "Is Mr. Okonkwo in?", "Is Mr. Adeyemi in?"),
        ("language", "Sort a list", "Sort a list in Python"),
        ("names", "Tell me about cars", "Tell me about cars by Skoda"),
        ("names", "call my mother", "call my father"),
        ("units", "Weigh 5 kg of flour", "Weigh 5 g of flour"),
        ("units", "pay 20 dollars", "pay 20 pesos"),
        ("dates", "remind me in May", "remind me in June"),
        ("dates", "my plans for next week", "my plans for this week"),
        ("language", "Где находится музей", "where is the museum"),
        ("language", "wo ist das und wie", "where is the and how"),
        ("code", "Explain `a + b`", "Explain `a - b`"),
        ("code", "run ls -l", "run ls -a"),
        ("asks", "When was the war?", "Where was the war?"),
        ("asks", "what is my name", "what is your name"),
        ("degrees", "which is faster", "which is stronger"),
        ("opposites", "is it safe", "is it unsafe"),
        ("opposites", "is this legal", "is this illegal"),
        ("direction", "drive from work to home", "drive from home to work"),
    ],
)
def test_each_guard(guard: str, cached: str, new: str) -> None:
    assert veto(facts(new), facts(cached)) == guard


@pytest.mark.parametrize(
    ("cached", "new"),
    [
        ("How do I pay?", "how do i pay"),
        ("How do I pay?", "Hello, how do I pay, please?"),
        ("It costs 1,000 dollars", "It costs 1000 dollars"),
        ("ten ideas", "10 ideas"),
        ("Explain World War II", "Explain World War 2"),
        ("what\u2019s \u201cpi\u201d", 'what is "pi"'),
        ("\uff12\uff10 kilometres", "20 km"),
        ("Use Hugging Face", "Use HuggingFace"),
        ("Is the bigger one safe?", "Is the larger one safe?"),
        ("compare cats and dogs", "compare dogs and cats"),
    ],
)
def test_differences_that_are_none(cached: str, new: str) -> None:
    assert veto(facts(new), facts(cached)) is None


def test_the_same_words_with_other_code_are_not_the_same() -> None:
    assert veto(facts(r"Explain \d"), facts(r"Explain \D")) == "code"


def test_stems_level_forms_of_a_word() -> None:
    assert {stem(word) for word in ("crash", "crashes", "crashed", "crashing")} == {"crash"}
    assert stem("countries") == stem("country")
    assert stem("address") == "address"


@given(TEXTS, TEXTS)
def test_guards_never_fail_and_do_not_care_for_the_direction(one: str, other: str) -> None:
    a, b = facts(one), facts(other)
    assert (veto(a, b) is None) == (veto(b, a) is None)


@given(TEXTS)
def test_nothing_is_vetoed_against_itself(text: str) -> None:
    assert veto(facts(text), facts(text)) is None
