"""Usage, under the names that OpenAI and its followers give it."""

from typing import Any

import pytest

from extproc.adapters.usage import from_openai, to_openai
from extproc.records import Usage

USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (USAGE, Usage(5, 2)),
        ({**USAGE, "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 1}}, Usage(5, 2, 4, 1)),
        ({**USAGE, "prompt_cache_hit_tokens": 4, "prompt_cache_miss_tokens": 1}, Usage(5, 2, 4)),
        ({**USAGE, "cache_read_input_tokens": 3, "cache_creation_input_tokens": 2}, Usage(5, 2, 3, 2)),
        ({**USAGE, "completion_tokens_details": {"reasoning_tokens": 1}}, Usage(5, 2, reasoning_tokens=1)),
        (
            {**USAGE, "total_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 2}},
            Usage(5, 4, reasoning_tokens=2),
        ),
        ({"prompt_tokens": 5.0, "completion_tokens": "2", "prompt_tokens_details": None}, Usage(5, 2)),
        ({"prompt_tokens": None, "completion_tokens": "two", "total_tokens": 10**400}, Usage()),
        ({"prompt_tokens": -5, "completion_tokens": True}, Usage()),
    ],
)
def test_trap_13_usage_under_every_name(raw: dict[str, Any], expected: Usage) -> None:
    assert from_openai(raw) == expected


def test_usage_there_and_back() -> None:
    usage = Usage(input_tokens=9, output_tokens=8, cached_tokens=3, cache_write_tokens=2, reasoning_tokens=1)
    assert from_openai(to_openai(usage)) == usage
