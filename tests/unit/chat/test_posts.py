"""What back ends post: the same messages, by the same way."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from zope.interface.verify import verifyObject

from imserver.interfaces import Invalid, IPosts, NotFound, Unavailable
from imserver.model import UserKey, group_timeline, user_timeline
from imserver.protocol.commands import AckStatus, Command, Flag, Platform
from imserver.protocol.frame import MAX_BODY
from imserver.protocol.messages import (
    IM,
    RT,
    Ack,
    CustomerV2,
    EnterRoom,
    GroupIM,
    GroupNotification,
    Metadata,
    Notification,
    RoomIM,
    SyncGroupNotify,
    SyncNotify,
    System,
)
from tests.fakes.chat import Published, PublishedToRoom, Said
from tests.unit.chat.world import APP, NOW, World, acked, plain, pushed, pushed_in_group

ALICE, BOB, CAROL, DAVE = 1, 2, 3, 4
KEFU = 17
GROUP, SUPER, EMPTY, FOREIGN, NOWHERE = 50, 60, 70, 80, 99
UUID = b'{"text":"hello","uuid":"7ac4"}'


@pytest.fixture
def world() -> World:
    world = World(friends=True, blacklist=True, words=["bad"], kefu_appid=KEFU)
    world.groups.add_group(APP, GROUP, (ALICE, BOB, CAROL))
    world.groups.add_group(APP, SUPER, (ALICE, BOB, CAROL), is_super=True)
    world.groups.add_group(APP, EMPTY, ())
    world.groups.add_group(APP, EMPTY + 1, (), is_super=True)
    world.groups.add_group(8, FOREIGN, (ALICE, BOB))
    return world


def done(posted: Deferred[None]) -> None:
    """It has fired with None."""
    results: list[object] = []
    posted.addCallback(results.append)
    assert results == [None]


def failure(post: Callable[[], Deferred[None] | None]) -> type[Exception]:
    """With what the post fails, whether it raises or its Deferred fails."""
    try:
        posted = post()
    except Invalid as error:
        return type(error)
    assert isinstance(posted, Deferred)
    failures: list[Any] = []
    posted.addErrback(failures.append)
    assert len(failures) == 1
    return type(failures[0].value)


def test_provides_its_interface(world: World) -> None:
    """What the HTTP APIs are given is an IPosts."""
    assert verifyObject(IPosts, world.posts)


# IM


def test_peer(world: World) -> None:
    """As if the sender had sent it from no device: in both timelines, pushed to all of both. Friends and blacklists are
    not asked about, nor whether the sender may speak."""
    world.settings(ALICE, forbidden=True)
    world.relations.set_blocked(APP, BOB, ALICE, True)
    phone, tab = world.connect(ALICE, b"phone"), world.connect(ALICE, platform=Platform.WEB)
    bob = world.connect(BOB)
    done(world.posts.peer(APP, ALICE, BOB, b"hello"))
    heard = IM(ALICE, BOB, NOW, 0, b"hello")
    assert phone.units == tab.units == bob.units == [pushed(2, heard)]
    assert world.stored(ALICE) == world.stored(BOB) == [heard]
    assert {entry.device for entries in world.timelines.entries.values() for entry in entries} == {0}


def test_peer_of_nobody(world: World) -> None:
    """Sender 0 is the app: it stands in the receiver's timeline alone, and the receiver is told, wherever they are."""
    done(world.posts.peer(APP, 0, BOB, b"hello"))
    heard = IM(0, BOB, NOW, 0, b"hello")
    assert world.timelines.entries.keys() == {user_timeline(UserKey(APP, BOB))}
    assert world.stored(BOB) == [heard]
    ((message, receivers),) = world.push_queue.pushed
    assert (message.sender, receivers) == (None, [UserKey(APP, BOB)])


