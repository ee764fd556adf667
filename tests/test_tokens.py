"""Input tokens: exactly tiktoken's where it can be told, near the bill where not, and never an exception."""

import base64
import gzip
import hashlib
import json
import random
import re
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tiktoken
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc import tokens
from extproc.records import ProviderFormat, Target
from extproc.tokens import EXACT_CHARS, Estimator, VocabularyError

RECORDED = Path(__file__).resolve().parents[2] / "shared" / "fixtures"


def target(name: str = "gpt-4o", wire_format: ProviderFormat = "openai") -> Target:
    return Target(model="m", upstream_name=name, provider="p", format=wire_format)


@pytest.fixture(scope="module")
def estimator() -> Estimator:
    return Estimator()


@pytest.fixture(scope="module")
def reference() -> tiktoken.Encoding:
    """tiktoken as OpenAI defines it: its own pattern, special tokens included; only the rank file is ours."""
    from tiktoken_ext import openai_public

    data = (resources.files("extproc") / "data" / "o200k_base.msgpack").read_bytes()
    ranks = {token: rank for rank, token in enumerate(msgspec.msgpack.decode(data, type=list[bytes]))}

    def load(url: str, expected_hash: str) -> dict[bytes, int]:
        published = b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for token, rank in ranks.items())
        assert hashlib.sha256(published).hexdigest() == expected_hash, "not what OpenAI publishes"
        return ranks

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openai_public, "load_tiktoken_bpe", load)
        return tiktoken.Encoding(**openai_public.o200k_base())


def corpus() -> list[str]:
    """Varied texts of up to 8,000 characters, the same in every run."""
    rng = random.Random(20_24)
    scripts = [
        "aZ0 ",
        "äéñß ",
        "яждл ",
        "中文字符。",
        "ひらがな カナ",
        "한국어 ",
        "हिन्दी ",
        "العربية ",
        "😀👍🏽👨‍👩‍👧",
        "\n\t\r ",
        "!?#$%^&*()_+{}[]",
        "\u0301\u200d\ufeff\x00",
    ]
    texts = ["".join(rng.choices(rng.choice(scripts), k=rng.randrange(1, 300))) for _ in range(200)]
    texts += ["".join(rng.choice(rng.choice(scripts)) for _ in range(rng.randrange(1, 400))) for _ in range(200)]
    texts += [chr(rng.randrange(0x20, 0xD7FF)) * rng.randrange(1, 60) for _ in range(100)]
    source = Path(__file__).read_text(encoding="utf-8")
    texts += [source[at : at + rng.randrange(1, 2_000)] for at in range(0, len(source), 300)]
    texts += [
        "",
        " ",
        "<|endoftext|>",
        "a <|endofprompt|> b",
        "don't I'LL we'Ve",
        "1234567890" * 40,
        " " * 4_000,
        "=" * 8_000,
    ]
    return texts


def test_text_is_counted_exactly_as_tiktoken_counts_it(estimator: Estimator, reference: tiktoken.Encoding) -> None:
    for text in corpus():
        assert estimator.text_tokens([text]) == len(reference.encode(text, disallowed_special=())), repr(text[:80])


def test_texts_of_one_request_are_counted_each_by_itself(estimator: Estimator, reference: tiktoken.Encoding) -> None:
    texts = ["in", "put", "", "token", "izer"]
    assert estimator.text_tokens(texts) == sum(len(reference.encode(text)) for text in texts)


def test_special_tokens_in_a_users_text_are_text(estimator: Estimator, reference: tiktoken.Encoding) -> None:
    assert len(reference.encode("<|endoftext|>", allowed_special="all")) == 1
    assert estimator.text_tokens(["<|endoftext|>"]) > 4


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "\ude00\ud83d" * 100, "\ud800" * 50_000])
def test_lone_surrogates_are_counted_not_raised(estimator: Estimator, text: str) -> None:
    assert estimator.text_tokens([text]) >= 1
    assert estimator.input_tokens({"messages": [{"role": "user", "content": text}]}, target()) > 7


@pytest.mark.parametrize("text", [" " * 1_000_000, "a" * 1_000_000, "\n" * 500_000, "\u3000" * 300_000], ids=repr)
def test_texts_that_break_tiktoken_are_counted(estimator: Estimator, text: str) -> None:
    assert 1 <= estimator.text_tokens([text]) <= len(text)


def _long_texts() -> dict[str, str]:
    rng = random.Random(11)
    code = "".join(path.read_text(encoding="utf-8") for path in sorted(Path(tokens.__file__).parent.glob("*.py")))
    return {
        "code": code,
        "base64": base64.b64encode(rng.randbytes(40_000)).decode(),
        "chinese": "".join(rng.choices(["人工智能是计算机科学的一个分支", "请翻译成英文", "2024年", "\n"], k=9_000)),
        "json": json.dumps([{"id": index, "name": f"n{rng.randrange(9**9)}", "ok": True} for index in range(2_000)]),
        "mixed": code[:30_000] + base64.b64encode(rng.randbytes(20_000)).decode() + code[-30_000:],
    }


