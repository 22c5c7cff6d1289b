"""`twistd imserver`: its options, and how it ends where the configuration is wrong, as a real process."""

import os
import subprocess
import sys
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
        command, check=False, cwd=directory, env=environment, capture_output=True, text=True, timeout=60
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
