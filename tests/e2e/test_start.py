"""A start that fails says why in one line, and a daemon starts, serves and ends like a server in the foreground."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import pytest_twisted

from imserver.client.endpoints import connect
from imserver.database.upgrade import VERSION_TABLE
from tests.e2e.load import close_all, until
from tests.e2e.process import ServerProcess

TWISTD = str(Path(sys.executable).parent / "twistd")
#: Runs a program without root's right to write everywhere. Who is not root has no such right to lose.
UNPRIVILEGED = """
import ctypes, os, sys
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1
ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Start:
    """How a server is started in a directory, in the foreground or as a daemon."""

    def __init__(self, directory: Path, daemon: bool) -> None:
        self.directory = directory
        self.daemon = daemon
        self.pid_file = directory / "twistd.pid"
        self.log = directory / "twistd.log"

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Start it; it ends by itself, be it because it fails or because it is a daemon now."""
        how = ["--pidfile", str(self.pid_file), "--logfile", str(self.log)] if self.daemon else ["-n", "--pidfile="]
        command = [sys.executable, "-c", UNPRIVILEGED, TWISTD, *how, "imserver", *words]
        return subprocess.run(command, check=False, cwd=self.directory, capture_output=True, text=True, timeout=30)

    def fails(self, *words: str) -> str:
        """Start it, and see that it ends with status 1 and one line, which it gives, and leaves no process."""
        ended = self(*words)
        if self.pid_file.exists():
            os.kill(int(self.pid_file.read_text()), signal.SIGKILL)
            pytest.fail("it runs as a daemon")
        assert ended.returncode == 1
        assert ended.stderr.startswith("imserver: ")
        assert ended.stderr.count("\n") == 1
        assert "Traceback" not in ended.stdout
        return ended.stderr


@pytest.fixture(params=["foreground", "daemon"])
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Start:
    return Start(tmp_path, request.param == "daemon")


@pytest_twisted.ensureDeferred
async def test_a_second_server_and_an_older_program(start: Start, new_server: Callable[[str], ServerProcess]) -> None:
    """Data that a server works on, or that a newer one has written, is left alone."""
    server = new_server("")
    await server.start()
    token = (await server.tokens(1, 1))[1]
    client = await server.client(token)
    line = start.fails("--config", str(server.config))
    assert line.startswith(f"imserver: {server.data}/imserver.db.lock: a server runs on this database already, pid ")
    assert f"pid {server.pid};" in line
    await client.ping()
    assert json.loads((server.data / "listening.json").read_text())["pid"] == server.pid
    await close_all(client)
    assert await server.stop() == 0

    database = server.data / "imserver.db"
    with sqlite3.connect(database) as connection:
        connection.execute(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")  # noqa: S608 - a constant
    connection.close()
    before = database.read_bytes()
    assert start.fails("--config", str(server.config)).startswith(
        f"imserver: {database}: was written by a newer imserver"
    )
    assert database.read_bytes() == before


@pytest.mark.parametrize("what", ["directory", "parent"])
def test_data_that_cannot_be_written(start: Start, what: str) -> None:
    """A directory that is there, or one that would have to be made, where the server may not write."""
    closed = start.directory / "closed"
    closed.mkdir(mode=0o500)
    data = closed if what == "directory" else closed / "data"
    line = start.fails("--data", str(data))
    assert line.startswith(f"imserver: {closed}/")
    assert "Permission denied; give a data directory that user " in line
    assert list(closed.iterdir()) == []


@pytest_twisted.ensureDeferred
async def test_a_daemon(tmp_path: Path) -> None:
    """It serves when listening.json is there, holds its data under its own pid, and SIGTERM ends it in good order."""
    from twisted.internet import reactor

    start = Start(tmp_path, daemon=True)
    (tmp_path / "imserver.toml").write_text(
        '[listen]\ntcp = ["tcp:0:interface=127.0.0.1"]\nwebsocket = []\nhttp = ["tcp:0:interface=127.0.0.1"]\n'
    )
    ended = start("--config", "imserver.toml")
    pid = int(start.pid_file.read_text())
    try:
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
        listening = tmp_path / "var" / "listening.json"
        await until(reactor, listening.exists, 10)
        where = json.loads(listening.read_text())
        assert where["pid"] == pid
        client = await connect(reactor, f"tcp:{where['tcp'][0]}")
        await client.ping()
        second = Start(tmp_path / "second", daemon=True)
        second.directory.mkdir()
        assert f"already, pid {pid};" in second.fails("--data", str(tmp_path / "var"))
    finally:
        os.kill(pid, signal.SIGTERM)
    await client.closed
    await until(reactor, lambda: not start.pid_file.exists(), 10)
    assert "imserver has stopped" in start.log.read_text()
    assert "Traceback" not in start.log.read_text()
    assert not listening.exists()
