"""`twistd imserver` as a process of its own, for tests that talk to it over real sockets."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import treq
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers

from imserver.client.connection import ClientConnection
from imserver.client.endpoints import connect

#: Seconds that a server may take to start or to stop.
_PATIENCE = 30
_READY = b"is ready"


class _Output(ProcessProtocol):
    def __init__(self) -> None:
        self.text = b""
        self.ready: Deferred[None] = Deferred()
        self.ended: Deferred[int] = Deferred()

    def outReceived(self, data: bytes) -> None:
        self.text += data
        if _READY in self.text and not self.ready.called:
            self.ready.callback(None)

    errReceived = outReceived

    def processEnded(self, reason: Failure) -> None:
        value = reason.value
        assert isinstance(value, ProcessDone | ProcessTerminated)
        status = value.exitCode if value.signal is None else -value.signal
        if not self.ready.called:
            self.ready.errback(AssertionError(f"the server ended with {status}:\n{self.text.decode()}"))
        self.ended.callback(status)


class ServerProcess:
    """A server on free ports of 127.0.0.1, with its data in a directory that outlives it."""

    #: A directory to be put before Python's other paths when the server starts.
    python_path: Path | None = None
    #: How many files it may have open if it asks for them, else half as many; None: as many as the tests.
    open_files: int | None = None

    def __init__(self, reactor: Any, directory: Path, settings: str = "") -> None:
        self._reactor = reactor
        self.data = directory / "data"
        self._config = directory / "imserver.toml"
        self._config.write_text(
            f'data = "{self.data}"\n'
            "[listen]\n"
            'tcp = ["tcp:0:interface=127.0.0.1"]\n'
            'websocket = ["tcp:0:interface=127.0.0.1"]\n'
            'http = ["tcp:0:interface=127.0.0.1"]\n' + settings
        )
        self._output = _Output()
        self._process: Any = None

    @property
    def pid(self) -> int:
        return int(self._process.pid)

    @property
    def config(self) -> Path:
        return self._config

    @property
    def log(self) -> str:
        return self._output.text.decode()

    async def start(self) -> None:
        """Start, and wait until clients are served."""
        self._output = _Output()
        command = [str(Path(sys.executable).parent / "twistd"), "--nodaemon", "--pidfile=", "imserver"]
        if self.open_files is not None:
            limits = f"ulimit -Sn {self.open_files // 2} && ulimit -Hn {self.open_files}"
            command = ["/bin/sh", "-c", f'{limits} && exec "$@"', "sh", *command]
        environment = dict(os.environ)
        if self.python_path is not None:
            paths = [str(self.python_path), environment.get("PYTHONPATH", "")]
            environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
        self._process = self._reactor.spawnProcess(
            self._output,
            command[0],
            [*command, "--config", str(self._config)],
            env=environment,
            path=str(self.data.parent),
        )
        await self._output.ready.addTimeout(_PATIENCE, self._reactor)

    async def stop(self) -> int:
        """SIGTERM. Gives the exit status."""
        return await self._end(signal.SIGTERM)

    async def kill(self) -> None:
        """SIGKILL, and wait until the process is gone."""
        await self._end(signal.SIGKILL)

    async def _end(self, number: int) -> int:
        if not self._output.ended.called:
            self._process.signalProcess(number)
        return await self._output.ended.addTimeout(_PATIENCE, self._reactor)

    @property
    def is_running(self) -> bool:
        return self._process is not None and not self._output.ended.called

    def address(self, transport: str) -> str:
        """Where "tcp", "websocket" or "http" is, as `connect` takes it (http: as a URL)."""
        where = json.loads((self.data / "listening.json").read_text())[transport][0]
        return {"tcp": f"tcp:{where}", "websocket": f"ws://{where}/ws", "http": f"http://{where}"}[transport]

    async def operate(self, method: str, path: str, **body: Any) -> Any:
        """One of the operator's calls. Gives the decoded answer of a 200."""
        key = (self.data / "operator.key").read_text().strip()
        response = await treq.request(
            method,
            self.address("http") + path,
            json=body if method == "POST" else None,
            headers=Headers({"Authorization": [f"Bearer {key}"]}),
            persistent=False,
            timeout=_PATIENCE,
        )
        answer = await response.json()
        assert response.code == 200, answer
        return answer

    async def get(self, path: str) -> tuple[int, str]:
        response = await treq.get(self.address("http") + path, persistent=False, timeout=_PATIENCE)
        return response.code, await response.text()

    async def tokens(self, first: int, last: int, appid: int = 7) -> dict[int, str]:
        answer = await self.operate("POST", "/admin/tokens", appid=appid, first=first, last=last)
        return dict(answer["tokens"])

    async def client(
        self, token: str, transport: str = "tcp", device: str = "", platform: int = 2, version: int = 2
    ) -> ClientConnection:
        """A signed-in connection."""
        connection = await connect(self._reactor, self.address(transport))
        status = await connection.sign_in(token, platform=platform, device=device, version=version)
        assert status.status == 0
        return connection
