"""What the two APIs ask of the domain, answered from memory. Both remember what they did."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import implementer

from imserver.interfaces import IGroupChanges, Invalid, IPosts, NotFound
from imserver.model import Group, NewMember, UserKey
from imserver.protocol.frame import MAX_BODY
from tests.fakes.answers import Answers
from tests.fakes.groups import FakeGroups


@implementer(IPosts)
class FakePosts(Answers):
    def __init__(self, groups: FakeGroups) -> None:
        super().__init__()
        self._groups = groups
        #: What was posted: the name of the method and its arguments.
        self.posted: list[tuple[Any, ...]] = []
        #: A bug: raised by whatever is posted.
        self.bug: Exception | None = None

    def peer(self, appid: int, sender: int, receiver: int, content: bytes) -> Deferred[None]:
        return self.answer(lambda: self._post("peer", appid, sender, receiver, content))

    def group(self, appid: int, sender: int, group_id: int, content: bytes) -> Deferred[None]:
        def post() -> None:
            if self._groups.group(appid, group_id) is None:
                raise NotFound(f"there is no group {group_id}")
            self._post("group", appid, sender, group_id, content)

        return self.answer(post)

    def group_notification(self, appid: int, group_id: int, content: bytes, members: Sequence[int]) -> Deferred[None]:
        def post() -> None:
            if self._groups.group(appid, group_id) is None and not members:
                raise Invalid("nobody is to be told")
            self._post("group_notification", appid, group_id, content, tuple(members))

        return self.answer(post)

    def system(self, appid: int, receivers: Sequence[int], content: bytes) -> Deferred[None]:
        return self.answer(lambda: self._post("system", appid, tuple(receivers), content))

    def customer(self, sender: UserKey, receiver: UserKey, content: bytes) -> Deferred[None]:
        return self.answer(lambda: self._post("customer", sender, receiver, content))

    def notification(self, appid: int, uid: int, content: bytes) -> None:
        self._post("notification", appid, uid, content)

    def realtime(self, appid: int, sender: int, receiver: int, content: bytes) -> None:
        self._post("realtime", appid, sender, receiver, content)

    def room(self, appid: int, uid: int, room: int, content: bytes) -> None:
        self._post("room", appid, uid, room, content)

    def _post(self, *posted: Any) -> None:
        if self.bug is not None:
            raise self.bug
        if any(isinstance(value, bytes) and len(value) > MAX_BODY - 36 for value in posted):
            raise Invalid("the content is too long")
        self.posted.append(posted)


@implementer(IGroupChanges)
class FakeGroupChanges:
    """Changes the groups, and remembers what it would have announced."""

    def __init__(self, groups: FakeGroups) -> None:
        self._groups = groups
        #: What was changed: the name of the method and its arguments.
        self.changed: list[tuple[Any, ...]] = []

    def create(
        self, appid: int, master: int, name: str, members: Sequence[NewMember], is_super: bool, group_id: int | None
    ) -> Deferred[Group]:
        made = self._groups.create(appid, master, name, _uids(members), is_super, group_id)
        return self._changed(made, "create", appid, master, name, list(members), is_super, group_id)

    def rename(self, appid: int, group_id: int, name: str) -> Deferred[Group]:
        return self._changed(self._groups.rename(appid, group_id, name), "rename", appid, group_id, name)

    def disband(self, appid: int, group_id: int) -> Deferred[Group]:
        return self._changed(self._groups.disband(appid, group_id), "disband", appid, group_id)

    def add(
        self, appid: int, group_id: int, members: Sequence[NewMember], inviter: Mapping[str, Any] | None
    ) -> Deferred[Group]:
        added = self._groups.add_members(appid, group_id, _uids(members))
        return self._changed(added, "add", appid, group_id, list(members), inviter)

    def remove(self, appid: int, group_id: int, uids: Collection[int]) -> Deferred[Group]:
        removed = self._groups.remove_members(appid, group_id, uids)
        return self._changed(removed, "remove", appid, group_id, list(uids))

    def upgrade(self, appid: int, group_id: int) -> Deferred[Group]:
        return self._changed(self._groups.upgrade(appid, group_id), "upgrade", appid, group_id)

    def set_nickname(self, appid: int, group_id: int, uid: int, nickname: str) -> Deferred[Group]:
        named = self._groups.change_member(appid, group_id, uid, nickname=nickname)
        return self._changed(named, "set_nickname", appid, group_id, uid, nickname)

    def set_mute(self, appid: int, group_id: int, uid: int, on: bool) -> Deferred[Group]:
        muted = self._groups.change_member(appid, group_id, uid, muted=on)
        return self._changed(muted, "set_mute", appid, group_id, uid, on)

    def _changed(self, group: Deferred[Group], *change: Any) -> Deferred[Group]:
        def remember(group: Group) -> Group:
            self.changed.append(change)
            return group

        return group.addCallback(remember)


def _uids(members: Sequence[NewMember]) -> list[int]:
    return [member.uid for member in members]
