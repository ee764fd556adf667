"""The complexity of a request: what it is read from, and that nothing a client sends can break it."""

import time
from typing import Any

import pytest

from extproc.records import ChatRequest, Wish
from extproc.routing.classify import Complexity, classify
from extproc.routing.policy import Policy
from tests.routing.everyday import everyday

HARD = "Prove that every finite integral domain is a field, and state where finiteness is used."
EASY = "What is the capital of Norway?"


def asked(*messages: Any, wish: Wish = "balanced", policy: Policy | None = None, **fields: Any) -> Complexity:
    listed = [m if isinstance(m, dict) else {"role": "user", "content": m} for m in messages]
    return classify(ChatRequest(body={"messages": listed} | fields, model="auto"), policy or Policy(), wish)


def test_nine_in_ten_everyday_prompts_go_where_a_person_would_send_them() -> None:
    wrong = [(tier, prompt[:60]) for tier, prompt in everyday() if asked(prompt).tier != tier]
    assert len(wrong) <= 6, wrong


def test_no_everyday_prompt_goes_from_hard_to_simple() -> None:
    assert not [prompt for tier, prompt in everyday() if (tier, asked(prompt).tier) == ("hard", "simple")]


def test_the_score_is_between_0_and_1_and_the_reason_named() -> None:
    for text in ("", "Hi", HARD, "word " * 100_000):
        found = asked(text)
        assert 0 <= found.score <= 1
        assert found.reason.isidentifier()


def test_the_same_request_has_the_same_score_to_the_bit() -> None:
    assert len({asked(HARD) for _ in range(5)}) == 1


@pytest.mark.parametrize("prompt", [prompt for _, prompt in everyday()][::4])
def test_a_courtesy_around_it_does_not_move_a_prompt_by_two_tiers(prompt: str) -> None:
    order = ("simple", "medium", "hard")
    bare, polite = asked(prompt), asked(f"Could you please help me with this?\n\n{prompt}")
    assert abs(order.index(bare.tier) - order.index(polite.tier)) <= 1


def test_a_short_question_after_another_is_read_with_it() -> None:
    before = {"role": "assistant", "content": "It follows from cancellation."}
    alone, after = asked("and without it?"), asked(HARD, before, "and without it?")
    assert after.score > alone.score
    assert asked(HARD, before, "thank you!").tier == "simple"


def test_tools_instructions_images_and_length_add_to_the_score() -> None:
    plain = asked(EASY).score
    image = {"role": "user", "content": [{"type": "text", "text": EASY}, {"type": "image_url", "image_url": {}}]}
    assert asked(EASY, tools=[{"type": "function"}]).score > plain
    assert asked({"role": "system", "content": "Always answer as JSON. " * 100}, EASY).score > plain
    assert asked({"role": "assistant", "content": "x" * 200_000}, EASY).score > plain
    assert asked(image).score > plain


def test_wishes_move_the_tiers_not_the_score() -> None:
    order = ("simple", "medium", "hard")
    prompts = [prompt for _, prompt in everyday()]
    cost, balanced, quality = ([asked(p, wish=w) for p in prompts] for w in ("cost", "balanced", "quality"))
    assert [found.score for found in cost] == [found.score for found in quality]
    for cheap, usual, good in zip(cost, balanced, quality, strict=True):
        assert order.index(cheap.tier) <= order.index(usual.tier) <= order.index(good.tier)
    assert [found.tier for found in cost] != [found.tier for found in balanced] != [found.tier for found in quality]


ODD: list[Any] = [
    [],
    [{"role": "system", "content": None}],
    [{"role": "assistant", "content": None, "tool_calls": []}],
    [{"role": "user", "content": []}],
    [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}, {"type": "text", "text": 5}]}],
    [{"role": "user", "content": "\ud83d half a pair"}],
    [{"role": "user", "content": "\x00\u200b\u202e"}],
    [{"role": "tool", "content": "result", "tool_call_id": "1"}],
]


@pytest.mark.parametrize("messages", ODD, ids=range(len(ODD)))
def test_odd_conversations_have_a_tier(messages: list[Any]) -> None:
    assert asked(*messages).tier in ("simple", "medium", "hard")


HOSTILE = {
    "one word": "x" * (32 << 20),
    "spaces": " " * (32 << 20),
    "pairs in the vocabulary": "qz" * (4 << 20),
    "ideographs": "你好" * (4 << 20),
    "marks": "e\u0301\u0302\u0303" * (2 << 20),
    "numbers and braces": "{1}[2];" * (4 << 20),
    "half pairs": "\ud83d" * (1 << 20),
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_huge_text_costs_no_more_than_a_long_one(text: str) -> None:
    """Processor time, and no tight bound: reading all of it would take seconds."""
    asked(HARD)
    began = time.process_time()
    asked(text)
    assert time.process_time() - began < 0.5
