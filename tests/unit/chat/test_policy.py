"""Who may send what to whom, and what becomes of words that are not to be said."""

import json
import re
import time
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from imserver.chat.policy import Policy
from imserver.interfaces import IWords, Unavailable
from imserver.model import Group, Member, Relation, SignIn, UserKey
from imserver.protocol.commands import AckStatus, Flag, Platform
from imserver.protocol.frame import MAX_BODY
from tests.fakes.chat import FakeConnection
from tests.fakes.relations import FakeRelations
from tests.fakes.words import FakeWords

APP = 7
ALICE, BOB, CAROL = 1, 2, 3
GROUP = Group(APP, 9, ALICE, "", "", False, {ALICE: Member(0), BOB: Member(0, muted=True)})


def connection(uid: int = ALICE, forbidden: bool = False, appid: int = APP) -> FakeConnection:
    connection = FakeConnection()
    connection.signed_in(SignIn(UserKey(appid, uid), 0, forbidden=forbidden), Platform.WEB, b"", 2)
    return connection


def answer(asked: AckStatus | Deferred[AckStatus]) -> AckStatus:
    """What the policy says after the database has answered."""
    assert isinstance(asked, Deferred)
    answers: list[AckStatus] = []
    asked.addCallback(answers.append)
    assert len(answers) == 1
    return answers[0]


@pytest.fixture
def relations() -> FakeRelations:
    return FakeRelations()


# Peers.


@pytest.mark.parametrize("policy", [Policy(), Policy(FakeRelations())], ids=["by default", "relations unused"])
def test_all_may_send_to_all(policy: Policy) -> None:
    """Unless it is configured otherwise, only the forbidden may not; the answer is there at once."""
    assert policy.peer(connection(), BOB) is AckStatus.SUCCESS
    assert policy.peer(connection(forbidden=True), BOB) is AckStatus.MUTED


@pytest.mark.parametrize("forbidden", [False, True])
def test_to_oneself(relations: FakeRelations, forbidden: bool) -> None:
    """Always; nobody is asked."""
    relations.unavailable = True
    for policy in (Policy(), Policy(relations, friends=True, blacklist=True)):
        assert policy.peer(connection(forbidden=forbidden), ALICE) is AckStatus.SUCCESS


def expected(relation: Relation, friends: bool, blacklist: bool) -> AckStatus:
    """protocol.md, Commands."""
    if friends and not relation.friend:
        return AckStatus.NOT_MY_FRIEND
    if friends and not relation.friend_of:
        return AckStatus.NOT_YOUR_FRIEND
    return AckStatus.IN_YOUR_BLACKLIST if blacklist and relation.blocked else AckStatus.SUCCESS


