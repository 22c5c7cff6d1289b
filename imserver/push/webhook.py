"""The push queue that an application's own HTTP server takes from (docs/push.md).

What `push` is given is written to the database. One loop reads the oldest, takes out who does not want them, sends them
in one request, and deletes them once the webhook has answered 2xx. So pushes survive a restart, go in order, and arrive
at least once.
"""

import random
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Final, TypeVar

import msgspec
from twisted.internet.defer import CancelledError, Deferred, FirstError, gatherResults, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from imserver.database.lanes import ReadLane, WriteLane
from imserver.interfaces import IAccounts, IPushQueue, Unavailable, WallClock
from imserver.metrics import Metrics
from imserver.model import Conversation, NewMessage, UserKey
from imserver.push.payload import GroupPush, OfflinePush, pushes_of
from imserver.push.request import Answer, NoAnswer, Webhook
from imserver.push.stored import Change, StoredPushes

Result = TypeVar("Result")

#: Receivers in one push of a group: so many, with their phones' tokens, fit into one request.
_MOST_RECEIVERS: Final = 100
#: Pushes in one write.
_WRITE: Final = 100
#: Bytes of a request with more than one push. Web servers take 1 MiB unless they are told otherwise.
_MOST_BODY: Final = 512 * 1024
#: Bytes of one user's push tokens in a push: a few times what is usual. Anybody may bind longer ones.
_MOST_TOKENS: Final = 2048
#: Seconds before a second try, at most; twice as many with each further one, up to the other.
_FIRST_DELAY: Final = 1.0
_LONGEST_DELAY: Final = 60.0
#: Seconds between two tries to delete what was delivered.
_DELETE_AGAIN: Final = 1.0
#: Seconds between two lines about dropped pushes.
_BETWEEN_REPORTS: Final = 1.0
#: Seconds that a request under way gets when the server stops.
_STOP_SECONDS: Final = 5.0


class _NotDelivered(Exception):
    """The webhook did not take a request."""

    def __init__(self, kind: str, text: str, delay: float | None = None) -> None:
        """
        Args:
            kind: as `Metrics.push_retries` counts it.
            text: for people.
            delay: seconds that the webhook wants to be left alone.
        """
        super().__init__(text)
        self.kind = kind
        self.delay = delay


