"""Puts the rooms together: the only module that knows concrete classes.

`build` prepares all that can go wrong for a reason that a person must mend (data directory, database) before the
reactor runs, so that `twistd` says it on the terminal and leaves no daemon behind. The service that it returns starts
and stops the rooms in order.

Up: the ports, the database's lanes, then what waits for them (listening.json, systemd).
Down: not ready, no new clients, nothing more read, what is in storage finished, what clients take sent, connections
closed, HTTP closed, database closed.
"""

import gc
import json
import os
import pwd
import re
import secrets
import shutil
import signal
import stat
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
from sdnotify import SystemdNotifier
from twisted.application.service import IService, Service
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, fail, gatherResults, maybeDeferred, succeed
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import LoopingCall
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure

from imserver import __version__
from imserver.bus.local import LocalBus
from imserver.chat.policy import Policy
from imserver.chat.rescue import Rescue
from imserver.chat.table import Chat
from imserver.chat.trace import Trace
from imserver.config import Config
from imserver.database.database import Database
from imserver.database.errors import CannotOpen
from imserver.directory.groups import SqlGroups
from imserver.directory.relations import SqlRelations
from imserver.directory.sql import SqlDirectory
from imserver.directory.words import FileWords, NoWords
from imserver.errors import StartError
from imserver.http.site import make_root, make_site
from imserver.interfaces import IPushQueue
from imserver.keys import read_key
from imserver.metrics import Metrics
from imserver.net.connection import Listeners
from imserver.net.limits import most_connections
from imserver.net.prompt import write_promptly
from imserver.net.registry import ClientRegistry
from imserver.net.tcp import TcpFactory
from imserver.net.websocket import WebSocketFactory
from imserver.push.log import LogPush, NoPush
from imserver.push.request import Webhook
from imserver.push.webhook import WebhookPush
from imserver.storage.sync_keys import SyncKeys
from imserver.storage.timelines import Timelines

#: Seconds for which a thread keeps the GIL when another wants it. The write lane and the reactor hand work to each
#: other thousands of times a second; the default of 5 ms would be the rhythm of that.
_SWITCH_INTERVAL: Final = 0.0005
#: A message on its way is some fifty objects, and none of them garbage that only the collector would find. With the
#: default of 700 it would look at them all, several times, before they are gone.
_GC_THRESHOLDS: Final = (50_000, 20, 50)
#: Connections that wait to be accepted: after a restart everybody comes at once.
_BACKLOG: Final = 1024
#: Seconds between two looks for connections whose time is up.
_SWEEP: Final = 1.0
#: Seconds between two deletions of what may be forgotten.
_FORGET: Final = 60.0
#: Seconds between two looks at the file of words.
_RELOAD: Final = 5.0
#: Seconds between two signs of life to systemd; its WatchdogSec has to be a few times that.
_WATCHDOG: Final = 10.0


def build(config: Config, reactor: Any) -> IService:
    """The server as a service.

    Raises:
        StartError: the data directory, the database, or a file that the configuration names cannot be used.
    """
    back_end_key = read_key("http.key_file", config.http.key_file) if config.http.key_file else None
    push_key = read_key("push.key_file", config.push.key_file) if config.push.kind == "webhook" else b""
    metrics = Metrics()
    words = FileWords(config.policy.word_file, metrics) if config.policy.word_file else NoWords()
    data = Path(config.data)
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        operator_key = _operator_key(data / "operator.key")
    except OSError as error:
        raise StartError(
            f"{error.filename}: {error.strerror}; give a data directory that user {_user()} may write (--data DIR)"
        ) from None
    database = Database(config.database_url, reactor, metrics, config.limits, config.database.readers)
    try:
        database.prepare()
    except CannotOpen as error:
        raise StartError(str(error)) from None
    return Server(config, reactor, metrics, database, operator_key, back_end_key, push_key, words)


def _user() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name


