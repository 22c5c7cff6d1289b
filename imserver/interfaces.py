"""The seams between the rooms.

Each interface is documented here and nowhere else; implementers are checked by ``verifyObject`` in tests/contract.
Deferreds fire and fail on the reactor's thread. A failure that is named below is part of the contract; any other is a
bug of the implementer.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import Attribute, Interface

from imserver.model import (
    App,
    Conversation,
    Entry,
    Group,
    NewMember,
    NewMessage,
    Push,
    Relation,
    SignIn,
    Stored,
    TimelineKey,
    Unit,
    UserKey,
    UserSettings,
)
from imserver.protocol.frame import Frame


class Unavailable(Exception):
    """The database (or another engine) could not answer in time, or at all. Of a write: nothing of it was written."""


class AlreadyExists(Exception):
    """What was to be made exists."""


class NotFound(Exception):
    """What was asked for does not exist."""


class Invalid(Exception):
    """What was asked for can never be done: the caller's mistake. Nothing was done."""


class IConnection(Interface):
    """One client, whatever its transport, as the domain sees it."""

    number = Attribute("int: names this connection in logs and to operators; never used twice in a process.")
    address = Attribute("str: where the client connects from.")
    transport_name = Attribute('str: "tcp" or "websocket".')
    version = Attribute("int: 0, 1 or 2, the protocol version that the client is answered in.")
    user = Attribute("UserKey | None: None before sign-in.")
    appid = Attribute("int: of `user`; 0 before sign-in.")
    uid = Attribute("int: of `user`; 0 before sign-in.")
    device = Attribute("int: the device number; 0 for web and unknown devices.")
    device_id = Attribute("str: the device string, for people.")
    platform_id = Attribute("int: protocol.commands.Platform, or whatever the client claims.")
    forbidden = Attribute("bool: may not speak.")
    notification_on = Attribute("bool: this user's phones are notified although a desktop is on.")
    room = Attribute("int: the room that the connection is in; 0: none.")
    closed = Attribute("bool: nothing is read or written any more.")
    signed_in_at = Attribute("float: seconds since 1970; 0 before sign-in.")
    heard_at = Attribute("float: when the client last sent anything, in the reactor's seconds.")

    def enqueue(unit: Unit) -> None:
        """Send a reply. It is never dropped while the connection lives."""

    def enqueue_many(units: Sequence[Unit]) -> None:
        """Send replies, in order."""

    def enqueue_non_block(push: Push) -> None:
        """Send something that may be dropped if the client does not take it: the oldest such goes first."""

    def command_began() -> None:
        """A command that stores is under way; `command_ended` will be called, once, from the reactor. So many may be
        under way at a time (`Limits.unfinished_commands`); commands of other kinds wait for them all."""

    def command_ended() -> None:
        """One of those has been answered."""

    def pushed_under(seq: int) -> int:
        """The number of the stored message whose push left under this seq, where that is remembered (`Push.number`, and
        of the newest pushes only), and not asked before; else 0."""

    def watch_pushes(timeline: TimelineKey) -> None:
        """Note which entries of this timeline are pushed from here on; instead of what was noted before."""

    def pushed_meanwhile() -> Collection[int]:
        """The keys of what was noted; none where a push was dropped. Nothing is noted any more."""

    def drained() -> Deferred[None] | None:
        """None while the client takes its replies; else what fires (with None) once it has.

        It also fires when the connection is lost: look at `closed`.
        """

    def may_sign_in() -> bool:
        """False where too many sign-ins from this address have failed lately."""

    def signed_in(sign_in: SignIn, platform: int, device: bytes, version: int) -> None:
        """The client is who it says; from here on its commands count."""

    def refuse() -> None:
        """Answer AUTH_STATUS 1, then as `close_later`. Counts against the address."""

    def close_later(reason: str) -> None:
        """Read nothing more, and close a while later: a client that reconnects at once, for ever, is held that long."""

    def close(reason: str) -> None:
        """Close once what is queued has left, within a few seconds whatever the client takes. Counted by `reason`."""


