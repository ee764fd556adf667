"""`python -m control.probe WHAT DATA_DIR`: whether the processes of a container serve, for the probes of a pod.

In: `extproc` (every worker and the settler speak HTTP/2) or `control` (/healthz is 200). Out: exit code 0, or 1 with a
line that says what does not. The sockets are unix ones, which a kubelet cannot reach, and it runs every few seconds:
hence nothing but the standard library (40 ms of CPU), and nothing of the gateway's own modules.
"""

import json
import socket
import sys
from pathlib import Path

_TIMEOUT_S = 3.0
# The client's preface and an empty SETTINGS frame; a server answers with its own SETTINGS (RFC 9113, 3.4).
_HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_HTTP1 = b"GET /healthz HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n\r\n"


def failing(what: str, data_dir: Path) -> list[str]:
    """Names of the sockets that do not answer as they should."""
    run = data_dir / "run"
    if what == "control":
        return [] if _exchange(run / "control.sock", _HTTP1, 12).endswith(b" 200") else ["control"]
    workers = json.loads((data_dir / "runtime.json").read_bytes())["workers"]
    names = [*(f"worker-{index}" for index in range(workers)), "settler"]
    return [name for name in names if _exchange(run / f"{name}.sock", _HTTP2, 9)[3:4] != b"\x04"]


def _exchange(path: Path, data: bytes, answer_bytes: int) -> bytes:
    """The first bytes of the answer; what there is of them if it ends early, nothing if nobody is there."""
    answer = b""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_TIMEOUT_S)
            connection.connect(str(path))
            connection.sendall(data)
            while len(answer) < answer_bytes and (more := connection.recv(answer_bytes - len(answer))):
                answer += more
    except OSError:
        return answer
    return answer


def main() -> None:
    """Exit 0 if all is well."""
    what, data_dir = sys.argv[1:]
    try:
        wrong = failing(what, Path(data_dir))
    except OSError as error:
        wrong = [str(error)]
    sys.exit("not serving: " + ", ".join(wrong) if wrong else 0)


if __name__ == "__main__":
    main()