@pytest.mark.parametrize("kind", ["code", "base64", "chinese", "json", "mixed"])
def test_a_long_text_is_estimated_within_a_tenth(estimator: Estimator, reference: tiktoken.Encoding, kind: str) -> None:
    text = _long_texts()[kind]
    exact = len(reference.encode(text, disallowed_special=()))
    assert estimator.text_tokens([text]) == pytest.approx(exact, rel=0.1)
    lines = re.split("(?<=\n)", text) if "\n" in text else [text[at : at + 70] for at in range(0, len(text), 70)]
    exact_lines = sum(len(reference.encode(line, disallowed_special=())) for line in lines)
    assert estimator.text_tokens(lines) == pytest.approx(exact_lines, rel=0.1)


def test_the_estimate_is_steady_across_the_limit_of_exact_counting(estimator: Estimator) -> None:
    text = _long_texts()["code"]
    below, above = estimator.text_tokens([text[:EXACT_CHARS]]), estimator.text_tokens([text[: EXACT_CHARS + 1]])
    assert above == pytest.approx(below, rel=0.1)


def test_the_vocabulary_is_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setattr(tokens.resources, "files", lambda package: tmp_path)
    read = tokens.vocabulary.__wrapped__
    with pytest.raises(VocabularyError, match="cannot be read"):
        read()
    (folder / "o200k_base.msgpack").write_bytes(msgspec.msgpack.encode([b"!"]))
    with pytest.raises(VocabularyError, match="sha256 differs"):
        read()


def test_the_vocabulary_is_loaded_once() -> None:
    assert Estimator().encoding is Estimator().encoding


def test_the_smallest_request_costs_what_openai_bills(estimator: Estimator) -> None:
    # "hello" from a user: 3 for the reply, 4 for the message (its role among them), 1 for the text.
    assert estimator.input_tokens({"messages": [{"role": "user", "content": "hello"}]}, target()) == 8
    assert estimator.input_tokens({}, target()) == 3


def test_content_as_text_or_parts_counts_the_same(estimator: Estimator) -> None:
    plain = {"messages": [{"role": "user", "content": "one two three"}]}
    parts = {"messages": [{"role": "user", "content": [{"type": "text", "text": "one two three"}]}]}
    assert estimator.input_tokens(plain, target()) == estimator.input_tokens(parts, target())


_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
_CALL = {
    "id": "call_0123456789",
    "type": "function",
    "function": {"name": "get_weather", "arguments": '{"city":"Oslo"}'},
}


@pytest.mark.parametrize(
    ("name", "wire_format", "one_tool"),
    [("gpt-4o", "openai", (30, 80)), ("gpt-5.4", "openai", (100, 150)), ("claude-haiku-4-5", "anthropic", (500, 600))],
)
def test_tools_cost_their_definition_and_the_vendors_preamble(
    estimator: Estimator, name: str, wire_format: ProviderFormat, one_tool: tuple[int, int]
) -> None:
    chat = {"messages": [{"role": "user", "content": "hi"}]}
    bare, one, two = (
        estimator.input_tokens({**chat, "tools": [_TOOL] * count}, target(name, wire_format)) for count in (0, 1, 2)
    )
    assert one_tool[0] <= one - bare <= one_tool[1]
    assert 20 <= two - one <= 60


def test_tool_calls_and_results_count_but_not_their_ids(estimator: Estimator) -> None:
    def cost(call: dict[str, Any]) -> int:
        turns = [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": call["id"], "content": "4 degrees"},
        ]
        return estimator.input_tokens({"messages": turns}, target())

    assert 20 < cost(_CALL) < 40
    assert cost({**_CALL, "id": "call_" + "9" * 400}) == cost(_CALL)
    assert cost({**_CALL, "function": {**_CALL["function"], "arguments": '{"city":"Oslo and Bergen"}'}}) > cost(_CALL)


def test_an_answer_schema_counts_and_a_plain_answer_format_does_not(estimator: Estimator) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"properties": {"a": {"type": "string"}}}}}
    chat = {"messages": [{"role": "user", "content": "hi"}]}
    plain = estimator.input_tokens(chat, target())
    assert estimator.input_tokens({**chat, "response_format": {"type": "json_object"}}, target()) == plain
    assert estimator.input_tokens({**chat, "response_format": schema}, target()) > plain + 5


