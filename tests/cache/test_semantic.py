"""The semantic step by itself: thresholds, checks, and that partitions never meet."""

import asyncio
import itertools
from functools import partial

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.cache import checks
from extproc.cache.agree import agree, text_of
from extproc.cache.calibrate import START, Tally
from extproc.cache.cascade import Cascade, Models
from extproc.cache.confirm import Confirmer
from extproc.cache.counts import Counts
from extproc.cache.entry import Stored
from extproc.cache.index import Index
from extproc.cache.key import Key, key_of, partition_of
from extproc.cache.redis import RedisStore
from extproc.cache.semantic import Semantic
from extproc.chat import parse_chat
from extproc.embedding.static import StaticEmbedder
from extproc.settings import Semantic as Settings
from extproc.state.pipe import open_state
from tests.budget.conftest import Valkey

FOREVER = 2**60


def step(share: float = 0.0, limit: float = 0.01) -> Semantic:
    configured = Settings(enabled=True, sample_share=share, max_wrong_hit_rate=limit)
    models = Models(StaticEmbedder.load(), Confirmer.load())
    return Semantic(lambda: configured, lambda: Cascade(Index(), models), Counts(), draw=lambda: 0.5, deadline_s=10)


def key(text: str, digest: str = "", partition: str = "team:a", context: str = "c") -> Key:
    return Key(partition, digest or text, context, text)


def learn(semantic: Semantic, known: Key) -> None:
    semantic.learn(Stored(known, "gpt", FOREVER))


async def test_models_that_cannot_be_loaded_are_told_of_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, valkey: Valkey
) -> None:
    monkeypatch.setattr(checks, "RELOAD_S", 0.01)
    semantic, tries = step(), iter([OSError("no such file")])
    wanted = semantic.cascade.models
    semantic.cascade.models = None

    def load() -> Models:
        for error in tries:
            raise error
        assert wanted is not None
        return wanted

    client = open_state(valkey.url)
    task = asyncio.create_task(checks.Follower(semantic, RedisStore(client), load).run())
    async with asyncio.timeout(10):
        while semantic.cascade.models is None:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    await client.aclose()
    assert caplog.text.count("cannot be loaded") == 1


async def test_near_enough_is_found() -> None:
    semantic = step()
    learn(semantic, key("How do I reset my password?"))
    assert await semantic.find(key("how do i reset my password"), "a", 0) == "How do I reset my password?"
    assert await semantic.find(key("How do I bake bread?"), "a", 0) is None
    counted = semantic._counts.take()
    assert counted == {"a|not_similar|far": 1}


async def test_a_share_of_hits_is_checked() -> None:
    asked = key("how do i reset my password")
    for share, checked in ((0.4, False), (0.6, True)):
        semantic = step(share)
        learn(semantic, key("How do I reset my password?"))
        await semantic.find(asked, "a", 0)
        assert semantic.to_check(asked) is checked
        pending = semantic.learn(Stored(asked, "gpt", FOREVER))
        assert (pending is not None) is checked


async def test_a_candidate_that_is_not_near_enough_is_compared_for_nothing() -> None:
    semantic = step()
    learn(semantic, key("How can I improve my writing skills?"))
    asked = key("What could one do about better writing skills?")
    assert await semantic.find(asked, "a", 0) is None
    assert not semantic.to_check(asked), "the provider is asked anyway"
    pending = semantic.learn(Stored(asked, "gpt", FOREVER))
    assert pending is not None
    assert not pending.served
    semantic.checked("team:a", pending, wrong=False)
    assert semantic.estimate("team:a").checked == 0, "below what is served"
    assert semantic._counts.take() == {"a|not_similar|below": 1}, "a hit that was none is not counted as checked"


