"""`twistd imserver`: its options, and how it ends where the configuration is wrong, as a real process."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from twisted.python import usage

from imserver import __version__
from imserver.tap import Options, makeService

CHECKOUT = Path(__file__).parents[2]


def twistd(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run twistd in a directory, with the imserver of this checkout; every run here ends by itself."""
    command = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()", *words]
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    return subprocess.run(
        command, check=False, cwd=directory, env=environment, capture_output=True, text=True, timeout=30
    )


def parsed(*words: str) -> Options:
    options = Options()  # type: ignore[no-untyped-call]  # Twisted's class has no annotations
    options.parseOptions(words)  # type: ignore[no-untyped-call]  # as above
    return options


@pytest.mark.parametrize(
    ("words", "config", "data"),
    [
        ([], None, None),
        (["--config", "a.toml", "--data", "b"], "a.toml", "b"),
        (["--config=a.toml", "--data=7"], "a.toml", "7"),
        (["-c", "a.toml", "-d", "b"], "a.toml", "b"),
    ],
)
def test_options(words: list[str], config: str | None, data: str | None) -> None:
    """Both options are text, whatever they look like."""
    options = parsed(*words)
    assert (options["config"], options["data"]) == (config, data)


@pytest.mark.parametrize("words", [["--confg", "x"], ["--data"], ["extra"]])
def test_wrong_options(words: list[str]) -> None:
    """twistd prints the usage for what is no option of ours."""
    with pytest.raises(usage.UsageError):
        parsed(*words)


def test_make_service_ends_with_the_line(tmp_path: Path) -> None:
    """A configuration that cannot be used becomes the text of SystemExit, which Python prints on standard error."""
    options = parsed("--config", str(tmp_path / "none.toml"))
    with pytest.raises(SystemExit) as caught:
        makeService(options)
    assert str(caught.value.code).startswith(f"imserver: {tmp_path}/none.toml: cannot be read: ")


@pytest.mark.parametrize("how", [["--nodaemon"], []], ids=["foreground", "daemon"])
def test_configuration_error_is_one_line(tmp_path: Path, how: list[str]) -> None:
    """Status 1, one line on standard error, nothing else printed, no pid file, no log, no data directory."""
    (tmp_path / "im.toml").write_text("[limits]\nconections = 3\n")
    ended = twistd(tmp_path, *how, "imserver", "--config", "im.toml")
    line = "imserver: im.toml, line 2: limits.conections: no such key; did you mean limits.connections?\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", line)
    assert os.listdir(tmp_path) == ["im.toml"]


def test_version(tmp_path: Path) -> None:
    """`twistd imserver --version` tells the version of imserver, not Twisted's."""
    ended = twistd(tmp_path, "imserver", "--version")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"imserver {__version__}\n", "")


def test_help_is_worth_reading(tmp_path: Path) -> None:
    """It says where the server listens, how to run and end it, and where the options of the file are."""
    ended = twistd(tmp_path, "imserver", "--help")
    assert ended.returncode == 0
    text = " ".join(ended.stdout.split())
    for words in ("--config=", "--data=", "23000", "13891", "6666", "SIGTERM", "etc/imserver.toml", "imctl --help"):
        assert words in text


def test_data_directory_that_cannot_be(tmp_path: Path) -> None:
    """A data directory below a file: one line, status 1."""
    (tmp_path / "file").touch()
    ended = twistd(tmp_path, "imserver", "--data", "file/data")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith(f"imserver: {tmp_path}/file/data: Not a directory; ")
    assert ended.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == ["file"]


@pytest.fixture
def taken_port(tmp_path: Path) -> Iterator[int]:
    """A port that somebody else listens on, and in im.toml a server that wants it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        (tmp_path / "im.toml").write_text(
            f'[listen]\ntcp = ["tcp:{port}:interface=127.0.0.1"]\n'
            'websocket = ["tcp:0:interface=127.0.0.1"]\nhttp = ["tcp:0:interface=127.0.0.1"]\n'
        )
        yield port
    left = tmp_path / "twistd.pid"
    if left.exists():  # a daemon that should not be
        with suppress(ProcessLookupError):
            os.kill(int(left.read_text()), signal.SIGKILL)
        pytest.fail("twistd left its pid file, and perhaps a process")


def test_port_that_is_taken(tmp_path: Path, taken_port: int) -> None:
    """In the foreground: status 1, and one line on standard error that names the port; the log has no traceback."""
    ended = twistd(tmp_path, "--nodaemon", "imserver", "--config", "im.toml")
    assert ended.returncode == 1
    assert ended.stderr.startswith(
        f'imserver: cannot listen on "tcp:{taken_port}:interface=127.0.0.1": Address already'
    )
    assert ended.stderr.count("\n") == 1
    assert "Traceback" not in ended.stdout


def test_port_that_is_taken_for_a_daemon(tmp_path: Path, taken_port: int) -> None:
    """A daemon: twistd tells whoever started it, in its own words and with status 1, and leaves no process."""
    ended = twistd(tmp_path, "imserver", "--config", "im.toml")
    assert ended.returncode == 1
    assert f'cannot listen on "tcp:{taken_port}:' in ended.stderr
    assert not (tmp_path / "twistd.pid").exists()
    assert not (tmp_path / "var" / "listening.json").exists()