@pytest.mark.parametrize(
    ("text", "name", "wire_format", "factor"),
    [
        ("The cat sat on the mat. " * 100, "gpt-4o", "openai", 1.0),
        ("The cat sat on the mat. " * 100, "some-llama", "openai", 1.1),
        ("The cat sat on the mat. " * 100, "any-deployment", "azure", 1.0),
        ("The cat sat on the mat. " * 100, "claude-haiku-4-5-20251001", "anthropic", 1.11),
        ("The cat sat on the mat. " * 100, "claude-3-5-haiku-latest", "anthropic", 1.11),
        ("The cat sat on the mat. " * 100, "claude-sonnet-4-20250514", "anthropic", 1.11),
        ("The cat sat on the mat. " * 100, "anthropic/claude-sonnet-4-5", "openai", 1.11),
        ("The cat sat on the mat. " * 100, "claude-opus-4-7", "anthropic", 1.45),
        ("The cat sat on the mat. " * 100, "claude-haiku-5-5", "anthropic", 1.45),
        ("The cat sat on the mat. " * 100, "gemini-2.5-flash", "google", 1.2),
        ("请翻译成英文" * 100, "claude-haiku-4-5", "anthropic", 1.45),
        ("请翻译成英文" * 100, "gemini-3.8-flash", "google", 1.0),
    ],
)
def test_each_family_counts_by_its_factor(
    estimator: Estimator, text: str, name: str, wire_format: ProviderFormat, factor: float
) -> None:
    chat = {"messages": [{"role": "user", "content": text}]}
    counted = estimator.input_tokens(chat, target(name, wire_format))
    assert counted == pytest.approx(estimator.text_tokens([text]) * factor, rel=0.01, abs=35)


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()), max_size=30)
    | st.sampled_from(
        ["text", "image_url", "input_audio", "file", "data:image/png;base64,iVBORw0KGgo", "data:,", "high"]
    ),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("messages", "content", "type", "text", "image_url", "url", "detail", "input_audio", "data"),
                    *("file", "file_data", "tools", "tool_calls", "function", "name", "role", "", "\ud800"),
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=25,
)
_MESSAGE = st.dictionaries(st.sampled_from(["role", "content", "tool_calls", "name", "x"]), _JSON, max_size=4)
_BODY = st.fixed_dictionaries(
    {},
    optional={
        "messages": st.lists(_MESSAGE, max_size=4) | _JSON,
        "tools": _JSON,
        "functions": _JSON,
        "response_format": _JSON,
    },
)


@settings(max_examples=300)
@given(_BODY, st.sampled_from(["gpt-4o", "gpt-6-sol", "claude-opus-5", "gemini-2.5-pro", "x"]))
def test_no_request_raises(body: dict[str, Any], name: str) -> None:
    for wire_format in ("openai", "azure", "anthropic", "google", "bedrock"):
        counted = Estimator().input_tokens(body, target(name, wire_format))
        assert isinstance(counted, int)
        assert counted >= 1


def test_nesting_is_no_danger(estimator: Estimator) -> None:
    deep: Any = "x"
    for _ in range(50_000):
        deep = {"a": [deep]}
    body = {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"detail": deep}}, deep]}]}
    assert estimator.input_tokens({**body, "tools": [deep]}, target()) > 50_000


def _recorded() -> list[tuple[str, dict[str, Any], int]]:
    """(model, request, billed input tokens) of recorded OpenAI chat completions without media."""
    found = []
    for path in sorted(RECORDED.rglob("*.y*ml")):
        text = path.read_text(encoding="utf-8")
        if "api.openai.com/v1/chat/completions" not in text:
            continue
        for exchange in yaml.safe_load(text)["interactions"]:
            body, answer = exchange["request"].get("body"), exchange["response"].get("body")
            answer = answer.get("string") if isinstance(answer, dict) else answer
            if isinstance(answer, bytes):
                answer = gzip.decompress(answer) if answer[:2] == b"\x1f\x8b" else answer
                answer = answer.decode(errors="replace")  # other bodies are not all text
            billed = re.findall(r'"prompt_tokens":\s*(\d+)', answer or "")
            if billed and body and not re.search(r'"(image_url|file|input_audio)"', body):
                request = json.loads(body)
                found.append((request["model"], request, int(billed[0])))
    return found


@pytest.mark.skipif(not RECORDED.is_dir(), reason=f"no recorded exchanges: {RECORDED} does not exist")
def test_recorded_exchanges_are_estimated_near_their_bill(estimator: Estimator) -> None:
    recorded = _recorded()
    assert len(recorded) > 20
    for model, request, billed in recorded:
        counted = estimator.input_tokens(request, target(model))
        assert 0.9 * billed - 3 <= counted <= 1.3 * billed + 8, (model, billed, counted, request)
