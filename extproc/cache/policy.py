"""May a request be answered from the cache, and may its answer be kept? Pure.

In: the cache's settings, the request, its `Cache-Control` header. Out: `Terms`.

    metadata.bypass_cache, no-store   neither
    no-cache, max-age=0               not answered from the cache, but its answer is kept: a refresh
    max-age=N                         answered by what is at most N seconds old
    temperature > 0                   neither, unless cache.temperature_above_zero; unset is not above zero here
    audio asked for, a web search     neither: the one does not travel as text, the other is about this moment
"""

import math
import re
from typing import Final, Literal

import msgspec

from extproc.chat import GatewayMetadata
from extproc.records import ChatRequest
from extproc.settings import Cache

# Why a request bypasses the cache; "" where it does not.
Bypass = Literal["", "off", "asked", "no_cache", "no_store", "temperature", "audio", "web_search", "unavailable"]

_MAX_AGE: Final = re.compile(r"\d{1,9}")


class Terms(msgspec.Struct, frozen=True):
    """`read`: it may be answered from the cache; `write`: its answer may be kept."""

    bypass: Bypass = ""
    read: bool = True
    write: bool = True
    max_age_s: float = math.inf
    similar: bool = False  # an answer to a similar request will do


OFF: Final = Terms("off", read=False, write=False)


def terms(settings: Cache, chat: ChatRequest, wishes: GatewayMetadata, cache_control: str) -> Terms:
    """How the cache is to treat `chat`."""
    if not settings.exact:
        return OFF
    directives = _directives(cache_control)
    if wishes.bypass_cache:
        return Terms("asked", read=False, write=False)
    if "no-store" in directives:
        return Terms("no_store", read=False, write=False)
    reason = _not_kept(settings, chat)
    if reason:
        return Terms(reason, read=False, write=False)
    max_age_s = _max_age_s(directives)
    if "no-cache" in directives or max_age_s == 0:
        return Terms("no_cache", read=False, write=settings.record)
    return Terms(write=settings.record, max_age_s=max_age_s, similar=_similar(settings, chat))


def _not_kept(settings: Cache, chat: ChatRequest) -> Bypass:
    temperature = chat.body.get("temperature")
    if temperature is not None and temperature > 0 and not settings.temperature_above_zero:
        return "temperature"
    if chat.body.get("audio") is not None or "audio" in (chat.body.get("modalities") or ()):
        return "audio"
    return "web_search" if chat.body.get("web_search_options") is not None else ""


def _similar(settings: Cache, chat: ChatRequest) -> bool:
    """An unset temperature counts as above zero here: its answers vary, and a similar question's vary more."""
    temperature = chat.body.get("temperature")
    return settings.semantic.enabled and (settings.temperature_above_zero or temperature == 0)


def _directives(cache_control: str) -> dict[str, str]:
    parts = (part.partition("=") for part in cache_control.lower().split(","))
    return {name.strip(): value.strip().strip('"') for name, _, value in parts if name.strip()}


def _max_age_s(directives: dict[str, str]) -> float:
    """Infinite where none is given. One that is no number is 0: RFC 9111, 4.2.1, takes such an answer for stale."""
    value = directives.get("max-age")
    if value is None:
        return math.inf
    return float(value) if _MAX_AGE.fullmatch(value) else 0.0
