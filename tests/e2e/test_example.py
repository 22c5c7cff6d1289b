"""The example of a back end does what it says, against a real server that calls its webhook."""

import json
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest_twisted
from twisted.internet.utils import getProcessOutputAndValue

from tests.e2e.process import ServerProcess

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "back_end.py"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest_twisted.ensureDeferred
async def test_example_of_a_back_end(new_server: Callable[[str], ServerProcess], tmp_path: Path) -> None:
    """It makes an app, users, a group and a message, and takes the push for the member who is offline."""
    key = tmp_path / "push.key"
    key.touch(0o600)
    key.write_text("0123456789abcdef0123456789abcdef\n")
    port = free_port()
    server = new_server(f'[push]\nkind = "webhook"\nurl = "http://127.0.0.1:{port}/push"\nkey_file = "{key}"\n')
    await server.start()
    words = [
        *("--server", server.address("http")),
        *("--operator-key", str(server.data / "operator.key")),
        *("--push-key", str(key)),
        *("--port", str(port)),
    ]
    out, errors, status = await getProcessOutputAndValue(sys.executable, [str(EXAMPLE), *words], {})
    assert (errors, status) == (b"", 0)
    assert await server.stop() == 0
    said = json.loads(out)
    content = json.dumps({"text": "e4 or d4?"})
    (message,) = said["history"]
    assert (message["sender"], message["receiver"], message["content"]) == (1, said["group_id"], content)
    push = said["push"]
    assert (push["queue"], push["appid"], push["group_id"]) == ("group_push_queue", said["appid"], said["group_id"])
    assert (push["sender"], push["receivers"], push["content"]) == (1, [2], content)


def test_example_is_short() -> None:
    assert len(EXAMPLE.read_text().splitlines()) <= 100
