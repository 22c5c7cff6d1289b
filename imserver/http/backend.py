"""The back-end API (ecosystem.md, HTTP: the back-end API).

Fields that it does not know are passed over: back ends send some that other servers want.
"""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Final

import msgspec

from imserver.http.access import Access
from imserver.http.calls import Content, Id, Ids, Refused, Reply, Sender, Switch, data, decode, json, text
from imserver.http.endpoints import DONE, Bare, Endpoint, Json, JsonOrPlainText, PlainText
from imserver.http.history import MOST_LISTED, History, Message
from imserver.interfaces import IClientRegistry, IConnection, IPosts
from imserver.metrics import Metrics
from imserver.model import SAFE_INTEGER, UserKey
from imserver.protocol.commands import Command

#: Rooms of so many connections are listed in the summary of an app.
_LARGE_ROOM: Final = 1000
#: What the summary counts as messages: frames that carry something said.
_MESSAGES: Final = (
    Command.IM,
    Command.GROUP_IM,
    Command.RT,
    Command.ROOM_IM,
    Command.CUSTOMER,
    Command.CUSTOMER_SUPPORT,
    Command.CUSTOMER_V2,
    Command.GROUP_NOTIFICATION,
    Command.SYSTEM,
    Command.NOTIFICATION,
)

_Key = Annotated[int, msgspec.Meta(ge=0, lt=SAFE_INTEGER)]


class _Values(msgspec.Struct, frozen=True):
    """Of a query, or of a JSON body."""


class OneToOne(_Values, frozen=True):
    appid: Id
    sender: Sender
    receiver: Id


class ToUser(_Values, frozen=True):
    appid: Id
    uid: Id


class ToRoom(_Values, frozen=True):
    appid: Id
    uid: Sender
    room: Id


class OldSystemMessage(_Values, frozen=True):
    """Both, and the content as the body; or neither, and all in JSON."""

    appid: Id | msgspec.UnsetType = msgspec.UNSET
    uid: Id | msgspec.UnsetType = msgspec.UNSET


class SystemMessage(_Values, frozen=True):
    appid: Id
    receivers: Annotated[Ids, msgspec.Meta(min_length=1)]
    content: Content


class GroupNotification(_Values, frozen=True):
    """`members` get it besides the group's own. `super` is accepted, but the server knows by itself which groups are
    super groups."""

    appid: Id
    group_id: Id
    notification: Content
    members: Ids | None = None
    super: Switch | None = None


class CustomerMessage(_Values, frozen=True):
    sender_appid: Id
    sender: Id
    receiver_appid: Id
    receiver: Id
    content: Content


class CountOf(_Values, frozen=True):
    appid: Id
    uid: Id
    sync_key: _Key | msgspec.UnsetType = msgspec.UNSET


class LatestOf(_Values, frozen=True):
    appid: Id
    uid: Id
    limit: Annotated[int, msgspec.Meta(ge=1, le=MOST_LISTED)]


class HistoryOf(_Values, frozen=True):
    appid: Id
    uid: Id
    last_id: _Key


class SummaryOf(_Values, frozen=True):
    appid: Id | msgspec.UnsetType = msgspec.UNSET


class Count(_Values, frozen=True):
    count: int


class Summary(_Values, frozen=True):
    """With `appid` there is also `app_<appid>`, with `clientset_count`, `client_count`, `room_count`,
    `room_client_count` and `room_stat` (the rooms of 1000 connections and more, and how many each has)."""

    #: Connections, signed in or not.
    connection_count: int
    #: Connections that are signed in.
    client_count: int
    #: Users with such a connection.
    clientset_count: int
    in_message_count: int
    out_message_count: int


