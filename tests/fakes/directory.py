"""A directory in memory. tests/contract holds it to what the one on SQL does."""

import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from hashlib import md5
from itertools import count
from typing import TypeVar

import msgspec
from twisted.internet.defer import Deferred, execute, fail
from zope.interface import implementer

from imserver.interfaces import AlreadyExists, IAccounts, IDirectory, NotFound, Unavailable
from imserver.model import App, Conversation, SignIn, UserKey, UserSettings
from imserver.protocol.commands import Platform

Result = TypeVar("Result")


@implementer(IDirectory, IAccounts)
class FakeDirectory:
    """Answers at once, except sign-ins while `hold` is in force; fails all while `unavailable` is True."""

    def __init__(self) -> None:
        self.unavailable = False
        #: Sign-ins that wait: what answers each, and whom.
        self._held: list[tuple[Callable[[], SignIn | None], Deferred[SignIn | None]]] | None = None
        self._apps: dict[int, App] = {}
        #: What the back end of each app sends as its password.
        self._passwords: dict[int, bytes] = {}
        #: Token -> user, in the order of issue.
        self._tokens: dict[str, UserKey] = {}
        self._users: dict[UserKey, UserSettings] = {}
        self._devices: dict[tuple[bytes, int], int] = {}
        self._not_to_disturb: set[tuple[UserKey, Conversation]] = set()
        #: Push tokens by kind.
        self._phones: dict[UserKey, dict[str, str]] = {}

    def add_user(self, token: str, user: UserKey) -> None:
        """Make a token of one's own choice, and its app if need be."""
        self._apps.setdefault(user.appid, App(user.appid, "app"))
        self._tokens[token] = user

    def hold(self) -> None:
        """Answer sign-ins no more until `release`."""
        self._held = []

    def release(self) -> None:
        """Answer the sign-ins that were held, in order."""
        held, self._held = self._held or [], None
        for sign_in, done in held:
            self._answer(sign_in).chainDeferred(done)

    # IDirectory

    def sign_in(self, token: bytes, device: bytes, platform: int) -> Deferred[SignIn | None]:
        sign_in = partial(self._sign_in, token, device, platform)
        if self._held is None:
            return self._answer(sign_in)
        done: Deferred[SignIn | None] = Deferred()
        self._held.append((sign_in, done))
        return done

    def _sign_in(self, token: bytes, device: bytes, platform: int) -> SignIn | None:
        user = self._tokens.get(token.decode(errors="replace"))
        if user is None:
            return None
        settings = self._of(user)
        self._users[user] = msgspec.structs.replace(settings, unread=0)
        number = 0
        if device and platform != Platform.WEB:
            number = self._devices.setdefault((device, platform), len(self._devices) + 1)
        return SignIn(user, number, settings.forbidden, settings.notification_on)

    def set_unread(self, user: UserKey, count: int) -> Deferred[None]:
        def change() -> None:
            self._users[user] = msgspec.structs.replace(self._of(user), unread=count)

        return self._answer(change)

    # IAccounts

    def create_app(self, name: str, appid: int | None = None) -> Deferred[tuple[int, str]]:
        def create() -> tuple[int, str]:
            number = appid
            if number is None:
                number = next(free for free in count(min(self._apps, default=1)) if free not in self._apps)
            if number in self._apps:
                raise AlreadyExists(f"there is an app {number} already")
            self._apps[number] = App(number, name)
            return number, self._new_secret(number)

        return self._answer(create)

    def _new_secret(self, appid: int) -> str:
        secret = secrets.token_urlsafe()
        self._passwords[appid] = md5(secret.encode(), usedforsecurity=False).hexdigest().encode()
        return secret

    def apps(self) -> Deferred[Sequence[App]]:
        return self._answer(lambda: [self._apps[appid] for appid in sorted(self._apps)])

    def issue_tokens(self, appid: int, uids: Sequence[int]) -> Deferred[Sequence[str]]:
        def issue() -> list[str]:
            self._require(appid)
            return [self._issue(UserKey(appid, uid)) for uid in uids]

        return self._answer(issue)

    def _issue(self, user: UserKey) -> str:
        token = secrets.token_urlsafe()
        self._tokens[token] = user
        for old in [held for held in self._tokens if self._tokens[held] == user][:-20]:
            del self._tokens[old]
        return token

    def revoke_token(self, token: str) -> Deferred[UserKey]:
        def revoke() -> UserKey:
            if token not in self._tokens:
                raise NotFound("there is no such token")
            return self._tokens.pop(token)

        return self._answer(revoke)

    def revoke_tokens(self, user: UserKey) -> Deferred[int]:
        def revoke() -> int:
            before = len(self._tokens)
            self._tokens = {token: owner for token, owner in self._tokens.items() if owner != user}
            return before - len(self._tokens)

        return self._answer(revoke)

    def settings(self, user: UserKey) -> Deferred[UserSettings]:
        def read() -> UserSettings:
            self._require(user.appid)
            return self._of(user)

        return self._answer(read)

    def change_settings(
        self,
        user: UserKey,
        name: str | None = None,
        forbidden: bool | None = None,
        notification_on: bool | None = None,
    ) -> Deferred[UserSettings]:
        def change() -> UserSettings:
            self._require(user.appid)
            before = self._of(user)
            self._users[user] = msgspec.structs.replace(
                before,
                name=before.name if name is None else name,
                forbidden=before.forbidden if forbidden is None else forbidden,
                notification_on=before.notification_on if notification_on is None else notification_on,
            )
            return self._of(user)

        return self._answer(change)

    def rotate_secret(self, appid: int) -> Deferred[str]:
        def rotate() -> str:
            self._require(appid)
            return self._new_secret(appid)

        return self._answer(rotate)

    def check_app(self, appid: int, password: bytes) -> Deferred[bool]:
        return self._answer(lambda: self._passwords.get(appid) == password)

    def user_of_token(self, token: bytes) -> Deferred[UserKey | None]:
        return self._answer(lambda: self._tokens.get(token.decode(errors="replace")))

    def set_mute(self, user: UserKey, on: bool) -> Deferred[None]:
        def change() -> None:
            self._require(user.appid)
            self._users[user] = msgspec.structs.replace(self._of(user), mute=on)

        return self._answer(change)

    def set_do_not_disturb(self, user: UserKey, conversation: Conversation, on: bool) -> Deferred[None]:
        def change() -> None:
            self._require(user.appid)
            if on:
                self._not_to_disturb.add((user, conversation))
            else:
                self._not_to_disturb.discard((user, conversation))

        return self._answer(change)

    def not_to_disturb(self, users: Sequence[UserKey], conversation: Conversation) -> Deferred[Collection[UserKey]]:
        return self._answer(lambda: {user for user in users if (user, conversation) in self._not_to_disturb})

    def bind_devices(self, user: UserKey, tokens: Mapping[str, str]) -> Deferred[None]:
        def bind() -> None:
            for holder, phone in self._phones.items():
                if holder.appid == user.appid:
                    _remove(phone, tokens)
            self._phones.setdefault(user, {}).update(tokens)

        return self._answer(bind)

    def unbind_devices(self, user: UserKey, tokens: Mapping[str, str]) -> Deferred[None]:
        return self._answer(lambda: _remove(self._phones.get(user, {}), tokens))

    def bound_devices(self, users: Sequence[UserKey]) -> Deferred[Mapping[UserKey, Mapping[str, str]]]:
        return self._answer(lambda: {user: dict(self._phones[user]) for user in users if self._phones.get(user)})

    def _of(self, user: UserKey) -> UserSettings:
        tokens = list(self._tokens.values()).count(user)
        return msgspec.structs.replace(self._users.get(user, UserSettings(user)), tokens=tokens)

    def _require(self, appid: int) -> None:
        if appid not in self._apps:
            raise NotFound(f"there is no app {appid}")

    def _answer(self, do: Callable[[], Result]) -> Deferred[Result]:
        if self.unavailable:
            return fail(Unavailable("as the test wants it"))
        return execute(do)


def _remove(phone: dict[str, str], tokens: Mapping[str, str]) -> None:
    """Take these tokens, and no other of their kinds, from a phone."""
    for kind, token in tokens.items():
        if phone.get(kind) == token:
            del phone[kind]
