"""The most input tokens a request can be billed: what a strict team's hold must cover, whatever the text.

In: the decoded request and a target. Out: a number that the provider's count does not pass. Called by `reserve` for
strict teams only; all others hold the estimate of `tokens`.

The bound, and what it rests on:
- OpenAI's models on o200k_base (by tiktoken's own table of names): message texts are counted with that vocabulary, all
  of them, piece by piece. Pieces begin where the vocabulary's split pattern begins a new word, so their counts add up
  exactly. A stretch of 8,192 characters without such a place, and all beyond 1,000,000 characters, count as bytes.
- Every other model: its vocabulary is not ours to count with. Text is bytes of UTF-8: no byte-level BPE, and no
  SentencePiece with byte fallback, makes more tokens than bytes. As some normalise text before (NFKC, where one
  character of 3 bytes may become 33), it is the larger of the bytes before and after.
- Tools, schemas and whatever is no message text: bytes of their JSON, for every model.
- Media and what the provider's template adds (roles, delimiters, its own instructions for tools): the family's
  allowances in `tokens`, which are documented or measured, not proved.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import tiktoken
from tiktoken.model import encoding_name_for_model

from extproc.chat import encoded
from extproc.records import ProviderFormat, Target
from extproc.tokens import Parts, family_of

PIECE_CHARS = 8_192
MOST_COUNTED_CHARS = 1_000_000  # about 40 ms in a thread; larger than any window of these models
_JOINED_TOKENS = 3  # texts of one message may be joined: a word across the joint is cut otherwise than we cut it
# In o200k's split pattern each of these, after a letter or digit, ends one word and begins the next.
_NEW_WORD = re.compile(r"""(?<=[^\W_])[ \n\t,.;:!?()\[\]{}<>"“”、。，；：！？（）「」]""")  # noqa: RUF001 - Chinese marks are meant


def most_input_tokens(body: Mapping[str, Any], target: Target, encoding: tiktoken.Encoding) -> int:
    """The most that `target` can bill for `body` as input. Work is bounded; for long texts, use a thread.

    Raises InvalidRequest for JSON that is too deep to be written again.
    """
    parts = _Bound(family_of(target.format, target.upstream_name))
    parts.add_request(body)
    if not is_o200k(target.format, target.upstream_name):
        return parts.tokens + sum(map(_bytes, parts.texts))
    left, tokens = MOST_COUNTED_CHARS, parts.tokens
    for text in parts.texts:
        tokens += sum(_counted(piece, encoding) for piece in pieces(text[:left])) + _bytes(text[left:])
        left = max(0, left - len(text))
    return tokens


def pieces(text: str) -> Iterator[str]:
    """`text` in pieces of at most PIECE_CHARS that begin new words; a longer one where there is no such place."""
    begin = 0
    while len(text) - begin > PIECE_CHARS:
        end = begin
        for found in _NEW_WORD.finditer(text, begin + PIECE_CHARS // 2, begin + PIECE_CHARS):
            end = found.start()
        if end == begin:
            later = _NEW_WORD.search(text, begin + PIECE_CHARS)
            end = later.start() if later else len(text)
        yield text[begin:end]
        begin = end
    yield text[begin:]


@lru_cache(maxsize=4_096)
def is_o200k(wire_format: ProviderFormat, upstream_name: str) -> bool:
    """Whether the model is one that OpenAI says counts with o200k_base."""
    try:
        return wire_format in ("openai", "azure") and encoding_name_for_model(upstream_name) == "o200k_base"
    except KeyError:
        return False


def _counted(piece: str, encoding: tiktoken.Encoding) -> int:
    # A long word is slow to merge, and a million spaces make tiktoken's pattern panic.
    return len(encoding.encode_ordinary(piece)) if len(piece) <= PIECE_CHARS else _bytes(piece)


def _bytes(text: str) -> int:
    if text.isascii():
        return len(text)
    return max(_utf8(text), _utf8(unicodedata.normalize("NFKC", text)))


def _utf8(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


class _Bound(Parts):
    """What a request is made of: message texts to count, and for all else as many tokens as bytes of JSON."""

    def _add_json(self, value: object) -> None:
        if isinstance(value, str):
            if value:
                self.texts.append(value)
                self.tokens += _JOINED_TOKENS
        else:
            self.tokens += len(encoded(value))