def test_peer_to_oneself(world: World) -> None:
    """It is stored once."""
    done(world.posts.peer(APP, ALICE, ALICE, b"note"))
    assert world.stored(ALICE) == [IM(ALICE, ALICE, NOW, 0, b"note")]


def test_an_im_that_is_posted_twice(world: World) -> None:
    """A back end that got no answer posts again, as a client sends again: the same uuid is one message, also where the
    sender's client sent the first. Without a uuid it is two."""
    alice, bob = world.connect(ALICE), world.connect(BOB)
    for _ in range(2):
        done(world.posts.peer(APP, ALICE, BOB, UUID))
    assert bob.units == [pushed(2, IM(ALICE, BOB, NOW, 0, UUID))]
    world.relations.set_friends(APP, ALICE, BOB, True)
    world.say(alice, IM(ALICE, BOB, 0, 0, UUID), seq=7)
    assert alice.units[-1] == acked(2, 7)
    for _ in range(2):
        done(world.posts.peer(APP, ALICE, BOB, b"hello"))
    assert len(world.stored(BOB)) == 3


# GROUP_IM


@pytest.mark.parametrize("sender", [0, ALICE, DAVE])
def test_group(world: World, sender: int) -> None:
    """All members get it, whoever sends it: the sender need not be one, and is in no case rung."""
    alice, bob, dave = world.connect(ALICE), world.connect(BOB), world.connect(DAVE)
    done(world.posts.group(APP, sender, GROUP, b"hello"))
    heard = GroupIM(sender, GROUP, NOW, 0, b"hello")
    assert alice.units == bob.units == [pushed(2, heard)]
    assert dave.units == []
    assert [world.stored(uid) for uid in (ALICE, BOB, CAROL, DAVE)] == [[heard], [heard], [heard], []]
    assert [receivers for _, receivers in world.push_queue.pushed] == [[UserKey(APP, CAROL)]]


@pytest.mark.parametrize("sender", [0, BOB, DAVE])
def test_super_group(world: World, sender: int) -> None:
    """One entry, in the group's timeline."""
    alice = world.connect(ALICE)
    done(world.posts.group(APP, sender, SUPER, b"hello"))
    heard = GroupIM(sender, SUPER, NOW, 0, b"hello")
    assert alice.units == [pushed_in_group(SUPER, 2, heard)]
    assert world.stored_in_group(SUPER) == [heard]
    assert world.timelines.entries.keys() == {group_timeline(APP, SUPER)}


def test_the_muted_in_a_group(world: World) -> None:
    """A back end may say what it likes."""
    world.groups.change_member(APP, GROUP, ALICE, muted=True)
    done(world.posts.group(APP, ALICE, GROUP, b"hello"))
    assert len(world.stored(BOB)) == 1


@pytest.mark.parametrize("group", [NOWHERE, FOREIGN])
def test_no_such_group(world: World, group: int) -> None:
    """Nobody is told of success where there is no such group in this app."""
    assert failure(lambda: world.posts.group(APP, ALICE, group, b"hello")) is NotFound
    assert world.timelines.entries == {}


@pytest.mark.parametrize("content", [b"hello", UUID])
def test_a_group_without_members(world: World, content: bytes) -> None:
    """There is nobody to tell, and no timeline for it to stand in. A super group has one of its own."""
    assert failure(lambda: world.posts.group(APP, ALICE, EMPTY, content)) is Invalid
    assert world.timelines.messages == []
    done(world.posts.group(APP, ALICE, EMPTY + 1, content))
    assert len(world.stored_in_group(EMPTY + 1)) == 1


@pytest.mark.parametrize("sender", [0, 2, 4, 6, 8])
def test_the_senders_place_among_the_members(world: World, sender: int) -> None:
    """It is that of their timeline, if they have one; else it is none in particular."""
    world.groups.add_group(APP, NOWHERE, (2, 6))
    done(world.posts.group(APP, sender, NOWHERE, UUID))
    (message,) = world.timelines.messages
    assert message.own == (1 if sender == 6 else 0)
    done(world.posts.group(APP, sender, NOWHERE, UUID))
    assert world.metrics.resends.values == {"": 1}


