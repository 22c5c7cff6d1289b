"""The work of `bench`: pairs of clients that talk, and a tally of what became of each message."""

import math
import os
import time
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from ipaddress import ip_address
from typing import Any, Final, cast

import click
from twisted.internet.defer import CancelledError, Deferred, DeferredList, FirstError, gatherResults
from twisted.internet.task import LoopingCall, deferLater
from twisted.python.failure import Failure

from imserver.cli.complaint import Complaint
from imserver.client import Acknowledged, Address, Client, ClientError, State
from imserver.protocol.messages import IM, Message

#: Seconds for all sign-ins, and for what is under way at the end.
_SIGN_IN_SECONDS: Final = 60.0
_GRACE_SECONDS: Final = 10.0
#: Seconds between two looks at the clock for the progress bar.
_TICK: Final = 0.2


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


class Latencies:
    """Seconds, kept as counts in steps of 1 %: however many, they take no more memory."""

    _STEP: Final = math.log(1.01)

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self._most = 0.0

    def add(self, seconds: float) -> None:
        self._counts[math.floor(math.log(max(seconds, 1e-6)) / self._STEP)] += 1
        self._most = max(self._most, seconds)

    def percentile(self, share: float) -> float:
        """Seconds that this share of all (0 to 1) did not exceed, to within 1 %; 0 where there are none."""
        left = math.ceil(share * self._counts.total())
        for step, count in sorted(self._counts.items()):
            left -= count
            if left <= 0:
                return min(math.exp((step + 1) * self._STEP), self._most)
        return 0.0

    def in_milliseconds(self) -> dict[str, float]:
        shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
        return {name: round(self.percentile(share) * 1000, 3) for name, share in shares.items()}


class Tally:
    """What became of the messages of one sender, which are numbered from 0."""

    def __init__(self) -> None:
        #: When each was sent.
        self.sent = array("d")
        self._acked = bytearray()
        self._arrived = bytearray()
        self._newest = -1
        self.duplicates = 0
        self.out_of_order = 0

    def send(self, now: float) -> int:
        """The number of the next message."""
        self.sent.append(now)
        self._acked.append(0)
        self._arrived.append(0)
        return len(self.sent) - 1

    def acked(self, number: int) -> None:
        self._acked[number] = 1

    def arrived(self, number: int) -> bool:
        """Count an arrival. Was it the first of this message?"""
        if self._arrived[number]:
            self.duplicates += 1
            return False
        self._arrived[number] = 1
        if number < self._newest:
            self.out_of_order += 1
        else:
            self._newest = number
        return True

    @property
    def missing(self) -> int:
        """Messages that were acknowledged and did not arrive."""
        return sum(1 for acked, arrived in zip(self._acked, self._arrived, strict=True) if acked and not arrived)


class _Pair:
    """One who sends, and one who receives."""

    def __init__(self, load: "Load", number: int, sender: tuple[int, str], receiver: tuple[int, str]) -> None:
        self._load = load
        self._receiver_uid = receiver[0]
        self._mark = f'{{"text": "{load.name} {number} '.encode()
        self.tally = Tally()
        self._in_flight = 0
        self.sender = load.client(sender, lambda message, flag, key: None)
        self.receiver = load.client(receiver, self._arrived)

    def fill(self) -> None:
        load = self._load
        while load.sending and self._in_flight < load.window:
            now = load.now()
            number = self.tally.send(now)
            head = b"%s%d " % (self._mark, number)
            tail = b'", "uuid": "%s-%d"}' % (self._mark[10:-1].replace(b" ", b"-"), number)
            content = head + b"." * (load.size - len(head) - len(tail)) + tail
            self._in_flight += 1
            self.sender.send_peer(self._receiver_uid, content).addCallbacks(
                self._acked, self._failed, callbackArgs=(number, now)
            ).addBoth(self._next)

    def _acked(self, _acknowledged: Acknowledged, number: int, sent: float) -> None:
        load = self._load
        self.tally.acked(number)
        load.acked += 1
        load.ack_latency.add(load.now() - sent)

    def _failed(self, failure: Failure) -> None:
        failure.trap(ClientError)
        self._load.failed[failure.getErrorMessage()] += 1

    def _next(self, result: object) -> object:
        self._in_flight -= 1
        self.fill()
        return result

    @property
    def idle(self) -> bool:
        return not self._in_flight

    def _arrived(self, message: Message, flag: int, key: int) -> None:
        if not isinstance(message, IM) or not message.content.startswith(self._mark):
            return  # of an earlier run
        number = int(message.content[len(self._mark) :].split(b" ", 1)[0])
        if self.tally.arrived(number):
            load = self._load
            load.delivered += 1
            load.delivery_latency.add(load.now() - self.tally.sent[number])