@implementer(IPushQueue)
class WebhookPush:
    _log = Logger()

    def __init__(
        self,
        webhook: Webhook,
        accounts: IAccounts,
        writes: WriteLane,
        reads: ReadLane,
        metrics: Metrics,
        reactor: IReactorTime,
        now: WallClock,
        *,
        batch: int,
        max_age_seconds: float,
        most_waiting: int,
    ) -> None:
        """
        Args:
            webhook: gets the requests, one at a time.
            accounts: says who is not to be disturbed, and the push tokens of phones.
            writes, reads: the lanes of one database.
            metrics: gets what is queued, delivered, dropped and tried again.
            reactor: waits between tries.
            now: by which pushes are too old.
            batch: pushes in one request, at most.
            max_age_seconds: older ones are dropped, counted from their message.
            most_waiting: pushes that wait; for more than these the oldest are dropped.
        """
        self._webhook = webhook
        self._accounts = accounts
        self._stored = StoredPushes(writes, reads, most_waiting)
        self._metrics = metrics
        self._reactor = reactor
        self._now = now
        self._batch = batch
        self._max_age_seconds = max_age_seconds
        #: What the last transaction that told found.
        self._waiting = 0
        metrics.push_waiting.read = lambda: {"": self._waiting}
        self._unreported = 0
        self._reported_at = float("-inf")
        #: Tries that failed since one did not.
        self._failures = 0
        self._stopping = False
        self._ended: Deferred[None] = succeed(None)
        #: The latest.
        self._request: Deferred[Answer] | None = None
        #: While the loop rests, what ends that.
        self._rest: Deferred[None] = succeed(None)
        #: It rests until there is something to do.
        self._idle = False
        #: Something was added since the loop last looked.
        self._added = False

    def push(self, message: NewMessage, receivers: Sequence[UserKey]) -> None:
        try:
            pushes = [part for push in pushes_of(message, receivers) for part in _parts(push)]
            for start in range(0, len(pushes), _WRITE):
                some = pushes[start : start + _WRITE]
                self._stored.add(some, message.created).addCallbacks(
                    self._is_added, self._not_added, callbackArgs=(len(some),), errbackArgs=(len(some),)
                )
        except Exception:  # a bug, and no reason to fail a message that is on disk
            self._log.failure("a message of command {command} makes no pushes", command=message.command)
            self._lost(len(receivers), "bug")

    def start(self) -> None:
        """Deliver. Once only, after the lanes have started."""
        self._ended = Deferred.fromCoroutine(self._run())

    def stop(self) -> Deferred[None]:
        """Begin no more requests. Fires when the one under way is over, or after a few seconds given up, and what the
        database was asked for is done. The lanes have to run until then; what is pushed later is written all the same.
        """
        self._stopping = True
        self._rest.cancel()
        giving_up = self._reactor.callLater(_STOP_SECONDS, self._give_up)

        def ended(result: object) -> object:
            if giving_up.active():
                giving_up.cancel()
            return result

        return self._ended.addBoth(ended)

    def _give_up(self) -> None:
        if self._request is not None:
            self._request.cancel()

    # Coming in.

    def _is_added(self, change: Change, count: int) -> None:
        self._metrics.push_queued.inc(by=count)
        self._waiting = change.waiting
        self._lost(change.deleted, "full")
        self._added = True
        if self._idle:
            self._rest.callback(None)

    def _not_added(self, failure: Failure, count: int) -> None:
        if failure.check(Unavailable) is None:
            self._log.failure("{count} pushes were not stored", failure=failure, count=count)
        self._lost(count, "database")

    def _lost(self, count: int, reason: str) -> None:
        if not count:
            return
        self._metrics.push_dropped.inc(reason, count)
        self._unreported += count
        now = self._reactor.seconds()
        if now - self._reported_at < _BETWEEN_REPORTS:
            return
        count, self._unreported, self._reported_at = self._unreported, 0, now
        self._log.warn(
            "{count} pushes were dropped since this was last said, the last for this reason: {reason}",
            count=count,
            reason=reason,
        )

    # Going out.

    async def _run(self) -> None:
        while not self._stopping:
            self._added = False
            try:
                found = await self._deliver_oldest()
            except CancelledError:
                self._metrics.push_retries.inc("stop")
                self._log.warn("a request was given up, for the server stops; its pushes are sent at the next start")
            except Exception:  # whatever it is, the pushes that wait are to leave one day
                self._failures += 1
                await self._rest_for(self._delay_after(Failure()))
            else:
                self._failures = 0
                if not found and not self._added:
                    await self._rest_for(None)
        await self._webhook.close()

    async def _rest_for(self, seconds: float | None) -> None:
        """Let the time pass (None: until something is added), or the end come."""
        if self._stopping:
            return
        self._idle = seconds is None
        self._rest = Deferred() if seconds is None else deferLater(self._reactor, seconds)
        with suppress(CancelledError):
            await self._rest
        self._idle = False

    def _delay_after(self, failure: Failure) -> float:
        """Count and log a failed try. Gives how long to wait for the next, in seconds."""
        longest = min(_FIRST_DELAY * 2.0 ** min(self._failures - 1, 10), _LONGEST_DELAY)
        # Servers that failed together do not come back together.
        delay = random.uniform(longest / 2, longest)
        kind = "database"
        if isinstance(failure.value, _NotDelivered):
            kind = failure.value.kind
            delay = failure.value.delay or delay
        elif failure.check(Unavailable) is None:
            kind = "bug"
            self._log.failure("delivering pushes failed", failure=failure)
        self._metrics.push_retries.inc(kind)
        (self._log.error if kind in _FOR_PEOPLE else self._log.warn)(
            "pushes to {webhook} were not delivered: {reason}; {waiting} wait, the next try is in {delay:.1f} s",
            webhook=self._webhook.name,
            reason=failure.getErrorMessage(),
            waiting=self._waiting,
            delay=delay,
        )
        return delay

    async def _deliver_oldest(self) -> bool:
        """Deliver one batch, or drop what of it is not to be delivered. False: nothing waits."""
        oldest, waiting = await self._stored.oldest(self._batch)
        if not self._added:  # else a later transaction has told
            self._waiting = waiting
        if not oldest:
            return False
        since = self._now() - self._max_age_seconds
        self._lost(await self._delete([push.id for push in oldest if push.created < since]), "age")
        pushes = {push.id: push.push() for push in oldest if push.created >= since}
        wanted = await self._undisturbed(pushes)
        unwanted = await self._delete([number for number in pushes if number not in wanted])
        self._metrics.push_dropped.inc("do_not_disturb", unwanted)
        if wanted:
            ids, body = await self._body(wanted)
            if not self._stopping:
                await self._send(body)
                await self._delivered(ids)
        return True

    async def _delete(self, ids: Sequence[int]) -> int:
        """Gives how many of them were still there: others have made room meanwhile, and are counted as dropped."""
        if not ids:
            return 0
        change = await self._stored.delete(ids)
        self._waiting = change.waiting
        return change.deleted

    async def _undisturbed(self, pushes: Mapping[int, OfflinePush]) -> dict[int, OfflinePush]:
        """The pushes for those who want them; of group pushes what is left of the receivers."""
        asked: dict[tuple[int, Conversation], dict[UserKey, None]] = {}
        for push in pushes.values():
            if push.conversation is not None:
                asked.setdefault((push.appid, push.conversation), {}).update(dict.fromkeys(push.users))
        answers = await _all(
            [self._accounts.not_to_disturb(list(users), conversation) for (_, conversation), users in asked.items()]
        )
        unwilling: dict[tuple[int, Conversation | None], Collection[UserKey]] = dict(zip(asked, answers, strict=True))
        left = {
            number: push.without(unwilling.get((push.appid, push.conversation), ())) for number, push in pushes.items()
        }
        return {number: push for number, push in left.items() if push is not None}

    async def _body(self, pushes: Mapping[int, OfflinePush]) -> tuple[list[int], bytes]:
        """A request of the first pushes, as many as go into one, and their ids."""
        users = dict.fromkeys([user for push in pushes.values() for user in push.users])
        tokens = await self._accounts.bound_devices(list(users))
        ids: list[int] = []
        parts: list[bytes] = []
        size = 0
        for number, push in pushes.items():
            devices = {user.uid: _bounded(tokens[user]) for user in push.users if user in tokens}
            part = msgspec.json.encode(
                {"id": number, "queue": push.queue, **msgspec.structs.asdict(push), "devices": devices}
            )
            size += len(part) + 1
            if size > _MOST_BODY and parts:
                break
            ids.append(number)
            parts.append(part)
        return ids, b'{"pushes":[%b]}' % b",".join(parts)

    async def _send(self, body: bytes) -> None:
        self._request = self._webhook.post(body)
        try:
            answer = await self._request
        except NoAnswer as error:
            raise _NotDelivered("timeout" if error.timed_out else "connection", str(error)) from None
        if not 200 <= answer.status <= 299:
            raise _NotDelivered(_kind(answer.status), f"it answered with status {answer.status}", answer.delay)
        if self._failures:
            self._log.info("{webhook} takes pushes again", webhook=self._webhook.name)

    async def _delivered(self, ids: Sequence[int]) -> None:
        """Delete what was delivered. It is not sent again for want of a database, unless the server ends."""
        while True:
            try:
                deleted = await self._delete(ids)
            except Unavailable as error:
                if self._stopping:
                    return
                self._log.warn("pushes that were delivered could not be deleted: {reason}", reason=str(error))
                await self._rest_for(_DELETE_AGAIN)
            else:
                self._metrics.push_delivered.inc(by=deleted)
                return


