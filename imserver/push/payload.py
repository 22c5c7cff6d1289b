"""What push workers get to read: a stored message as the JSON objects that existing ones expect (ecosystem.md, Redis).

A push is a struct whose JSON is exactly what its queue holds. Pure functions: how a push travels is others' business.
"""

from collections.abc import Collection, Sequence
from typing import ClassVar, Final, Self

import msgspec

from imserver.model import Conversation, NewMessage, UserKey
from imserver.protocol.commands import NEWEST_VERSION, Command
from imserver.protocol.messages import IM, Customer, CustomerV2, GroupIM, System

#: Arrays and objects in each other, at most: parsers give up at a depth of their own, the strictest in use at 100.
_DEEPEST: Final = 64


class OfflinePush(msgspec.Struct, frozen=True, kw_only=True):
    """A push of whatever queue. `content` is a JSON object as text, like all contents here."""

    queue: ClassVar[str]
    #: The receivers'.
    appid: int
    content: str

    @property
    def users(self) -> tuple[UserKey, ...]:
        """Whose phones are to be told."""
        raise NotImplementedError

    @property
    def conversation(self) -> Conversation | None:
        """What a receiver may want no pushes from. None: nothing that they could name."""
        return None

    def without(self, users: Collection[UserKey]) -> Self | None:
        """The same for all receivers but these; None where nobody is left."""
        raise NotImplementedError


class _ToOne(OfflinePush, frozen=True, kw_only=True):
    receiver: int

    @property
    def users(self) -> tuple[UserKey, ...]:
        return (UserKey(self.appid, self.receiver),)

    def without(self, users: Collection[UserKey]) -> Self | None:
        return None if UserKey(self.appid, self.receiver) in users else self


class PeerPush(_ToOne, frozen=True, kw_only=True):
    queue = "push_queue"
    sender: int

    @property
    def conversation(self) -> Conversation:
        return Conversation(is_group=False, other=self.sender)


class CustomerPush(_ToOne, frozen=True, kw_only=True):
    """From another app, where uids are other people's: the sender's names no conversation in the receiver's app."""

    queue = "customer_push_queue_v2"
    sender_appid: int
    sender: int
    receiver_appid: int


class SystemPush(_ToOne, frozen=True, kw_only=True):
    queue = "system_push_queue"


class GroupPush(OfflinePush, frozen=True, kw_only=True):
    queue = "group_push_queue"
    sender: int
    receivers: tuple[int, ...]
    group_id: int

    @property
    def users(self) -> tuple[UserKey, ...]:
        return tuple([UserKey(self.appid, uid) for uid in self.receivers])

    @property
    def conversation(self) -> Conversation:
        return Conversation(is_group=True, other=self.group_id)

    def without(self, users: Collection[UserKey]) -> Self | None:
        left = tuple([uid for uid in self.receivers if UserKey(self.appid, uid) not in users])
        return msgspec.structs.replace(self, receivers=left) if left else None


#: The struct of each queue's pushes.
PUSHES: Final[dict[str, type[OfflinePush]]] = {
    push.queue: push for push in (PeerPush, GroupPush, CustomerPush, SystemPush)
}


def pushes_of(message: NewMessage, receivers: Sequence[UserKey]) -> Sequence[OfflinePush]:
    """The pushes that tell these users, who are not online, of a stored message.

    Those of a group are all of one app. A message of a command that phones are not told of (GROUP_NOTIFICATION) gives
    none. Raises `ProtocolError` where the body is too short for its command.
    """
    if not receivers:
        return ()
    match message.command:
        case Command.IM:
            return _peer(IM.decode(message.body, NEWEST_VERSION), receivers)
        case Command.GROUP_IM:
            return _group(GroupIM.decode(message.body, NEWEST_VERSION), receivers)
        case Command.CUSTOMER_V2:
            v2 = CustomerV2.decode(message.body, NEWEST_VERSION)
            return _customer(UserKey(v2.sender_appid, v2.sender), v2.content, receivers)
        case Command.CUSTOMER:
            asked = Customer.decode(message.body, NEWEST_VERSION)
            return _customer(UserKey(asked.customer_appid, asked.customer), asked.content, receivers)
        case Command.CUSTOMER_SUPPORT:
            answered = Customer.decode(message.body, NEWEST_VERSION)
            # The body does not say of which app the seller is, but the seller's timeline does.
            seller = UserKey(message.timelines[message.own].appid, answered.seller)
            return _customer(seller, answered.content, receivers)
        case Command.SYSTEM:
            content = json_content(System.decode(message.body, NEWEST_VERSION).content)
            return [SystemPush(appid=appid, receiver=uid, content=content) for appid, uid in receivers]
        case _:
            return ()


def _peer(message: IM, receivers: Sequence[UserKey]) -> Sequence[PeerPush]:
    content = json_content(message.content)
    return [PeerPush(appid=appid, sender=message.sender, receiver=uid, content=content) for appid, uid in receivers]


def _group(message: GroupIM, receivers: Sequence[UserKey]) -> Sequence[GroupPush]:
    return (
        GroupPush(
            appid=receivers[0].appid,
            sender=message.sender,
            receivers=tuple([user.uid for user in receivers]),
            group_id=message.receiver,
            content=json_content(message.content),
        ),
    )


def _customer(sender: UserKey, content: bytes, receivers: Sequence[UserKey]) -> Sequence[CustomerPush]:
    text = json_content(content)
    return [
        CustomerPush(
            appid=appid,
            sender_appid=sender.appid,
            sender=sender.uid,
            receiver_appid=appid,
            receiver=uid,
            content=text,
        )
        for appid, uid in receivers
    ]


def json_content(content: bytes) -> str:
    """The content as the text of a JSON object: itself where it is one, else {"text": content}.

    Workers lose a whole batch over a content that their parser refuses. So what parsers disagree about (NaN, halves of
    a character, numbers beyond a double, a hundred arrays in each other) is no JSON here. Bytes that are not UTF-8 are
    replaced.
    """
    text = content.decode("utf-8", "replace")
    if _is_object(text):
        return text
    return msgspec.json.encode({"text": text}).decode()


def _is_object(text: str) -> bool:
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return False
    return isinstance(value, dict) and _depth(value) <= _DEEPEST


def _depth(value: object) -> int:
    """How many arrays and objects stand in each other. Without recursion: a stranger chose how deep it goes."""
    depth = 0
    level = [value]
    while level := [each for each in level if isinstance(each, dict | list)]:
        depth += 1
        level = [child for each in level for child in (each.values() if isinstance(each, dict) else each)]
    return depth
