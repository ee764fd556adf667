"""`gateway prices`: an imported table, the built-in one and gateway.yaml, and which of them a price is from."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from control.cli import main
from extproc import runtime
from extproc.catalog import compile_catalog
from extproc.pricing import default_table
from extproc.records import LongContextPrice
from extproc.settings import SettingsError, parse

PUBLIC = {
    "gpt-4o-mini": {
        "litellm_provider": "openai",
        "mode": "chat",
        "input_cost_per_token": 2e-7,
        "output_cost_per_token": 9e-7,
    },
    "gpt-tiered": {
        "litellm_provider": "openai",
        "mode": "chat",
        "input_cost_per_token": 1e-6,
        "input_cost_per_token_above_200k_tokens": 2e-6,
        "output_cost_per_token": 5e-6,
        "output_cost_per_token_above_200k_tokens": 7e-6,
    },
}
CONFIG = """
providers: {{openai: {{format: openai, base_url: "http://127.0.0.1:9"}}}}
models:
  - {{name: gpt-4o-mini, provider: openai}}
  - {{name: own, provider: openai, upstream_name: gpt-4o-mini, price: {{output: 3}}}}
  - {{name: tiered, provider: openai, upstream_name: gpt-tiered}}
  - {{name: gpt-4o, provider: openai}}
  - {{name: nobody-knows, provider: openai}}
teams: [{{id: a, keys: [sk-a]}}]
prices: {{file: {file}}}
"""

TABLE = '{"as_of": "2026-11-30", "source": "s", "models": {"openai": {"gpt-4o-mini": {"price": {"input": %s}}}}}'


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """gateway.yaml with a table that `gateway prices import` made."""
    (tmp_path / "public.json").write_text(json.dumps(PUBLIC))
    table = tmp_path / "prices.json"
    options = ["--output", str(table), "--as-of", "2026-11-20"]
    result = CliRunner().invoke(main, ["prices", "import", str(tmp_path / "public.json"), *options])
    assert result.exit_code == 0, result.output
    assert "2 openai" in result.output
    assert f"prices: {{file: {table}}}" in result.output
    file = tmp_path / "gateway.yaml"
    file.write_text(CONFIG.format(file=table))
    return file


def test_the_file_wins_part_by_part_then_one_table_alone(config: Path, tmp_path: Path) -> None:
    settings = parse(config.read_text(), {})
    runtime.write(settings, tmp_path / "runtime.json")
    for each in (settings, runtime.read(tmp_path / "runtime.json")):  # the serving processes need no table
        targets = compile_catalog(each).targets
        mini, own = targets["gpt-4o-mini"].price, targets["own"].price
        assert (mini.input, mini.output) == (200_000, 900_000)
        assert mini.cached_input is None, "the built-in table knows one, but the imported table has the model"
        assert (own.input, own.output) == (200_000, 3_000_000)
        assert targets["tiered"].price.long_context == (
            LongContextPrice(above_input_tokens=200_000, input=2_000_000, output=7_000_000),
        )
        built_in = default_table().find("openai", "gpt-4o")
        assert built_in
        assert built_in.price.input
        assert targets["gpt-4o"].price.input == round(1_000_000 * built_in.price.input)
        assert (targets["nobody-knows"].price.input, targets["nobody-knows"].price.output) == (None, None)


def test_the_list_says_where_each_is_from(config: Path) -> None:
    result = CliRunner().invoke(main, ["prices", "list", "--config", str(config), "--json"])
    assert result.exit_code == 0, result.output
    found: list[dict[str, Any]] = json.loads(result.output)
    table = f"{config.parent / 'prices.json'} as of 2026-11-20"
    assert {model["name"]: model["source"] for model in found} == {
        "gpt-4o-mini": table,
        "own": f"gateway.yaml, then {table}",
        "tiered": table,
        "gpt-4o": f"built-in table as of {default_table().as_of}",
        "nobody-knows": "unknown",
    }
    text = CliRunner().invoke(main, ["prices", "list", "--config", str(config)]).output
    assert "nobody-knows" in text
    assert "?" in text


@pytest.mark.parametrize(
    "content", [None, "{}", "not JSON", json.dumps(PUBLIC), TABLE % "-1", TABLE % "1e300", TABLE % '"1"']
)
def test_a_table_that_cannot_be_used_is_a_mistake_in_the_file(tmp_path: Path, content: str | None) -> None:
    table = tmp_path / "prices.json"
    if content is not None:
        table.write_text(content)
    with pytest.raises(SettingsError) as caught:
        parse(CONFIG.format(file=table), {})
    assert caught.value.problems[0].startswith(f"prices.file: {table}")


def test_an_import_that_cannot_be_used_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "public.json").write_text(json.dumps(PUBLIC | {"gpt": 5}))
    output = tmp_path / "prices.json"
    result = CliRunner().invoke(main, ["prices", "import", str(tmp_path / "public.json"), "--output", str(output)])
    assert result.exit_code == 2
    assert "gpt: must be an object" in result.output
    assert not output.exists()
