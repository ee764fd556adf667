"""Where things lie under `data_dir`: one place that every process agrees on.

In: the data directory. Out: paths. Sockets get a short directory of their own when `data_dir` is too deep for the
108 bytes that a unix socket's address may have.
"""

import hashlib
import tempfile
from pathlib import Path

import msgspec

_LONGEST_SOCKET_NAME = len("fallback-00.sock")
_UNIX_PATH_MAX = 107


class Paths(msgspec.Struct, frozen=True):
    """The layout of one gateway's data directory."""

    data_dir: Path  # absolute

    @classmethod
    def of(cls, data_dir: Path) -> "Paths":
        """The layout under `data_dir`, made absolute."""
        return cls(data_dir.absolute())

    @property
    def sockets(self) -> Path:
        """Directory of the unix sockets: `data_dir`/run, or a short one derived from its path."""
        wanted = self.data_dir / "run"
        if len(str(wanted)) + 1 + _LONGEST_SOCKET_NAME <= _UNIX_PATH_MAX:
            return wanted
        digest = hashlib.sha256(str(self.data_dir).encode()).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"gateway-{digest}"

    def worker_socket(self, index: int) -> Path:
        """Where worker `index` (from 0) serves ext_proc."""
        return self.sockets / f"worker-{index}.sock"

    def fallback_socket(self, index: int) -> Path:
        """Where the same worker serves its own requests' attempts after the first; open until the last request ends."""
        return self.sockets / f"fallback-{index}.sock"

    def bell_socket(self, index: int) -> Path:
        """Where worker `index` hears that a file was replaced that it goes by."""
        return self.sockets / f"bell-{index}.sock"

    def bell_sockets(self) -> list[Path]:
        """Those of all workers that ever listened."""
        return list(self.sockets.glob("bell-*.sock"))

    @property
    def settler_socket(self) -> Path:
        """Where the settler takes access log streams."""
        return self.sockets / "settler.sock"

    @property
    def control_socket(self) -> Path:
        """Where the control API listens."""
        return self.sockets / "control.sock"

    @property
    def inside_socket(self) -> Path:
        """The ingress once more, for our own requests: without TLS and address list; keys are needed all the same."""
        return self.sockets / "inside.sock"

    @property
    def demo_socket(self) -> Path:
        """Where the built-in demo provider listens."""
        return self.sockets / "demo.sock"

    @property
    def admin_socket(self) -> Path:
        """Envoy's admin interface."""
        return self.sockets / "admin.sock"

    @property
    def valkey_socket(self) -> Path:
        """The embedded Valkey; a second gateway may share it as `state.url: unix://…/valkey.sock`."""
        wanted = self.data_dir / "valkey.sock"
        return wanted if len(str(wanted)) <= _UNIX_PATH_MAX else self.sockets / wanted.name

    def state_url(self, configured: str) -> str:
        """Where the shared state is: `state.url`, or the embedded Valkey's socket."""
        return f"unix://{self.valkey_socket}" if configured == "embedded" else configured

    @property
    def prepared(self) -> Path:
        """In a pod: there when all is rendered, so that the other containers can start."""
        return self.sockets / "prepared"

    @property
    def drain_request(self) -> Path:
        """In a pod: Envoy's container asks for a drain by it, and waits until it is gone."""
        return self.sockets / "drain"

    @property
    def envoy(self) -> Path:
        """Rendered Envoy configuration: bootstrap.json, cds.json, lds.json, rds.json."""
        return self.data_dir / "envoy"

    @property
    def secrets(self) -> Path:
        """File SDS secrets, mode 0700/0600; read by Envoy only."""
        return self.data_dir / "envoy" / "secrets"

    @property
    def tls(self) -> Path:
        """The gateway's own certificates as file SDS; they name files, and hold none."""
        return self.data_dir / "envoy" / "tls"

    @property
    def runtime(self) -> Path:
        """The checked configuration as the serving processes read it; holds no provider credential."""
        return self.data_dir / "runtime.json"

    @property
    def overrides(self) -> Path:
        """The last changes at run time, for when the shared state is away."""
        return self.data_dir / "overrides.json"

    @property
    def config_status(self) -> Path:
        """Which version of gateway.yaml is in force, and what came of the last change to it."""
        return self.data_dir / "config.json"

    @property
    def kept_environment(self) -> Path:
        """The variables gateway.yaml asked for, for a reload of it; lies with the secrets."""
        return self.secrets / ".environment"

    @property
    def request_log(self) -> Path:
        """Envoy's own log of authenticated requests; what the settler missed is settled from it."""
        return self.data_dir / "requests.log"

    @property
    def standings(self) -> Path:
        """What workers know of providers' health; the settler writes it."""
        return self.data_dir / "standings.json"

    @property
    def health(self) -> Path:
        """Figures of providers' health; the settler writes it, control shows it."""
        return self.data_dir / "health.json"

    @property
    def journal(self) -> Path:
        """SQLite: audit rows and what is still to be settled."""
        return self.data_dir / "journal.db"