@pytest.mark.parametrize(("friends", "blacklist"), [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("friend", [False, True])
@pytest.mark.parametrize("friend_of", [False, True])
@pytest.mark.parametrize("blocked", [False, True])
def test_relations(
    relations: FakeRelations, friends: bool, blacklist: bool, friend: bool, friend_of: bool, blocked: bool
) -> None:
    """Each has its status, and matters only where it is configured to."""
    relations.friends = {row for row, on in (((APP, ALICE, BOB), friend), ((APP, BOB, ALICE), friend_of)) if on}
    # Whom Alice has blocked is her business.
    relations.blacklist = {(APP, ALICE, BOB)} | ({(APP, BOB, ALICE)} if blocked else set())
    policy = Policy(relations, friends=friends, blacklist=blacklist)
    status = answer(policy.peer(connection(), BOB))
    assert status is expected(Relation(friend, friend_of, blocked), friends, blacklist)


def test_statuses_are_those_of_the_protocol(relations: FakeRelations) -> None:
    """In numbers: 1 and 2 for friends, in this order, and 3 for the blacklist."""
    policy = Policy(relations, friends=True, blacklist=True)
    relations.blacklist = {(APP, BOB, ALICE)}
    assert answer(policy.peer(connection(), BOB)) == 1
    relations.friends = {(APP, ALICE, BOB)}
    assert answer(policy.peer(connection(), BOB)) == 2
    relations.friends |= {(APP, BOB, ALICE)}
    assert answer(policy.peer(connection(), BOB)) == 3
    relations.blacklist = set()
    assert answer(policy.peer(connection(), BOB)) == 0


def test_relations_of_another_app(relations: FakeRelations) -> None:
    """Users of another app with the same uids are others."""
    policy = Policy(relations, friends=True, blacklist=True)
    relations.friends = {(APP, ALICE, BOB), (APP, BOB, ALICE)}
    assert answer(policy.peer(connection(), BOB)) is AckStatus.SUCCESS
    assert answer(policy.peer(connection(appid=8), BOB)) is AckStatus.NOT_MY_FRIEND


def test_the_forbidden_have_no_friends(relations: FakeRelations) -> None:
    """What is known at once is not looked up."""
    relations.unavailable = True
    assert Policy(relations, friends=True).peer(connection(forbidden=True), BOB) is AckStatus.MUTED


def test_database_that_fails(relations: FakeRelations) -> None:
    """It says neither yes nor no."""
    relations.unavailable = True
    failures: list[Failure] = []
    asked = Policy(relations, blacklist=True).peer(connection(), BOB)
    assert isinstance(asked, Deferred)
    asked.addErrback(failures.append)
    assert [failure.type for failure in failures] == [Unavailable]


def test_relations_as_they_are_when_asked(relations: FakeRelations) -> None:
    """Nothing is kept: who has just been blocked is."""
    policy = Policy(relations, blacklist=True)
    assert answer(policy.peer(connection(), BOB)) is AckStatus.SUCCESS
    relations.set_blocked(APP, BOB, ALICE, True)
    assert answer(policy.peer(connection(), BOB)) is AckStatus.IN_YOUR_BLACKLIST


@pytest.mark.parametrize(("friends", "blacklist"), [(True, False), (False, True)])
def test_no_relations_to_ask(friends: bool, blacklist: bool) -> None:
    """A mistake in the wiring lets nobody pass."""
    with pytest.raises(ValueError, match="need relations"):
        Policy(friends=friends, blacklist=blacklist)


# Groups, rooms, customers.


@pytest.mark.parametrize(
    ("sender", "forbidden", "status"),
    [
        (ALICE, False, AckStatus.SUCCESS),
        (ALICE, True, AckStatus.MUTED),
        (BOB, False, AckStatus.MUTED),
        (BOB, True, AckStatus.MUTED),
        (CAROL, False, AckStatus.NOT_GROUP_MEMBER),
        (CAROL, True, AckStatus.NOT_GROUP_MEMBER),
    ],
)
def test_group(sender: int, forbidden: bool, status: AckStatus) -> None:
    """Members speak who are neither muted there nor forbidden to speak anywhere."""
    assert Policy().group(sender, forbidden, GROUP) is status


@pytest.mark.parametrize(("forbidden", "status"), [(False, AckStatus.SUCCESS), (True, AckStatus.MUTED)])
def test_room_and_customer_service(relations: FakeRelations, forbidden: bool, status: AckStatus) -> None:
    """The forbidden are silent there, too; friends and blacklists do not matter."""
    policy = Policy(relations, friends=True, blacklist=True)
    assert policy.room(connection(forbidden=forbidden), 5) is status
    assert policy.customer(connection(forbidden=forbidden)) is status


# Words.

WORDS = ["bad", "坏话", "😀", "é"]


def filtered(content: bytes, flag: int = 0, words: Sequence[str] = WORDS) -> bytes:
    """The content as it is sent on; looked at twice, that changes nothing more."""
    policy = Policy(words=FakeWords(words))
    masked = policy.filtered(content, flag)
    assert policy.filtered(masked, flag) == masked
    assert len(masked) <= len(content)
    return masked


def test_no_words() -> None:
    """Nothing is looked at."""
    words = FakeWords([])
    content = b'{"text": "bad"}'
    for policy in (Policy(), Policy(words=words)):
        assert policy.filtered(content, Flag.TEXT) is content
    assert words.looked_at == []


#: More digits than Python takes for a number.
MANY = b"1" * 5000


@pytest.mark.parametrize(
    ("content", "masked"),
    [
        (b'{"text":"bad"}', b'{"text":"***"}'),
        (b' { "a" : "1" ,\n"text"\t:\r\n"bad" , "b" : [ ] } ', b' { "a" : "1" ,\n"text"\t:\r\n"***" , "b" : [ ] } '),
        # Of other members, of objects inside, and of texts that look like JSON, nothing.
        (b'{"bad":"bad","text":"bad","b":{"text":"bad"}}', b'{"bad":"bad","text":"***","b":{"text":"bad"}}'),
        (b'{"b":[{"text":"bad"},"text"],"text":"bad"}', b'{"b":[{"text":"bad"},"text"],"text":"***"}'),
        (b'{"b":"{\\"text\\":\\"bad\\"}","text":"bad"}', b'{"b":"{\\"text\\":\\"bad\\"}","text":"***"}'),
        (b'{"b\\"text":"bad","text":"bad"}', b'{"b\\"text":"bad","text":"***"}'),
        (b'{"Text":"bad","text2":"bad","atext":"bad"}', b'{"Text":"bad","text2":"bad","atext":"bad"}'),
        (b'{"type":"text","text":"bad"}', b'{"type":"text","text":"***"}'),
        # Which of two a parser takes, nobody knows.
        (b'{"text":"bad","text":"bad","a":1,"text":"good"}', b'{"text":"***","text":"***","a":1,"text":"good"}'),
        # The name, and the words, written with escapes.
        (b'{"\\u0074ext":"bad","te\\u0078t":"bad"}', b'{"\\u0074ext":"***","te\\u0078t":"***"}'),
        (b'{"\\u0074\\u0065\\u0078\\u0074":"bad"}', b'{"\\u0074\\u0065\\u0078\\u0074":"***"}'),
        (b'{"text":"b\\u0061d \\u574F\\u8bdd"}', b'{"text":"*** **"}'),
        (b'{"text":"\\ud83d\\ude00\\uD83D\\uDE00\\u00e9"}', b'{"text":"***"}'),
        # What is not masked stays as it was written.
        (b'{"text":"\\u4f60\\/\\n\\"bad\\" \\\\"}', b'{"text":"\\u4f60\\/\\n\\"***\\" \\\\"}'),
        ('{"text":"你 坏话 bäd é"}'.encode(), '{"text":"你 ** bäd *"}'.encode()),
        # Half characters, which JavaScript takes.
        (b'{"text":"\\ud83d bad \\ude00"}', b'{"text":"\\ud83d *** \\ude00"}'),
        (b'{"text":"\\ud83d\\ud83d\\ude00"}', b'{"text":"\\ud83d*"}'),
        (b'{"a":"\\ud83d","b":{"text":"bad"},"text":"bad"}', b'{"a":"\\ud83d","b":{"text":"bad"},"text":"***"}'),
        # Bytes that are not UTF-8, which clients show as U+FFFD.
        (b'{"a":{"text":"bad\xc3"},"text":"\xff bad \x80"}', b'{"a":{"text":"bad\xc3"},"text":"\xff *** \x80"}'),
        (b'{"text":"\\udcff\xff bad"}', b'{"text":"\\udcff\xff ***"}'),
        # A line within a string, which is not JSON, and which Android takes.
        (b'{"text":"bad\nbad","b":{"text":"bad"}}', b'{"text":"***\n***","b":{"text":"bad"}}'),
        # Numbers that cannot be read.
        (b'{"a":{"text":"bad"},"text":"bad","b":%s}' % MANY, b'{"a":{"text":"bad"},"text":"***","b":%s}' % MANY),
        (b'{"a":{"text":"bad","b":1e999},"text":"bad"}', b'{"a":{"text":"bad","b":1e999},"text":"***"}'),
    ],
)  # fmt: skip
def test_text_of_json(content: bytes, masked: bytes) -> None:
    """Words in it are masked, and all other bytes stay."""
    assert filtered(content) == masked


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"bad",
        b'"bad"',
        b"1",
        b"null",
        b'["text","bad"]',
        b'[{"text":"bad"}]',
        b'["text, number 0",{"text":"bad"}]',
        b"{}",
        b'{"bad":"bad"}',
        b'{"text":"good"}',
        b'{"text":"\\u4f60\\ud83d"}',
        b'{"text":""}',
        b'{"text":["bad"]}',
        b'{"text":{"text":"bad"}}',
        b'{"text":null}',
        b'{"text":1}',
        b'{"a":{"text":"bad"}}',
        b'"text":"bad"',
        b'he said "text": "bad"',
        b'[{"text":"bad"}',
        b'{"text":"bad',
        b'{"text":"b\\ad bad"}',
        b'{"text":"\\u12 bad"}',
        b'{"text"',
        b'{"text":',
        b"\xff\xfe\x00",
        b'\xff{"text":"bad"}',
    ],
)
def test_content_that_stays(content: bytes) -> None:
    """Without a word in `text`, or without a `text`, it is the same object."""
    assert Policy(words=FakeWords(WORDS)).filtered(content, 0) is content


