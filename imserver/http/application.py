"""The application API (ecosystem.md, HTTP: the application API): apps' back ends with their secret, users with a token.

Which app a call is about is what its credentials say, and nothing else in it. Fields that it does not know are passed
over, as in the back-end API.
"""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Final

import msgspec
from twisted.internet.defer import Deferred

from imserver.http.access import of_apps, of_apps_and_users, of_users
from imserver.http.calls import MOST_IDS, NO_CONTROLS, Content, Id, Name, Refused, Reply, Sender, Switch, data
from imserver.http.endpoints import DONE, Endpoint, Json
from imserver.http.history import History, Message
from imserver.http.settings import Settings
from imserver.interfaces import IAccounts, IGroupChanges, IGroups, IPosts, NotFound
from imserver.model import Conversation, Group, NewMember, UserKey

#: Entries that GET /messages looks at.
_NEWEST: Final = 1024


class Grant(msgspec.Struct, frozen=True):
    uid: Id
    user_name: Name | None = None


class Token(msgspec.Struct, frozen=True):
    token: str


class _Change(msgspec.Struct, frozen=True):
    """Exactly one of the fields."""

    def __post_init__(self) -> None:
        if len(_given(self)) != 1:
            raise ValueError(f"this takes exactly one of {', '.join(self.__struct_fields__)}")


class DoNotDisturb(msgspec.Struct, frozen=True):
    peer_uid: Id
    on: Switch


class UserChange(_Change, frozen=True):
    """Exactly one of the fields."""

    name: Name | msgspec.UnsetType = msgspec.UNSET
    forbidden: Switch | msgspec.UnsetType = msgspec.UNSET
    do_not_disturb: DoNotDisturb | msgspec.UnsetType = msgspec.UNSET
    mute: Switch | msgspec.UnsetType = msgspec.UNSET


class MemberChange(_Change, frozen=True):
    """Exactly one of the fields."""

    do_not_disturb: Switch | msgspec.UnsetType = msgspec.UNSET
    nickname: Name | msgspec.UnsetType = msgspec.UNSET
    mute: Switch | msgspec.UnsetType = msgspec.UNSET


class Person(msgspec.Struct, frozen=True):
    """`name` and `avatar` are for the notification that tells of it."""

    uid: Id
    name: Name | None = None
    avatar: str | None = None


_Someone = Id | Person
_People = Annotated[list[_Someone], msgspec.Meta(max_length=MOST_IDS)]
_SomePeople = Annotated[list[_Someone], msgspec.Meta(min_length=1, max_length=MOST_IDS)]


class NewGroup(msgspec.Struct, frozen=True):
    master: Id
    name: Name
    members: _People
    super: Switch = False
    group_id: Id | None = None


class GroupId(msgspec.Struct, frozen=True):
    group_id: int


class GroupName(msgspec.Struct, frozen=True):
    name: Name


class NewMembers(msgspec.Struct, frozen=True):
    members: _SomePeople
    inviter: _Someone | None = None


class PlainMessage(msgspec.Struct, frozen=True):
    sender: Sender
    receiver: Id
    content: Content


class UnsignedMessage(msgspec.Struct, frozen=True):
    receiver: Id
    content: Content


class GroupNotice(msgspec.Struct, frozen=True):
    group_id: Id
    content: Content


class Whose(msgspec.Struct, frozen=True):
    """For an app, which of its users."""

    uid: Id | msgspec.UnsetType = msgspec.UNSET


class Offline(msgspec.Struct, frozen=True):
    count: int
    #: 1 where there are any.
    new: int


_PushToken = Annotated[str, msgspec.Meta(min_length=1, max_length=4096, pattern=NO_CONTROLS)]


class Phone(msgspec.Struct, frozen=True):
    """One or more of the fields."""

    apns_device_token: _PushToken | msgspec.UnsetType = msgspec.UNSET
    pushkit_device_token: _PushToken | msgspec.UnsetType = msgspec.UNSET
    ng_device_token: _PushToken | msgspec.UnsetType = msgspec.UNSET
    xg_device_token: _PushToken | msgspec.UnsetType = msgspec.UNSET
    xm_device_token: _PushToken | msgspec.UnsetType = msgspec.UNSET
    hw_device_token: _PushToken | msgspec.UnsetType = msgspec.UNSET
    gcm_device_token: _PushToken | msgspec.UnsetType = msgspec.UNSET
    jp_device_token: _PushToken | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        if not _given(self):
            raise ValueError(f"this takes one or more of {', '.join(self.__struct_fields__)}")

    @property
    def tokens(self) -> dict[str, str]:
        """By kind, as `IAccounts.bind_devices` takes them."""
        return {name.removesuffix("_device_token"): token for name, token in _given(self).items()}