@pytest.mark.parametrize("group", [GROUP, SUPER])
def test_a_group_message_that_is_posted_twice(world: World, group: int) -> None:
    """The same uuid is one message."""
    for sender in (ALICE, ALICE, BOB):
        done(world.posts.group(APP, sender, group, UUID))
    assert world.metrics.resends.values == {"": 1}


def test_order_in_a_group(world: World) -> None:
    """What is posted one after the other stands so in every timeline, also where the group has to be found first."""
    bob = world.connect(BOB)
    world.groups.hold()
    posted = [world.posts.group(APP, 0, group, b"%d" % n) for n in range(5) for group in (GROUP, SUPER)]
    assert bob.units == []
    world.groups.release()
    for each in posted:
        done(each)
    for group in (GROUP, SUPER):
        messages = [said.message for said in bob.said if isinstance(said.message, GroupIM)]
        assert [message.content for message in messages if message.receiver == group] == [b"%d" % n for n in range(5)]


# GROUP_NOTIFICATION


def test_group_notification(world: World) -> None:
    """In every member's timeline, and in those of `members` besides; told of by SYNC_NOTIFY alone; nobody is rung."""
    alice, dave = world.connect(ALICE), world.connect(DAVE)
    done(world.posts.group_notification(APP, GROUP, b"{}", [DAVE, BOB, DAVE]))
    assert alice.units == dave.units == [plain([SyncNotify(2)])]
    for uid in (ALICE, BOB, CAROL, DAVE):
        assert world.stored(uid) == [GroupNotification(b"{}")]
    assert world.push_queue.pushed == []


def test_group_notification_of_a_super_group(world: World) -> None:
    """In the group's timeline; `members` besides its own get it in theirs; all or none of that is stored."""
    alice, dave = world.connect(ALICE), world.connect(DAVE)
    done(world.posts.group_notification(APP, SUPER, b"{}", [DAVE, BOB]))
    assert alice.units == [plain([SyncGroupNotify(SUPER, 2)])]
    assert dave.units == [plain([SyncNotify(2)])]
    assert world.stored_in_group(SUPER) == world.stored(DAVE) == [GroupNotification(b"{}")]
    assert (world.stored(BOB), len(world.timelines.messages), world.push_queue.pushed) == ([], 1, [])
    assert world.bus.published == [
        Published(UserKey(APP, ALICE), plain([SyncGroupNotify(SUPER, 2)]), 0),
        Published(UserKey(APP, BOB), plain([SyncGroupNotify(SUPER, 2)]), 0),
        Published(UserKey(APP, CAROL), plain([SyncGroupNotify(SUPER, 2)]), 0),
        Published(UserKey(APP, DAVE), plain([SyncNotify(2)]), 0),
    ]


@pytest.mark.parametrize("group", [NOWHERE, FOREIGN, EMPTY, EMPTY + 1])
def test_group_notification_of_no_group(world: World, group: int) -> None:
    """Only those who are named get it; without any there is nobody to tell."""
    done(world.posts.group_notification(APP, group, b"{}", [DAVE, ALICE]))
    for uid in (ALICE, DAVE):
        assert world.stored(uid) == [GroupNotification(b"{}")]
    before = len(world.timelines.messages)
    assert failure(lambda: world.posts.group_notification(APP, group, b"{}", [])) is Invalid
    assert len(world.timelines.messages) == before


# SYSTEM


def test_system(world: World) -> None:
    """To each of the receivers, once and in one transaction; by SYNC_NOTIFY; who is not online is rung."""
    alice, bob = world.connect(ALICE), world.connect(BOB)
    done(world.posts.system(APP, [CAROL, ALICE, BOB, ALICE], b"maintenance"))
    assert alice.units == bob.units == [plain([SyncNotify(2)])]
    for uid in (ALICE, BOB, CAROL):
        assert world.stored(uid) == [System(b"maintenance")]
    assert len(world.timelines.messages) == 1
    ((message, receivers),) = world.push_queue.pushed
    assert (message.command, receivers) == (Command.SYSTEM, [UserKey(APP, CAROL)])


