"""Groups in memory. tests/contract holds them to what those on SQL do."""

from collections.abc import Callable, Collection, Iterable
from itertools import count

from twisted.internet.defer import Deferred
from zope.interface import implementer

from imserver.interfaces import AlreadyExists, IGroups, NotFound, WallClock
from imserver.model import MOST_AHEAD, SAFE_INTEGER, Group, Member
from tests.fakes.answers import Answers


class _Rows:
    """A group with all who ever were in it."""

    def __init__(self, appid: int, group_id: int, master: int, name: str, is_super: bool) -> None:
        self.appid = appid
        self.group_id = group_id
        self.master = master
        self.name = name
        self.is_super = is_super
        self.deleted = False
        self.members: dict[int, Member] = {}
        self.gone: set[int] = set()

    def add(self, uids: Iterable[int], joined: int) -> None:
        for uid in uids:
            if uid not in self.members or uid in self.gone:
                self.members[uid] = self.members.get(uid, Member(0))._replace(joined=joined)
        self.gone.difference_update(uids)

    def group(self) -> Group:
        members = {uid: member for uid, member in self.members.items() if uid not in self.gone}
        return Group(self.appid, self.group_id, self.master, self.name, "", self.is_super, members)


@implementer(IGroups)
class FakeGroups(Answers):
    """Knows every group at once, unless it holds its answers or is unavailable."""

    def __init__(self, now: WallClock = lambda: 0.0) -> None:
        super().__init__()
        #: The apps that exist.
        self.apps = {7}
        self._now = now
        self._groups: dict[int, _Rows] = {}

    def add_group(
        self,
        appid: int,
        group_id: int,
        uids: Iterable[int],
        is_super: bool = False,
        name: str = "group",
        joined: int = 0,
        muted: Collection[int] = (),
    ) -> Group:
        """Make a group of the test's own, whose master is the first of the members, and its app if need be."""
        uids = list(uids)
        self.apps.add(appid)
        rows = self._groups[group_id] = _Rows(appid, group_id, uids[0] if uids else 0, name, is_super)
        rows.members = {uid: Member(joined, uid in muted) for uid in uids}
        return rows.group()

    def group(self, appid: int, group_id: int) -> Group | Deferred[Group | None] | None:
        if self.holds or self.unavailable:
            return self.answer(lambda: self._find(appid, group_id))
        return self._find(appid, group_id)

    def _find(self, appid: int, group_id: int) -> Group | None:
        rows = self._groups.get(group_id)
        return None if rows is None or rows.deleted or rows.appid != appid else rows.group()

    def create(
        self, appid: int, master: int, name: str, members: Collection[int], is_super: bool, group_id: int | None
    ) -> Deferred[Group]:
        def create() -> Group:
            if appid not in self.apps:
                raise NotFound(f"there is no app {appid}")
            number = group_id
            if number is None:
                number = max(self._groups, default=0) + 1
                if number >= SAFE_INTEGER:
                    number = next(free for free in count(1) if free not in self._groups)
            if number in self._groups:
                raise AlreadyExists(f"there is a group {number} already")
            rows = self._groups[number] = _Rows(appid, number, master, name, is_super)
            rows.add({master, *members}, int(self._now()))
            return rows.group()

        return self.answer(create)

    def rename(self, appid: int, group_id: int, name: str) -> Deferred[Group]:
        def rename(rows: _Rows) -> None:
            rows.name = name

        return self._change(appid, group_id, rename)

    def disband(self, appid: int, group_id: int) -> Deferred[Group]:
        def disband(rows: _Rows) -> None:
            rows.deleted = True

        return self._change(appid, group_id, disband)

    def upgrade(self, appid: int, group_id: int) -> Deferred[Group]:
        def upgrade(rows: _Rows) -> None:
            rows.is_super = True

        return self._change(appid, group_id, upgrade)

    def add_members(self, appid: int, group_id: int, uids: Collection[int]) -> Deferred[Group]:
        def add(rows: _Rows) -> None:
            now = int(self._now())
            last = max((member.joined for member in rows.members.values()), default=0)
            rows.add(uids, min(last + 1, now + MOST_AHEAD) if now <= last <= now + MOST_AHEAD else now)

        return self._change(appid, group_id, add)

    def remove_members(self, appid: int, group_id: int, uids: Collection[int]) -> Deferred[Group]:
        return self._change(appid, group_id, lambda rows: rows.gone.update(set(uids) & set(rows.members)))

    def change_member(
        self, appid: int, group_id: int, uid: int, nickname: str | None = None, muted: bool | None = None
    ) -> Deferred[Group]:
        def change(rows: _Rows) -> None:
            if uid not in rows.members or uid in rows.gone:
                raise NotFound(f"{uid} is no member of group {group_id}")
            member = rows.members[uid]
            rows.members[uid] = member._replace(
                nickname=member.nickname if nickname is None else nickname,
                muted=member.muted if muted is None else muted,
            )

        return self._change(appid, group_id, change)

    def _change(self, appid: int, group_id: int, change: Callable[[_Rows], None]) -> Deferred[Group]:
        def do() -> Group:
            if self._find(appid, group_id) is None:
                raise NotFound(f"app {appid} has no group {group_id}")
            rows = self._groups[group_id]
            change(rows)
            return rows.group()

        return self.answer(do)