def _operator_key(path: Path) -> str:
    """The key that imctl shows; made at the first start."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, stat.S_IRUSR | stat.S_IWUSR)
    except FileExistsError:
        return path.read_text().strip()
    with os.fdopen(descriptor, "w") as file:
        key = secrets.token_urlsafe(32)
        file.write(key + "\n")
    return key


class Server(Service):
    """All of it, from the listeners to the database."""

    _log = Logger()

    def __init__(
        self,
        config: Config,
        reactor: Any,
        metrics: Metrics,
        database: Database,
        operator_key: str,
        back_end_key: bytes | None,
        push_key: bytes,
        words: FileWords | NoWords,
    ) -> None:
        Service.setName(self, "imserver")
        self._config = config
        self._reactor = reactor
        self._database = database
        self._began = time.monotonic()
        self._notifier = SystemdNotifier()
        self._ports: dict[str, list[IListeningPort]] = {"tcp": [], "websocket": [], "http": []}
        self._serving = False
        limits = msgspec.structs.replace(config.limits, connections=most_connections(config.limits.connections))
        writes, reads = database.writes, database.reads
        registry = ClientRegistry(metrics)
        self._timelines = Timelines(writes, reads, time.time, limits.page_bytes)
        sync_keys = SyncKeys(writes, reads)
        self._directory = SqlDirectory(writes, reads, time.time)
        groups = SqlGroups(writes, reads, time.time, time.monotonic, metrics, limits.cached_group_members)
        relations = SqlRelations(writes, reads, time.time)
        push = config.push
        self._webhook: WebhookPush | None = None
        push_queue: IPushQueue = LogPush() if push.kind == "log" else NoPush()
        if push.kind == "webhook":
            push_queue = self._webhook = WebhookPush(
                Webhook(push.url, push_key, push.timeout_seconds, reactor, time.time, metrics),
                self._directory,
                writes,
                reads,
                metrics,
                reactor,
                time.time,
                batch=push.batch,
                max_age_seconds=push.max_age_seconds,
                most_waiting=push.most_waiting,
            )
        trace = None
        if config.trace.messages:
            queues = push.kind != "none"
            trace = Trace(config.trace.messages, config.trace.content, queues, time.time, time.monotonic)
        rescue = None
        if push.kind != "none" and push.rescue_seconds:
            rescue = Rescue(registry, push_queue, metrics, reactor.seconds, push.rescue_seconds, trace)
        policy = Policy(relations, config.policy.friends, config.policy.blacklist, words)
        chat = Chat(
            directory=self._directory,
            groups=groups,
            registry=registry,
            timelines=self._timelines,
            sync_keys=sync_keys,
            bus=LocalBus(),
            push_queue=push_queue,
            policy=policy,
            metrics=metrics,
            now=time.time,
            kefu_appid=config.customer.kefu_appid,
            rescue=rescue,
            trace=trace,
        )
        self._clients = Listeners(chat, limits, metrics, reactor, time.time)
        self._metrics = metrics
        root = make_root(
            clock=reactor,
            metrics=metrics,
            registry=registry,
            accounts=self._directory,
            timelines=self._timelines,
            sync_keys=sync_keys,
            checks={"storage": database.ping, "listeners": self._check_listeners},
            operator_key=operator_key,
            status=self._status,
            back_end_key=back_end_key,
            posts=chat.posts,
            groups=groups,
            group_changes=chat.changes,
            relations=relations,
            trace=trace,
        )
        websocket = config.websocket
        self._factories: dict[str, Any] = {
            "tcp": TcpFactory(self._clients),
            "websocket": WebSocketFactory(
                self._clients, reactor, websocket.path, websocket.origins, websocket.trust_forwarded_for
            ),
            "http": make_site(root, metrics, reactor),
        }
        self._repeated = [
            (LoopingCall(self._clients.sweep), _SWEEP),
            (LoopingCall(self._forget_resends), _FORGET),
            (LoopingCall(self._notifier.notify, "WATCHDOG=1"), _WATCHDOG),
        ]
        if rescue is not None:
            self._repeated.append((LoopingCall(rescue.sweep), _SWEEP))
        if isinstance(words, FileWords):
            in_thread = partial(deferToThreadPool, reactor, reactor.getThreadPool())
            self._repeated.append((LoopingCall(words.reload, in_thread), _RELOAD))

    # Up.

    def privilegedStartService(self) -> None:
        """Take the ports while twistd still has the rights for those below 1024. Clients are served when the reactor
        runs, which is after `startService`.

        Raises:
            StartError: a port is taken, or not ours to take.
        """
        failed: list[Failure] = []
        for name, factory in self._factories.items():
            for description in getattr(self._config.listen, name):
                listening = serverFromString(self._reactor, _with_backlog(description)).listen(factory)
                listening.addCallbacks(self._listens, _cannot_listen, callbackArgs=(name,), errbackArgs=(description,))
                listening.addErrback(failed.append)
        if failed:
            failed[0].raiseException()

    def _listens(self, port: IListeningPort, name: str) -> None:
        self._ports[name].append(port)
        if name != "http":
            write_promptly(port)

    def startService(self) -> None:
        Service.startService(self)
        sys.setswitchinterval(_SWITCH_INTERVAL)
        self._database.start()
        self._reactor.callWhenRunning(lambda: Deferred.fromCoroutine(self._serve()).addErrback(self._give_up))

    async def _serve(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            # Twisted's own handler would make the process end as one that the signal killed; it ends in good order.
            signal.signal(number, lambda *_: self._reactor.callFromThread(self._reactor.stop))
        await self._directory.ensure_first_app()
        if not self.running:
            return  # it was stopped meanwhile
        if self._webhook is not None:
            self._webhook.start()
        for call, seconds in self._repeated:
            call.clock = self._reactor
            call.start(seconds)
        # What is there now stays: no garbage collection need look at it again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)
        self._serving = True
        self._write_listening()
        self._notifier.notify("READY=1")
        self._tell_what_next()

    def _give_up(self, failure: Failure) -> None:
        self._log.failure("the server cannot start", failure=failure)
        # twistd would end with 0, as after any other stop.
        self._reactor.addSystemEventTrigger("after", "shutdown", os._exit, 1)
        self._reactor.stop()

    def _forget_resends(self) -> Deferred[None]:
        def failed(failure: Failure) -> None:
            self._log.warn("old resend keys were not deleted: {reason}", reason=failure.getErrorMessage())

        return self._timelines.forget_resends().addCallbacks(lambda _count: None, failed)

    @property
    def _listening_file(self) -> Path:
        return Path(self._config.data) / "listening.json"

    def _where(self) -> dict[str, list[str]]:
        """Where the listeners are, as one would type it."""
        return {name: [_address(port) for port in ports] for name, ports in self._ports.items()}

    def _write_listening(self) -> None:
        """Tell imctl, and whoever else may read the data directory, where the server is."""
        written = self._listening_file.with_suffix(".new")
        written.write_text(json.dumps({"pid": os.getpid(), "version": __version__, **self._where()}) + "\n")
        written.replace(self._listening_file)

    def _tell_what_next(self) -> None:
        where = self._where()
        imctl = _imctl(Path(self._config.data))
        for line in (
            f"imserver {__version__} is ready, with its data in {self._config.data}",
            *(f"  {name:<10} {', '.join(addresses) or 'off'}" for name, addresses in where.items()),
            "What to type next, in other terminals:",
            f"  {imctl} token 7 1              a token for user 1 of app 7, for any GoBelieve client",
            f"  {imctl} chat --uid 1 --with 2  talk, with the same for 2 and 1 in a third terminal",
            f"  {imctl} status                 what is going on",
        ):
            self._log.info("{line}", line=line)
        most = self._clients.limits.connections
        if most != self._config.limits.connections:
            self._log.info(
                "At most {most} clients at a time: the process may have no more files open (ulimit -n, LimitNOFILE)",
                most=most,
            )

    # While it runs.

    def _check_listeners(self) -> Deferred[None]:
        if self._serving:
            return succeed(None)
        return fail(RuntimeError("the server is starting or stopping"))

    def _status(self) -> dict[str, Any]:
        metrics = self._metrics
        return {
            "version": __version__,
            "pid": os.getpid(),
            "uptime": time.monotonic() - self._began,
            "listen": self._where(),
            "connections": {name: int(count) for name, count in metrics.connections.read().items()},
            "users": int(metrics.users_online.read()[""]),
            "rooms": int(metrics.rooms.read()[""]),
            "frames_in": sum(metrics.frames_in.counts),
            "frames_out": sum(metrics.frames_out.counts),
            "writes_waiting": int(metrics.writes_waiting.read()[""]),
        }

    # Down.

    def stopService(self) -> Deferred[None]:
        Service.stopService(self)
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._serving = False
        self._notifier.notify("STOPPING=1")
        self._listening_file.unlink(missing_ok=True)
        await gatherResults(
            [maybeDeferred(port.stopListening) for name in ("tcp", "websocket") for port in self._ports[name]]
        )
        await self._clients.drain(self._config.shutdown.drain_seconds)
        await gatherResults([maybeDeferred(port.stopListening) for port in self._ports["http"]])
        for call, _seconds in self._repeated:
            if call.running:
                call.stop()
        if self._webhook is not None:
            await self._webhook.stop()
        await self._database.close()
        self._log.info("imserver has stopped; what was acknowledged is on disk")


def _imctl(data: Path) -> str:
    """How imctl is called for this server from the directory where it was started."""
    command = str(Path(sys.executable).parent / "imctl")
    command = "imctl" if shutil.which("imctl") == command else _from_here(command)
    return command if data == Path("var").absolute() else f"{command} --data {_from_here(str(data))}"


def _from_here(path: str) -> str:
    """A path as one would type it."""
    return min(path, os.path.relpath(path), key=len)


def _with_backlog(description: str) -> str:
    """Twisted lets 50 connections wait to be accepted: too few when everybody comes back after a restart."""
    if re.fullmatch(r"(tcp|tcp6|ssl):\d+(:(?!backlog=)\w+=[^:]*)*", description):
        return f"{description}:backlog={_BACKLOG}"
    return description


def _cannot_listen(failure: Failure, description: str) -> None:
    error = failure.value
    reason = os.strerror(error.socketError.errno) if isinstance(error, CannotListenError) else str(error)
    raise StartError(f'cannot listen on "{description}": {reason}; free it, or choose another in [listen]')


def _address(port: IListeningPort) -> str:
    where = port.getHost()
    if isinstance(where, IPv4Address):
        return f"{where.host}:{where.port}"
    if isinstance(where, IPv6Address):
        return f"[{where.host}]:{where.port}"
    return f"unix:{where.name.decode()}" if isinstance(where, UNIXAddress) and where.name else str(where)
