"""LiteLLM's public format -> our table."""

import json
from pathlib import Path
from typing import Any

import pytest

from control.prices import import_litellm
from extproc.pricing import PriceTableError, UsdLongContext, UsdPrice, dump_table, price_tables

# Entries as LiteLLM writes them; numbers are USD per token.
PUBLIC: dict[str, Any] = {
    "sample_spec": {
        "litellm_provider": "one of https://docs.litellm.ai",
        "mode": "one of: chat",
        "max_input_tokens": "x",
    },
    "gpt-4o-mini": {
        "litellm_provider": "openai",
        "mode": "chat",
        "input_cost_per_token": 1.5e-07,
        "cache_read_input_token_cost": 7.5e-08,
        "output_cost_per_token": 6e-07,
        "input_cost_per_token_batches": 7.5e-08,
        "max_input_tokens": 128000,
        "max_output_tokens": 16384,
        "source": "https://example.test/pricing",
        "supports_vision": True,
    },
    "claude-tiered": {
        "litellm_provider": "anthropic",
        "mode": "chat",
        "input_cost_per_token": 1e-07,
        "cache_creation_input_token_cost": 1.25e-07,
        "cache_creation_input_token_cost_above_1hr": 2e-07,
        "output_cost_per_token": 5e-07,
        "input_cost_per_token_above_100k_tokens": 5e-07,
        "cache_creation_input_token_cost_above_1hr_above_100k_tokens": 1e-06,
        "output_cost_per_token_above_100k_tokens": 2.5e-06,
        "output_cost_per_token_above_100k_tokens_batches": 1,
    },
    "gemini/gemini-x": {
        "litellm_provider": "gemini",
        "mode": "chat",
        "input_cost_per_token": 3.75e-08,
        "output_cost_per_token": 1.5e-07,
        "output_cost_per_reasoning_token": 3.5e-06,
        "deprecation_date": "2027-01-01",
    },
    "old": {
        "litellm_provider": "openai",
        "mode": "chat",
        "input_cost_per_token": 1e-06,
        "output_cost_per_token": 1e-06,
        "deprecation_date": "2026-01-31",
    },
    "free": {"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": 0.0, "output_cost_per_token": 0.0},
    "ft:gpt": {
        "litellm_provider": "openai",
        "mode": "chat",
        "input_cost_per_token": 1e-6,
        "output_cost_per_token": 1e-6,
    },
    "speaks": {
        "litellm_provider": "openai",
        "mode": "chat",
        "input_cost_per_token": 1e-06,
        "output_cost_per_token": 1e-06,
        "output_cost_per_audio_token": 8e-05,
    },
    "embed": {"litellm_provider": "openai", "mode": "embedding", "input_cost_per_token": 1e-08},
    "elsewhere": {"litellm_provider": "groq", "mode": "chat", "input_cost_per_token": "not read"},
}


def _write(path: Path, entries: object) -> Path:
    path.write_text(json.dumps(entries))
    return path


def test_chat_models_of_the_three_providers_are_converted_exactly(tmp_path: Path) -> None:
    table = import_litellm(_write(tmp_path / "public.json", PUBLIC), "2026-01-31")
    assert {name: list(models) for name, models in table.models.items()} == {
        "openai": ["gpt-4o-mini"],
        "anthropic": ["claude-tiered"],
        "google": ["gemini-x"],
    }
    mini = table.models["openai"]["gpt-4o-mini"]
    assert mini.price == UsdPrice(input=0.15, cached_input=0.075, output=0.6)
    assert (mini.context, mini.max_output, mini.source) == (128_000, 16_384, "https://example.test/pricing")
    assert table.models["anthropic"]["claude-tiered"].price == UsdPrice(
        input=0.1,
        cache_write=0.125,
        cache_write_long=0.2,
        output=0.5,
        long_context=(UsdLongContext(input=0.5, cache_write_long=1.0, output=2.5, above_input_tokens=100_000),),
    )
    assert table.models["google"]["gemini-x"].price == UsdPrice(input=0.0375, output=0.15, reasoning=3.5)


