"""What an app's back end says, over HTTP: the same messages that clients send, by the same way."""

from collections.abc import Sequence
from typing import Final

from twisted.internet.defer import Deferred
from zope.interface import implementer

from imserver.chat.compose import created_in, is_id, one_to_one, to_group, to_users
from imserver.chat.delivery import Delivery
from imserver.chat.policy import Policy
from imserver.chat.resend import resend_of
from imserver.interfaces import IGroups, Invalid, IPosts, NotFound, WallClock
from imserver.model import Group, NewMessage, Push, UserKey, user_timeline
from imserver.protocol.commands import NEWEST_VERSION, Command
from imserver.protocol.frame import MAX_BODY
from imserver.protocol.messages import (
    IM,
    RT,
    CustomerV2,
    GroupIM,
    GroupNotification,
    Message,
    Notification,
    RoomIM,
    System,
)

#: Users whom one message may name: their entries are one transaction.
_MOST_USERS: Final = 10_000
_NOBODY: Final = "the group has no members: there is nobody to tell"


@implementer(IPosts)
class Posts:
    """The word filter holds for them too, in the `text` of contents that are JSON objects: nobody sets the flag TEXT
    here."""

    def __init__(self, kefu_appid: int, groups: IGroups, policy: Policy, delivery: Delivery, now: WallClock) -> None:
        """
        Args:
            kefu_appid: the customer-service app; 0: there is none.
        """
        self._kefu_appid = kefu_appid
        self._groups = groups
        self._policy = policy
        self._delivery = delivery
        self._now = now

    def peer(self, appid: int, sender: int, receiver: int, content: bytes) -> Deferred[None]:
        speaker, listener = _speaker(appid, sender), _user(appid, receiver)
        created = int(self._now())
        body = _body(IM(sender, receiver, created, 0, self._filtered(content)))
        resend = resend_of(UserKey(appid, sender), listener, Command.IM, 0, 0, content)
        return self._delivery.store(*one_to_one(Command.IM, 0, body, created, speaker, listener, 0, resend))

    def group(self, appid: int, sender: int, group_id: int, content: bytes) -> Deferred[None]:
        return Deferred.fromCoroutine(self._say_in_group(_speaker(appid, sender), appid, sender, group_id, content))

    async def _say_in_group(
        self, speaker: UserKey | None, appid: int, sender: int, group_id: int, content: bytes
    ) -> None:
        group = await self._find_group(appid, group_id)
        if group is None:
            raise NotFound(f"app {appid} has no group {group_id}")
        if not group.timelines:
            raise Invalid(_NOBODY)
        now = self._now()
        body = _body(GroupIM(sender, group_id, int(now), 0, self._filtered(content)))
        resend = resend_of(UserKey(appid, sender), UserKey(appid, group_id), Command.GROUP_IM, 0, 0, content)
        await self._delivery.store(to_group(0, body, now, group, speaker, 0, resend), group.users)

    def group_notification(self, appid: int, group_id: int, content: bytes, members: Sequence[int]) -> Deferred[None]:
        return Deferred.fromCoroutine(
            self._notify_group(appid, group_id, self._filtered(content), _users(appid, members))
        )

    async def _notify_group(self, appid: int, group_id: int, content: bytes, users: Sequence[UserKey]) -> None:
        group = await self._find_group(appid, group_id)
        if group is None:
            await self.notify_users(users, content)
        else:
            await self.notify_group(group, content, [user for user in users if user.uid not in group.members])

    def notify_group(self, group: Group, content: bytes, others: Sequence[UserKey]) -> Deferred[None]:
        """GROUP_NOTIFICATION to the group as it stands here, and to the own timelines of these users. Fires and fails
        as the methods of `IPosts` do."""
        if not group.users and not others:
            raise Invalid(_NOBODY)
        body = _body(GroupNotification(content))
        created = created_in(group, self._now())
        if group.is_super:
            timelines = (*group.timelines, *[user_timeline(user) for user in others])
            message = NewMessage(Command.GROUP_NOTIFICATION, 0, body, created, timelines)
            return self._delivery.store(message, (*group.users, *others))
        users = tuple(sorted({*group.users, *others}))
        return self._delivery.store(to_users(Command.GROUP_NOTIFICATION, body, created, users), users)

    def notify_users(self, users: Sequence[UserKey], content: bytes) -> Deferred[None]:
        """GROUP_NOTIFICATION to these users, of a group that is no more. Fires and fails as the methods of `IPosts`
        do."""
        return self._tell(Command.GROUP_NOTIFICATION, users, _body(GroupNotification(content)))

    def system(self, appid: int, receivers: Sequence[int], content: bytes) -> Deferred[None]:
        return self._tell(Command.SYSTEM, _users(appid, receivers), _body(System(self._filtered(content))))

    def _tell(self, command: int, users: Sequence[UserKey], body: bytes) -> Deferred[None]:
        """A message of the server's own, stored for each of these users."""
        if not users:
            raise Invalid("there is nobody to tell")
        return self._delivery.store(to_users(command, body, int(self._now()), users), tuple(users))

    def customer(self, sender: UserKey, receiver: UserKey, content: bytes) -> Deferred[None]:
        if not self._kefu_appid or self._kefu_appid not in (sender.appid, receiver.appid):
            raise Invalid("neither the sender nor the receiver is of the customer-service app")
        speaker, listener = _user(*sender), _user(*receiver)
        created = int(self._now())
        body = _body(CustomerV2(*speaker, *listener, created, self._filtered(content)))
        resend = resend_of(speaker, listener, Command.CUSTOMER_V2, 0, 0, content)
        return self._delivery.store(*one_to_one(Command.CUSTOMER_V2, 0, body, created, speaker, listener, 0, resend))

    def notification(self, appid: int, uid: int, content: bytes) -> None:
        self._delivery.to_user(_user(appid, uid), _push(Notification(self._filtered(content))), None)

    def realtime(self, appid: int, sender: int, receiver: int, content: bytes) -> None:
        _speaker(appid, sender)
        listener = _user(appid, receiver)
        self._delivery.to_user(listener, _push(RT(sender, receiver, self._filtered(content))), None)

    def room(self, appid: int, uid: int, room: int, content: bytes) -> None:
        _speaker(appid, uid)
        if not is_id(room):
            raise Invalid(f"{room} is no room")
        push = _push(RoomIM(uid, room, self._filtered(content)))
        self._delivery.to_room(appid, room, push, UserKey(appid, uid), None)

    def _filtered(self, content: bytes) -> bytes:
        _check_size(content)
        return self._policy.filtered(content, 0)

    async def _find_group(self, appid: int, group_id: int) -> Group | None:
        if not is_id(appid) or not is_id(group_id):
            raise Invalid(f"there can be no group {group_id} in an app {appid}")
        group = self._groups.group(appid, group_id)
        return await group if isinstance(group, Deferred) else group


def _user(appid: int, uid: int) -> UserKey:
    if not is_id(appid) or not is_id(uid):
        raise Invalid(f"there can be no user {uid} in an app {appid}")
    return UserKey(appid, uid)


def _speaker(appid: int, uid: int) -> UserKey | None:
    """Whose message it is; None: nobody's, it is the app's own."""
    if uid == 0 and is_id(appid):
        return None
    return _user(appid, uid)


def _users(appid: int, uids: Sequence[int]) -> list[UserKey]:
    """Each once, in order."""
    if len(uids) > _MOST_USERS:
        raise Invalid(f"one message may name {_MOST_USERS} users at most")
    return sorted({_user(appid, uid) for uid in uids})


def _body(message: Message) -> bytes:
    body = message.encode(NEWEST_VERSION)
    _check_size(body)
    return body


def _push(message: Message) -> Push:
    _body(message)
    return Push((message.frame(),))


def _check_size(body: bytes) -> None:
    if len(body) > MAX_BODY:
        raise Invalid(f"the content is {len(body) - MAX_BODY} bytes too long")
