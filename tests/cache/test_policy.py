"""When the cache may answer, and when an answer may be kept."""

import math
from typing import Any

import pytest

from extproc.cache.policy import Terms, terms
from extproc.chat import GatewayMetadata
from extproc.settings import Cache, Semantic
from tests.cache.builders import chat

ON, NO_WISHES = Cache(exact=True), GatewayMetadata()


def of(cache_control: str = "", settings: Cache = ON, wishes: GatewayMetadata = NO_WISHES, **more: Any) -> Terms:
    return terms(settings, chat("hi", **more), wishes, cache_control)


def test_off() -> None:
    assert of(settings=Cache()) == Terms("off", read=False, write=False)


def test_as_a_rule() -> None:
    assert of() == Terms()


def test_bypass_cache() -> None:
    assert of(wishes=GatewayMetadata(bypass_cache=True)) == Terms("asked", read=False, write=False)


@pytest.mark.parametrize(
    ("header", "bypass", "read", "write", "max_age_s"),
    [
        ("no-store", "no_store", False, False, math.inf),
        ("No-Store, max-age=5", "no_store", False, False, math.inf),
        ("no-cache", "no_cache", False, True, math.inf),
        (' no-cache="x" ', "no_cache", False, True, math.inf),
        ("max-age=0", "no_cache", False, True, math.inf),
        ("max-age=60", "", True, True, 60),
        ('max-age="60"', "", True, True, 60),
        ("private, max-age=60", "", True, True, 60),
        ("max-age=soon", "no_cache", False, True, math.inf),
        ("max-age", "no_cache", False, True, math.inf),
        ("max-age=-1", "no_cache", False, True, math.inf),
        ("max-stale=60", "", True, True, math.inf),
        (",,=", "", True, True, math.inf),
    ],
)
def test_cache_control(header: str, bypass: str, read: bool, write: bool, max_age_s: float) -> None:
    found = of(header)
    assert (found.bypass, found.read, found.write, found.max_age_s) == (bypass, read, write, max_age_s)


@pytest.mark.parametrize(
    ("temperature", "above_zero", "bypass"),
    [(None, False, ""), (0, False, ""), (0.0, False, ""), (0.1, False, "temperature"), (0.1, True, "")],
)
def test_temperature(temperature: float | None, above_zero: bool, bypass: str) -> None:
    settings = Cache(exact=True, temperature_above_zero=above_zero)
    assert of(settings=settings, temperature=temperature).bypass == bypass


@pytest.mark.parametrize(
    ("more", "bypass"),
    [
        ({"modalities": ["text", "audio"], "audio": {"voice": "alloy"}}, "audio"),
        ({"modalities": ["text"]}, ""),
        ({"web_search_options": {}}, "web_search"),
    ],
)
def test_answers_of_a_moment_or_not_of_text(more: dict[str, Any], bypass: str) -> None:
    assert of(**more).bypass == bypass


def test_without_recording_nothing_new_is_kept() -> None:
    settings = Cache(exact=True, record=False)
    assert of(settings=settings) == Terms(write=False)
    assert of("no-cache", settings=settings) == Terms("no_cache", read=False, write=False)


@pytest.mark.parametrize(
    ("enabled", "above_zero", "temperature", "similar"),
    [
        (False, False, 0, False),
        (True, False, 0, True),
        (True, False, None, False),
        (True, True, None, True),
        (True, True, 1, True),
    ],
)
def test_an_unset_temperature_counts_as_above_zero_for_similar_requests(
    enabled: bool, above_zero: bool, temperature: float | None, similar: bool
) -> None:
    settings = Cache(exact=True, semantic=Semantic(enabled=enabled), temperature_above_zero=above_zero)
    assert of(settings=settings, temperature=temperature).similar is similar
