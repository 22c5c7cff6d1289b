"""docs/push.md says what is so: its example of a request, its receiver, the names of its metrics."""

import json
import re
import runpy
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, DeferredQueue
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from imserver.keys import read_key
from imserver.metrics import Metrics
from imserver.model import UserKey
from imserver.protocol.messages import IM, CustomerV2, GroupIM, System
from imserver.push.request import Webhook, signature
from imserver.push.webhook import WebhookPush
from tests.contract.push_house import ALICE, BOB, CAROL, NOW, Accounts, House, Lanes, stored
from tests.contract.sql_storage import running_reactor

DOCUMENT = (Path(__file__).parents[3] / "docs" / "push.md").read_text()
KEY = b"0123456789abcdef0123456789abcdef"


def block(language: str) -> str:
    """The one piece of this language in the document."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    return str(found)


@pytest_twisted.ensureDeferred
async def test_the_example_is_a_request(tmp_path: Path) -> None:
    """What the document shows is what is sent, member for member, in the same order."""
    example = json.loads(block("json"))
    house = House(tmp_path)
    await house.accounts.create_app("app", 7)
    await house.accounts.bind_devices(BOB, {"apns": "0a1b2c", "gcm": "fcm-token"})
    house.queue.push(stored(IM(1, 2, NOW, 0, b"Hello"), ALICE), [BOB])
    house.queue.push(stored(GroupIM(1, 1000, NOW, 0, b"Hello, all"), ALICE), [BOB, CAROL])
    house.queue.push(stored(CustomerV2(7, 1, 17, 5, NOW, b"Help!"), ALICE), [UserKey(17, 5)])
    house.queue.push(stored(System(b"Welcome"), CAROL), [CAROL])
    await house.lanes.settled()
    house.queue.start()
    sent = (await house.request()).pushes
    first = example["pushes"][0]["id"]
    assert [push | {"id": first + push["id"] - 1} for push in sent] == example["pushes"]
    table = dict(re.findall(r"^\| `(\w+_push_queue\w*|push_queue)` \| .* \| (.*) \|$", DOCUMENT, re.MULTILINE))
    for push in sent:
        members = set(re.findall(r"`(\w+)`", table.pop(push["queue"])))
        assert members == push.keys() - {"id", "queue", "devices"}
    assert table == {}
    stopped = house.queue.stop()
    house.clock.advance(5)
    await stopped
    await house.lanes.stop()


@pytest.fixture(scope="module")
def is_genuine(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bytes, str, bytes, float], bool]:
    file = tmp_path_factory.mktemp("docs") / "receiver.py"
    file.write_text(block("python"))
    found: Callable[[bytes, str, bytes, float], bool] = runpy.run_path(str(file))["is_genuine"]
    return found


def test_the_receiver_knows_us(is_genuine: Callable[[bytes, str, bytes, float], bool]) -> None:
    """Our signature is genuine for some minutes; not with another key, another body, another time, or another form."""
    header = signature(KEY, NOW, b"{}")
    assert is_genuine(KEY, header, b"{}", NOW + 0.9)
    assert is_genuine(KEY, header, b"{}", NOW + 300)
    assert is_genuine(KEY, header, b"{}", NOW - 300)  # its clock is behind
    for key, forged, body, now in (
        (KEY, header, b"{}", NOW + 301),
        (KEY, header, b"{}", NOW - 301),
        (KEY, header, b"{ }", NOW),
        (KEY[::-1], header, b"{}", NOW),
        (KEY, header.replace(f"t={NOW}", f"t={NOW + 1}"), b"{}", NOW),
        (KEY, header[:-1] + ("0" if header[-1] != "0" else "1"), b"{}", NOW),
        (KEY, header + ",v1=" + "0" * 64, b"{}", NOW),
        (KEY, header.upper(), b"{}", NOW),
        (KEY, "", b"{}", NOW),
    ):
        assert not is_genuine(key, forged, body, now)


class Receiver(ProcessProtocol):
    """The receiver of the document, as a process."""

    def __init__(self) -> None:
        self.lines: DeferredQueue[str] = DeferredQueue()
        self.ended: Deferred[None] = Deferred()
        self._line = b""

    def outReceived(self, data: bytes) -> None:
        *whole, self._line = (self._line + data).split(b"\n")
        for line in whole:
            self.lines.put(line.decode())

    def errReceived(self, data: bytes) -> None:
        self.lines.put("error: " + data.decode())

    def processEnded(self, reason: Failure) -> None:
        self.ended.callback(None)


@pytest_twisted.async_yield_fixture
async def receiver(tmp_path: Path) -> AsyncIterator[Receiver]:
    (tmp_path / "receiver.py").write_text(block("python"))
    (tmp_path / "push.key").write_bytes(KEY + b"\n")
    (tmp_path / "push.key").chmod(0o600)
    reactor: Any = running_reactor()
    receiver = Receiver()
    words = [sys.executable, str(tmp_path / "receiver.py"), str(tmp_path / "push.key"), "0"]
    process = reactor.spawnProcess(receiver, words[0], words, env={})
    yield receiver
    process.signalProcess("KILL")
    await receiver.ended


@pytest_twisted.ensureDeferred
async def test_the_receiver_runs(receiver: Receiver, tmp_path: Path) -> None:
    """All of it together, over a real connection: pushes arrive there in order, and are gone here."""
    found = re.fullmatch(r"listening on port (\d+)", await receiver.lines.get())
    assert found is not None
    lanes = Lanes(tmp_path)
    reactor = running_reactor()
    key = read_key("push.key_file", str(tmp_path / "push.key"))
    webhook = Webhook(f"http://127.0.0.1:{found[1]}/push", key, 20.0, reactor, time.time, lanes.metrics)
    queue = WebhookPush(
        webhook,
        Accounts(),
        lanes.writes,
        lanes.reads,
        lanes.metrics,
        reactor,
        time.time,
        batch=2,
        max_age_seconds=3600,
        most_waiting=100,
    )
    now = int(time.time())
    for text in (b"one", b"two", b"three"):
        queue.push(stored(IM(1, 2, now, 0, text), ALICE, now), [BOB])
    queue.push(stored(GroupIM(1, 1000, now, 0, b"four"), ALICE, now), [BOB, CAROL])
    queue.start()
    assert [await receiver.lines.get() for _ in range(4)] == [
        'push 1 for [2] of app 7: {"text":"one"}',
        'push 2 for [2] of app 7: {"text":"two"}',
        'push 3 for [2] of app 7: {"text":"three"}',
        'push 4 for [2, 3] of app 7: {"text":"four"}',
    ]
    await queue.stop()
    assert await lanes.rows("SELECT id FROM push") == []
    assert lanes.metrics.push_delivered.values == {"": 4}
    assert lanes.metrics.push_retries.values == {}
    await lanes.stop()


def test_metrics_exist() -> None:
    """Every metric that the document names is one, and it names every one of the webhook's."""
    metrics = {metric.name for metric in vars(Metrics()).values()}
    named = {name.removesuffix("_bucket") for name in re.findall(r"imserver_\w+", DOCUMENT)}
    assert named <= metrics
    assert {name for name in metrics if name.startswith("imserver_push_")} <= named