def test_system_to_ten_thousand(world: World) -> None:
    """One message may name so many, and no more: they are one transaction."""
    done(world.posts.system(APP, range(1, 10_001), b"hello"))
    assert len(world.timelines.entries) == 10_000
    for uids in (list(range(1, 10_002)), []):
        assert failure(partial(world.posts.system, APP, uids, b"hello")) is Invalid
    assert len(world.timelines.messages) == 1


# CUSTOMER_V2


@pytest.mark.parametrize(
    ("sender", "receiver"),
    [
        (UserKey(APP, ALICE), UserKey(KEFU, BOB)),
        (UserKey(KEFU, BOB), UserKey(APP, ALICE)),
        (UserKey(KEFU, BOB), UserKey(KEFU, ALICE)),
    ],
)
def test_customer(world: World, sender: UserKey, receiver: UserKey) -> None:
    """In both timelines, each in its own app."""
    ends = [world.connect(user.uid, appid=user.appid) for user in (sender, receiver)]
    done(world.posts.customer(sender, receiver, b"hello"))
    heard = CustomerV2(*sender, *receiver, NOW, b"hello")
    for end in ends:
        assert end.units == [pushed(2, heard)]
    done(world.posts.customer(sender, receiver, UUID))
    done(world.posts.customer(sender, receiver, UUID))
    assert len(world.stored(receiver.uid, receiver.appid)) == 2


def test_customer_between_other_apps(world: World) -> None:
    """One end must be of the customer-service app; where there is none, nobody is."""
    without = World()
    for posts, sender, receiver in (
        (world.posts, UserKey(APP, ALICE), UserKey(8, BOB)),
        (world.posts, UserKey(APP, ALICE), UserKey(APP, BOB)),
        (without.posts, UserKey(APP, ALICE), UserKey(KEFU, BOB)),
        (without.posts, UserKey(APP, ALICE), UserKey(0, BOB)),
    ):
        assert failure(partial(posts.customer, sender, receiver, b"hello")) is Invalid
    assert world.timelines.entries == without.timelines.entries == {}


# Not stored


def test_notification(world: World) -> None:
    """To all connections of the user, here and elsewhere; not stored."""
    bobs = [world.connect(BOB, b"phone"), world.connect(BOB, platform=Platform.WEB)]
    world.posts.notification(APP, BOB, b"hello")
    for bob in bobs:
        assert bob.units == [plain([Notification(b"hello")])]
    assert world.bus.published == [Published(UserKey(APP, BOB), plain([Notification(b"hello")]), 0)]
    assert (world.timelines.entries, world.push_queue.pushed) == ({}, [])


@pytest.mark.parametrize("sender", [0, ALICE])
def test_realtime(world: World, sender: int) -> None:
    """The same; nobody's friend need be asked."""
    alice, bob = world.connect(ALICE), world.connect(BOB)
    world.posts.realtime(APP, sender, BOB, b"typing")
    assert bob.units == [plain([RT(sender, BOB, b"typing")])]
    assert (alice.units, world.timelines.entries, world.push_queue.pushed) == ([], {}, [])


@pytest.mark.parametrize("sender", [0, ALICE])
def test_room(world: World, sender: int) -> None:
    """To all who are in the room, the sender's own connections too."""
    alice, bob, stranger = world.connect(ALICE, b"phone"), world.connect(BOB), world.connect(BOB, appid=8)
    for connection in (alice, bob, stranger):
        world.say(connection, EnterRoom(9))
    world.posts.room(APP, sender, 9, b"hello")
    said = plain([RoomIM(sender, 9, b"hello")])
    assert alice.units == bob.units == [said]
    assert stranger.units == []
    assert world.bus.published_to_rooms == [PublishedToRoom(APP, 9, said, UserKey(APP, sender), 0)]