class Success(msgspec.Struct, frozen=True):
    success: bool


def _given(body: msgspec.Struct) -> dict[str, Any]:
    """The fields that were there."""
    return {name: value for name, value in msgspec.structs.asdict(body).items() if value is not msgspec.UNSET}


def _with_one_of(type_: type[msgspec.Struct], words: str = "oneOf") -> Json:
    """A body whose description says what its `__post_init__` checks."""
    schema = {words: [{"required": [name]} for name in type_.__struct_fields__]}
    return Json(Annotated[type_, msgspec.Meta(extra_json_schema=schema)])


class Application:
    def __init__(
        self,
        posts: IPosts,
        history: History,
        accounts: IAccounts,
        settings: Settings,
        groups: IGroups,
        group_changes: IGroupChanges,
    ) -> None:
        self._posts = posts
        self._history = history
        self._accounts = accounts
        self._settings = settings
        self._groups = groups
        self._changes = group_changes

    def endpoints(self) -> Sequence[Endpoint]:
        app, user, both = of_apps(self._accounts), of_users(self._accounts), of_apps_and_users(self._accounts)
        get, post, patch, delete = (partial(Endpoint, method) for method in ("GET", "POST", "PATCH", "DELETE"))
        change, member_change = _with_one_of(UserChange), _with_one_of(MemberChange)
        phone = _with_one_of(Phone, "anyOf")
        return (
            post("/auth/grant", "Make a token for a user", app, self._grant, Json(Grant), answer=Token),
            post("/users/<uid>", "Change a user's settings", app, self._change_user, change),
            patch("/users/<uid>", "Change a user's settings", app, self._change_user, change),
            post("/groups", "Make a group", app, self._create, Json(NewGroup), answer=GroupId),
            patch("/groups/<gid>", "Rename a group", app, self._rename, Json(GroupName)),
            delete("/groups/<gid>", "Disband a group", app, self._disband),
            post("/groups/<gid>/members", "Add members", app, self._add, Json(_SomePeople | NewMembers)),
            delete("/groups/<gid>/members", "Remove members", app, self._remove, Json(_SomePeople)),
            delete("/groups/<gid>/members/<uid>", "Remove a member", app, self._remove_one),
            patch("/groups/<gid>/members/<uid>", "Change a member", app, self._change_member, member_change),
            post("/groups/<gid>/upgrade", "Make it a super group", app, self._upgrade),
            post("/messages/peers", "Send an IM", app, self._peer, Json(PlainMessage)),
            post(
                "/messages/groups", "Send a GROUP_IM; the receiver is the group", app, self._group, Json(PlainMessage)
            ),
            post("/messages/systems", "Send a SYSTEM message", app, self._system, Json(UnsignedMessage)),
            post("/messages/notifications", "Send a NOTIFICATION", app, self._notification, Json(UnsignedMessage)),
            post("/messages/rooms", "Send a ROOM_IM; the receiver is the room", app, self._room, Json(PlainMessage)),
            post("/messages/groups/notifications", "Notify a group", app, self._group_notification, Json(GroupNotice)),
            get("/messages", "List one's newest messages", user, self._latest, answer=list[Message]),
            get("/messages/offline", "Count unread entries", both, self._offline, query=Whose, answer=Offline),
            post("/device/bind", "Push to this phone", user, self._bind, phone, answer=Success),
            post("/device/unbind", "No longer push to it", user, self._unbind, phone, answer=Success),
        )

    # Users.

    async def _grant(self, appid: int, body: Grant) -> Reply:
        user = UserKey(appid, body.uid)
        if body.user_name is not None:
            await self._settings.change(user, name=body.user_name)
        (token,) = await self._accounts.issue_tokens(appid, (body.uid,))
        return data(Token(token))

    async def _change_user(self, appid: int, uid: int, body: UserChange) -> Reply:
        user = UserKey(appid, uid)
        match body:
            case UserChange(name=str(name)):
                await self._settings.change(user, name=name)
            case UserChange(forbidden=int(forbidden)):
                await self._settings.change(user, forbidden=bool(forbidden))
            case UserChange(mute=int(mute)):
                await self._accounts.set_mute(user, bool(mute))
            case UserChange(do_not_disturb=DoNotDisturb(peer_uid, on)):
                await self._accounts.set_do_not_disturb(user, Conversation(False, peer_uid), bool(on))
        return DONE

    async def _bind(self, user: UserKey, body: Phone) -> Reply:
        await self._accounts.bind_devices(user, body.tokens)
        return data(Success(True))

    async def _unbind(self, user: UserKey, body: Phone) -> Reply:
        await self._accounts.unbind_devices(user, body.tokens)
        return data(Success(True))

    # Groups.

    async def _create(self, appid: int, body: NewGroup) -> Reply:
        members = [_member(someone) for someone in body.members]
        group = await self._changes.create(appid, body.master, body.name, members, bool(body.super), body.group_id)
        return data(GroupId(group.group_id))

    async def _rename(self, appid: int, gid: int, body: GroupName) -> Reply:
        await self._changes.rename(appid, gid, body.name)
        return DONE

    async def _disband(self, appid: int, gid: int) -> Reply:
        await self._changes.disband(appid, gid)
        return DONE

    async def _upgrade(self, appid: int, gid: int) -> Reply:
        await self._changes.upgrade(appid, gid)
        return DONE

    async def _add(self, appid: int, gid: int, body: list[int | Person] | NewMembers) -> Reply:
        asked = NewMembers(body) if isinstance(body, list) else body
        inviter = None
        if asked.inviter is not None:
            inviter = {name: value for name, value in _member(asked.inviter)._asdict().items() if value is not None}
        await self._changes.add(appid, gid, [_member(someone) for someone in asked.members], inviter)
        return DONE

    async def _remove(self, appid: int, gid: int, body: list[int | Person]) -> Reply:
        await self._changes.remove(appid, gid, [_member(someone).uid for someone in body])
        return DONE

    async def _remove_one(self, appid: int, gid: int, uid: int) -> Reply:
        await self._changes.remove(appid, gid, [uid])
        return DONE

    async def _change_member(self, appid: int, gid: int, uid: int, body: MemberChange) -> Reply:
        match body:
            case MemberChange(nickname=str(nickname)):
                await self._changes.set_nickname(appid, gid, uid, nickname)
            case MemberChange(mute=int(mute)):
                await self._changes.set_mute(appid, gid, uid, bool(mute))
            case MemberChange(do_not_disturb=int(on)):
                await self._require_member(appid, gid, uid)
                await self._accounts.set_do_not_disturb(UserKey(appid, uid), Conversation(True, gid), bool(on))
        return DONE

    async def _require_member(self, appid: int, gid: int, uid: int) -> None:
        found: Group | Deferred[Group | None] | None = self._groups.group(appid, gid)
        group = await found if isinstance(found, Deferred) else found
        if group is None:
            raise NotFound(f"there is no group {gid}")
        if uid not in group.members:
            raise NotFound(f"user {uid} is no member of group {gid}")

    # Messages.

    async def _peer(self, appid: int, body: PlainMessage) -> Reply:
        await self._posts.peer(appid, body.sender, body.receiver, body.content.encode())
        return DONE

    async def _group(self, appid: int, body: PlainMessage) -> Reply:
        await self._posts.group(appid, body.sender, body.receiver, body.content.encode())
        return DONE

    async def _system(self, appid: int, body: UnsignedMessage) -> Reply:
        await self._posts.system(appid, (body.receiver,), body.content.encode())
        return DONE

    async def _notification(self, appid: int, body: UnsignedMessage) -> Reply:
        self._posts.notification(appid, body.receiver, body.content.encode())
        return DONE

    async def _room(self, appid: int, body: PlainMessage) -> Reply:
        self._posts.room(appid, body.sender, body.receiver, body.content.encode())
        return DONE

    async def _group_notification(self, appid: int, body: GroupNotice) -> Reply:
        await self._posts.group_notification(appid, body.group_id, body.content.encode(), ())
        return DONE

    async def _latest(self, user: UserKey) -> Reply:
        return await self._history.latest(user, _NEWEST)

    async def _offline(self, query: Whose, appid: int | None = None, user: UserKey | None = None) -> Reply:
        if user is None:
            if appid is None or query.uid is msgspec.UNSET:
                raise Refused(400, "this takes `uid` in the query, the user whose entries are to be counted")
            user = UserKey(appid, query.uid)
        elif query.uid not in (msgspec.UNSET, user.uid):
            raise Refused(400, "a token is good for its own user's entries only: leave out `uid`")
        count = await self._history.count(user, None)
        return data(Offline(count, min(count, 1)))


def _member(someone: int | Person) -> NewMember:
    if isinstance(someone, int):
        return NewMember(someone)
    return NewMember(someone.uid, someone.name, someone.avatar)
