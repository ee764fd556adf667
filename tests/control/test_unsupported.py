"""Which of OpenAI's parameters a server is not sent, by what the file says of it and by its address."""

import pytest

from extproc.settings.providers import Provider

OTHERS = {"max_completion_tokens", "developer"}
LABELS = {"store", "metadata", "user", "safety_identifier"}


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
        ("openai", "https://api.mistral.ai/v1", OTHERS | LABELS | {"stream_options"}),
        ("anthropic", "https://api.anthropic.com/v1", set()),
    ],
)
def test_by_its_address(format: str, base_url: str, expected: set[str]) -> None:  # noqa: A002 - the file's own name
    assert Provider.model_validate({"format": format, "base_url": base_url}).refused_parameters == expected


@pytest.mark.parametrize("unsupported", [[], ["seed"], ["max_tokens"]])
def test_the_file_knows_better(unsupported: list[str]) -> None:
    file = {"format": "openai", "base_url": "https://api.mistral.ai/v1", "unsupported": unsupported}
    assert Provider.model_validate(file).refused_parameters == set(unsupported)
