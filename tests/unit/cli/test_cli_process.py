"""imctl as a process of its own, on real sockets: what only that can show. The server is the fake one."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.utils import getProcessOutputAndValue
from twisted.python.failure import Failure
from twisted.web.server import Site

from imserver.protocol.commands import AckStatus
from imserver.protocol.messages import IM
from tests.fakes.admin import KEY, FakeAdmin
from tests.fakes.server import FakeServer, tcp_factory, websocket_factory

IMCTL = str(Path(sys.executable).parent / "imctl")
#: Seconds for a process to do what is waited for.
PATIENCE = 20


class Imctl(ProcessProtocol):
    """A running imctl: what it wrote can be waited for."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self.out = b""
        self.err = b""
        self._waiting: list[tuple[bytes, Deferred[None]]] = []
        self.ended: Deferred[int] = Deferred()

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        if childFD == 2:
            self.err += data
        else:
            self.out += data
        for wait in list(self._waiting):
            if wait[0] in self.out + self.err:
                self._waiting.remove(wait)
                wait[1].callback(None)

    def said(self, words: str) -> Deferred[None]:
        """Fires when it has written these words."""
        fired: Deferred[None] = Deferred()
        if words.encode() in self.out + self.err:
            fired.callback(None)
            return fired
        self._waiting.append((words.encode(), fired))
        return fired.addTimeout(PATIENCE, self._reactor)

    def types(self, text: str) -> None:
        self.transport.write(text.encode())  # type: ignore[union-attr]  # it runs

    def closes_input(self) -> None:
        self.transport.closeStdin()  # type: ignore[union-attr]  # it runs

    def signal(self, number: int) -> None:
        self.transport.signalProcess(number)  # type: ignore[union-attr]  # it runs

    def status(self) -> Deferred[int]:
        """Fires with the exit status when it has ended."""
        return self.ended.addTimeout(PATIENCE, self._reactor)

    def processEnded(self, reason: Failure) -> None:
        value = reason.value
        assert isinstance(value, ProcessDone | ProcessTerminated)
        for words, fired in self._waiting:
            fired.errback(AssertionError(f"it ended without {words!r}: {self.out!r} {self.err!r}"))
        self.ended.callback(value.exitCode if value.signal is None else -value.signal)


class Machine:
    """A data directory, with a fake server behind it."""

    def __init__(self, reactor: Any, data: Path) -> None:
        self._reactor = reactor
        self.data = data
        self.server = FakeServer()
        self.admin = FakeAdmin()
        self.server.tokens = {b"token-7-1": 1, b"token-7-2": 2}
        factories = {
            "tcp": tcp_factory(self.server),
            "websocket": websocket_factory(self.server, reactor),
            "http": Site(self.admin, reactor=reactor),
        }
        factories["http"].noisy = False
        self.ports = {name: reactor.listenTCP(0, factory, interface="127.0.0.1") for name, factory in factories.items()}
        listening = {name: [f"127.0.0.1:{port.getHost().port}"] for name, port in self.ports.items()}
        (data / "listening.json").write_text(json.dumps({"pid": 1, "version": "1", **listening}))
        (data / "operator.key").write_text(KEY)
        self._processes: list[Imctl] = []

    def start(self, *words: str, usePTY: bool = False) -> Imctl:
        process = Imctl(self._reactor)
        arguments = [IMCTL, "--data", str(self.data), *words]
        self._reactor.spawnProcess(process, IMCTL, arguments, env=os.environ, usePTY=usePTY)
        self._processes.append(process)
        return process

    async def run(self, *words: str) -> tuple[str, str, int]:
        """Output, errors, exit status."""
        arguments = ["--data", str(self.data), *words]
        out, err, status = await getProcessOutputAndValue(IMCTL, arguments, env=os.environ).addTimeout(
            PATIENCE, self._reactor
        )
        return out.decode(), err.decode(), status

    async def stop(self) -> None:
        for process in self._processes:
            if not process.ended.called:
                process.signal(signal.SIGKILL)
                await process.ended
        await gatherResults([maybeDeferred(port.stopListening) for port in self.ports.values()])


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    from twisted.internet import reactor

    machine = Machine(reactor, tmp_path)
    yield machine
    pytest_twisted.blockon(Deferred.fromCoroutine(machine.stop()))


ALL_WORK = "import imserver.cli.operator, imserver.cli.conversation, imserver.cli.load"


@pytest.mark.parametrize(
    ("imported", "unwanted"),
    [
        ("from imserver.cli import root", ["twisted", "autobahn", "sqlalchemy", "klein", "treq"]),
        (ALL_WORK, ["twisted.internet.reactor", "autobahn", "sqlalchemy", "klein"]),
    ],
)
@pytest_twisted.ensureDeferred
async def test_imports_little(imported: str, unwanted: list[str]) -> None:
    """Help waits for no Twisted, and nothing but a WebSocket for Autobahn."""
    script = f"{imported}\nimport sys\nprint([name for name in {unwanted} if name in sys.modules])"
    out, err, status = await getProcessOutputAndValue(sys.executable, ["-c", script], env=os.environ)
    assert (out, err, status) == (b"[]\n", b"", 0)