class IClientRegistry(Interface):
    """Who is connected to this process, and in which rooms. Every method returns at once."""

    def add(connection: IConnection) -> bool:
        """A connection signed in. True if it is the first of its user."""

    def remove(connection: IConnection) -> bool:
        """A connection is gone, from its room too. True if it was the last of its user. Unknown ones are no error."""

    def connections_of(user: UserKey) -> Sequence[IConnection]:
        """The user's connections; not to be kept or changed."""

    def enter_room(connection: IConnection, room: int) -> None:
        """Move the connection to a room of its app, out of the one it was in."""

    def leave_room(connection: IConnection) -> None:
        """Take the connection out of its room, if it is in one."""

    def connections_in(appid: int, room: int) -> Collection[IConnection]:
        """The connections in a room; not to be kept or changed."""

    def is_online(user: UserKey) -> bool:
        """Does the user count as online for push purposes (protocol.md, Who a connection is)?"""

    def everyone() -> Collection[IConnection]:
        """All signed-in connections, as a copy."""


class ITimelines(Interface):
    """Messages and their places in timelines, on disk."""

    def store(message: NewMessage, settled: Callable[[Stored | Failure], None]) -> None:
        """Store a message in all of its timelines, or in none.

        Calls `settled`: with `Stored` once the message is on disk (fsync), with a `Failure` of `Unavailable`
        where it was not stored. (No Deferred: this is done for every message, and nobody chains anything to it.)
        Messages stored one after the other get rising keys in each timeline, and are settled in that order.

        Raises `Unavailable` where it is not even taken; then `settled` is not called.
        """

    def head(timeline: TimelineKey) -> Deferred[int]:
        """Fires with the key of the newest entry, 1 for an empty timeline. Fails with `Unavailable`."""

    def read(timeline: TimelineKey, after: int, limit: int, created_after: int = 0) -> Deferred[Sequence[Entry]]:
        """Fires with the entries whose keys are above `after`, oldest first: at most `limit`, and of them no more than
        fill a page of bytes (but at least one, if there is one). Fails with `Unavailable`.

        Of those that were created up to `created_after`, in seconds since 1970, none is given: they are taken to stand
        before all that were created later.
        """


class ISyncKeys(Interface):
    """What each user has said to have (SYNC_KEY, GROUP_SYNC_KEY)."""

    def saved_key(user: UserKey, group: int = 0) -> Deferred[int]:
        """Fires with the saved key of the user's own timeline, or of a super group; 0: none.

        Fails with `Unavailable`.
        """

    def save_key(user: UserKey, key: int, group: int = 0) -> Deferred[None]:
        """Remember a key if it is above the one remembered. Fails with `Unavailable`."""


class IDirectory(Interface):
    """Who is who, as far as clients need it."""

    def sign_in(token: bytes, device: bytes, platform: int) -> Deferred[SignIn | None]:
        """Fires with who the token stands for, or with None where it stands for nobody.

        A device that was not known gets its number; the user's unread count becomes 0. Fails with `Unavailable`.
        """

    def set_unread(user: UserKey, count: int) -> Deferred[None]:
        """Remember the count for the app's badge. Fails with `Unavailable`."""