class BackEnd:
    def __init__(self, posts: IPosts, history: History, registry: IClientRegistry, metrics: Metrics) -> None:
        self._posts = posts
        self._history = history
        self._registry = registry
        self._metrics = metrics

    def endpoints(self, key: Access) -> Sequence[Endpoint]:
        """
        Args:
            key: who may make these calls.
        """
        get, post = partial(Endpoint, "GET"), partial(Endpoint, "POST")
        content, messages = PlainText(), list[Message]
        return (
            post("/post_peer_message", "Send an IM", key, self._peer, content, OneToOne),
            post(
                "/post_group_message", "Send a GROUP_IM; the receiver is the group", key, self._group, content, OneToOne
            ),
            post(
                "/post_group_notification",
                "Send a GROUP_NOTIFICATION to a group",
                key,
                self._group_notification,
                Json(GroupNotification),
            ),
            post(
                "/post_system_message",
                "Send a SYSTEM message to users",
                key,
                self._system,
                JsonOrPlainText(SystemMessage),
                OldSystemMessage,
            ),
            post(
                "/post_notification", "Send a NOTIFICATION to whom is online", key, self._notification, content, ToUser
            ),
            post("/post_realtime_message", "Send an RT", key, self._realtime, content, OneToOne),
            post("/post_room_message", "Send a ROOM_IM", key, self._room, content, ToRoom),
            post("/post_customer_message", "Send a CUSTOMER_V2", key, self._customer, Json(CustomerMessage)),
            get("/get_offline_count", "Count a user's entries after a key", key, self._count, None, CountOf, Count),
            get("/load_latest_message", "List a user's newest messages", key, self._latest, None, LatestOf, messages),
            get("/load_history_message", "List messages after a key", key, self._after, None, HistoryOf, messages),
            get("/summary", "Count connections and messages", key, self._summary, None, SummaryOf, Bare(Summary)),
        )

    async def _peer(self, query: OneToOne, body: bytes) -> Reply:
        await self._posts.peer(query.appid, query.sender, query.receiver, body)
        return DONE

    async def _group(self, query: OneToOne, body: bytes) -> Reply:
        await self._posts.group(query.appid, query.sender, query.receiver, body)
        return DONE

    async def _group_notification(self, body: GroupNotification) -> Reply:
        content = body.notification.encode()
        await self._posts.group_notification(body.appid, body.group_id, content, body.members or ())
        return DONE

    async def _system(self, query: OldSystemMessage, body: bytes) -> Reply:
        match query:
            case OldSystemMessage(appid=int(appid), uid=int(uid)):
                await self._posts.system(appid, (uid,), text(body))
            case OldSystemMessage(appid=msgspec.UNSET, uid=msgspec.UNSET):
                asked = decode(body, SystemMessage)
                await self._posts.system(asked.appid, asked.receivers, asked.content.encode())
            case _:
                raise Refused(400, "this takes `appid` and `uid` in the query, or neither and a body in JSON")
        return DONE

    async def _notification(self, query: ToUser, body: bytes) -> Reply:
        self._posts.notification(query.appid, query.uid, body)
        return DONE

    async def _realtime(self, query: OneToOne, body: bytes) -> Reply:
        self._posts.realtime(query.appid, query.sender, query.receiver, body)
        return DONE

    async def _room(self, query: ToRoom, body: bytes) -> Reply:
        self._posts.room(query.appid, query.uid, query.room, body)
        return DONE

    async def _customer(self, body: CustomerMessage) -> Reply:
        sender = UserKey(body.sender_appid, body.sender)
        await self._posts.customer(sender, UserKey(body.receiver_appid, body.receiver), body.content.encode())
        return DONE

    async def _count(self, query: CountOf) -> Reply:
        key = None if query.sync_key is msgspec.UNSET else query.sync_key
        return data(Count(await self._history.count(UserKey(query.appid, query.uid), key)))

    async def _latest(self, query: LatestOf) -> Reply:
        return await self._history.latest(UserKey(query.appid, query.uid), query.limit)

    async def _after(self, query: HistoryOf) -> Reply:
        return await self._history.after(UserKey(query.appid, query.uid), query.last_id)

    async def _summary(self, query: SummaryOf) -> Reply:
        metrics = self._metrics
        everyone = self._registry.everyone()
        summary = Summary(
            connection_count=int(sum(metrics.connections.read().values())),
            client_count=len(everyone),
            clientset_count=len({connection.user for connection in everyone}),
            in_message_count=sum(metrics.frames_in.counts[command] for command in _MESSAGES),
            out_message_count=sum(metrics.frames_out.counts[command] for command in _MESSAGES),
        )
        answer: dict[str, Any] = msgspec.structs.asdict(summary)
        if query.appid is not msgspec.UNSET:
            clients = [connection for connection in everyone if connection.appid == query.appid]
            answer[f"app_{query.appid}"] = _summary_of(clients)
        return json(answer)


def _summary_of(clients: Sequence[IConnection]) -> dict[str, Any]:
    """What the summary says about an app, by its connections."""
    rooms = Counter(connection.room for connection in clients if connection.room)
    return {
        "clientset_count": len({connection.uid for connection in clients}),
        "client_count": len(clients),
        "room_count": len(rooms),
        "room_client_count": rooms.total(),
        "room_stat": {room: count for room, count in rooms.items() if count >= _LARGE_ROOM},
    }