class Load:
    """All pairs, in one run.

    Args:
        users: (uid, token) of those who send, then as many who receive.
        window: messages of each sender that wait for their ACK.
        size: bytes of a message's content.
    """

    def __init__(
        self, reactor: Any, address: Address, users: Sequence[tuple[int, str]], window: int, size: int
    ) -> None:
        self._reactor = reactor
        self._address = address
        self.now: Callable[[], float] = reactor.seconds
        self.name = os.urandom(4).hex()
        self.window = window
        self.size = size
        self.sending = False
        self.acked = 0
        self.delivered = 0
        self.reconnects = -len(users)
        self.failed: Counter[str] = Counter()
        self.ack_latency = Latencies()
        self.delivery_latency = Latencies()
        self._clients: list[Client] = []
        self._signed_in: Deferred[None] = Deferred()
        #: Fires when there was enough sending.
        self._sending: Deferred[None] | None = None
        self._why_not = ""
        half = len(users) // 2
        self._pairs = [
            _Pair(self, number, sender, receiver)
            for number, (sender, receiver) in enumerate(zip(users[:half], users[half:], strict=True))
        ]

    def client(self, user: tuple[int, str], received: Callable[[Message, int, int], None]) -> Client:
        uid, token = user
        client = Client(self._reactor, self._address, uid, token, received=received, state_changed=self._state_changed)
        self._clients.append(client)
        return client

    def _state_changed(self, state: State, why: str) -> None:
        if state is State.WAITING:
            self._why_not = why
        elif state is State.SIGNED_IN:
            self.reconnects += 1
            if self.reconnects == 0 and not self._signed_in.called:
                self._signed_in.callback(None)

    async def run(self, duration: float, progress: Callable[[float], None]) -> dict[str, Any]:
        """Sign in, send for so many seconds (or until `stop`), wait for the rest. Gives the figures.

        Raises `Complaint` where not everybody can sign in, `click.Abort` where it was stopped before.
        """
        running = [client.run() for client in self._clients]
        ended = gatherResults(running, consumeErrors=True)
        try:
            await self._until_signed_in(ended)
            began, cpu = self.now(), time.process_time()
            ticks = LoopingCall(lambda: progress(min(1.0, (self.now() - began) / duration)))
            ticks.clock = self._reactor
            ticks.start(_TICK)
            self.sending = True
            try:
                for pair in self._pairs:
                    pair.fill()
                self._sending = deferLater(self._reactor, duration)
                with suppress(CancelledError):
                    await self._sending
            finally:
                self.sending = False
                ticks.stop()
            seconds = self.now() - began
            acked, busy = self.acked, (time.process_time() - cpu) / seconds
            progress(1.0)
            await self._until_quiet()
            return self._figures(seconds, acked, busy)
        finally:
            await DeferredList([client.stop() for client in self._clients])
            ended.addErrback(lambda _: None)  # who could not sign in has been told of above

    def stop(self) -> None:
        """Send no more: `run` tells what became of what was sent. Before the sign-ins are done it gives up."""
        if self._sending is None:
            self._signed_in.cancel()
        else:
            self._sending.cancel()

    async def _until_signed_in(self, ended: Deferred[Any]) -> None:
        def failed(failure: Failure) -> None:
            if not self._signed_in.called:
                self._signed_in.errback(cast("FirstError", failure.value).subFailure)

        ended.addErrback(failed)

        def too_late(value: Any, seconds: float) -> Any:
            raise Complaint(f"not all clients could sign in within {seconds:.0f} s: {self._why_not or 'no answer'}")

        try:
            await self._signed_in.addTimeout(_SIGN_IN_SECONDS, self._reactor, too_late)
        except ClientError as error:
            raise Complaint(f"a client could not sign in: {error}") from None
        except CancelledError:
            raise click.Abort from None

    async def _until_quiet(self) -> None:
        """Until all ACKs have come, and what was acknowledged has arrived; at most the time of grace."""
        end = self.now() + _GRACE_SECONDS
        while self.now() < end:
            if all(pair.idle for pair in self._pairs) and not self._missing:
                return
            await deferLater(self._reactor, 0.05)

    @property
    def _missing(self) -> int:
        return sum(pair.tally.missing for pair in self._pairs)

    def _figures(self, seconds: float, acked_in_time: int, busy: float) -> dict[str, Any]:
        tallies = [pair.tally for pair in self._pairs]
        sent = sum(len(tally.sent) for tally in tallies)
        refused = self.failed.total()
        figures: dict[str, Any] = {
            "address": str(self._address),
            "pairs": len(self._pairs),
            "window": self.window,
            "size": self.size,
            "seconds": round(seconds, 3),
            "sent": sent,
            "acked": self.acked,
            "acked_per_s": round(acked_in_time / seconds, 1),
            "delivered": self.delivered,
            "unacked": sent - self.acked - refused,
            "refused": dict(self.failed),
            "missing": self._missing,
            "duplicates": sum(tally.duplicates for tally in tallies),
            "out_of_order": sum(tally.out_of_order for tally in tallies),
            "reconnects": self.reconnects,
            "ack_latency_ms": self.ack_latency.in_milliseconds(),
            "delivery_latency_ms": self.delivery_latency.in_milliseconds(),
            "imctl_cpu": round(busy, 2),
        }
        wrong = ("unacked", "refused", "missing", "duplicates", "out_of_order")
        figures["well"] = bool(self.acked) and not any(figures[name] for name in wrong)
        return figures


def describe(figures: dict[str, Any]) -> str:
    """The figures for people."""
    lines = [
        f"{figures['acked_per_s']:,.0f} messages acknowledged per second",
        f"  {figures['pairs']} pairs, window {figures['window']}, {figures['size']} bytes, {figures['address']}",
        "",
        f"{'milliseconds':22}{'p50':>9}{'p90':>9}{'p99':>9}{'max':>9}",
    ]
    for label, name in (("until the ACK", "ack_latency_ms"), ("until it arrived", "delivery_latency_ms")):
        lines.append(f"  {label:20}" + "".join(f"{value:9.2f}" for value in figures[name].values()))
    lines += ["", f"  {'sent':20}{figures['sent']:>9,}"]
    for label, name in (
        ("acknowledged", "acked"),
        ("arrived", "delivered"),
        ("missing", "missing"),
        ("twice", "duplicates"),
        ("out of order", "out_of_order"),
        ("no answer", "unacked"),
        ("reconnects", "reconnects"),
    ):
        lines.append(f"  {label:20}{figures[name]:>9,}")
    lines += [f"  {'refused':20}{count:>9,}  {reason}" for reason, count in figures["refused"].items()]
    if figures["imctl_cpu"] > 0.9:
        lines += ["", "imctl itself had no processor time left: the server can do more than this."]
    return "\n".join(lines)
