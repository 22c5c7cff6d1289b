"""Finding the server, its status, and the check of its configuration."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from imserver.cli.complaint import Complaint
from imserver.cli.found import FoundServer, find_server, operator_key
from imserver.cli.root import imctl, run
from tests.fakes.admin import KEY, FakeAdmin

Call = Callable[..., Result]

STATUS: dict[str, Any] = {
    "version": "1.2.3",
    "pid": 4711,
    "uptime": 93_784.5,
    "ready": True,
    "checks": {"storage": True, "listeners": True},
    "listen": {"tcp": ["127.0.0.1:23000"], "websocket": [], "http": ["127.0.0.1:6666"]},
    "connections": {"tcp": 12, "websocket": 0},
    "users": 10,
    "rooms": 1,
    "frames_in": 1_234_567,
    "frames_out": 5,
    "writes_waiting": 0,
}


class TestFound:
    def test_found(self, data: Path) -> None:
        """What the server wrote, and where its clients connect."""
        server = find_server(data)
        assert server.pid == 4711
        assert server.client_address(websocket=False) == "tcp:127.0.0.1:23000"
        assert server.client_address(websocket=True) == "ws://127.0.0.1:13891/ws"
        assert server.http_address() == "127.0.0.1:6666"
        assert operator_key(data) == KEY

    @pytest.mark.parametrize(
        ("listening", "reached"),
        [
            ("0.0.0.0:23000", "tcp:127.0.0.1:23000"),
            ("[::]:23000", "tcp:[::1]:23000"),
            ("10.0.0.5:23000", "tcp:10.0.0.5:23000"),
        ],
    )
    def test_all_addresses(self, listening: str, reached: str) -> None:
        """A server that listens everywhere is reached on loopback."""
        server = FoundServer(Path(), 1, "", ["unix:/run/x.sock", listening], [], [])
        assert server.client_address(websocket=False) == reached

    def test_not_listening(self) -> None:
        """A transport that is switched off, and no HTTP."""
        server = FoundServer(Path(), 1, "", ["unix:/run/x.sock"], [], [])
        with pytest.raises(Complaint, match="listens on no tcp port"):
            server.client_address(websocket=False)
        with pytest.raises(Complaint, match="listens on no websocket port"):
            server.client_address(websocket=True)
        with pytest.raises(Complaint, match="does not listen for HTTP"):
            server.http_address()

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"pid": 1}'])
    def test_another_file(self, data: Path, text: str) -> None:
        """A file that no server wrote."""
        (data / "listening.json").write_text(text)
        with pytest.raises(Complaint, match="is not what a server writes"):
            find_server(data)

    def test_unreadable(self, data: Path) -> None:
        """What cannot be read is not taken for missing."""
        (data / "operator.key").unlink()
        (data / "operator.key").mkdir()
        with pytest.raises(Complaint, match=r"cannot read .*operator.key: Is a directory; run imctl as the user"):
            operator_key(data)


class TestStatus:
    def test_status(self, call: Call, admin: FakeAdmin) -> None:
        """A table for people, the answer for programs."""
        admin.answers["GET", "/admin/status"] = (200, STATUS)
        result = call("status")
        assert result.exit_code == 0
        text = result.stdout
        for words in (
            "imserver 1.2.3, ready",
            "process 4711, up 1 d 2 h",
            "tcp                   12  127.0.0.1:23000",
            "websocket              0  nothing",
            "frames from clients          1,234,567",
            "check: storage                      ok",
        ):
            assert words in text
        assert json.loads(call("status", as_json=True).stdout) == STATUS

    @pytest.mark.parametrize(
        ("seconds", "words"), [(5, "up 5 s"), (65, "up 1 min 5 s"), (3665, "up 1 h 1 min"), (86_400, "up 1 d 0 h")]
    )
    def test_uptime(self, call: Call, admin: FakeAdmin, seconds: float, words: str) -> None:
        """In two units at most."""
        admin.answers["GET", "/admin/status"] = (200, {**STATUS, "uptime": seconds})
        assert words in call("status").stdout

    def test_not_ready(self, call: Call, admin: FakeAdmin) -> None:
        """A server that is not ready is shown, and exit status 1 says it to scripts."""
        checks = {"storage": False, "listeners": True}
        admin.answers["GET", "/admin/status"] = (200, {**STATUS, "ready": False, "checks": checks})
        result = call("status")
        assert "NOT READY" in result.stdout
        assert "check: storage                  FAILED" in result.stdout
        assert result.exit_code == 1
        assert "not ready" in result.stderr


class TestCheck:
    @staticmethod
    def check(*words: str) -> Result:
        return CliRunner().invoke(imctl, [*words, "check"])

    def test_good(self, tmp_path: Path) -> None:
        """Where it would listen, and with which data."""
        (tmp_path / "c.toml").write_text(f'data = "{tmp_path}/new/data"\n[listen]\nwebsocket = []\n')
        result = self.check("--config", f"{tmp_path}/c.toml")
        assert result.exit_code == 0
        assert result.stdout == (
            f"configuration  {tmp_path}/c.toml: good\n"
            f"data           {tmp_path}/new/data (will be made)\n"
            "tcp            tcp:23000:interface=127.0.0.1\n"
            "websocket      off\n"
            "http           tcp:6666:interface=127.0.0.1\n"
        )
        assert not (tmp_path / "new").exists()

    def test_json(self, tmp_path: Path) -> None:
        """The same for programs; --data goes before the file."""
        result = self.check("--json", "--data", str(tmp_path))
        assert json.loads(result.stdout) == {
            "config": None,
            "data": str(tmp_path),
            "listen": {
                "tcp": ["tcp:23000:interface=127.0.0.1"],
                "websocket": ["tcp:13891:interface=127.0.0.1"],
                "http": ["tcp:6666:interface=127.0.0.1"],
            },
        }

    def test_unknown_key(self, tmp_path: Path) -> None:
        """One line with the file and the key."""
        (tmp_path / "c.toml").write_text("[limits]\nidle_secnds = 3\n")
        result = self.check("--config", f"{tmp_path}/c.toml")
        assert result.exit_code == 1
        assert "idle_secnds" in result.stderr
        assert result.stderr.count("\n") == 1

    def test_data_is_a_file(self, tmp_path: Path) -> None:
        """A data directory that is none, and one that cannot be made below a file."""
        (tmp_path / "file").write_text("")
        for data in ("file", "file/below"):
            result = self.check("--data", f"{tmp_path}/{data}")
            assert result.exit_code == 1
            assert f"{tmp_path}/file is no directory" in result.stderr

    def test_data_not_writable(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A data directory that this user may not write."""
        # Tests may run as root, who may write everything.
        monkeypatch.setattr("os.access", lambda path, mode: False)
        result = self.check("--data", str(tmp_path))
        assert result.exit_code == 1
        assert f"{tmp_path} is not writable for this user" in result.stderr