class IAccounts(Interface):
    """Apps, users and tokens, as those who administer them need it. Every Deferred may fail with `Unavailable`."""

    def create_app(name: str, appid: int | None = None) -> Deferred[tuple[int, str]]:
        """Fires with the app's id and its secret, which is not kept in clear. Fails with `AlreadyExists`."""

    def apps() -> Deferred[Sequence[App]]:
        """Fires with all apps, by id."""

    def issue_tokens(appid: int, uids: Sequence[int]) -> Deferred[Sequence[str]]:
        """Fires with a new token for each uid, in order; they are kept as hashes only. Of a user's tokens the 20 newest
        stay in force. Fails with `NotFound` where there is no such app."""

    def revoke_token(token: str) -> Deferred[UserKey]:
        """Fires with the user whose token it was. Fails with `NotFound`."""

    def revoke_tokens(user: UserKey) -> Deferred[int]:
        """Revoke all of a user's tokens. Fires with how many there were."""

    def settings(user: UserKey) -> Deferred[UserSettings]:
        """Fires with what is known about a user; the defaults for one never heard of. Fails with `NotFound` where
        there is no such app."""

    def change_settings(
        user: UserKey,
        name: str | None = None,
        forbidden: bool | None = None,
        notification_on: bool | None = None,
    ) -> Deferred[UserSettings]:
        """Change those that are not None. Fires with all of them. Fails with `NotFound` where there is no such app."""

    def rotate_secret(appid: int) -> Deferred[str]:
        """Fires with the app's new secret; the old one is void. Fails with `NotFound`."""

    def check_app(appid: int, password: bytes) -> Deferred[bool]:
        """Fires with whether an application's back end may call as this app: `password` is md5hex(app secret), compared
        in constant time with what is kept (a hash)."""

    def user_of_token(token: bytes) -> Deferred[UserKey | None]:
        """Fires with whose token it is; None: nobody's."""

    def set_mute(user: UserKey, on: bool) -> Deferred[None]:
        """No sounds on the user's phones, or sounds again. Fails with `NotFound` where there is no such app."""

    def set_do_not_disturb(user: UserKey, conversation: Conversation, on: bool) -> Deferred[None]:
        """No offline pushes to this user from this conversation, or pushes again. Fails with `NotFound` as above."""

    def not_to_disturb(users: Sequence[UserKey], conversation: Conversation) -> Deferred[Collection[UserKey]]:
        """Fires with those of the users who want no offline pushes from this conversation."""

    def bind_devices(user: UserKey, tokens: Mapping[str, str]) -> Deferred[None]:
        """Remember push tokens of the user's phone, by kind ("apns", "gcm", … as in ecosystem.md, /device/bind), with
        the time of binding. A token that another user of the app had is taken from them: the phone changed hands."""

    def unbind_devices(user: UserKey, tokens: Mapping[str, str]) -> Deferred[None]:
        """Forget these push tokens of the user; those that are not theirs are passed over."""

    def bound_devices(users: Sequence[UserKey]) -> Deferred[Mapping[UserKey, Mapping[str, str]]]:
        """Fires with the push tokens by kind, of those of the users who have any."""


class IGroups(Interface):
    """Groups and their members (ecosystem.md, SQL: groups and relations).

    Changes are in force for whoever asks after their Deferred has fired. Every Deferred may fail with `Unavailable`;
    of what is asked of a group of another app, as of one that does not exist or was disbanded, it fails with
    `NotFound`.
    """

    def group(appid: int, group_id: int) -> Group | Deferred[Group | None] | None:
        """The group as it stands; None: this app has no such group. At once where that is known here, else a Deferred
        that fires with the same."""

    def create(
        appid: int, master: int, name: str, members: Collection[int], is_super: bool, group_id: int | None
    ) -> Deferred[Group]:
        """Make a group of the members and its master. Fires with it. Fails with `AlreadyExists` where `group_id` is
        taken (also by another app, or a group that was disbanded), with `NotFound` where there is no such app."""

    def rename(appid: int, group_id: int, name: str) -> Deferred[Group]:
        """Fires with the group as it is now; so do all that follow."""

    def disband(appid: int, group_id: int) -> Deferred[Group]:
        """Fires with the group as it was."""

    def upgrade(appid: int, group_id: int) -> Deferred[Group]:
        """Make it a super group. One that is remains one."""

    def add_members(appid: int, group_id: int, uids: Collection[int]) -> Deferred[Group]:
        """Those who are members already stay as they are. Who comes back joins anew, but stays muted if they were.
        All join in the same second, which is later than any in which somebody joined before."""

    def remove_members(appid: int, group_id: int, uids: Collection[int]) -> Deferred[Group]:
        """Those who are no members are passed over."""

    def change_member(
        appid: int, group_id: int, uid: int, nickname: str | None = None, muted: bool | None = None
    ) -> Deferred[Group]:
        """Change what is not None. Fails with `NotFound` where that user is no member, too."""


