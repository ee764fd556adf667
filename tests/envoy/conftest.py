"""One gateway and two simulators for every test of a module; a test that kills things makes its own."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.envoy.harness import Config, Gateway, Simulator, base_config, running
from tests.envoy.scripted import Scripted
from tests.telemetry.collector import Collector


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Told apart from the others, and first: their files take longest, and what is short fills the end evenly. Each
    file's tests share processes: `--dist loadfile` keeps them in one worker."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.envoy)
    items.sort(key=lambda item: item.get_closest_marker("envoy") is None)


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
def new_config(
    simulators: tuple[Simulator, Simulator], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], Config]:
    """Makes base configurations, each with a folder and a port of its own: for further gateways. What the file before
    told the simulators is over: a file's own fixtures may ask them before its first test, whose reset comes later."""
    for simulator in simulators:
        simulator.reset()
    return lambda: base_config(tmp_path_factory.mktemp("gw") / "data", *simulators)


@pytest.fixture(scope="module")
def config(new_config: Callable[[], Config]) -> Config:
    """That of the module's gateway. A module that wants another has a `config` of its own, which makes it of this."""
    return new_config()


@pytest.fixture(scope="module")
def scripted() -> Iterator[Scripted]:
    """A provider that answers as a test says."""
    provider = Scripted()
    yield provider
    provider.stop()


@pytest.fixture(scope="module")
def passing_config(new_config: Callable[[], Config], scripted: Scripted) -> Config:
    """Whole answers pass by Envoy alone too, and the model `odd` is the scripted provider's."""
    config = new_config() | {"response_metadata": "headers", "cache": {"exact": False}}
    config["providers"]["scripted"] = {"format": "openai", "base_url": f"{scripted.url}/v1"}
    config["models"].append({"name": "odd", "provider": "scripted"})
    return config


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    """Takes traces and metrics, where a configuration names it."""
    running = Collector()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def gateway(config: Config) -> Iterator[Gateway]:
    with running(config) as gateway:
        yield gateway
