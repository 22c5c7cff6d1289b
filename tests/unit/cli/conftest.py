"""imctl without a process: commands run in memory, against a data directory as a server leaves it."""

import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock

from imserver.cli import operator
from imserver.cli.common import Imctl
from imserver.cli.found import FoundServer, operator_key
from imserver.cli.operator import Operator
from imserver.cli.root import imctl
from tests.fakes.admin import KEY, FakeAdmin, http_to
from tests.fakes.server import now


class InMemory(Imctl):
    """Runs what a command waits for on a reactor in memory."""

    def __init__(self, data: Path, as_json: bool, stub: Any) -> None:
        super().__init__(None, str(data), as_json)
        self._stub = stub

    def wait_for(self, work: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
        waited = Deferred.fromCoroutine(work(MemoryReactorClock()))
        for _ in range(_MOST_CALLS):
            self._stub.flush()
        now(waited)


#: HTTP calls that one command makes in these tests, at most.
_MOST_CALLS = 5


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The data directory of a running server."""
    listening = {
        "pid": 4711,
        "version": "1.2.3",
        "tcp": ["127.0.0.1:23000"],
        "websocket": ["127.0.0.1:13891"],
        "http": ["127.0.0.1:6666"],
    }
    (tmp_path / "listening.json").write_text(json.dumps(listening))
    (tmp_path / "operator.key").write_text(KEY + "\n")
    return tmp_path


@pytest.fixture
def admin() -> FakeAdmin:
    return FakeAdmin()


@pytest.fixture
def call(data: Path, admin: FakeAdmin, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Call a command with these words, without and with --json."""
    stub = http_to(admin)

    def operator_of(reactor: Any, server: FoundServer) -> Operator:
        return Operator(reactor, stub, f"http://{server.http_address()}", operator_key(server.data))

    monkeypatch.setattr(operator, "operator_of", operator_of)

    def run(*words: str, as_json: bool = False) -> Result:
        return CliRunner().invoke(imctl, words, obj=InMemory(data, as_json, stub))

    return run
