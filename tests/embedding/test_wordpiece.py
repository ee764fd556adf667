"""Our word pieces against the library's: the same ids, for any text."""

import unicodedata

import pytest
import tokenizers
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import models, normalizers, pre_tokenizers

from extproc.embedding.static import DATA, StaticEmbedder
from extproc.embedding.wordpiece import UNKNOWN, WordPiece


@pytest.fixture(scope="module")
def words() -> list[str]:
    return (DATA / "vocabulary.txt").read_text(encoding="utf-8").splitlines()


@pytest.fixture(scope="module")
def ours(words: list[str]) -> WordPiece:
    return WordPiece(words)


@pytest.fixture(scope="module")
def judge(words: list[str]) -> tokenizers.Tokenizer:
    vocabulary = {piece: at for at, piece in enumerate(words)}
    judge = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    judge.normalizer = normalizers.BertNormalizer()
    judge.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return judge


# What people write; not private characters, nor those that the library's table, of another Unicode, does not have (it
# drops them) or has as something else.
TEXT = st.text(
    st.characters(exclude_categories=("Cs", "Cn", "Co", "Cf", "Cc", "P"), max_codepoint=0x2FFF).filter(
        lambda char: unicodedata.ucd_3_2_0.category(char) == unicodedata.category(char)
    ),
    max_size=60,
)


@given(TEXT | st.text(st.characters(max_codepoint=0x24F), max_size=80))
@example("Naïve façade – “quoted”… it’s 3.5 €/m²")  # noqa: RUF001 - such quotes are the case
@example("def f(x): return {'a': [1, 2]} # ok\n\tend")
@example("你好,世界!日本語テキスト 한국어 नमस्ते مرحبا")
@example("cafe\u0301 \U0001f600 \U0001f468\u200d\U0001f4bb")
@example("supercalifragilisticexpialidocious " + "x" * 101)
def test_the_ids_are_the_librarys(ours: WordPiece, judge: tokenizers.Tokenizer, text: str) -> None:
    assert list(ours.ids(text)) == judge.encode(text, add_special_tokens=False).ids


def test_half_a_surrogate_pair_is_an_unknown_word(ours: WordPiece) -> None:
    assert ours.ids("\ud83d") == UNKNOWN


def test_the_shipped_table_has_a_row_for_each_piece(words: list[str]) -> None:
    assert len(words) == len(StaticEmbedder.load()) == 30_522
