"""The complexity of a request: what it is read from, and that nothing a client sends can break it."""

from typing import Any

from extproc.records import ChatRequest
from extproc.routing.classify import Complexity, classify


def asked(*messages: Any) -> Complexity:
    listed = [m if isinstance(m, dict) else {"role": "user", "content": m} for m in messages]
    return classify(ChatRequest(body={"model": "auto", "messages": listed}, model="auto"))


def test_the_score_is_between_0_and_1_and_the_reason_named() -> None:
    for text in ("", "Hi", "word " * 100_000):
        found = asked(text)
        assert 0 <= found.score <= 1
        assert found.reason.isidentifier()
