"""What storing costs on this machine: peer messages in a closed loop through `Timelines`, without any network.

    bench/storage.py [--windows 1 50 400] [--seconds 3] [--pairs 50] [--body 160] [--data DIR]

For each window (messages that wait at once) it prints the messages stored a second, the batches that came about, the
time from `store` to its result, and the CPU of the writing thread and of the reactor's thread for each message.
"""

import argparse
import gc
import shutil
import sys
import tempfile
import threading
from functools import partial
from hashlib import blake2b
from pathlib import Path
from time import CLOCK_THREAD_CPUTIME_ID, clock_gettime, perf_counter, pthread_getcpuclockid, time
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react
from twisted.python.failure import Failure

from imserver.database.database import Database
from imserver.metrics import Metrics
from imserver.model import USER_TIMELINE, Limits, NewMessage, Resend, Stored, TimelineKey
from imserver.storage.timelines import Timelines

_APP = 7


class Load:
    """Keeps `window` messages waiting, for so many seconds. Runs of different numbers send different messages."""

    def __init__(self, timelines: Timelines, window: int, seconds: float, pairs: int, body: bytes, run: int) -> None:
        self._timelines = timelines
        self._window = window
        self._seconds = seconds
        self._pairs = pairs
        self._body = body
        self._sent = run << 32
        self._end = 0.0
        self._waiting = window
        self._done: Deferred[None] = Deferred()
        self.took: list[float] = []

    def run(self) -> Deferred[None]:
        self._end = perf_counter() + self._seconds
        for _ in range(self._window):
            self._send()
        return self._done

    def _send(self) -> None:
        number = self._sent = self._sent + 1
        pair = number % self._pairs
        message = NewMessage(
            4,
            0,
            self._body,
            int(time()),
            (TimelineKey(_APP, USER_TIMELINE, pair), TimelineKey(_APP, USER_TIMELINE, self._pairs + pair)),
            1,
            Resend(blake2b(number.to_bytes(8, "big"), digest_size=16).digest(), 600),
        )
        self._timelines.store(message, partial(self._stored, perf_counter()))

    def _stored(self, began: float, stored: Stored | Failure) -> None:
        if isinstance(stored, Failure):
            self._done.errback(stored)
            return
        now = perf_counter()
        self.took.append(now - began)
        if now < self._end:
            self._send()
            return
        self._waiting -= 1
        if not self._waiting:
            self._done.callback(None)


async def run(reactor: Any, options: argparse.Namespace, data: Path) -> None:
    # As the server does it: a collection of all that was imported would stop both threads for 50 ms.
    sys.setswitchinterval(options.switch)
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    for window in options.windows:
        metrics = Metrics()
        database = Database(f"sqlite:///{data / f'{window}.db'}", reactor, metrics, Limits(), 1)
        database.prepare()
        database.start()
        timelines = Timelines(database.writes, database.reads, time, Limits().page_bytes)
        await timelines.forget_resends()
        clock = next(
            pthread_getcpuclockid(thread.ident)
            for thread in threading.enumerate()
            if thread.name == "imserver-write" and thread.ident
        )
        body = b"x" * options.body
        await Load(timelines, window, 0.5, options.pairs, body, 0).run()
        batches = sum(metrics.batch_size.counts)
        load = Load(timelines, window, options.seconds, options.pairs, body, 1)
        writing, reacting, began = clock_gettime(clock), clock_gettime(CLOCK_THREAD_CPUTIME_ID), perf_counter()
        await load.run()
        seconds = perf_counter() - began
        writing, reacting = clock_gettime(clock) - writing, clock_gettime(CLOCK_THREAD_CPUTIME_ID) - reacting
        batches = sum(metrics.batch_size.counts) - batches
        took = sorted(load.took)
        count = len(took)
        print(
            f"window {window:4}: {count / seconds:7.0f} messages/s, {count / batches:5.1f} a batch, "
            f"p50 {took[count // 2] * 1e3:.2f} ms, p99 {took[count * 99 // 100] * 1e3:.2f} ms; "
            f"CPU a message: writer {writing / count * 1e6:.1f} us, reactor {reacting / count * 1e6:.1f} us"
        )
        await database.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, nargs="+", default=[1, 50, 400], help="messages that wait at once")
    parser.add_argument("--seconds", type=float, default=3.0, help="measured time of each window")
    parser.add_argument("--pairs", type=int, default=50, help="senders, each with a receiver")
    parser.add_argument("--body", type=int, default=160, help="bytes of a body")
    parser.add_argument("--switch", type=float, default=0.0005, help="sys.setswitchinterval, in seconds")
    parser.add_argument("--data", type=Path, help="where the database is made; default: a temporary directory")
    options = parser.parse_args()
    data = Path(tempfile.mkdtemp(dir=options.data))
    try:
        react(lambda reactor: Deferred.fromCoroutine(run(reactor, options, data)))
    finally:
        shutil.rmtree(data)


if __name__ == "__main__":
    main()