class IRelations(Interface):
    """Friends and blacklists. Every Deferred may fail with `Unavailable`; that is never the same as "no relation"."""

    def relation(user: UserKey, other: int) -> Deferred[Relation]:
        """Fires with how the user stands to another of the same app, as the database has it now."""

    def set_friends(appid: int, uid: int, other: int, on: bool) -> Deferred[None]:
        """Make two users each other's friends, or no longer. Fails with `NotFound` where there is no such app."""

    def set_blocked(appid: int, uid: int, other: int, on: bool) -> Deferred[None]:
        """Put `other` on the blacklist of `uid`, or take it off. Fails with `NotFound` where there is no such app."""

    def friends_of(user: UserKey) -> Deferred[Sequence[int]]:
        """Fires with the uids of the user's friends, in order, 10,000 at most."""

    def blocked_by(user: UserKey) -> Deferred[Sequence[int]]:
        """Fires with the uids on the user's blacklist, in order, 10,000 at most."""


class IPosts(Interface):
    """What an app's back end says: the same messages that clients send, by the same way (ecosystem.md, HTTP).

    Friends, blacklists and mutes are not asked about: a back end may say what it likes. `content` is text in UTF-8.
    A `sender` of 0 is the app itself: nobody's timeline is the sender's then. Of ids that are given in a sequence,
    one that is there twice counts once.

    What is posted again within 24 hours is stored and told once (protocol.md, Resending): an IM, GROUP_IM or
    CUSTOMER_V2 from the same sender to the same receiver, whose content is a JSON object with the same `uuid`.

    Every method, also one with a Deferred, raises or fails with `Invalid` where the request can never be carried out:
    an id out of its range, content too long for a frame, nobody to tell. A Deferred fires with None once the message is
    on disk and on its way, and fails with `Unavailable` where it was not stored.
    """

    def peer(appid: int, sender: int, receiver: int, content: bytes) -> Deferred[None]:
        """IM, as if the sender had sent it from no device."""

    def group(appid: int, sender: int, group_id: int, content: bytes) -> Deferred[None]:
        """GROUP_IM; the sender need not be a member. Fails with `NotFound` where this app has no such group."""

    def group_notification(appid: int, group_id: int, content: bytes, members: Sequence[int]) -> Deferred[None]:
        """GROUP_NOTIFICATION to the group's members (a super group's to its timeline), and to `members` besides them.

        A group that this app does not have, or no longer, has no members of its own: then `members` alone get it, and
        without any it is `Invalid`.
        """

    def system(appid: int, receivers: Sequence[int], content: bytes) -> Deferred[None]:
        """SYSTEM to each of the receivers."""

    def customer(sender: UserKey, receiver: UserKey, content: bytes) -> Deferred[None]:
        """CUSTOMER_V2. `Invalid` where neither is of the customer-service app; the sender is not 0."""

    def notification(appid: int, uid: int, content: bytes) -> None:
        """NOTIFICATION to the user's connections. Not stored."""

    def realtime(appid: int, sender: int, receiver: int, content: bytes) -> None:
        """RT. Not stored."""

    def room(appid: int, uid: int, room: int, content: bytes) -> None:
        """ROOM_IM by that user. Not stored."""


