"""Which of OpenAI's parameters a server is not sent, by what the file says of it and by its address."""

import pytest

from extproc.settings.providers import Provider

OTHERS = {"max_completion_tokens", "developer", "tool_call_index"}
LABELS = {"store", "metadata", "user", "safety_identifier"}
LEFT_BEHIND = {"reasoning_content", "reasoning_details", "cache_control"}
SAMPLING = {"temperature", "top_p", "presence_penalty", "frequency_penalty", "logprobs", "top_logprobs", "logit_bias"}
OPENAI, AZURE = "https://api.openai.com/v1", "https://mine.openai.azure.com/openai/v1"


@pytest.mark.parametrize(
    ("format", "base_url", "expected"),
    [
        ("openai", "https://api.openai.com/v1", set()),
        ("openai", "https://eu.api.openai.com/v1", set()),
        ("openai", "https://mine.openai.azure.com/openai/v1", set()),
        ("azure", "https://gateway.internal/openai/deployments/d?api-version=1", set()),
        ("openai", "https://api.deepseek.com", OTHERS),
        ("openai", "http://ollama:11434/v1", OTHERS),
        ("openai", "https://api.openai.com.example.com/v1", OTHERS),
        (
            "openai",
            "https://api.mistral.ai/v1",
            OTHERS | LABELS | LEFT_BEHIND | {"reasoning", "stream_options", "tool_call_id"},
        ),
        ("openai", "https://api.groq.com/openai/v1", OTHERS | LEFT_BEHIND),
        ("anthropic", "https://api.anthropic.com/v1", set()),
    ],
)
def test_by_its_address(format: str, base_url: str, expected: set[str]) -> None:  # noqa: A002 - the file's own name
    assert Provider.model_validate({"format": format, "base_url": base_url}).refused_parameters() == expected


@pytest.mark.parametrize(
    ("base_url", "model", "expected"),
    [
        (OPENAI, "gpt-4o", set()),
        (OPENAI, "gpt-5", {"max_tokens"} | SAMPLING),
        (OPENAI, "gpt-5-mini-2025-08-07", {"max_tokens"} | SAMPLING),
        (OPENAI, "o3", {"max_tokens"} | SAMPLING),
        (AZURE, "o4-mini", {"max_tokens"} | SAMPLING),
        (OPENAI, "gpt-5.1", {"max_tokens"}),
        (OPENAI, "gpt-5-chat-latest", {"max_tokens"}),
        ("http://vllm:8000/v1", "openai/gpt-oss-20b", OTHERS),
        ("https://openrouter.ai/api/v1", "gpt-5", OTHERS),
    ],
)
def test_by_the_model(base_url: str, model: str, expected: set[str]) -> None:
    provider = Provider.model_validate({"format": "openai", "base_url": base_url})
    assert provider.refused_parameters(model) == expected


@pytest.mark.parametrize("unsupported", [[], ["seed"], ["max_tokens"]])
def test_the_file_knows_better(unsupported: list[str]) -> None:
    file = {"format": "openai", "base_url": "https://api.mistral.ai/v1", "unsupported": unsupported}
    assert Provider.model_validate(file).refused_parameters("gpt-5") == set(unsupported)
