"""What push workers get to read."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imserver.model import Conversation, NewMessage, UserKey, group_timeline, user_timeline
from imserver.protocol.commands import Command
from imserver.protocol.errors import ProtocolError
from imserver.protocol.messages import (
    IM,
    Customer,
    CustomerSupport,
    CustomerV2,
    GroupIM,
    GroupNotification,
    Message,
    System,
)
from imserver.push.payload import PUSHES, GroupPush, OfflinePush, PeerPush, SystemPush, json_content, pushes_of

ALICE, BOB, CAROL = UserKey(7, 1), UserKey(7, 2), UserKey(7, 3)
#: Somebody of the customer-service app.
SELLER = UserKey(17, 2)
GROUP = 1000
TEXT = '{"text":"héllo"}'
CONTENT = TEXT.encode()


def stored(message: Message, *users: UserKey) -> NewMessage:
    """A message as delivery hands it over, the sender's timeline first."""
    return NewMessage(message.command, 0, message.encode(2), 1_700_000_000, tuple(map(user_timeline, users)))


def as_queued(push: OfflinePush) -> object:
    """What a worker of the push's queue reads."""
    return json.loads(msgspec.json.encode(push))


# Shapes.


def test_im() -> None:
    """Sender, receiver, content: content is text that holds JSON."""
    (push,) = pushes_of(stored(IM(1, 2, 5, 9, CONTENT), ALICE, BOB), [BOB])
    assert push.queue == "push_queue"
    assert as_queued(push) == {"appid": 7, "sender": 1, "receiver": 2, "content": TEXT}
    assert push.users == (BOB,)
    assert push.conversation == Conversation(is_group=False, other=1)


def test_group_im() -> None:
    """One push for all receivers."""
    (push,) = pushes_of(stored(GroupIM(1, GROUP, 5, 9, CONTENT), ALICE, BOB, CAROL), [BOB, CAROL])
    assert push.queue == "group_push_queue"
    assert as_queued(push) == {"appid": 7, "sender": 1, "receivers": [2, 3], "group_id": GROUP, "content": TEXT}
    assert push.users == (BOB, CAROL)
    assert push.conversation == Conversation(is_group=True, other=GROUP)


def test_message_of_a_super_group() -> None:
    """Its timeline is the group's; that makes no difference."""
    message = GroupIM(1, GROUP, 5, 9, CONTENT)
    in_super_group = NewMessage(Command.GROUP_IM, 0, message.encode(2), 5, (group_timeline(7, GROUP),))
    assert pushes_of(in_super_group, [BOB, CAROL]) == pushes_of(stored(message, ALICE), [BOB, CAROL])


@pytest.mark.parametrize(
    ("message", "sender", "receiver"),
    [
        (CustomerV2(7, 1, 17, 2, 5, CONTENT), ALICE, SELLER),
        (CustomerV2(17, 2, 7, 1, 5, CONTENT), SELLER, ALICE),
        (Customer(7, 1, 99, 2, 5, CONTENT), ALICE, SELLER),
        (CustomerSupport(7, 1, 99, 2, 5, CONTENT), SELLER, ALICE),
    ],
    ids=["v2-ask", "v2-answer", "ask", "answer"],
)
def test_customer_messages(message: Message, sender: UserKey, receiver: UserKey) -> None:
    """All three commands have one shape; the app is the receiver's."""
    (push,) = pushes_of(stored(message, sender, receiver), [receiver])
    assert push.queue == "customer_push_queue_v2"
    assert as_queued(push) == {
        "appid": receiver.appid,
        "sender_appid": sender.appid,
        "sender": sender.uid,
        "receiver_appid": receiver.appid,
        "receiver": receiver.uid,
        "content": TEXT,
    }
    assert push.users == (receiver,)
    assert push.conversation is None  # the sender's uid is somebody else's in the receiver's app


def test_answer_whose_sender_is_not_first() -> None:
    """The seller's app is that of the timeline that is marked as the sender's."""
    answer = CustomerSupport(7, 1, 99, 2, 5, CONTENT)
    timelines = (user_timeline(ALICE), user_timeline(SELLER))
    (push,) = pushes_of(NewMessage(answer.command, 0, answer.encode(2), 5, timelines, own=1), [ALICE])
    queued = as_queued(push)
    assert isinstance(queued, dict)
    assert (queued["sender_appid"], queued["sender"]) == SELLER


def test_system() -> None:
    """A push for each receiver."""
    pushes = pushes_of(stored(System(CONTENT), BOB, CAROL), [BOB, CAROL])
    assert [push.queue for push in pushes] == ["system_push_queue"] * 2
    assert [as_queued(push) for push in pushes] == [
        {"appid": 7, "receiver": 2, "content": TEXT},
        {"appid": 7, "receiver": 3, "content": TEXT},
    ]
    assert [(push.users, push.conversation) for push in pushes] == [((BOB,), None), ((CAROL,), None)]


