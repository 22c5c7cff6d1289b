"""The domain with everything around it in memory."""

from collections.abc import Collection, Sequence

from twisted.internet.defer import Deferred

from imserver.chat.policy import Policy
from imserver.chat.table import Chat
from imserver.metrics import Metrics
from imserver.model import TimelineKey, UserKey, group_timeline, user_timeline
from imserver.net.registry import ClientRegistry
from imserver.protocol.commands import AckStatus, Flag, Platform
from imserver.protocol.frame import Frame
from imserver.protocol.messages import (
    IM,
    Ack,
    AuthStatus,
    AuthToken,
    Message,
    Metadata,
    Sync,
    SyncGroupNotify,
    SyncNotify,
    decode_from_server,
)
from tests.fakes.chat import FakeBus, FakeConnection, FakePushQueue, Said, SlowTimelines
from tests.fakes.directory import FakeDirectory
from tests.fakes.groups import FakeGroups
from tests.fakes.relations import FakeRelations
from tests.fakes.words import FakeWords

APP = 7
NOW = 1_700_000_000


class World:
    """Without arguments the server as it is by default: no words, friends and blacklists, no customer service."""

    def __init__(
        self, friends: bool = False, blacklist: bool = False, words: Collection[str] = (), kefu_appid: int = 0
    ) -> None:
        self.now = float(NOW)
        self.seconds = 0.0
        self.metrics = Metrics()
        self.directory = FakeDirectory()
        self.groups = FakeGroups(lambda: self.now)
        self.relations = FakeRelations()
        self.words = FakeWords(words)
        self.registry = ClientRegistry(self.metrics)
        self.timelines = SlowTimelines(lambda: self.now)
        self.bus = FakeBus()
        self.push_queue = FakePushQueue()
        self.chat = Chat(
            directory=self.directory,
            groups=self.groups,
            registry=self.registry,
            timelines=self.timelines,
            sync_keys=self.timelines,
            bus=self.bus,
            push_queue=self.push_queue,
            policy=Policy(self.relations, friends, blacklist, self.words),
            metrics=self.metrics,
            now=lambda: self.now,
            monotonic=lambda: self.seconds,
            kefu_appid=kefu_appid,
        )
        self.posts = self.chat.posts
        self.changes = self.chat.changes

    def settings(
        self, uid: int, appid: int = APP, forbidden: bool | None = None, notification_on: bool | None = None
    ) -> None:
        """Set what the server knows about a user, as from the next sign-in."""
        self.token(uid, appid)
        self.directory.change_settings(UserKey(appid, uid), forbidden=forbidden, notification_on=notification_on)

    def token(self, uid: int, appid: int = APP) -> bytes:
        """A token of this user."""
        token = f"{appid}-{uid}"
        self.directory.add_user(token, UserKey(appid, uid))
        return token.encode()

    def connect(
        self,
        uid: int,
        device: bytes = b"",
        platform: Platform = Platform.ANDROID,
        version: int = 2,
        appid: int = APP,
    ) -> FakeConnection:
        """A connection that has just signed in."""
        connection = FakeConnection(version)
        self.say(connection, AuthToken(platform, self.token(uid, appid), device))
        assert connection.said == [Said(AuthStatus(0))]
        connection.forget()
        return connection

    def leave(self, connection: FakeConnection) -> None:
        """The client is gone."""
        connection.lose()
        self.chat.lost(connection)

    def say(self, connection: FakeConnection, message: Message, flag: int = 0, seq: int = 1) -> Deferred[None] | None:
        """Let the client say something, in its version. What the Deferred is for: see `IChat.handle`."""
        body = message.encode(connection.version)
        return self.chat.handle(connection, Frame(seq, message.command, connection.version, flag, body))

    def sync(self, connection: FakeConnection, key: int) -> list[Said]:
        """What a client gets that syncs from this key."""
        connection.forget()
        self.say(connection, Sync(key))
        return connection.said

    def fill(self, uid: int, number: int, other: int = 999) -> list[IM]:
        """Let somebody who is not connected send the user so many messages."""
        sent = [IM(other, uid, NOW, n, b"message %d" % n) for n in range(number)]
        before = len(self.timelines.entries.get(user_timeline(UserKey(APP, uid)), ()))
        connection = self.connect(other)
        for message in sent:
            self.say(connection, message)
        self.leave(connection)
        self.push_queue.pushed.clear()
        assert len(self.timelines.entries[user_timeline(UserKey(APP, uid))]) == before + number
        return sent

    def stored(self, uid: int, appid: int = APP) -> list[Message]:
        """What stands in the user's timeline."""
        return self._stored(user_timeline(UserKey(appid, uid)))

    def stored_in_group(self, group: int, appid: int = APP) -> list[Message]:
        """What stands in the timeline of a super group."""
        return self._stored(group_timeline(appid, group))

    def _stored(self, timeline: TimelineKey) -> list[Message]:
        entries = self.timelines.entries.get(timeline, ())
        return [decode_from_server(entry.command, 2, entry.body) for entry in entries]


def pushed(key: int, message: Message, flag: int = 0) -> list[Said]:
    """A stored message as it is pushed, under its key in the receiver's timeline."""
    return [Said(Metadata(key, key - 1)), Said(message, flag | Flag.PUSH), Said(SyncNotify(key))]


def pushed_in_group(group: int, key: int, message: Message, flag: int = 0) -> list[Said]:
    """A message to a super group as it is pushed, under its key in the group's timeline."""
    flag |= Flag.PUSH | Flag.SUPER_GROUP
    return [Said(Metadata(key, key - 1)), Said(message, flag), Said(SyncGroupNotify(group, key))]


def acked(key: int, seq: int, flag: int = 0) -> list[Said]:
    """A stored message is answered: its key in the sender's timeline, or the super group's, and that it is there."""
    return [Said(Metadata(key, key - 1)), Said(Ack(seq), flag)]


def refused(seq: int, status: AckStatus) -> list[Said]:
    return [Said(Ack(seq, status))]


def plain(messages: Sequence[Message]) -> list[Said]:
    """The messages as they are, without a flag."""
    return [Said(message) for message in messages]