#: Deeper than recursive parsers go.
DEEP = b"[" * 9000 + b"]" * 9000


@pytest.mark.parametrize(
    ("content", "masked"),
    [
        (b'{"text":"bad"} x', b'{"text":"***"} x'),
        (b'{"text":"bad",}', b'{"text":"***",}'),
        (b'{"a":tru,"text":"bad"', b'{"a":tru,"text":"***"'),
        (b'\xef\xbb\xbf{"text":"bad"}', b'\xef\xbb\xbf{"text":"***"}'),
        (b'{"text":"bad","text":"b\\ad bad","text":"bad"}', b'{"text":"***","text":"b\\ad bad","text":"***"}'),
        (b'{"text":"bad","a":' + DEEP + b"}", b'{"text":"***","a":' + DEEP + b"}"),
        (b'{"a":' * 3000 + b'{"text":"bad"}' + b"}" * 3000, b'{"a":' * 3000 + b'{"text":"***"}' + b"}" * 3000),
    ],
    ids=["after", "comma", "word", "mark", "escape", "deep", "inside"],
)  # fmt: skip
def test_objects_that_some_parsers_refuse(content: bytes, masked: bytes) -> None:
    """Others show them, so that they are no way around the filter."""
    assert filtered(content) == masked


@pytest.mark.parametrize(
    ("content", "masked"),
    [
        (b"so bad", b"so ***"),
        ("坏话 bad 你".encode(), "** *** 你".encode()),
        (b"\xff bad \xed\xa0\x80 \xe5\x9d", b"\xff *** \xed\xa0\x80 \xe5\x9d"),
        (b'{"text":"b\\u0061d","a":"bad"}', b'{"text":"***","a":"***"}'),
        (b"good", b"good"),
        (b"", b""),
    ],
)
def test_whole_content_with_the_flag_text(content: bytes, masked: bytes) -> None:
    """TEXT means that all of it is text; other flags do not."""
    assert filtered(content, Flag.TEXT) == masked
    assert filtered(content, Flag.TEXT | Flag.UNPERSISTENT) == masked
    unmasked = Policy(words=FakeWords(["bad"])).filtered(b"bad", Flag.UNPERSISTENT)
    assert unmasked == b"bad"