def test_an_imported_table_is_used_in_place_of_the_shipped_one(tmp_path: Path) -> None:
    table = import_litellm(_write(tmp_path / "public.json", PUBLIC), "2026-01-31")
    (tmp_path / "prices.json").write_bytes(dump_table(table))
    found = price_tables(tmp_path / "prices.json").find("google", "gemini-x-latest")
    assert found
    assert (found[0].price.input, found[0].price.reasoning) == (0.0375, 3.5)


@pytest.mark.parametrize("value", [-1e-7, "1e-7", True, 2, 0.15, 0.0025, 1e300, [], {}])
def test_what_is_not_a_price_is_named(tmp_path: Path, value: object) -> None:
    entries = {**PUBLIC, "gpt-4o-mini": {**PUBLIC["gpt-4o-mini"], "input_cost_per_token": value}}
    with pytest.raises(PriceTableError) as caught:
        import_litellm(_write(tmp_path / "public.json", entries), "2026-01-31")
    assert caught.value.problems == ["gpt-4o-mini.input_cost_per_token: must be a price in USD per token, 0 to 0.001"]


def test_every_problem_is_reported_at_once(tmp_path: Path) -> None:
    broken = {**PUBLIC["gpt-4o-mini"], "output_cost_per_token": "?", "max_input_tokens": 1.5}
    with pytest.raises(PriceTableError) as caught:
        import_litellm(_write(tmp_path / "public.json", {"a": broken, "b": broken, "c": 1}), "2026-01-31")
    assert [problem.partition(":")[0] for problem in caught.value.problems] == [
        "a.output_cost_per_token",
        "a.max_input_tokens",
        "b.output_cost_per_token",
        "b.max_input_tokens",
        "c",
    ]


@pytest.mark.parametrize("text", ["", "[1]", '{"a": ', "\x00", "{}", '{"a": {}}', '{"a": NaN}', "[" * 100_000])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "public.json"
    path.write_text(text)
    with pytest.raises(PriceTableError, match=r"public\.json"):
        import_litellm(path, "2026-01-31")


@pytest.mark.parametrize(
    "another",
    [
        {"data": [{"id": "openai/gpt-4o", "pricing": {"prompt": "0.0000025"}}]},
        {"openai": {"models": {"gpt-4o": {"cost": {"input": 2.5}}}}},
        {"as_of": "2026-11-30", "source": "LiteLLM", "models": {"openai": {}}},  # our own table
    ],
)
def test_another_tools_prices_are_told_from_litellms(tmp_path: Path, another: dict[str, Any]) -> None:
    with pytest.raises(PriceTableError) as caught:
        import_litellm(_write(tmp_path / "public.json", another), "2026-01-31")
    (problem,) = caught.value.problems
    assert "is not LiteLLM's price file" in problem


def test_entries_of_another_shape_are_passed_over(tmp_path: Path) -> None:
    odd = {"litellm_provider": ["openai"], "mode": "chat", "input_cost_per_token": 1e-6, "output_cost_per_token": 1e-6}
    tier = PUBLIC["gpt-4o-mini"] | {f"input_cost_per_token_above_{'9' * 5000}k_tokens": 1e-6}
    table = import_litellm(_write(tmp_path / "public.json", {"odd": odd, "gpt-4o-mini": tier}), "2026-01-31")
    assert list(table.models["openai"]) == ["gpt-4o-mini"]
    assert table.models["openai"]["gpt-4o-mini"].price.long_context == ()


def test_a_missing_file_and_a_wrong_date_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PriceTableError, match="cannot be read"):
        import_litellm(tmp_path / "none.json", "2026-01-31")
    for as_of in ("31.1.2026", "2026-13-99"):
        with pytest.raises(PriceTableError, match="YYYY-MM-DD"):
            import_litellm(_write(tmp_path / "public.json", PUBLIC), as_of)
