"""What README tells a newcomer to type, typed: `make run`, the curl, the SDK snippet, the configuration."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from extproc.settings import parse
from tests.envoy.harness import GATEWAY, free_port

ROOT = Path(__file__).resolve().parent.parent.parent
README = (ROOT / "README.md").read_text()
FOLDERS = ("extproc", "control", "envoy", "docs", "tests", "bench", "protos", "helm", "deploy", "docker", "train")
DOCUMENTS = sorted(
    str(path.relative_to(ROOT))
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("bench/*.md"), *ROOT.glob("envoy/*.md"))
)
# No provider's key: the built-in simulator answers, and nothing leaves this machine.
ENV = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}


def block(language: str, containing: str) -> str:
    """The one code block of README that is meant."""
    found = [text for text in re.findall(rf"^```{language}\n(.*?)^```$", README, re.S | re.M) if containing in text]
    assert len(found) == 1, f"{len(found)} blocks of {language} with {containing}"
    return found[0]


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`make run` of the demo configuration, with its data elsewhere; and the port it serves on."""
    folder = tmp_path_factory.mktemp("readme")
    file = folder / "gateway.yaml"
    file.write_text((ROOT / "gateway.demo.yaml").read_text() + f"\ndata_dir: {folder / 'data'}\n")
    number = str(free_port())
    assert "    make run " in README
    assert "CONFIG=gateway.yaml PORT=9000 make run" in README
    env = ENV | {"CONFIG": str(file), "PORT": number}
    make = subprocess.Popen(
        ["make", "-s", "run"], cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True, process_group=0
    )
    assert make.stdout is not None
    assert make.stdout.readline() == f"ready http://127.0.0.1:{number}\n"
    yield number
    os.killpg(make.pid, signal.SIGINT)
    make.wait(30)


def typed(command: list[str], port: str) -> str:
    arguments = [part.replace("127.0.0.1:8080", f"127.0.0.1:{port}") for part in command]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=60, env=ENV)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_first_curl(port: str) -> None:
    said = typed(["sh", "-c", block("sh", "/v1/chat/completions")], port)
    assert '"object":"chat.completion"' in said.replace('": ', '":')


@pytest.mark.parametrize("commands", re.findall(r"^```sh\n(.*?)^```$", README, re.S | re.M))
def test_every_command_is_answered(port: str, commands: str) -> None:
    """Each `curl` asks for what the demo configuration serves: `--fail` makes an error status an exit code."""
    typed(["sh", "-ec", commands.replace("curl ", "curl --fail-with-body -sS ")], port)


def test_the_metrics_that_the_runbook_names_are_there(port: str) -> None:
    named = set(re.findall(r"`(gateway_[a-z_]+)", (ROOT / "docs" / "operations.md").read_text()))
    served = typed(["curl", "-sS", "http://127.0.0.1:8080/metrics"], port)
    assert named
    assert not [name for name in named if f"# TYPE {name} " not in served]


def test_the_sdk(port: str) -> None:
    assert len(typed([sys.executable, "-c", block("python", "stream=True")], port).split()) > 3


def test_the_configuration(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(block("yaml", "providers:"))
    env = ENV | dict.fromkeys(re.findall(r"\$\{(\w+)\}", file.read_text()), "x-123456")
    for command in ("check", "render"):
        done = subprocess.run([GATEWAY, command, str(file)], capture_output=True, text=True, check=False, env=env)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "text", [text for text in re.findall(r"^```yaml\n(.*?)^```$", README, re.S | re.M) if "{{" not in text]
)
def test_every_setting_is_one(text: str) -> None:
    """What a block leaves open is the demo configuration's. (The chart's, a template, is tests/helm's.)"""
    variables = dict.fromkeys(re.findall(r"\$\{(\w+)", text), "postgresql://u:p@host/name")
    shown = yaml.safe_load(text.replace("[...]", "[sk-some-key]"))
    demo = yaml.safe_load((ROOT / "gateway.demo.yaml").read_text()) | {
        "teams": [{"id": "team-search", "keys": ["sk-key"]}]
    }
    parse(yaml.safe_dump(shown if "providers" in shown else demo | shown), variables)


def test_every_make_target_it_names_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"make ([a-z-]+)", README)) <= targets


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_it_names_is_there(document: str) -> None:
    """By its whole path, the beginning of one (`docs/adr/0008`), or its name alone; `a/{b,c}.py` are two."""
    there = [f"/{path.relative_to(ROOT)}/" for folder in FOLDERS for path in (ROOT / folder).rglob("*")]
    folders = "|".join(FOLDERS)
    missing = []
    for named in re.findall(
        rf"`((?:{folders})/[\w./{{}},-]+|[\w./{{}},-]+\.(?:py|lua))`", (ROOT / document).read_text()
    ):
        begin, brace, rest = named.partition("{")
        names, _, end = rest.partition("}")
        each = [f"/{begin}{name}{end}" for name in names.split(",")] if brace else [f"/{named}"]
        missing += [name for name in each if not any(name in path for path in there)]
    assert not missing
