"""What the push queue stands on, and what stands before it: a database, accounts, a webhook that a test plays."""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import text
from twisted.internet.defer import Deferred, DeferredQueue, succeed
from twisted.internet.task import Clock

from imserver.database.engine import open_readers, open_writer
from imserver.database.lanes import ReadLane, WriteGroup, WriteLane
from imserver.database.schema import metadata
from imserver.metrics import Metrics
from imserver.model import Conversation, NewMessage, UserKey, user_timeline
from imserver.protocol.messages import Message
from imserver.push.request import Answer, Webhook
from imserver.push.webhook import WebhookPush
from tests.contract.sql_storage import running_reactor
from tests.fakes.directory import FakeDirectory

ALICE, BOB, CAROL = UserKey(7, 1), UserKey(7, 2), UserKey(7, 3)
NOW = 1_700_000_000


def stored(message: Message, sender: UserKey, created: int = NOW) -> NewMessage:
    """A message as delivery hands it over."""
    return NewMessage(message.command, 0, message.encode(2), created, (user_timeline(sender),))


class Lanes:
    """A database file with its lanes. On an old path: what was there before."""

    def __init__(self, path: Path, items: int = 1000) -> None:
        url = f"sqlite:///{path / 'push.db'}"
        engine = open_writer(url)
        with engine.begin() as connection:
            metadata.create_all(connection)
        self.metrics = Metrics()
        self.writes = WriteLane(engine, running_reactor(), self.metrics, items, 64 * 1024 * 1024, 30.0)
        # One thread: reads are answered in order.
        self.reads = ReadLane(open_readers(url, 1), running_reactor(), self.metrics, 1, 30.0)
        self._nothing: WriteGroup[None, None] = self.writes.group("nothing", lambda _connection, items: items)
        self.writes.start()
        self.reads.start()

    def rows(self, statement: str) -> Deferred[list[tuple[Any, ...]]]:
        """Fires with what stands in the database."""
        return self.reads.read("test", lambda connection: [tuple(row) for row in connection.execute(text(statement))])

    async def settled(self) -> None:
        """All that was asked of the database has been answered, and what was asked because of that, too."""
        for _ in range(3):
            await self._nothing.submit(None)
            await self.rows("SELECT 1")

    async def stop(self) -> None:
        await self.writes.stop()
        await self.reads.stop()


class Accounts(FakeDirectory):
    """Remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        #: Conversations, each time that somebody asked who does not want them.
        self.asked: list[tuple[Conversation, list[UserKey]]] = []
        #: The same of push tokens.
        self.asked_for_tokens: list[list[UserKey]] = []

    def not_to_disturb(self, users: Sequence[UserKey], conversation: Conversation) -> Deferred[Collection[UserKey]]:
        self.asked.append((conversation, list(users)))
        return super().not_to_disturb(users, conversation)

    def bound_devices(self, users: Sequence[UserKey]) -> Deferred[Mapping[UserKey, Mapping[str, str]]]:
        self.asked_for_tokens.append(list(users))
        return super().bound_devices(users)


class Request:
    """One request, until the test answers it."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.pushes: list[dict[str, Any]] = json.loads(body)["pushes"]
        #: How often it was given up.
        self.cancelled = 0
        self.answered: Deferred[Answer] = Deferred(self._cancel)

    def _cancel(self, _answered: object) -> None:
        self.cancelled += 1

    @property
    def ids(self) -> list[int]:
        return [push["id"] for push in self.pushes]

    @property
    def texts(self) -> list[str]:
        """What the messages say that are pushed."""
        return [json.loads(push["content"])["text"] for push in self.pushes]

    def answer(self, status: int, delay: float | None = None) -> None:
        self.answered.callback(Answer(status, delay))

    def fail(self, error: Exception) -> None:
        self.answered.errback(error)


class PlayedWebhook(Webhook):
    """A webhook whose part a test plays, and no network."""

    def __init__(self) -> None:
        super().__init__("https://app.example.com/s3cret", b"k" * 32, 10.0, Clock(), lambda: 0.0, Metrics())
        self.requests: DeferredQueue[Request] = DeferredQueue()
        #: How many requests there were.
        self.count = 0
        #: Those that are not answered.
        self.under_way = 0
        self.closed = False

    def post(self, body: bytes) -> Deferred[Answer]:
        assert not self.closed
        assert not self.under_way, "one at a time"
        request = Request(body)
        self.count += 1
        self.under_way += 1
        running_reactor().callLater(0, self.requests.put, request)  # as a network would, after this has returned

        def ended(result: Any) -> Any:
            self.under_way -= 1
            return result

        return request.answered.addBoth(ended)

    def close(self) -> Deferred[None]:
        self.closed = True
        return succeed(None)


class House:
    """A push queue, not started, with everything around it."""

    def __init__(
        self,
        path: Path,
        *,
        batch: int = 100,
        max_age_seconds: float = 3600.0,
        most_waiting: int = 1000,
        items: int = 1000,
    ) -> None:
        self.lanes = Lanes(path, items)
        self.metrics = self.lanes.metrics
        self.clock = Clock()
        self.seconds = float(NOW)
        self.accounts = Accounts()
        self.webhook = PlayedWebhook()
        self.queue = WebhookPush(
            self.webhook,
            self.accounts,
            self.lanes.writes,
            self.lanes.reads,
            self.metrics,
            self.clock,
            lambda: self.seconds,
            batch=batch,
            max_age_seconds=max_age_seconds,
            most_waiting=most_waiting,
        )

    async def request(self) -> Request:
        """The next request."""
        return await self.webhook.requests.get()

    def pass_time(self, seconds: float) -> None:
        self.seconds += seconds
        self.clock.advance(seconds)

    def until_next_try(self) -> float:
        """Seconds; the only thing that the queue waits for."""
        (call,) = self.clock.getDelayedCalls()
        return call.getTime() - self.clock.seconds()

    @property
    def dropped(self) -> dict[str, int]:
        return {reason: count for reason, count in self.metrics.push_dropped.values.items() if count}

    @property
    def counts(self) -> tuple[int, int, int]:
        """Queued, delivered, waiting."""
        metrics = self.metrics
        return metrics.push_queued.values[""], metrics.push_delivered.values[""], int(metrics.push_waiting.read()[""])
