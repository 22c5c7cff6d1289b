"""Friends and blacklists in memory. tests/contract holds them to what those on SQL do."""

from collections.abc import Sequence

from twisted.internet.defer import Deferred
from zope.interface import implementer

from imserver.interfaces import IRelations, NotFound
from imserver.model import Relation, UserKey
from tests.fakes.answers import Answers


@implementer(IRelations)
class FakeRelations(Answers):
    def __init__(self) -> None:
        super().__init__()
        #: The apps that exist.
        self.apps = {7}
        #: (appid, uid, the friend of that user).
        self.friends: set[tuple[int, int, int]] = set()
        #: (appid, uid, who is on the blacklist of that user).
        self.blacklist: set[tuple[int, int, int]] = set()

    def relation(self, user: UserKey, other: int) -> Deferred[Relation]:
        appid, uid = user
        return self.answer(
            lambda: Relation(
                friend=(appid, uid, other) in self.friends,
                friend_of=(appid, other, uid) in self.friends,
                blocked=(appid, other, uid) in self.blacklist,
            )
        )

    def set_friends(self, appid: int, uid: int, other: int, on: bool) -> Deferred[None]:
        return self._set(self.friends, appid, {(appid, uid, other), (appid, other, uid)}, on)

    def set_blocked(self, appid: int, uid: int, other: int, on: bool) -> Deferred[None]:
        return self._set(self.blacklist, appid, {(appid, uid, other)}, on)

    def _set(
        self, rows: set[tuple[int, int, int]], appid: int, changed: set[tuple[int, int, int]], on: bool
    ) -> Deferred[None]:
        def change() -> None:
            if appid not in self.apps:
                raise NotFound(f"there is no app {appid}")
            if on:
                rows.update(changed)
            else:
                rows.difference_update(changed)

        return self.answer(change)

    def friends_of(self, user: UserKey) -> Deferred[Sequence[int]]:
        return self.answer(lambda: _listed(self.friends, user))

    def blocked_by(self, user: UserKey) -> Deferred[Sequence[int]]:
        return self.answer(lambda: _listed(self.blacklist, user))


def _listed(rows: set[tuple[int, int, int]], user: UserKey) -> list[int]:
    return sorted(other for appid, uid, other in rows if (appid, uid) == user)[:10_000]