class IGroupChanges(Interface):
    """Changes of groups as all who are concerned get to know them: each changes the group, then sends the notification
    that protocol.md, Group notification contents, gives for it.

    Every Deferred fires with the group as it is then (`disband`: as it was), once the change is in force and the
    notification stored. It fails as the method of `IGroups` does, and with `Invalid` (nothing was done) where an id is
    out of its range or the notification would be too long for a frame. Where it fails with `Unavailable` the change may
    be in force, but not announced: to ask for it again is safe, except for a `create` without a group id.
    Of members that are given twice the first counts.

    What is announced of a super group stands in its timeline; who has just left it gets that in their own, and so do
    all members of a group that is disbanded, or that becomes a super group.
    """

    def create(
        appid: int, master: int, name: str, members: Sequence[NewMember], is_super: bool, group_id: int | None
    ) -> Deferred[Group]:
        """Make a group of the members and its master: ``create``, which names as many members as it has room for."""

    def rename(appid: int, group_id: int, name: str) -> Deferred[Group]:
        """``update_name``."""

    def disband(appid: int, group_id: int) -> Deferred[Group]:
        """``disband``, to those who were members."""

    def add(
        appid: int, group_id: int, members: Sequence[NewMember], inviter: Mapping[str, Any] | None
    ) -> Deferred[Group]:
        """``add_member`` for each of `members` who was none yet, with `inviter` in it as it is given (values that JSON
        has). `Invalid` where they are so many, and the group so large, that a million or more would be told in all; so
        is `remove`."""

    def remove(appid: int, group_id: int, uids: Collection[int]) -> Deferred[Group]:
        """``quit_group`` for each of `uids` who was a member, to them too."""

    def upgrade(appid: int, group_id: int) -> Deferred[Group]:
        """``upgrade``; of a super group nothing is changed or announced."""

    def set_nickname(appid: int, group_id: int, uid: int, nickname: str) -> Deferred[Group]:
        """``update_member_nickname``."""

    def set_mute(appid: int, group_id: int, uid: int, on: bool) -> Deferred[Group]:
        """The member may not speak there, or may again. Clients are sent no notification of it."""


class IWords(Interface):
    """Words that are not to be said."""

    empty = Attribute("bool: there are none, so that no text need be looked at.")

    def masked(text: str) -> str:
        """The text, which may hold lone surrogates, with a `*` for each character of such a word; the same object where
        there is none."""


class IBus(Interface):
    """The other nodes. On one node there are none, and nothing waits for them."""

    alone = Attribute("bool: there are no other nodes, so that nothing need be made for them.")

    def subscribe(user: UserKey) -> Deferred[None] | None:
        """The user has a first connection here. None, or what fires once messages from other nodes arrive."""

    def unsubscribe(user: UserKey) -> None:
        """The user's last connection here is gone."""

    def publish_to_user(user: UserKey, push: Push, device: int) -> None:
        """For the user's connections on other nodes, but not those with this device number, unless it is 0."""

    def publish_to_room(appid: int, room: int, push: Push, origin: UserKey, device: int) -> None:
        """For a room's connections on other nodes, but not this user's with this device number, unless it is 0."""

    def online_elsewhere(user: UserKey) -> bool:
        """Is the user online, for push purposes, on another node?"""


class IPushQueue(Interface):
    """The way to those who are not online."""

    def push(message: NewMessage, receivers: Sequence[UserKey]) -> None:
        """Hand over a stored message for users who are not online. Returns at once and never raises."""


class IChat(Interface):
    """What a connection does with the frames of its client."""

    def is_pipelined(command: int) -> bool:
        """Does this command store, or nothing at all, so that it need not wait for those that are being stored?"""

    def handle(connection: IConnection, frame: Frame) -> Deferred[None] | None:
        """Carry out a command. None if that is done, or has its place in storage (`IConnection.command_began`), so that
        the next may begin; else a Deferred that fires (with None) when the next may.

        Raises `ProtocolError` where the frame is not a client's to send, or its body too short. The Deferred never
        fails.
        """

    def lost(connection: IConnection) -> None:
        """The connection is gone."""


#: Gives seconds since 1970.
WallClock = Callable[[], float]
