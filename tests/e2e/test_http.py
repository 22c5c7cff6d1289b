"""The HTTP APIs of a real `twistd imserver`: who may call, and that what was answered with 200 outlives the process."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
import treq
from twisted.web.http_headers import Headers

from imserver.protocol.messages import IM
from tests.e2e.process import ServerProcess

KEY = "0123456789abcdef" * 4
POST = "/post_peer_message?appid=7&sender=1&receiver=2"
READ = "/load_latest_message?appid=7&uid=2&limit=10"


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    file = tmp_path / "http.key"
    file.write_text(KEY + "\n")
    file.chmod(0o600)
    return file


async def call(server: ServerProcess, method: str, path: str, body: bytes | None = None, *headers: str) -> Any:
    """The status and the answer. A header is `Name: value`."""
    named = Headers({name: [value] for name, _, value in (header.partition(": ") for header in headers)})
    response = await treq.request(
        method, server.address("http") + path, data=body, headers=named, persistent=False, timeout=30
    )
    return response.code, await response.json()


@pytest_twisted.ensureDeferred
async def test_key(new_server: Callable[[str], ServerProcess], key_file: Path) -> None:
    """With a key the back-end API is for those who have it, on loopback too. What it stored is there after a kill, and
    who was connected got it at once."""
    server = new_server(f'[http]\nkey_file = "{key_file}"\n')
    await server.start()
    bearer = f"Authorization: Bearer {KEY}"
    client = await server.client((await server.tokens(2, 2))[2])
    for headers in ((), (bearer[:-1],)):
        status, answer = await call(server, "POST", POST, b"refused", *headers)
        assert (status, answer["meta"]["code"]) == (401, 401)
    pushed = client.expect(IM)
    assert await call(server, "POST", POST, b"taken", bearer) == (200, {"data": {}})
    assert (await pushed).message.content == b"taken"
    await server.kill()
    await client.closed
    await server.start()
    status, answer = await call(server, "GET", READ, None, bearer)
    assert (status, [message["content"] for message in answer["data"]]) == (200, ["taken"])


@pytest_twisted.ensureDeferred
async def test_no_key(server: ServerProcess) -> None:
    """Without one, programs on the machine may call, and web pages may not."""
    status, _ = await call(server, "POST", POST, b"from a page", "Origin: http://page.example")
    assert status == 403
    assert await call(server, "POST", POST, b"from a program") == (200, {"data": {}})
    status, answer = await call(server, "GET", READ)
    assert (status, [message["content"] for message in answer["data"]]) == (200, ["from a program"])


@pytest.mark.parametrize(
    ("content", "mode", "complaint"),
    [(KEY, 0o644, "is open to every user of this machine"), (KEY[:31], 0o600, "holds 31 characters")],
)
def test_bad_key(tmp_path: Path, key_file: Path, content: str, mode: int, complaint: str) -> None:
    """A key that is none ends the start, with one line that says why."""
    key_file.write_text(content)
    key_file.chmod(mode)
    config = tmp_path / "imserver.toml"
    config.write_text(f'[listen]\ntcp = []\nwebsocket = []\nhttp = []\n[http]\nkey_file = "{key_file}"\n')
    twistd = str(Path(sys.executable).parent / "twistd")
    ended = subprocess.run(
        [twistd, "--nodaemon", "--pidfile=", "imserver", "--config", str(config)],
        check=False,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"imserver: http.key_file: {key_file}: {complaint}")
    assert ended.stderr.count("\n") == 1