#: Kinds of failures that do not pass by themselves.
_FOR_PEOPLE: Final = frozenset(("redirect", "refused", "answer"))


def _kind(status: int) -> str:
    if status in (408, 429) or 500 <= status <= 599:
        return "busy"
    if 400 <= status <= 499:
        return "refused"
    return "redirect" if 300 <= status <= 399 else "answer"


def _parts(push: OfflinePush) -> Sequence[OfflinePush]:
    """A push to many as pushes to fewer."""
    if not isinstance(push, GroupPush):
        return (push,)
    some = range(0, len(push.receivers), _MOST_RECEIVERS)
    return [msgspec.structs.replace(push, receivers=push.receivers[at : at + _MOST_RECEIVERS]) for at in some]


def _bounded(tokens: Mapping[str, str]) -> dict[str, str]:
    """Of one user's push tokens those that go into a push."""
    kept = {}
    left = _MOST_TOKENS
    for kind, token in tokens.items():
        size = len(msgspec.json.encode(token))
        if size <= left:
            left -= size
            kept[kind] = token
    return kept


async def _all(waiting: Sequence[Deferred[Result]]) -> Sequence[Result]:
    """The results of all of them; the first failure, if there is one, as it is."""
    try:
        return await gatherResults(waiting, consumeErrors=True)
    except FirstError as error:
        error.subFailure.raiseException()
