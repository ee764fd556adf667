"""envoy/gateway_fields.lua, by LuaJIT as Envoy has it, says what extproc/answer.py says."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lupa import luajit21

from control.render.bootstrap import asset
from extproc.adapters.usage import MOST_TOKENS, PATHS, from_openai
from extproc.pricing import cost_nano_usd, rates
from extproc.records import LongContextPrice, Price

LUA = luajit21.LuaRuntime()
WITH_FIELDS = LUA.execute(asset("gateway_fields.lua") + "return with_fields")
_EXACT_NANO_USD = 2**53 // 1000  # nine thousand USD, for one answer: beyond, Lua's numbers lose a nano-USD
NAMES = ("model", "usage", "choices", "provider", "routed_from", "gateway_metadata", "input_tokens", "cost_usd", "id")
TEXTS = st.text('ab{}[]:,"\\\n é👋') | st.sampled_from(NAMES)
COUNTS = st.integers(0, 2_000_000)
ANY_COUNTS = COUNTS | st.just(-3) | st.just(2 * MOST_TOKENS) | st.floats(-1, 9)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
RATES = st.none() | st.integers(0, 600_000_000)
PARTS = st.fixed_dictionaries(
    dict.fromkeys(("input", "cached_input", "cache_write", "cache_write_long", "output", "reasoning"), RATES)
)
TIERS = st.lists(st.builds(lambda over, parts: LongContextPrice(above_input_tokens=over, **parts), COUNTS, PARTS))
PRICES = st.builds(lambda parts, tiers: Price(long_context=tuple(tiers), **parts), PARTS, TIERS)


@st.composite
def usages(draw: st.DrawFn) -> dict[str, Any]:
    """With all that a provider may count, in any order, and what is not a count."""
    usage: dict[str, Any] = {"prompt_tokens": draw(COUNTS), "completion_tokens": draw(COUNTS)}
    for path in draw(st.lists(st.sampled_from(PATHS), unique=True)):
        into = usage.setdefault(path[0], {}) if len(path) > 1 else usage
        into[path[-1]] = draw(ANY_COUNTS)
    usage |= draw(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=2))
    return dict(draw(st.permutations(list(usage.items()))))


def counted(usage: dict[str, Any]) -> dict[str, float]:
    """What Envoy leaves of it."""
    found = {}
    for path in PATHS:
        value: Any = usage
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        if isinstance(value, int | float) and not isinstance(value, bool):
            found[".".join(path)] = float(value)
    return found


@settings(deadline=None, max_examples=300)
@given(
    others=st.dictionaries(TEXTS, VALUES, max_size=4),
    usage=usages(),
    price=PRICES,
    asked=TEXTS,
    model=st.text('ab"\\é', min_size=1),
    style=st.sampled_from([{}, {"indent": 1}, {"separators": (",", ":")}, {"ensure_ascii": False}]),
    data=st.data(),
)
def test_the_fields_are_those_of_an_answer_that_the_worker_reads(
    others: dict[str, Any], usage: dict[str, Any], price: Price, asked: str, model: str, style: Any, data: st.DataObject
) -> None:
    answer = dict(data.draw(st.permutations([*(others | {"usage": usage}).items()])))
    told = {
        "model": model,
        "provider": "openai",
        "routed_from": json.dumps(asked, ensure_ascii=False),
        "request_id": "5b0c0f5e",
        "routing_decision": "pinned",
        "gateway_ms": "1.250",
        "total_ms": 12.5,
        "attempts": 2.0,
        "rates": rates(price),
    }
    written = json.dumps(answer, **style)
    got = WITH_FIELDS(written, LUA.table_from(counted(usage)), LUA.table_from(told))
    billed = from_openai(usage)
    cost = cost_nano_usd(billed, price)
    said = {"input_tokens": billed.input_tokens, "output_tokens": billed.output_tokens}
    wanted = answer | {
        "model": model,
        "routed_from": asked,
        "provider": "openai",
        "usage": usage | said | {"cost_usd": None if cost is None else cost / 1e9},
        "gateway_metadata": {
            "request_id": "5b0c0f5e",
            "routing_decision": "pinned",
            "cache_hit": False,
            "gateway_latency_ms": 1.25,
            "total_latency_ms": 12.5,
            "attempts": 2,
        },
    }
    found = json.loads(got)
    if cost is not None and cost >= _EXACT_NANO_USD:
        assert found["usage"]["cost_usd"] == pytest.approx(cost / 1e9, rel=1e-15)
        found["usage"]["cost_usd"] = cost / 1e9
    assert json.dumps(found) == json.dumps(wanted)  # in the same order, of the same types


def test_all_else_is_what_the_provider_wrote_byte_for_byte() -> None:
    text = '\n{ "n": 1.0e+2, "m": 12345678901234567890, "s":"\\u00e9\\/", "usage" : {} , "model":"x" }\n'
    told = {"model": "gpt", "provider": "p", "routed_from": '"auto"', "request_id": "i", "routing_decision": "r"}
    more = {"gateway_ms": 0, "total_ms": 0, "attempts": 1, "rates": rates(Price(input=1, output=1))}
    got = WITH_FIELDS(text, LUA.table_from({}), LUA.table_from(told | more))
    spent = '{"input_tokens":0,"output_tokens":0,"cost_usd":0.000000000}'
    own = (
        '"request_id":"i","routing_decision":"r","cache_hit":false,"gateway_latency_ms":0.000,"total_latency_ms":0.000'
    )
    assert got == (
        f'\n{{ "n": 1.0e+2, "m": 12345678901234567890, "s":"\\u00e9\\/", "usage" : {spent} , "model":"gpt"'
        f',"routed_from":"auto","provider":"p","gateway_metadata":{{{own},"attempts":1}}}}\n'
    )
