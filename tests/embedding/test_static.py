"""The static embedding: its shape, its bounds, and that meaning lies where it should."""

import numpy as np
import pytest

from extproc.embedding.limits import MAX_CHARS
from extproc.embedding.static import DIMENSIONS, StaticEmbedder


@pytest.fixture(scope="module")
def embedder() -> StaticEmbedder:
    return StaticEmbedder.load()


def test_a_vector_has_256_parts_and_length_1(embedder: StaticEmbedder) -> None:
    vector = embedder.embed("What is the capital of France?")
    assert vector.shape == (DIMENSIONS,)
    assert vector.dtype == np.float32
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("text", ["", "   ", "\u200b\x00"])
def test_nothing_to_read_is_the_zero_vector(embedder: StaticEmbedder, text: str) -> None:
    assert not embedder.embed(text).any()


def test_the_same_text_is_the_same_vector_to_the_bit(embedder: StaticEmbedder) -> None:
    fresh = StaticEmbedder.load.__wrapped__(StaticEmbedder)  # type: ignore[attr-defined]
    text = "Schreibe eine Funktion, die Primzahlen zählt. 素数を数える"
    assert embedder.embed(text).tobytes() == fresh.embed(text).tobytes()


@pytest.mark.parametrize(
    ("one", "near", "far"),
    [
        ("How do I reset my password?", "I forgot my password, how can I change it", "What will the weather be"),
        ("Sort a list in Python", "python: order the items of a list", "Write a poem about autumn"),
        ("book a flight to Boston", "I need a plane ticket for Boston", "my credit card was stolen"),
    ],
)
def test_alike_texts_lie_closer(embedder: StaticEmbedder, one: str, near: str, far: str) -> None:
    a, b, c = (embedder.embed(text) for text in (one, near, far))
    assert a @ b > a @ c + 0.2


def test_of_a_long_text_both_ends_are_read_and_no_more(embedder: StaticEmbedder) -> None:
    head, tail = "alpha " * MAX_CHARS, "omega " * MAX_CHARS
    vector = embedder.embed(head + tail)
    assert (vector == embedder.embed(head + "the middle is not read " * 1000 + tail)).all()
    assert (vector != embedder.embed(head)).any()
    assert (vector != embedder.embed(tail)).any()


def test_the_table_is_mapped_not_read(embedder: StaticEmbedder) -> None:
    """So that all workers of a machine share its pages."""
    assert isinstance(embedder._parts.base, np.memmap)