class TestCommandLine:
    """How a mistake is said: one line on standard error, exit status 1."""

    @pytest.mark.parametrize(
        ("words", "complaint"),
        [
            (["nothing"], "imctl: No such command 'nothing'; see imctl --help"),
            (["token", "7"], "imctl: Missing argument 'UID[-UID]'; see imctl token --help"),
            (["status", "--json"], "imctl: No such option '--json': --config, --data, --json stand before the command"),
            (["status", "--nothing"], "imctl: No such option '--nothing'; see imctl status --help"),
            (["send", "--from", "1", "x"], "imctl: Missing option '--to'; see imctl send --help"),
            (["chat", "--uid", "1", "--with", "0"], "'0' is no number from 1 to"),
            (["--json", "chat", "--uid", "1", "--with", "2"], "imctl: chat is for people"),
        ],
    )
    def test_mistake(self, capfd: pytest.CaptureFixture[str], words: list[str], complaint: str) -> None:
        """Whatever is wrong with the command line."""
        with pytest.raises(SystemExit) as ended:
            run(words)
        out, err = capfd.readouterr()
        assert ended.value.code == 1
        assert out == ""
        assert complaint in err
        assert err.count("\n") == 1

    @pytest.mark.parametrize("words", [[], ["--help"], ["user"], ["app", "-h"], ["token"], ["bench", "--help"]])
    def test_help(self, capfd: pytest.CaptureFixture[str], words: list[str]) -> None:
        """Help goes to standard output, has examples, and is no mistake."""
        with pytest.raises(SystemExit) as ended:
            run(words)
        out, err = capfd.readouterr()
        assert ended.value.code == 0
        assert err == ""
        assert out.startswith("Usage: imctl")
        assert "imctl " in out[10:] or words == ["app", "-h"]

    def test_version(self, capfd: pytest.CaptureFixture[str]) -> None:
        """The version, and nothing else."""
        with pytest.raises(SystemExit):
            run(["--version"])
        assert capfd.readouterr().out.startswith("imctl 0.")
