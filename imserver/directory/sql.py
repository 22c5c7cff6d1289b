"""The directory on the SQL database that storage uses too: what is asked there, and what holds beside changes.

The statements stand in `sign_ins`, `accounts` and `phones`, and run on the lanes' threads.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from hashlib import sha256
from hmac import compare_digest
from typing import Any, Final, TypeVar

from sqlalchemy import Connection
from twisted.internet.defer import Deferred
from zope.interface import implementer

from imserver.database.lanes import ReadLane, WriteLane
from imserver.directory import accounts, phones, sign_ins
from imserver.directory.statements import ROW_SIZE, answer, refusable, run_each
from imserver.interfaces import IAccounts, IDirectory, WallClock
from imserver.model import App, Conversation, SignIn, UserKey, UserSettings
from imserver.protocol.commands import Platform

Result = TypeVar("Result")

#: Tokens made in one transaction: other writes shall not wait long behind a large order.
_TOKENS_AT_ONCE: Final = 250


@implementer(IDirectory, IAccounts)
class SqlDirectory:
    """Sign-ins that wait together are looked up together; what is in order (a known device, nothing unread) is not
    written at all."""

    def __init__(self, writes: WriteLane, reads: ReadLane, now: WallClock) -> None:
        self._reads = reads
        self._now = now
        self._sign_ins = reads.group("sign-in", sign_ins.look_up)
        self._secrets = reads.group("app", accounts.secrets_of)
        self._not_to_disturb = reads.group("do_not_disturb", phones.not_to_disturb)
        self._devices = writes.group("device", sign_ins.number_devices)
        self._unread = writes.group("unread", accounts.set_unread)
        self._accounts = writes.group("account", run_each)
        #: Revocations, new secrets and changes of settings that were committed. Who asks beside one who somebody is
        #: asks again, so that nobody who was looked up before a revocation gets in after it.
        self._changes = 0

    # IDirectory

    def sign_in(self, token: bytes, device: bytes, platform: int) -> Deferred[SignIn | None]:
        return self._ask(sign_ins.Asked(sha256(token).digest(), b"" if platform == Platform.WEB else device, platform))

    def _ask(self, asked: sign_ins.Asked) -> Deferred[SignIn | None]:
        return self._sign_ins.submit(asked).addCallback(self._asked, asked, self._changes)

    def _asked(
        self, known: sign_ins.Known | None, asked: sign_ins.Asked, changes: int
    ) -> SignIn | Deferred[SignIn | None] | None:
        if known is None:
            return None
        if known.device is None:
            numbered = self._devices.submit((asked.device, asked.platform), ROW_SIZE)
            return numbered.addCallback(
                lambda number: self._asked(known._replace(device=number), asked, changes),
            )
        if known.unread:
            reset = self._unread.submit((known.user, 0), ROW_SIZE)
            return reset.addCallback(lambda _: self._asked(known._replace(unread=0), asked, changes))
        if changes != self._changes:
            return self._ask(asked)
        return SignIn(known.user, known.device, known.forbidden, known.notification_on)

    def set_unread(self, user: UserKey, count: int) -> Deferred[None]:
        return self._unread.submit((user, count), ROW_SIZE)

    # IAccounts

    def create_app(self, name: str, appid: int | None = None) -> Deferred[tuple[int, str]]:
        return self._change(partial(accounts.create_app, name=name, appid=appid, now=self._now))

    def ensure_first_app(self) -> Deferred[None]:
        """Make `accounts.FIRST_APP` if there is no app at all. Nobody learns its secret. Fails with `Unavailable`."""
        return self._change(partial(accounts.ensure_first_app, now=self._now))

    def apps(self) -> Deferred[Sequence[App]]:
        return self._reads.read("apps", accounts.apps)

    def issue_tokens(self, appid: int, uids: Sequence[int]) -> Deferred[Sequence[str]]:
        return Deferred.fromCoroutine(self._issue_tokens(appid, uids))

    async def _issue_tokens(self, appid: int, uids: Sequence[int]) -> Sequence[str]:
        tokens: list[str] = []
        # Once even for nobody, so that an app that does not exist is noticed.
        for start in range(0, max(len(uids), 1), _TOKENS_AT_ONCE):
            some = uids[start : start + _TOKENS_AT_ONCE]
            issue = partial(accounts.issue_tokens, appid=appid, uids=some, now=self._now)
            tokens += await self._change(issue, len(some) * ROW_SIZE)
        return tokens

    def revoke_token(self, token: str) -> Deferred[UserKey]:
        revoke = partial(accounts.revoke_token, digest=sha256(token.encode()).digest())
        return self._change(revoke).addCallback(self._changed)

    def revoke_tokens(self, user: UserKey) -> Deferred[int]:
        return self._change(partial(accounts.revoke_tokens, user=user)).addCallback(self._changed)

    def settings(self, user: UserKey) -> Deferred[UserSettings]:
        settings: Deferred[Any] = self._reads.read(
            "settings", partial(refusable, call=partial(accounts.settings_of, user=user))
        )
        return settings.addCallback(answer)

    def change_settings(
        self,
        user: UserKey,
        name: str | None = None,
        forbidden: bool | None = None,
        notification_on: bool | None = None,
    ) -> Deferred[UserSettings]:
        columns: dict[str, object] = {}
        if name is not None:
            columns["name"] = name
        if forbidden is not None:
            columns["forbidden"] = int(forbidden)
        if notification_on is not None:
            columns["notification_on"] = int(notification_on)
        return self._change(partial(accounts.change_settings, user=user, columns=columns)).addCallback(self._changed)

    def rotate_secret(self, appid: int) -> Deferred[str]:
        return self._change(partial(accounts.rotate_secret, appid=appid)).addCallback(self._changed)

    def check_app(self, appid: int, password: bytes) -> Deferred[bool]:
        return self._secrets.submit(appid).addCallback(self._checked, appid, password, self._changes)

    def _checked(self, kept: bytes | None, appid: int, password: bytes, changes: int) -> bool | Deferred[bool]:
        if kept is None or not compare_digest(sha256(password).digest(), kept):
            return False
        return changes == self._changes or self.check_app(appid, password)

    def user_of_token(self, token: bytes) -> Deferred[UserKey | None]:
        asked = sign_ins.Asked(sha256(token).digest(), b"", Platform.WEB)
        return self._sign_ins.submit(asked).addCallback(self._whose, token, self._changes)

    def _whose(
        self, known: sign_ins.Known | None, token: bytes, changes: int
    ) -> UserKey | Deferred[UserKey | None] | None:
        if known is None:
            return None
        return known.user if changes == self._changes else self.user_of_token(token)

    def set_mute(self, user: UserKey, on: bool) -> Deferred[None]:
        change = partial(accounts.change_settings, user=user, columns={"mute": int(on)})
        return self._change(change).addCallback(lambda _settings: None)

    def set_do_not_disturb(self, user: UserKey, conversation: Conversation, on: bool) -> Deferred[None]:
        return self._change(partial(phones.set_do_not_disturb, user=user, conversation=conversation, on=on))

    def not_to_disturb(self, users: Sequence[UserKey], conversation: Conversation) -> Deferred[Collection[UserKey]]:
        return self._not_to_disturb.submit((users, conversation))

    def bind_devices(self, user: UserKey, tokens: Mapping[str, str]) -> Deferred[None]:
        return self._change(partial(phones.bind_devices, user=user, tokens=tokens, now=self._now))

    def unbind_devices(self, user: UserKey, tokens: Mapping[str, str]) -> Deferred[None]:
        return self._change(partial(phones.unbind_devices, user=user, tokens=tokens))

    def bound_devices(self, users: Sequence[UserKey]) -> Deferred[Mapping[UserKey, Mapping[str, str]]]:
        return self._reads.read("push_token", partial(phones.bound_devices, users=users))

    def _changed(self, result: Result) -> Result:
        self._changes += 1
        return result

    def _change(self, call: Callable[[Connection], Result], size: int = ROW_SIZE) -> Deferred[Result]:
        done: Deferred[Any] = self._accounts.submit(call, size)
        return done.addCallback(answer)