# What holds for all of them

#: Each with a content, and the bytes of its body before that.
POSTS: dict[str, tuple[Callable[[World, bytes], Deferred[None] | None], int]] = {
    "peer": (lambda world, content: world.posts.peer(APP, ALICE, BOB, content), 24),
    "group": (lambda world, content: world.posts.group(APP, ALICE, GROUP, content), 24),
    "super group": (lambda world, content: world.posts.group(APP, ALICE, SUPER, content), 24),
    "group notification": (lambda world, content: world.posts.group_notification(APP, GROUP, content, ()), 0),
    "super group notification": (lambda world, content: world.posts.group_notification(APP, SUPER, content, ()), 0),
    "system": (lambda world, content: world.posts.system(APP, [BOB], content), 0),
    "customer": (lambda world, content: world.posts.customer(UserKey(KEFU, ALICE), UserKey(APP, BOB), content), 36),
    "notification": (lambda world, content: world.posts.notification(APP, BOB, content), 0),
    "realtime": (lambda world, content: world.posts.realtime(APP, ALICE, BOB, content), 16),
    "room": (lambda world, content: world.posts.room(APP, ALICE, 9, content), 16),
}
STORED = [name for name in POSTS if name not in ("notification", "realtime", "room")]


@pytest.mark.parametrize("name", POSTS)
def test_the_largest_content(world: World, name: str) -> None:
    """A body has 32,767 bytes at most, as clients take no more: one byte more, and nothing is done."""
    post, head = POSTS[name]
    bob = world.connect(BOB)
    world.say(bob, EnterRoom(9))
    assert failure(lambda: post(world, b"x" * (MAX_BODY - head + 1))) is Invalid
    assert (bob.units, world.timelines.entries) == ([], {})
    posted = post(world, b"x" * (MAX_BODY - head))
    if posted is not None:
        done(posted)
    sizes = [len(entry.body) for entries in world.timelines.entries.values() for entry in entries]
    sizes += [len(frame.bodies[2]) for push in bob.pushes for frame in push.frames]
    assert max(sizes) == MAX_BODY


@pytest.mark.parametrize("name", POSTS)
def test_words_that_are_not_to_be_said(world: World, name: str) -> None:
    """They are masked in all that is posted."""
    post, _ = POSTS[name]
    bob = world.connect(BOB)
    world.say(bob, EnterRoom(9))
    post(world, b'{"text":"so bad"}')
    contents = {message.body[-17:] for message in world.timelines.messages}
    contents |= {said.message.content for said in bob.said if hasattr(said.message, "content")}
    assert contents == {b'{"text":"so ***"}'}


@pytest.mark.parametrize("name", POSTS)
def test_words_are_not_looked_for_in_what_is_too_long(world: World, name: str) -> None:
    """That costs time for each character, and HTTP takes more of them than a message."""
    post, _ = POSTS[name]
    assert failure(lambda: post(world, b'{"text":"bad"}'.ljust(MAX_BODY + 1))) is Invalid
    assert world.words.looked_at == []


@pytest.mark.parametrize("name", STORED)
def test_on_disk(world: World, name: str) -> None:
    """The Deferred fires once the message is on disk; until then nobody hears of it."""
    post, _ = POSTS[name]
    bob = world.connect(BOB)
    world.timelines.hold()
    posted = post(world, b"hello")
    assert posted is not None
    assert (posted.called, bob.units) == (False, [])
    world.timelines.release()
    done(posted)
    assert len(bob.units) == 1