@pytest_twisted.ensureDeferred
async def test_token(machine: Machine) -> None:
    """`uid token` on standard output and nothing else anywhere."""
    assert await machine.run("token", "7", "1-2") == ("1 token-7-1\n2 token-7-2\n", "", 0)


@pytest_twisted.ensureDeferred
async def test_no_answer_at_the_address(machine: Machine) -> None:
    """A server that was killed left its file behind."""
    await machine.ports["http"].stopListening()
    out, err, status = await machine.run("status")
    assert (out, status) == ("", 1)
    assert err.startswith("imctl: the server does not answer at http://127.0.0.1:")
    assert err.endswith("it may have been killed; start it again\n")
    assert err.count("\n") == 1


@pytest_twisted.ensureDeferred
async def test_output_that_nobody_reads(machine: Machine) -> None:
    """`imctl token … | head -1` ends quietly."""
    from twisted.internet import reactor

    command = f"{IMCTL} --data {machine.data} token 7 1-100000 | head -1"
    done = getProcessOutputAndValue("/bin/sh", ["-c", command], env=os.environ)
    out, err, _status = await done.addTimeout(PATIENCE, reactor)
    assert (out, err) == (b"1 token-7-1\n", b"")


@pytest.mark.parametrize("transport", [(), ("--ws",)])
@pytest_twisted.ensureDeferred
async def test_send(machine: Machine, transport: tuple[str, ...]) -> None:
    """One message, over either transport, with a token of imctl's own."""
    out, err, status = await machine.run("send", "--from", "1", "--to", "2", *transport, "hello")
    assert (out, err, status) == ("stored; it is entry 2 of user 1's timeline\n", "", 0)
    [message] = machine.server.said(IM)
    assert json.loads(message.content)["text"] == "hello"


@pytest_twisted.ensureDeferred
async def test_send_that_fails(machine: Machine) -> None:
    """Exit status 1 and one line."""
    machine.server.tokens.clear()
    out, err, status = await machine.run("send", "--from", "1", "--to", "2", "hello")
    assert (out, status) == ("", 1)
    assert err.startswith("imctl: the server refused the token")
    assert err.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest_twisted.ensureDeferred
async def test_listen(machine: Machine, number: int) -> None:
    """Lines as messages come; a signal ends it with status 0, and what was printed is not printed again."""
    listening = machine.start("--json", "listen", "--uid", "2")
    await listening.said("-- listening")
    machine.server.post(1, 2, "hello")
    await listening.said('"key": 2')
    listening.signal(number)
    assert await listening.status() == 0
    [line] = listening.out.decode().splitlines()
    assert json.loads(line)["key"] == 2
    assert machine.server.saved_keys == {2: 2}


@pytest_twisted.ensureDeferred
async def test_chat(machine: Machine) -> None:
    """Two of them, with pipes for terminals: they read each other, and the end of input ends them."""
    ada = machine.start("chat", "--uid", "1", "--with", "2")
    bob = machine.start("chat", "--uid", "2", "--with", "1", "--ws")
    await ada.said("-- connected")
    await bob.said("-- connected")
    ada.types("hello\n")
    await bob.said("1: hello\n")
    bob.types("grüß dich")  # the last line may lack its end
    bob.closes_input()
    await ada.said("2: grüß dich\n")
    assert await bob.status() == 0
    assert bob.out.endswith(b"-- stored\n")
    ada.closes_input()
    assert await ada.status() == 0
    assert ada.err == bob.err == b""


@pytest_twisted.ensureDeferred
async def test_chat_not_stored(machine: Machine) -> None:
    """A line that was not stored is told at once, and once more by the exit status."""
    machine.server.ack_status = AckStatus.MUTED
    ada = machine.start("chat", "--uid", "1", "--with", "2")
    ada.types("hello\n")
    ada.closes_input()
    assert await ada.status() == 1
    assert b"-- NOT stored: you are muted or forbidden to speak\n" in ada.out
    assert ada.err == b"imctl: 1 of your lines were not stored\n"


@pytest.mark.parametrize(("ends", "status"), [("\x04", 0), ("\x03", 0)], ids=["Ctrl-D", "Ctrl-C"])
@pytest_twisted.ensureDeferred
async def test_chat_on_a_terminal(machine: Machine, ends: str, status: int) -> None:
    """On a terminal input and output are one file; both keys end it in good order."""
    ada = machine.start("chat", "--uid", "1", "--with", "2", usePTY=True)
    await ada.said("-- connected")
    ada.types("hello\n")
    await ada.said("-- stored")
    ada.types(ends)
    assert await ada.status() == status
    assert [json.loads(message.content)["text"] for message in machine.server.said(IM)] == ["hello"]


@pytest_twisted.ensureDeferred
async def test_bench(machine: Machine) -> None:
    """A short one, with its result as JSON and nothing else on standard output."""
    machine.server.tokens |= {f"token-7-{1_000_000_001 + n}".encode(): 1_000_000_001 + n for n in range(4)}
    words = ("bench", "--pairs", "2", "--duration", "0.2", "--window", "2")
    out, err, status = await machine.run("--json", *words)
    assert status == 0, err
    figures = json.loads(out)
    assert figures["well"] is True
    assert figures["sent"] == figures["delivered"] > 0