def test_nothing_to_mask_with_the_flag_text() -> None:
    """The same object."""
    content = b"good \xff"
    assert Policy(words=FakeWords(WORDS)).filtered(content, Flag.TEXT) is content


@implementer(IWords)
class Letter:
    """One letter, found in no time."""

    empty = False

    def masked(self, text: str) -> str:
        return text.replace("b", "*") if "b" in text else text


LARGEST = MAX_BODY - 24
REPEATED = [
    b'"text":',
    b'"text":"bad",',
    b'"text":"\\u0062ad",',
    b'{"text":"bad"},',
    b'{"text":',
    b'"text"',
    b'"text" ',
    b'"',
    b"\\",
    b'\\"',
    b" ",
    b"[",
    b"[],",
    b'{"a":',
    b'"a":1,',
    b"1",
    b"\\u0074",
    b"\\ud83d",
    b"\xff",
    b"bad ",
]


@pytest.mark.parametrize("flag", [0, Flag.TEXT])
@pytest.mark.parametrize("repeated", REPEATED)
@pytest.mark.parametrize(
    ("before", "after"), [(b"", b""), (b"{", b'"text":"bad"}'), (b'{"text":"', b'bad"}'), (b'{"text"', b':"bad"}')]
)
def test_hostile_contents(before: bytes, repeated: bytes, after: bytes, flag: int) -> None:
    """Whatever is said over and over costs time in proportion to its size: here some 20 ms at most."""
    content = before + repeated * ((LARGEST - len(before) - len(after)) // len(repeated)) + after
    policy = Policy(words=Letter())
    began = time.process_time()
    masked = policy.filtered(content, flag)
    assert time.process_time() - began < 0.5
    assert len(masked) <= len(content)


# Every content.

SAID = st.text(
    st.sampled_from('ab坏话😀é d"\\\n/\x7f\ud83d\ude00\udc80') | st.characters(), max_size=12
) | st.sampled_from([*WORDS, "so bad, 坏话 😀", "baDÉ"])


@st.composite
def literals(draw: st.DrawFn, said: st.SearchStrategy[str] = SAID) -> bytes:
    """Strings of JSON, each character written in one of the ways that there are."""
    written = []
    for character in draw(said):
        plain = (
            character if character >= " " and character not in '"\\' and not "\ud800" <= character < "\ue000" else ""
        )
        units = character.encode("utf-16-be", "surrogatepass")
        lower = "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
        ways = [way for way in (plain, SHORT.get(character, ""), lower, lower.replace("\\u", "\\U").upper()) if way]
        written.append(draw(st.sampled_from(ways)).replace("\\U", "\\u"))
    return f'"{"".join(written)}"'.encode()


SHORT = {'"': '\\"', "\\": "\\\\", "/": "\\/", "\n": "\\n", "\b": "\\b", "\f": "\\f", "\r": "\\r", "\t": "\\t"}
SPACE = st.text(" \t\r\n", max_size=2).map(str.encode)
NAMES = literals(st.sampled_from(["text", "text", "a", "Text", 'a"text', "text, number 99"]))


def values(inner: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Arrays and objects of such values."""
    members = st.builds(lambda *parts: parts[1] + parts[0] + b":" + parts[2], SPACE, NAMES, inner)
    arrays = st.lists(inner, max_size=3).map(lambda each: b"[" + b",".join(each) + b"]")
    return arrays | st.lists(members, max_size=3).map(lambda each: b"{" + b", ".join(each) + b"}")


VALUES = st.recursive(literals() | st.sampled_from([b"1", b"-1.5e3", b"true", b"null"]), values, max_leaves=6)
#: Of a member: all before its value, the value, all after it.
MEMBERS = st.lists(
    st.tuples(st.tuples(SPACE, NAMES, SPACE, st.just(b":"), SPACE).map(b"".join), VALUES, SPACE), max_size=5
)
LITERAL = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)


@given(members=MEMBERS)
@example(members=[(b'"text":', b'"bad"', b""), (b'"a":', b'{"text":"bad"}', b""), (b'"te\\u0078t":', b'"bad"', b"")])
def test_every_object(members: list[tuple[bytes, bytes, bytes]]) -> None:
    """It says the same but for its `text`, which is masked; and no byte outside of that is touched."""
    content = b"{" + b",".join(b"".join(member) for member in members) + b"}"
    masked = filtered(content)
    words = FakeWords(WORDS)
    at = 0

    def follows(part: bytes) -> None:
        nonlocal at
        assert masked.startswith(part, at)
        at += len(part)

    for number, (before, value, after) in enumerate(members):
        follows(b"," if number else b"{")
        follows(before)
        name = json.loads(before.strip().removesuffix(b":"))
        if name == "text" and value.startswith(b'"'):
            literal = LITERAL.match(masked, at)
            assert literal is not None
            assert json.loads(literal.group()) == words.masked(json.loads(value))
            at = literal.end()
        else:
            follows(value)
        follows(after)
    follows(b"}" if members else b"{}")
    assert at == len(masked)


@given(
    content=st.recursive(
        st.none() | st.integers() | st.sampled_from([*WORDS, "a"]),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["text", "a", "b"]), inner),
        max_leaves=10,
    ),
    ascii_only=st.booleans(),
    indent=st.none() | st.integers(0, 2),
)
def test_every_value(content: object, ascii_only: bool, indent: int | None) -> None:
    """What json writes, json reads: the same value but for `text` of the outermost object."""
    masked = json.loads(filtered(json.dumps(content, ensure_ascii=ascii_only, indent=indent).encode()))
    if isinstance(content, dict) and isinstance(content.get("text"), str):
        content = content | {"text": FakeWords(WORDS).masked(content["text"])}
    assert masked == content


CUT = st.sampled_from(
    [b"{", b"}", b'"text"', b":", b'"', b"bad", b"\\", b"u0074ext", b"\\ud83d", b",", b"[", b" ", b"\xff"]
)


@given(content=st.lists(CUT | st.binary(max_size=3), max_size=20).map(b"".join), flag=st.sampled_from([0, Flag.TEXT]))
def test_any_bytes(content: bytes, flag: int) -> None:
    """Nothing raises, nothing gets longer, and without a word in it it is the same object."""
    filtered(content, flag)
    assert Policy(words=FakeWords(["worse"])).filtered(content, flag) is content
