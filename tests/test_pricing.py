"""Costs against sums done by hand. Prices are USD per 1M tokens; 1 USD per 1M tokens is 1,000 nano-USD per token."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc import pricing, settings
from extproc.pricing import PriceTables, cost_nano_usd, default_table, price_from_usd
from extproc.records import LongContextPrice, Price, Usage

GPT_4O_MINI = price_from_usd({"input": 0.15, "cached_input": 0.075, "output": 0.60})
O3 = price_from_usd({"input": 2.0, "cached_input": 0.5, "output": 8.0})
HAIKU = price_from_usd(
    {"input": 1.0, "cached_input": 0.10, "cache_write": 1.25, "cache_write_long": 2.0, "output": 5.0}
)
GPT_5_4 = price_from_usd(
    {
        "input": 2.5,
        "cached_input": 0.25,
        "output": 15.0,
        "long_context": [{"above_input_tokens": 272_000, "input": 5.0, "cached_input": 0.5, "output": 22.5}],
    }
)
TWO_TIERS = price_from_usd(
    {
        "input": 1.0,
        "output": 2.0,
        "long_context": [
            {"above_input_tokens": 500_000, "input": 9.0, "output": 10.0},
            {"above_input_tokens": 100_000, "input": 3.0, "output": 4.0},
        ],
    }
)

CASES = {
    # OpenAI: prompt_tokens 1,000 of which cached 400. 600 x 150 + 400 x 75 + 100 x 600 = 90,000 + 30,000 + 60,000
    "openai cached": (GPT_4O_MINI, Usage(1_000, 100, cached_tokens=400), 180_000),
    "openai all cached": (GPT_4O_MINI, Usage(1_024, 1, cached_tokens=1_024), 76_800 + 600),
    "openai plain": (GPT_4O_MINI, Usage(10, 2), 1_500 + 1_200),
    # o3: 500 output tokens of which 448 reasoning, all at the output price: 100 x 2,000 + 500 x 8,000
    "openai reasoning": (O3, Usage(100, 500, reasoning_tokens=448), 200_000 + 4_000_000),
    # its own price for reasoning, 3 USD: 100 x 1,000 + 52 x 2,000 + 448 x 3,000
    "reasoning priced apart": (
        price_from_usd({"input": 1.0, "output": 2.0, "reasoning": 3.0}),
        Usage(100, 500, reasoning_tokens=448),
        100_000 + 104_000 + 1_344_000,
    ),
    # Anthropic says input 21, cache_read 188,086, cache_creation 0: input_tokens is their sum.
    # 21 x 1,000 + 188,086 x 100 + 393 x 5,000 = 21,000 + 18,808,600 + 1,965,000
    "anthropic read": (HAIKU, Usage(188_107, 393, cached_tokens=188_086), 20_794_600),
    # input 50, creation 2,000 (5 min), read 10,000: 50 x 1,000 + 2,000 x 1,250 + 10,000 x 100 + 10 x 5,000
    "anthropic write": (
        HAIKU,
        Usage(12_050, 10, cached_tokens=10_000, cache_write_tokens=2_000),
        50_000 + 2_500_000 + 1_000_000 + 50_000,
    ),
    # creation 2,000 of which 1,500 for 1 h: 500 x 1,250 + 1,500 x 2,000
    "anthropic write 1 h": (
        HAIKU,
        Usage(2_000, 0, cache_write_tokens=2_000, cache_write_long_tokens=1_500),
        625_000 + 3_000_000,
    ),
    # at the limit the base price: 272,000 x 2,500 + 10 x 15,000
    "at the long-context limit": (GPT_5_4, Usage(272_000, 10), 680_000_000 + 150_000),
    # one more and all of it is dearer: 272,001 x 5,000 + 10 x 22,500
    "over the long-context limit": (GPT_5_4, Usage(272_001, 10), 1_360_005_000 + 225_000),
    # cached tokens count towards the limit: 100,000 x 5,000 + 200,000 x 500 + 1,000 x 22,500
    "long context, mostly cached": (
        GPT_5_4,
        Usage(300_000, 1_000, cached_tokens=200_000),
        500_000_000 + 100_000_000 + 22_500_000,
    ),
    "no tier of two": (TWO_TIERS, Usage(100_000, 1), 100_000_000 + 2_000),
    "lower tier of two": (TWO_TIERS, Usage(100_001, 1), 300_003_000 + 4_000),
    "upper tier of two": (TWO_TIERS, Usage(500_001, 1), 4_500_009_000 + 10_000),
    # 0.0375 USD per 1M is 37.5 nano: 2 tokens are 75 exactly, 3 are 112.5, charged as 113
    "half a nano, even": (price_from_usd({"input": 0.0375}), Usage(2, 0), 75),
    "half a nano, rounded up": (price_from_usd({"input": 0.0375}), Usage(3, 0), 113),
    # rounded once, not per part: 37.5 + 37.5 = 75
    "rounded once": (price_from_usd({"input": 0.0375, "output": 0.0375}), Usage(1, 1), 75),
    "free": (price_from_usd({"input": 0, "output": 0}), Usage(5, 5), 0),
    "cached without a price of its own": (
        price_from_usd({"input": 30, "output": 180}),
        Usage(9, 0, cached_tokens=9),
        270_000,
    ),
    "nothing used": (Price(), Usage(), 0),
}


@pytest.mark.parametrize("name", CASES)
def test_cost_is_what_the_hand_computed(name: str) -> None:
    price, usage, nano_usd = CASES[name]
    assert cost_nano_usd(usage, price) == nano_usd


@pytest.mark.parametrize(
    ("price", "usage"),
    [
        (Price(), Usage(1, 0)),
        (Price(input=1), Usage(1, 1)),
        (Price(output=1), Usage(1, 1)),
        (Price(input=1, output=1), Usage(10, 1, cache_write_tokens=5)),
        (Price(input=1, output=1, cache_write=1), Usage(10, 1, cache_write_tokens=5, cache_write_long_tokens=1)),
        (Price(cached_input=1, output=1), Usage(10, 1, cached_tokens=5)),
        (
            Price(input=1, output=1, long_context=(LongContextPrice(input=2, above_input_tokens=9),)),
            Usage(10, 1),
        ),
    ],
    ids=["nothing known", "output", "input", "cache write", "long cache write", "fresh input", "tier's output"],
)
def test_a_needed_price_that_is_unknown_makes_the_cost_unknown(price: Price, usage: Usage) -> None:
    assert cost_nano_usd(usage, price) is None


def test_parts_larger_than_the_whole_are_cut_to_it() -> None:
    usage = Usage(10, 10, cached_tokens=50, cache_write_tokens=50, cache_write_long_tokens=90, reasoning_tokens=90)
    assert cost_nano_usd(usage, HAIKU) == 10 * 100 + 10 * 5_000


_TOKENS = st.integers(0, 3_000_000)


@given(_TOKENS, _TOKENS, _TOKENS, _TOKENS, st.integers(0, 10**9), st.integers(0, 10**9))
def test_one_price_for_everything_bills_every_token_once(a: int, b: int, c: int, d: int, pico: int, extra: int) -> None:
    price = Price(input=pico, cached_input=pico, cache_write=pico, cache_write_long=pico, output=pico)
    usage = Usage(a, b, cached_tokens=c, cache_write_tokens=d, cache_write_long_tokens=extra, reasoning_tokens=extra)
    assert cost_nano_usd(usage, price) == -(-(a + b) * pico // 1000)


@pytest.mark.parametrize(
    ("wire_format", "name", "usd"),
    [
        ("openai", "gpt-4o-mini", (0.15, 0.6)),
        ("openai", "gpt-4o-mini-2024-07-18", (0.15, 0.6)),
        ("openai", "gpt-6-astra-2026-09-03", (10, 50)),
        ("azure", "gpt-4o", (2.5, 10)),
        ("anthropic", "claude-haiku-4-5-20251001", (1, 5)),
        ("anthropic", "claude-opus-5-5-20991231", (4, 20)),
        ("anthropic", "claude-sonnet-5-5-latest", (2, 10)),
        ("google", "models/gemini-2.5-pro", (1.25, 10)),
        ("bedrock", "global.anthropic.claude-haiku-4-5-20251001-v1:0", (1, 5)),
        ("bedrock", "arn:aws:bedrock:eu-west-1:1:inference-profile/global.anthropic.claude-opus-4-6-v1", (5, 25)),
        ("google", "gemini-2.5-flash-001", (0.3, 2.5)),
    ],
)
def test_list_price_by_name_or_snapshot(
    wire_format: pricing.ProviderFormat, name: str, usd: tuple[float, float]
) -> None:
    listed = default_table().find(wire_format, name)
    assert listed is not None
    assert (listed.price.input, listed.price.output) == usd


@pytest.mark.parametrize(
    ("wire_format", "name"),
    [
        ("openai", "my-llama"),
        ("openai", "gpt-4o-mini-2"),
        ("anthropic", "gpt-4o"),
        ("bedrock", "gpt-4o"),
        ("bedrock", "us.anthropic.claude-haiku-4-5-20251001-v1:0"),
        ("bedrock", "anthropic.claude-opus-4-6-v1"),
        ("openai", ""),
    ],
)
def test_a_model_not_listed_has_no_price(wire_format: pricing.ProviderFormat, name: str) -> None:
    assert default_table().find(wire_format, name) is None


def test_every_shipped_price_can_bill_and_has_a_source() -> None:
    table = default_table()
    for wire_format, models in table.models.items():
        assert models, wire_format
        for name, model in models.items():
            price = price_from_usd(msgspec.to_builtins(model.price))
            for tokens in (1, 10_000_000):
                assert cost_nano_usd(Usage(tokens, 1, cached_tokens=tokens // 2), price), name
            assert price.cached_input is None or price.input is None or price.cached_input <= price.input, name
            assert model.source, name


def test_shipped_anthropic_prices_can_bill_cache_writes() -> None:
    for name, model in default_table().models["anthropic"].items():
        usage = Usage(500_000, 1, cache_write_tokens=500_000, cache_write_long_tokens=250_000)
        assert cost_nano_usd(usage, price_from_usd(msgspec.to_builtins(model.price))), name


def test_a_price_that_is_announced_to_change_says_until_when() -> None:
    as_of = f"built-in table as of {default_table().as_of}"
    ending = next(name for name, model in default_table().models["google"].items() if model.valid_until)
    for name in (ending, "gemini-2.5-pro"):
        found = PriceTables().find("google", name)
        assert found
        until = found[0].valid_until
        assert found[1] == (f"{as_of}, announced until {until}" if until else as_of)
    assert default_table().models["google"]["gemini-2.5-pro"].valid_until is None


def test_a_table_survives_writing_and_reading(tmp_path: pricing.Path) -> None:
    path = tmp_path / "prices.json"
    path.write_bytes(pricing.dump_table(default_table()))
    assert pricing.load_table(path) == default_table()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "truncated"),
        ("[]", "Expected `object`"),
        ('{"as_of": "yesterday", "source": "", "models": {}}', "$.as_of"),
        ('{"as_of": "2026-01-01", "source": "", "models": {"openai": {"m": {"price": {"input": -1}}}}}', "input"),
        ('{"as_of": "2026-01-01", "source": "", "models": {"openai": {"m": {"price": {"inputs": 1}}}}}', "inputs"),
    ],
)
def test_a_broken_table_is_refused_with_its_name_and_place(tmp_path: pricing.Path, text: str, says: str) -> None:
    path = tmp_path / "prices.json"
    path.write_text(text)
    with pytest.raises(pricing.PriceTableError) as caught:
        pricing.load_table(path)
    assert str(path) in str(caught.value)
    assert says in str(caught.value)


def test_a_missing_table_is_refused_with_its_name(tmp_path: pricing.Path) -> None:
    with pytest.raises(pricing.PriceTableError, match=r"gone\.json: cannot be read: No such file"):
        pricing.load_table(tmp_path / "gone.json")


def test_a_price_travels_as_json() -> None:
    assert msgspec.json.decode(msgspec.json.encode(GPT_5_4), type=Price) == GPT_5_4


def test_gateway_yaml_has_the_same_parts() -> None:
    yaml = """
providers: {p: {format: demo}}
teams: [{id: t, keys: [k]}]
models:
  - name: m
    provider: p
    price: {input: 0.0375, output: 0.15, cache_write_long: 2, reasoning: 0.3,
            long_context: [{above_input_tokens: 200000, input: 0.075, output: 0.3}]}
"""
    price = price_from_usd(settings.parse(yaml, {}).models[0].price.model_dump())
    assert price == Price(
        input=37_500,
        output=150_000,
        cache_write_long=2_000_000,
        reasoning=300_000,
        long_context=(LongContextPrice(input=75_000, output=300_000, above_input_tokens=200_000),),
    )
    with pytest.raises(settings.SettingsError) as caught:
        settings.parse(yaml.replace("above_input_tokens", "above_input_token").replace("reasoning:", "reasonin:"), {})
    assert sorted(caught.value.problems) == [
        "models[0].price.long_context[0].above_input_token: unknown key; did you mean above_input_tokens?",
        "models[0].price.long_context[0].above_input_tokens: field required",
        "models[0].price.reasonin: unknown key; did you mean reasoning?",
    ]