async def test_wrong_hits_close_a_partition_and_no_other() -> None:
    semantic = step(share=1)
    learn(semantic, key("How do I reset my password?"))
    learn(semantic, key("How do I reset my password?", "d2", "team:b", "c2"))
    for at in range(2):
        asked = key("how do i reset my password", f"digest {at}")
        await semantic.find(asked, "a", 0)
        pending = semantic.learn(Stored(msgspec.structs.replace(asked, text=None), "gpt", FOREVER))
        assert pending is not None
        semantic.checked("team:a", pending, wrong=True)
    assert semantic.estimate("team:a").threshold > START
    assert await semantic.find(key("how do i reset my password", "x"), "a", 0) is None
    assert await semantic.find(key("how do i reset my password", "y", "team:b", "c2"), "b", 0) == "d2"
    semantic.update("team:a", Tally())
    assert await semantic.find(key("how do i reset my password", "z"), "a", 0) is not None


async def test_an_entry_that_is_gone_is_forgotten() -> None:
    semantic = step()
    learn(semantic, key("How do I reset my password?"))
    semantic.gone("How do I reset my password?")
    assert await semantic.find(key("how do i reset my password"), "a", 0) is None


SYSTEMS = st.sampled_from([None, "Be brief.", "Be kind."])
TOOLS = st.sampled_from([None, [{"type": "function", "function": {"name": "f"}}]])
BEFORE = st.sampled_from([[], [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]])
FORMATS = st.sampled_from([None, {"type": "json_object"}])
IMAGES = st.sampled_from([None, "data:image/png;base64,AA=="])
REQUESTS = st.fixed_dictionaries(
    {
        "team": st.sampled_from(["a", "b", "shared", "team:a"]),
        "shared": st.booleans(),
        "model": st.sampled_from(["gpt", "claude"]),
        "system": SYSTEMS,
        "tools": TOOLS,
        "before": BEFORE,
        "response_format": FORMATS,
        "image": IMAGES,
        "max_tokens": st.sampled_from([None, 5]),
    }
)


def key_for(request: dict[str, object], text: str) -> Key:
    system = [{"role": "system", "content": request["system"]}] if request["system"] else []
    image = request["image"]
    content: object = text
    if image:
        content = [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": image}}]
    body = {
        "model": request["model"],
        "messages": [*system, *request["before"], {"role": "user", "content": content}],  # type: ignore[misc]
        "temperature": 0,
    }
    body |= {name: request[name] for name in ("tools", "response_format", "max_tokens") if request[name] is not None}
    chat = parse_chat(msgspec.json.encode(body))
    return key_of(partition_of(str(request["team"]), shared=bool(request["shared"])), str(request["model"]), chat)


@settings(max_examples=60)
@given(st.lists(REQUESTS, min_size=2, max_size=4, unique_by=partial(msgspec.json.encode, order="sorted")))
async def test_nothing_is_found_across_teams_prompts_tools_formats_images_or_turns(
    requests: list[dict[str, object]],
) -> None:
    """One of them is cached; another that differs in anything but the last text never finds it."""
    for cached, asked in itertools.permutations(requests, 2):
        semantic = step()
        learn(semantic, key_for(cached, "How do I reset my password?"))
        found = await semantic.find(key_for(asked, "how do i reset my password"), "a", 0)
        same = {**asked, "team": 0} == {**cached, "team": 0} and asked["shared"] and cached["shared"]
        assert (found is not None) == (bool(same) and not cached["image"])


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Lisbon.", "lisbon", True),
        ("The capital is Lisbon.", "Lisbon is the capital.", True),
        ("It costs 5 dollars.", "It costs 50 dollars.", False),
        ("Yes, you can return it.", "No, you can not return it.", False),
        ("The sky is blue because of scattering.", "Bread is made of flour, water and yeast.", False),
    ],
)
def test_whether_two_answers_agree(one: str, other: str, same: bool) -> None:
    assert agree(one, other, StaticEmbedder.load()) is same


def test_the_text_of_an_answer() -> None:
    assert text_of(b'{"choices": [{"message": {"content": "Hi"}}]}') == "Hi"
    assert text_of(b'{"choices": [{"message": {"content": null, "tool_calls": []}}]}') is None
    assert text_of(b'{"choices": []}') is None
    assert text_of(b"nonsense") is None
