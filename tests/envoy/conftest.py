"""One gateway and two simulators for every test of a module; a test that kills things makes its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.envoy.harness import Gateway, Simulator, base_config


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Told apart from the others. Each file's tests share processes: `--dist loadfile` keeps them in one worker."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.envoy)


@pytest.fixture(scope="session")
def simulators() -> Iterator[tuple[Simulator, Simulator]]:
    pair = Simulator(), Simulator()
    yield pair
    for simulator in pair:
        simulator.stop()


@pytest.fixture(autouse=True)
def _reset(simulators: tuple[Simulator, Simulator]) -> None:
    for simulator in simulators:
        simulator.reset()


@pytest.fixture
def primary(simulators: tuple[Simulator, Simulator]) -> Simulator:
    return simulators[0]


@pytest.fixture
def second(simulators: tuple[Simulator, Simulator]) -> Simulator:
    return simulators[1]


@pytest.fixture(scope="module")
def gateway(simulators: tuple[Simulator, Simulator], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("gw")
    running = Gateway(base_config(folder / "data", *simulators), folder)
    yield running
    assert running.stop() == 0, running.log()[-3000:]
