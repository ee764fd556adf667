"""The probes of a pod, against sockets that answer, answer something else, or are not there."""

import json
import socket
import threading
from pathlib import Path

import pytest

from control.probe import failing

SETTINGS_FRAME = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


class Answers:
    """Listens at `path` and says `data` to whoever connects."""

    def __init__(self, path: Path, data: bytes) -> None:
        self._data = data
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                connection.recv(4096)
                connection.sendall(self._data)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    (tmp_path / "runtime.json").write_text(json.dumps({"workers": 2}))
    return tmp_path


def test_all_of_extproc_must_speak_http2(data_dir: Path) -> None:
    run = data_dir / "run"
    assert failing("extproc", data_dir) == ["worker-0", "worker-1", "settler"]
    up = [
        Answers(run / "worker-0.sock", SETTINGS_FRAME),
        Answers(run / "worker-1.sock", OK),
        Answers(run / "settler.sock", SETTINGS_FRAME),
    ]
    assert failing("extproc", data_dir) == ["worker-1"]
    for one in up:
        one.close()


@pytest.mark.parametrize(("said", "wrong"), [(OK, []), (b"HTTP/1.1 503 No\r\n\r\n", ["control"]), (b"", ["control"])])
def test_control_must_say_that_it_is_well(data_dir: Path, said: bytes, wrong: list[str]) -> None:
    control = Answers(data_dir / "run" / "control.sock", said)
    assert failing("control", data_dir) == wrong
    control.close()