def test_what_phones_are_not_told_of() -> None:
    """Group notifications make no pushes, nor does a command that is never stored."""
    assert pushes_of(stored(GroupNotification(b'{"disband":{}}'), BOB), [BOB]) == ()
    assert pushes_of(NewMessage(Command.NOTIFICATION, 0, b"{}", 5, ()), [BOB]) == ()
    assert pushes_of(NewMessage(200, 0, b"", 5, ()), [BOB]) == ()


@pytest.mark.parametrize("message", [IM(1, 2, 5, 9, CONTENT), GroupIM(1, 2, 5, 9, CONTENT), System(CONTENT)])
def test_nobody_to_tell(message: Message) -> None:
    """No receivers, no pushes."""
    assert pushes_of(stored(message, ALICE), []) == ()


def test_short_body() -> None:
    """A body that is no message of its command is said to be none."""
    with pytest.raises(ProtocolError):
        pushes_of(NewMessage(Command.IM, 0, b"short", 5, ()), [BOB])


@pytest.mark.parametrize("queue", PUSHES)
def test_pushes_are_read_again(queue: str) -> None:
    """What was written as JSON is the same push when it is read with its queue's struct."""
    messages = [IM(1, 2, 5, 9, CONTENT), GroupIM(1, GROUP, 5, 9, CONTENT), System(CONTENT)]
    messages.append(CustomerV2(7, 1, 17, 2, 5, CONTENT))
    (push,) = [push for message in messages for push in pushes_of(stored(message, ALICE), [BOB]) if push.queue == queue]
    assert msgspec.json.decode(msgspec.json.encode(push), type=PUSHES[queue]) == push


# Without some receivers.


def test_without_receivers_of_a_group() -> None:
    """The others stay, in order; without anybody there is no push."""
    push = GroupPush(appid=7, sender=1, receivers=(2, 3, 4), group_id=GROUP, content="{}")
    left = push.without({CAROL})
    assert left == GroupPush(appid=7, sender=1, receivers=(2, 4), group_id=GROUP, content="{}")
    assert push.without([BOB, CAROL, UserKey(7, 4), UserKey(7, 5)]) is None
    assert push.without(()) == push


def test_without_the_receiver_of_another_app() -> None:
    """Users of other apps with the same uid are somebody else."""
    for push in (
        PeerPush(appid=7, sender=1, receiver=2, content="{}"),
        GroupPush(appid=7, sender=1, receivers=(2,), group_id=GROUP, content="{}"),
        SystemPush(appid=7, receiver=2, content="{}"),
    ):
        assert push.without({UserKey(8, 2), ALICE}) == push
        assert push.without({BOB}) is None


# Contents.


@pytest.mark.parametrize(
    "content",
    [
        "{}",
        '{"text":"a"}',
        ' {"a": [1, {"b": null}]}\n',
        '{"a":"\\ud83d\\ude00 😀"}',
        '{"a":' + "[" * 63 + "]" * 63 + "}",
    ],
)
def test_object_stays_as_it_is(content: str) -> None:
    """To the letter, whatever its spaces."""
    assert json_content(content.encode()) == content


@pytest.mark.parametrize(
    "content",
    [
        "",
        "hello",
        '"hello"',
        "[]",
        "7",
        "null",
        '{"text":"a"',
        "{} {}",
        "{'a':1}",
        '\ufeff{"a":1}',
        '{"a":"\x01"}',
        # What some parsers take and others refuse.
        '{"a":NaN}',
        '{"a":-Infinity}',
        '{"a":1e999}',
        '{"a":"\\ud800"}',
        '{"\\udc00":1}',
        pytest.param('{"a":' + "1" * 5000 + "}", id="digits"),
        pytest.param('{"a":' + "[" * 64 + "]" * 64 + "}", id="deep"),
        pytest.param('{"a":' * 16_000 + "1" + "}" * 16_000, id="very deep"),
        pytest.param("[" * 32_000, id="deep and open"),
    ],
)
def test_anything_else_becomes_text(content: str) -> None:
    """It is wrapped, whole."""
    assert json.loads(json_content(content.encode())) == {"text": content}


def test_bytes_that_are_no_text() -> None:
    """Invalid UTF-8 is replaced, in an object and elsewhere."""
    assert json.loads(json_content(b"a\xffb")) == {"text": "a\ufffdb"}
    assert json.loads(json_content(b'{"a":"\xc3("}')) == {"a": "\ufffd("}
    assert json.loads(json_content('{"a":"\ud800"}'.encode("utf-8", "surrogatepass"))) == {"a": "\ufffd" * 3}


@given(
    st.one_of(
        st.binary(),
        st.text(alphabet='{}[]",:\\u0dD8eE19-. \n', max_size=40).map(str.encode),
        st.recursive(
            st.none() | st.floats() | st.integers() | st.text(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        ).map(lambda value: json.dumps(value).encode()),
    )
)
def test_workers_always_find_an_object(content: bytes) -> None:
    """Whatever was sent: strict JSON of an object, all of it characters. Their own parser is Python's."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    found = json.loads(json_content(content), parse_constant=refuse)
    assert isinstance(found, dict)
    json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
