"""Requests, keys, entries and answers for the cache's tests."""

import itertools
import json
import os
from typing import Any

from extproc.cache.entry import Entry
from extproc.cache.hit import Question
from extproc.cache.key import Key, key_of, partition_of
from extproc.cache.policy import Terms
from extproc.cache.tape import Recording
from extproc.cache.ticket import Ticket
from extproc.chat import parse_chat
from extproc.records import ChatRequest, Outcome, Price, Target, Usage

NOW_MS = 1_900_000_000_000
_names = itertools.count()
TARGET = Target(
    model="gpt",
    upstream_name="gpt-x",
    provider="openai",
    format="openai",
    price=Price(input=1_000_000, output=4_000_000),
)


def chat(content: Any = "hi", **more: Any) -> ChatRequest:
    body = {"model": "gpt", "messages": [{"role": "user", "content": content}]} | more
    return parse_chat(json.dumps(body).encode())


def key(content: Any = "hi", *, team: str = "team-a", subject: str = "model:gpt", **more: Any) -> Key:
    return key_of(partition_of(team, shared=False), subject, chat(content, **more))


def team_name() -> str:
    """A team nobody else uses."""
    return f"team-{os.getpid()}-{next(_names)}"


def completion(text: str | None = "Hello, world.", finish: str = "stop", **message: Any) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "gpt",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text} | message, "finish_reason": finish}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13},
    }


def recording(answer: dict[str, Any] | bytes, known: Key | None = None, **changes: Any) -> Recording:
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    known = known or key()
    ticket = Ticket(known, known.partition.removeprefix("team:"), NOW_MS, "")
    outcome = Outcome(usage=Usage(input_tokens=9, output_tokens=4), complete=True, finish_reason="stop")
    given: dict[str, Any] = {"ticket": ticket, "kind": "whole", "body": body, "target": TARGET, "outcome": outcome}
    return Recording(**(given | changes))


def entry(known: Key, text: str = "Hello, world.", **changes: Any) -> Entry:
    given: dict[str, Any] = {
        "key": known,
        "team_id": known.partition.removeprefix("team:"),
        "model": "gpt",
        "provider": "openai",
        "answer": json.dumps(completion(text)).encode(),
        "usage": Usage(input_tokens=9, output_tokens=4),
        "cost_nano_usd": 25_000,
        "stored_ms": NOW_MS,
    }
    return Entry(**(given | changes))


def question(known: Key, **changes: Any) -> Question:
    given: dict[str, Any] = {
        "key": known,
        "terms": Terms(),
        "request_id": f"request-{next(_names)}",
        "team_id": known.partition.removeprefix("team:"),
        "models": frozenset({"gpt"}),
        "now_ms": NOW_MS,
    }
    return Question(**(given | changes))
