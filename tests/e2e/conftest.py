"""Running servers for the tests that ask for them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from tests.e2e.process import ServerProcess


def _run(coroutine: Any) -> Any:
    return pytest_twisted.blockon(Deferred.fromCoroutine(coroutine))


@pytest.fixture
def new_server(tmp_path: Path) -> Iterator[Callable[[str], ServerProcess]]:
    """Makes a server with these settings, to be started. Whatever still runs when the test is over is killed."""
    from twisted.internet import reactor

    servers: list[ServerProcess] = []

    def make(settings: str = "") -> ServerProcess:
        process = ServerProcess(reactor, tmp_path, settings)
        servers.append(process)
        return process

    yield make
    for process in servers:
        if process.is_running:
            _run(process.kill())


@pytest.fixture
def server(new_server: Callable[[str], ServerProcess]) -> Iterator[ServerProcess]:
    """A server with the default settings. It must end with 0 when the test is over."""
    process = new_server("")
    _run(process.start())
    yield process
    assert _run(process.stop()) == 0, process.log
