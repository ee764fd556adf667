"""The `gateway` command in this process, and a small gateway.yaml for it."""

from pathlib import Path
from typing import Any

import yaml
from click.testing import CliRunner

from control.cli import main


def config(**changes: Any) -> dict[str, Any]:
    return {
        "providers": {
            "openai": {"format": "openai", "base_url": "https://api.openai.com/v1", "credential": "${OPENAI_KEY}"},
            "demo": {"format": "demo"},
        },
        "models": [
            {"name": "gpt-4o", "provider": "openai", "tier": "hard", "context": 1000},
            {"name": "mock", "provider": "demo", "price": {"input": 1, "output": 2}, "context": 1000},
        ],
        "teams": [{"id": "search", "keys": ["sk-search"]}],
    } | changes


def run(*arguments: str, env: dict[str, str] | None = None) -> tuple[int, str, str]:
    """Exit code, stdout, stderr of `gateway ARGUMENTS…`, in this process."""
    result = CliRunner().invoke(main, list(arguments), env={"OPENAI_KEY": "sk-live-4711"} | (env or {}))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def check(file: Path, settings: dict[str, Any], *options: str) -> tuple[int, str, str]:
    file.write_text(yaml.safe_dump(settings))
    return run("check", str(file), *options)
