"""By what a message is recognised when it comes again."""

import json
from time import thread_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imserver.chat.resend import MSGID_WINDOW, UUID_WINDOW, resend_of
from imserver.model import Resend, UserKey
from imserver.protocol.commands import Command

ALICE, BOB, CAROL = UserKey(7, 1), UserKey(7, 2), UserKey(7, 3)
CONTENT = b'{"text":"hello","uuid":"7ac4"}'


def of(
    content: bytes = CONTENT,
    sender: UserKey = ALICE,
    receiver: UserKey = BOB,
    command: int = Command.IM,
    device: int = 5,
    msgid: int = 0,
) -> Resend | None:
    return resend_of(sender, receiver, command, device, msgid, content)


def test_windows() -> None:
    """protocol.md, Resending: 24 hours by uuid, 10 minutes without."""
    by_uuid, by_msgid = of(), of(b"hello", msgid=1)
    assert by_uuid is not None
    assert by_msgid is not None
    assert (by_uuid.window, by_msgid.window) == (UUID_WINDOW, MSGID_WINDOW) == (24 * 60 * 60, 10 * 60)


@pytest.mark.parametrize(
    "content",
    [
        CONTENT,
        b' {"uuid" : "7ac4"} ',
        b'{"uuid":"7ac4","text":"another"}',
        b'{"uuid":"\\u0037ac4"}',
        b'{"uuid":"no","uuid":"7ac4"}',
        b'{"uuid":"7ac4","n":' + b"9" * 30000 + b"}",
        b'{"uuid":"7ac4","n":1e999999}',
        b'{"uuid":"7ac4","text":"\xff\xfe"}',
        b'{"uuid":"7ac4"' + b',"uuid":"7ac4"' * 2000 + b"}",
    ],
)
def test_uuid_is_all_that_counts(content: bytes) -> None:
    """The same uuid is the same message, whatever else the object holds, from any device, under any msgid."""
    assert of(content) is not None
    assert of(content) == of()
    assert of(content, device=6, msgid=9) == of()


@pytest.mark.parametrize(
    "other",
    [
        of(b'{"uuid":"7ac5"}'),
        of(b'{"uuid":"7AC4"}'),
        of(receiver=CAROL),
        of(sender=CAROL),
        of(sender=BOB, receiver=ALICE),
        of(command=Command.GROUP_IM),
        of(sender=UserKey(8, 1), receiver=UserKey(8, 2)),
        of(receiver=UserKey(8, 2)),
        of(b'{"uuid":""}', msgid=1),
    ],
)
def test_uuid_counts_for_one_conversation(other: Resend) -> None:
    """Another uuid, receiver, sender, direction, command or app is another message."""
    assert other != of()


def test_without_uuid_all_counts() -> None:
    """Where there is no uuid, content and number and device must be the same."""
    first = of(b"hello", msgid=1)
    assert first is not None
    assert of(b"hello", msgid=1) == first
    others = [
        of(b"hallo", msgid=1),
        of(b"hello", msgid=2),
        of(b"hello", msgid=-1),
        of(b"hello", msgid=1, device=6),
        of(b"hello", msgid=1, device=0),
        of(b"hello", msgid=1, receiver=CAROL),
        of(b"hello", msgid=1, sender=CAROL),
        of(b"hello", msgid=1, command=Command.GROUP_IM),
        of(b"hello", msgid=1, sender=UserKey(8, 1), receiver=UserKey(8, 2)),
    ]
    assert first not in others
    assert len(set(others)) == len(others)


def test_uuid_and_content_do_not_meet() -> None:
    """A content that looks like a uuid is not taken for one."""
    assert of(b"7ac4", msgid=1) != of()


NO_UUID = [
    b"",
    b"hello",
    b'"uuid"',
    b'{"uuid"',
    b'{"uuid":',
    b'{"uuid":""}',
    b'{"uuid":null}',
    b'{"uuid":7}',
    b'{"uuid":["7ac4"]}',
    b'{"uuid":{"uuid":"7ac4"}}',
    b'{"text":{"uuid":"7ac4"}}',
    b'{"text":"\\"uuid\\""}',
    b'["uuid","7ac4"]',
    b'{"uuid":"7ac4"} and more',
    b'\xef\xbb\xbf{"uuid":"7ac4"}',
    b'{"uuid":"\xff\xfe"}',
    b'{"uuid":"\\ud800"}',
    b'{"uuid":"\\udc00"}',
    b'{"uuid":"7ac4","uuid":7}',
    b'{"uuid":' + b"9" * 32000 + b"}",
    b'{"uuid":"7ac4","a":' + b"[" * 16000 + b"]" * 16000 + b"}",
    b'{"uuid":"7ac4","a":' + b"[" * 32000,
    b'{"uuid"' + b':{"uuid"' * 4000,
    b'{"a":' * 6000 + b'"uuid"',
]


@pytest.mark.parametrize("content", NO_UUID)
def test_without_uuid_and_number_it_is_a_message_of_its_own(content: bytes) -> None:
    """What is no object with a string of that name has no uuid. It costs little to see, and is no error."""
    began = thread_time()
    assert of(content) is None
    assert thread_time() - began < 0.05
    numbered = of(content, msgid=1)
    assert numbered is not None
    assert numbered.window == MSGID_WINDOW


@given(content=st.binary(max_size=200) | st.binary(max_size=50).map(lambda junk: b'{"uuid":"a",' + junk + b"}"))
def test_any_bytes(content: bytes) -> None:
    """No content raises, and what is recognised is recognised again."""
    first = of(content, msgid=1)
    assert first is not None
    assert of(content, msgid=1) == first


@given(
    uuid=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=50),
    rest=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=5).filter(lambda name: name != "uuid"),
        st.none()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(st.characters(exclude_categories=["Cs"])),
        max_size=3,
    ),
    as_ascii=st.booleans(),
)
def test_any_json_object(uuid: str, rest: dict[str, object], as_ascii: bool) -> None:
    """However a client's library writes the object, its uuid is found."""
    first = json.dumps({"uuid": uuid, **rest}, ensure_ascii=as_ascii).encode()
    again = json.dumps({**rest, "uuid": uuid}, ensure_ascii=not as_ascii, indent=1).encode()
    recognised = of(first)
    assert recognised is not None
    assert recognised == of(again)
    assert recognised.window == UUID_WINDOW
