"""Run a command against a server of its own: a scratch directory, free ports, the default configuration.

    .venv/bin/python bench/with_server.py -- COMMAND [WORD …]

In the words of the command these stand for what they say:
{tcp} {websocket} {http}  ports;  {pid}  of the server;  {data}  its directory;
{tokens}  a file of "uid token" lines for the users 1 to 2000 of app 7 (--users N for more).

The server is the one that belongs to the Python that runs this. It ends with the command, and must end in good order.
Exit status: the command's, or 1 where the server failed; then its log is on standard error.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from time import monotonic
from typing import Any

#: Seconds that the server gets to start, and to stop.
_PATIENCE = 60

_CONFIGURATION = """
[listen]
tcp = ["tcp:0:interface=127.0.0.1"]
websocket = ["tcp:0:interface=127.0.0.1"]
http = ["tcp:0:interface=127.0.0.1"]
"""
_TWISTD = "from twisted.scripts.twistd import run; run()"
_IMCTL = "from imserver.cli import main; main()"


class ServerFailed(Exception):
    """The server did not start, or not stop, as it should."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=2000, help="users with a token (default: 2000)")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="imserver-bench-") as scratch:
        directory = Path(scratch)
        try:
            return run(options.command, options.users, directory)
        except ServerFailed as error:
            print(f"{error}; its log:", (directory / "log").read_text(), sep="\n", file=sys.stderr)
            return 1


def run(command: list[str], users: int, directory: Path) -> int:
    """The command's exit status. Raises `ServerFailed`."""
    configuration, data = directory / "imserver.toml", directory / "data"
    configuration.write_text(_CONFIGURATION)
    words = ["--nodaemon", "--pidfile=", "imserver", "--config", str(configuration), "--data", str(data)]
    with open(directory / "log", "wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-c", _TWISTD, *words], cwd=directory, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        listening = wait_until_up(server, data / "listening.json")
        ports = {kind: listening[kind][0].rpartition(":")[2] for kind in ("tcp", "websocket", "http")}
        tokens = directory / "tokens"
        with open(tokens, "wb") as file:
            subprocess.run(
                [sys.executable, "-c", _IMCTL, "--data", str(data), "token", "7", f"1-{users}"],
                stdout=file,
                check=True,
                timeout=_PATIENCE,
            )
        known = ports | {"pid": str(server.pid), "data": str(data), "tokens": str(tokens)}
        status = subprocess.run([fill(word, known) for word in command], check=False).returncode
        end(server)
    finally:
        if server.poll() is None:
            server.kill()
            server.wait()
    return status


def fill(word: str, known: dict[str, str]) -> str:
    for name, value in known.items():
        word = word.replace(f"{{{name}}}", value)
    return word


def wait_until_up(server: subprocess.Popen[bytes], listening: Path) -> Any:
    """What the server wrote about its addresses. It is written whole or not at all."""
    deadline = monotonic() + _PATIENCE
    while monotonic() < deadline:
        if listening.exists():
            return json.loads(listening.read_text())
        try:
            server.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
        raise ServerFailed(f"the server ended with status {server.returncode} instead of starting")
    raise ServerFailed(f"the server was not up after {_PATIENCE} s")


def end(server: subprocess.Popen[bytes]) -> None:
    server.send_signal(signal.SIGTERM)
    try:
        server.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        raise ServerFailed(f"the server had not ended {_PATIENCE} s after SIGTERM") from None
    if server.returncode:
        raise ServerFailed(f"the server ended with status {server.returncode}")


if __name__ == "__main__":
    sys.exit(main())