@pytest.mark.parametrize("name", STORED)
@pytest.mark.parametrize("how", ["failing", "full"])
def test_not_stored(world: World, name: str, how: str) -> None:
    """The back end is told so, and nobody hears of it."""
    post, _ = POSTS[name]
    bob = world.connect(BOB)
    if how == "full":
        world.timelines.full = True
    else:
        world.timelines.failing = Unavailable("as the test wants it")
    assert failure(lambda: post(world, b"hello")) is Unavailable
    assert (bob.units, world.bus.published, world.push_queue.pushed) == ([], [], [])


@pytest.mark.parametrize("name", ["group", "super group", "group notification", "super group notification"])
def test_groups_that_cannot_be_found_now(world: World, name: str) -> None:
    """That is not the same as no such group."""
    post, _ = POSTS[name]
    world.groups.unavailable = True
    assert failure(lambda: post(world, b"hello")) is Unavailable
    assert world.timelines.entries == {}


BAD = (0, -1, 2**53, 2**63)


@pytest.mark.parametrize("bad", BAD)
def test_ids_out_of_range(world: World, bad: int) -> None:
    """Apps, users, groups and rooms have numbers from 1 to 2^53 - 1; of senders 0 is allowed, too."""
    posts, here = world.posts, UserKey(KEFU, 1)
    refused: list[Callable[[], Deferred[None] | None]] = [
        lambda: posts.peer(bad, 1, 2, b""),
        lambda: posts.peer(APP, 1, bad, b""),
        lambda: posts.group(bad, 1, GROUP, b""),
        lambda: posts.group(APP, 1, bad, b""),
        lambda: posts.group_notification(bad, GROUP, b"", [1]),
        lambda: posts.group_notification(APP, bad, b"", [1]),
        lambda: posts.group_notification(APP, GROUP, b"", [1, bad]),
        lambda: posts.system(bad, [1], b""),
        lambda: posts.system(APP, [1, bad], b""),
        lambda: posts.customer(UserKey(bad, 1), here, b""),
        lambda: posts.customer(UserKey(APP, bad), here, b""),
        lambda: posts.customer(here, UserKey(bad, 1), b""),
        lambda: posts.customer(here, UserKey(APP, bad), b""),
        lambda: posts.notification(bad, 1, b""),
        lambda: posts.notification(APP, bad, b""),
        lambda: posts.realtime(bad, 1, 2, b""),
        lambda: posts.realtime(APP, 1, bad, b""),
        lambda: posts.room(bad, 1, 9, b""),
        lambda: posts.room(APP, 1, bad, b""),
    ]
    if bad:
        refused += [
            lambda: posts.peer(APP, bad, 2, b""),
            lambda: posts.group(APP, bad, GROUP, b""),
            lambda: posts.realtime(APP, bad, 2, b""),
            lambda: posts.room(APP, bad, 9, b""),
        ]
    assert {failure(post) for post in refused} == {Invalid}
    assert (world.timelines.entries, world.bus.published, world.bus.published_to_rooms) == ({}, [], [])


def test_clients_and_back_ends_in_one_order(world: World) -> None:
    """They stand in one timeline as they came, and METADATA rises on every connection."""
    alice, bob = world.connect(ALICE), world.connect(BOB)
    world.timelines.hold()
    for n in range(4):
        world.say(alice, GroupIM(ALICE, GROUP, 0, 0, b"client %d" % n), seq=n)
        world.posts.group(APP, ALICE, GROUP, b"back end %d" % n)
        world.posts.peer(APP, ALICE, BOB, b"peer %d" % n)
    world.timelines.release()
    for connection in (alice, bob):
        keys = [said.message.key for said in connection.said if isinstance(said.message, Metadata)]
        assert keys == list(range(2, 14))
    assert [said.message for said in alice.said if isinstance(said.message, Ack)] == [
        Ack(n, AckStatus.SUCCESS) for n in range(4)
    ]
    assert {said.flag for said in bob.said if isinstance(said.message, GroupIM)} == {Flag.PUSH}
    assert Said(SyncNotify(13)) in bob.said
