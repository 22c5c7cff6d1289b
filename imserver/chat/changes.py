"""Changes of groups: each is made, and then announced (protocol.md, Group notification contents).

Who is to hear of it looks into a timeline: members of a normal group into their own, members of a super group into the
group's. There a notification goes; and besides into the own timelines of those who do not look there any more, or not
yet: who has just left, all of a group that is disbanded, and all of one that was a normal group until now.

The change comes first, and stands, whatever becomes of its notification.
"""

from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
from twisted.internet.defer import Deferred, DeferredLock
from zope.interface import implementer

from imserver.chat.compose import is_id
from imserver.chat.posts import Posts
from imserver.interfaces import IGroupChanges, IGroups, Invalid, NotFound, Unavailable, WallClock
from imserver.model import SAFE_INTEGER, Group, NewMember, UserKey
from imserver.protocol.frame import MAX_BODY

#: Changes of one group that wait for each other.
_MOST_WAITING: Final = 1_000
#: Who joins or leaves at once, times who is told of each: some seconds of work.
_MOST_TOLD: Final = 1_000_000
_LONGEST_ID: Final = SAFE_INTEGER - 1

_Change = Callable[[], Coroutine[Deferred[Any], Any, Group]]


@implementer(IGroupChanges)
class GroupChanges:
    """Changes of one group are made one after the other, so that what is announced is what changed."""

    def __init__(self, groups: IGroups, posts: Posts, now: WallClock) -> None:
        self._groups = groups
        self._posts = posts
        self._now = now
        #: Of each group that is being changed.
        self._turns: dict[int, DeferredLock] = {}

    def create(
        self, appid: int, master: int, name: str, members: Sequence[NewMember], is_super: bool, group_id: int | None
    ) -> Deferred[Group]:
        async def create() -> Group:
            uids = {member.uid for member in members}
            _check_ids(master, *uids)
            self._creation(_LONGEST_ID, master, name, ())
            group = await self._groups.create(appid, master, name, uids, is_super, group_id)
            content = self._creation(group.group_id, master, name, group.members)
            await self._posts.notify_group(group, content, ())
            return group

        return self._in_turn(appid, group_id, create)

    def rename(self, appid: int, group_id: int, name: str) -> Deferred[Group]:
        async def rename() -> Group:
            content = self._content("update_name", group_id=group_id, name=name)
            group = await self._groups.rename(appid, group_id, name)
            await self._announce(group, content)
            return group

        return self._in_turn(appid, group_id, rename)

    def disband(self, appid: int, group_id: int) -> Deferred[Group]:
        async def disband() -> Group:
            group = await self._groups.disband(appid, group_id)
            content = self._content("disband", group_id=group_id, group_name=group.name)
            if group.users:
                await self._posts.notify_users(group.users, content)
            return group

        return self._in_turn(appid, group_id, disband)

    def add(
        self, appid: int, group_id: int, members: Sequence[NewMember], inviter: Mapping[str, Any] | None
    ) -> Deferred[Group]:
        async def add() -> Group:
            group = await self._group(appid, group_id)
            asked: dict[int, NewMember] = {}
            for member in members:
                asked.setdefault(member.uid, member)
            _check_ids(*asked)
            new = [member for uid, member in asked.items() if uid not in group.members]
            _check_told(len(new), len(group.members) + len(new))
            contents = [self._content("add_member", **_joining(group, member, inviter)) for member in new]
            group = await self._groups.add_members(appid, group_id, list(asked))
            for content in contents:
                await self._announce(group, content)
            return group

        return self._in_turn(appid, group_id, add)

    def remove(self, appid: int, group_id: int, uids: Collection[int]) -> Deferred[Group]:
        async def remove() -> Group:
            group = await self._group(appid, group_id)
            _check_ids(*uids)
            gone = [uid for uid in dict.fromkeys(uids) if uid in group.members]
            _check_told(len(gone), len(group.members))
            contents = [
                self._content("quit_group", group_id=group_id, group_name=group.name, member_id=uid) for uid in gone
            ]
            group = await self._groups.remove_members(appid, group_id, uids)
            for uid, content in zip(gone, contents, strict=True):
                await self._announce(group, content, (UserKey(appid, uid),))
            return group

        return self._in_turn(appid, group_id, remove)

    def upgrade(self, appid: int, group_id: int) -> Deferred[Group]:
        async def upgrade() -> Group:
            group = await self._group(appid, group_id)
            if group.is_super:
                return group
            content = self._content("upgrade", group_id=group_id, group_name=group.name, super=1)
            group = await self._groups.upgrade(appid, group_id)
            await self._announce(group, content, group.users)
            return group

        return self._in_turn(appid, group_id, upgrade)

    def set_nickname(self, appid: int, group_id: int, uid: int, nickname: str) -> Deferred[Group]:
        async def set_nickname() -> Group:
            group = await self._group(appid, group_id)
            content = self._content(
                "update_member_nickname",
                group_id=group_id,
                group_name=group.name,
                member_id=uid,
                nickname=nickname,
            )
            group = await self._groups.change_member(appid, group_id, uid, nickname=nickname)
            await self._announce(group, content)
            return group

        return self._in_turn(appid, group_id, set_nickname)

    def set_mute(self, appid: int, group_id: int, uid: int, on: bool) -> Deferred[Group]:
        async def set_mute() -> Group:
            return await self._groups.change_member(appid, group_id, uid, muted=on)

        return self._in_turn(appid, group_id, set_mute)

    # Turns.

    def _in_turn(self, appid: int, group_id: int | None, change: _Change) -> Deferred[Group]:
        """Make a change when those of the same group before it are made."""
        return Deferred.fromCoroutine(self._wait_and_change(appid, group_id, change))

    async def _wait_and_change(self, appid: int, group_id: int | None, change: _Change) -> Group:
        _check_ids(appid)
        if group_id is None:
            return await change()
        _check_ids(group_id)
        turns = self._turns.setdefault(group_id, DeferredLock())
        if len(turns.waiting) >= _MOST_WAITING:
            raise Unavailable("too many changes of this group wait for each other")
        await turns.acquire()
        try:
            return await change()
        finally:
            turns.release()  # and the next change may be made already
            if not turns.locked and self._turns.get(group_id) is turns:
                del self._turns[group_id]

    async def _group(self, appid: int, group_id: int) -> Group:
        found: Group | Deferred[Group | None] | None = self._groups.group(appid, group_id)
        group = await found if isinstance(found, Deferred) else found
        if group is None:
            raise NotFound(f"app {appid} has no group {group_id}")
        return group

    # Notifications.

    async def _announce(self, group: Group, content: bytes, others: Sequence[UserKey] = ()) -> None:
        if group.users or others:
            await self._posts.notify_group(group, content, others)

    def _content(self, kind: str, **fields: object) -> bytes:
        """Of a notification. Raises `Invalid` where it is too long."""
        content = msgspec.json.encode({kind: {**fields, "timestamp": int(self._now())}})
        if len(content) > MAX_BODY:
            raise Invalid("the names are too long to be announced")
        return content

    def _creation(self, group_id: int, master: int, name: str, uids: Iterable[int]) -> bytes:
        """Of the notification that a group was made. Of its members it names as many as there is room for."""
        room = MAX_BODY - len(self._content("create", group_id=group_id, master=master, name=name, members=[]))
        named = []
        for uid in uids:
            room -= len(str(uid)) + 1
            if room < 0:
                break
            named.append(uid)
        return self._content("create", group_id=group_id, master=master, name=name, members=named)


def _joining(group: Group, member: NewMember, inviter: Mapping[str, Any] | None) -> dict[str, object]:
    """What the notification that somebody joins says of it, but for the time."""
    fields: dict[str, object] = {"group_id": group.group_id, "group_name": group.name, "member_id": member.uid}
    optional = {"name": member.name, "avatar": member.avatar, "inviter": inviter}
    return fields | {name: value for name, value in optional.items() if value is not None}


def _check_ids(*ids: int) -> None:
    for number in ids:
        if not is_id(number):
            raise Invalid(f"{number} is no id: those are from 1 to 2^53-1")


def _check_told(changed: int, told: int) -> None:
    if changed * told > _MOST_TOLD:
        raise Invalid(
            f"{changed} members at once in a group of {told} are too many to announce: change fewer at a time, or make"
            " the group with its members"
        )
