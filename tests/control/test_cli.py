"""The `gateway` command as an operator meets it: one clear line for whatever is wrong, and the right exit code."""

import fcntl
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.control.command import config, run

GATEWAY = str(Path(sys.executable).with_name("gateway"))


def test_render_prints_everything_but_credentials(file: Path) -> None:
    file.write_text(yaml.safe_dump(config()))
    code, out, _ = run("render", str(file))
    rendered = json.loads(out)
    assert code == 0
    assert {"bootstrap.json", "cds.json", "lds.json", "rds-ingress.json", "secrets/openai.json"} <= rendered.keys()
    assert "sk-live-4711" not in out
    assert "***" in out


class TestUpRefuses:
    """Before anything runs: one line, and an exit code that is not 0."""

    @pytest.fixture
    def port(self) -> Iterator[int]:
        """A port that is taken."""
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            number: int = taken.getsockname()[1]
            yield number

    def up(self, file: Path, settings: dict[str, Any], *options: str) -> tuple[int, str]:
        """Exit code and stderr; stdout must stay empty, it is for the ready line."""
        file.write_text(yaml.safe_dump(settings))
        env = os.environ | {"OPENAI_KEY": "sk-live-4711"}
        command = [GATEWAY, "up", "--config", str(file), *options]
        done = subprocess.run(command, capture_output=True, text=True, env=env, check=False, timeout=60)
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
        return done.returncode, done.stderr

    def test_a_taken_port(self, file: Path, port: int) -> None:
        settings = config(data_dir=str(file.parent / "data"), listen={"port": port})
        assert self.up(file, settings) == (1, f"error: port {port} on 127.0.0.1 is taken\n")
        assert not (file.parent / "data" / "runtime.json").exists()

    def test_a_taken_port_given_on_the_command_line(self, file: Path, port: int) -> None:
        settings = config(data_dir=str(file.parent / "data"))
        assert self.up(file, settings, "--port", str(port))[0] == 1

    def test_a_taken_port_of_the_probes(self, file: Path, port: int) -> None:
        """Envoy goes on without a listener that it cannot open: the gateway was ready, and nobody could ask it so."""
        ops = {"host": "127.0.0.1", "port": port}
        settings = config(data_dir=str(file.parent / "data"), listen={"ops": ops})
        assert self.up(file, settings, "--port", "65003") == (1, f"error: port {port} on 127.0.0.1 is taken\n")

    def test_a_provider_without_its_key(self, file: Path) -> None:
        providers = {"openai": {"format": "openai", "base_url": "http://127.0.0.1:9", "credential": "${KEY_OF_NOBODY}"}}
        line = f"{file}: providers.openai.credential: the environment variable KEY_OF_NOBODY is not set\n"
        assert self.up(file, config(providers=providers, models=[{"name": "a", "provider": "openai"}])) == (2, line)

    def test_an_address_of_another_machine(self, file: Path) -> None:
        code, err = self.up(file, config(data_dir=str(file.parent / "data"), listen={"host": "192.0.2.1"}))
        assert (code, len(err.splitlines())) == (1, 1)
        assert "192.0.2.1 cannot be opened" in err

    def test_a_key_that_is_not_in_the_environment(self, file: Path) -> None:
        settings = config(teams=[{"id": "a", "keys": ["${TEAM_KEY_OF_NOBODY}"]}])
        line = f"{file}: teams[0].keys[0]: the environment variable TEAM_KEY_OF_NOBODY is not set\n"
        assert self.up(file, settings) == (2, line)

    def test_a_wrong_configuration(self, file: Path) -> None:
        code, err = self.up(file, config(worker=3))
        assert (code, err) == (2, f"{file}: worker: unknown key; did you mean workers?\n")

    def test_a_data_dir_of_a_running_gateway(self, file: Path) -> None:
        data = file.parent / "data"
        data.mkdir()
        with (data / "lock").open("w") as lock:
            lock.write("4711\n")
            lock.flush()
            fcntl.flock(lock, fcntl.LOCK_EX)
            code, err = self.up(file, config(data_dir=str(data)), "--port", "65001")
        assert (code, err) == (1, f"error: data_dir {data} is in use by another gateway (process 4711)\n")

    def test_a_data_dir_that_cannot_be_one(self, file: Path) -> None:
        (file.parent / "data").write_text("a file")
        code, err = self.up(file, config(data_dir=str(file.parent / "data")), "--port", "65002")
        assert (code, len(err.splitlines())) == (1, 1)
        assert f"data_dir {file.parent / 'data'} cannot be used" in err


def test_extproc_before_watch_says_what_is_missing(tmp_path: Path) -> None:
    code, out, err = run("extproc", "--data-dir", str(tmp_path))
    assert (code, out) == (1, "")
    assert err == f"{tmp_path}: no configuration is there yet; `gateway watch` makes it\n"
