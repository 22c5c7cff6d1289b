"""What holds for any bytes and any message: frames are found whatever the split, and reading undoes writing."""

import os
import random
import struct
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise, product

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from imserver.protocol.commands import CLIENT_MAY_SEND, NEWEST_VERSION, SERVER_MAY_SEND, Command
from imserver.protocol.errors import ProtocolError
from imserver.protocol.frame import (
    HEADER,
    HEADER_SIZE,
    MAX_BODY,
    Frame,
    FrameDecoder,
    encode_frame,
)
from imserver.protocol.messages import (
    IM,
    MESSAGES,
    Ack,
    AuthStatus,
    AuthToken,
    GroupIM,
    Message,
    Metadata,
    UnreadCount,
    decode_from_client,
    decode_from_server,
    stored_frame,
)
from tests.fakes.frames import join_frames

INT8, INT32, INT64 = 8, 32, 64
#: The fields that are not int64.
NARROW: dict[tuple[type[Message], str], int] = {
    (AuthStatus, "status"): INT32,
    (Ack, "seq"): INT32,
    (Ack, "status"): INT8,
    (AuthToken, "platform"): INT8,
    (UnreadCount, "count"): INT32,
    **{
        (message, field): INT32
        for message in MESSAGES.values()
        for field in message.__struct_fields__
        if field in {"timestamp", "msgid"}
    },
}
#: The fields of bytes whose length is written in one byte.
COUNTED: set[tuple[type[Message], str]] = {(AuthToken, "token"), (AuthToken, "device")}

VERSIONS = range(NEWEST_VERSION + 1)
#: What a decoder may hold at most besides what was fed since it last gave None: a frame that lacks its last byte.
UNFINISHED = HEADER_SIZE + MAX_BODY - 1


# Strategies


def integers(bits: int) -> SearchStrategy[int]:
    limit = 1 << bits - 1
    return st.integers(-limit, limit - 1) | st.sampled_from((-limit, limit - 1, 0, 2**53 - 1 if bits == INT64 else 1))


def content(longest: int) -> SearchStrategy[bytes]:
    """Few bytes of any kind, or very many of one."""
    return st.binary(max_size=min(64, longest)) | st.sampled_from((longest, longest - 1)).map(bytes)


def fields(message: type[Message]) -> dict[str, SearchStrategy[int] | SearchStrategy[bytes]]:
    """For each field of a message what fits into it, so that the whole body fits into a frame."""
    longest = message.decode(bytes(MAX_BODY), NEWEST_VERSION)
    return {
        field.name: integers(NARROW.get((message, field.name), INT64))
        if field.type is int
        else content(255 if (message, field.name) in COUNTED else len(getattr(longest, field.name)))
        for field in msgspec.structs.fields(message)
    }


def messages(message: type[Message]) -> SearchStrategy[Message]:
    return st.builds(message, **fields(message))


EACH_MESSAGE = pytest.mark.parametrize("message", MESSAGES.values(), ids=lambda message: message.__name__)
#: For what is searched once a class, and for what has few cases: a long search is shared.
SHARED = settings(max_examples=max(100, settings().max_examples // len(MESSAGES)))
any_version = st.sampled_from(VERSIONS)
any_byte = st.integers(0, 255)
any_seq = integers(INT32)
server_messages = st.one_of([messages(MESSAGES[command]) for command in sorted(SERVER_MAY_SEND)])


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """A frame whose header fits its body: mostly one that a client may send, sometimes any."""
    command = draw(st.sampled_from(sorted(CLIENT_MAY_SEND)) | any_byte)
    body = draw(st.binary(max_size=80) | st.sampled_from((MAX_BODY, MAX_BODY - 1)).map(bytes))
    return encode_frame(draw(any_seq), command, draw(any_version | any_byte), draw(any_byte), body)


@st.composite
def headers(draw: st.DrawFn) -> bytes:
    """A header alone, with any length: below 0, too large, or of a body that does not follow."""
    length = draw(integers(INT32) | st.sampled_from((-1, 0, 1, MAX_BODY, MAX_BODY + 1)))
    return HEADER.pack(length, draw(any_seq), draw(any_byte), draw(any_byte), draw(any_byte), draw(any_byte))


#: What a peer may send: good frames, bad ones, headers without bodies, garbage.
streams = st.lists(frames() | frames() | headers() | st.binary(max_size=40), max_size=8).map(b"".join)


@st.composite
def chunks(draw: st.DrawFn, streams: SearchStrategy[bytes] = streams) -> list[bytes]:
    """A stream cut anywhere: at any bytes, or into pieces of one small size."""
    data = draw(streams)
    if draw(st.booleans()):
        size = draw(st.integers(1, 30))
        # The tail goes in one piece: thousands of small ones tell no more.
        cuts = list(range(size, min(len(data), 50 * size), size))
    else:
        cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=12)))
    return [data[start:end] for start, end in pairwise([0, *cuts, len(data)])]


# Reading


class Reading(msgspec.Struct):
    """What a reader made of a stream until it ended or broke off."""

    read: list[tuple[Frame, Message]] = []
    error: str | None = None


def read(chunks: Iterable[bytes]) -> Reading:
    """Read as a connection does, and check at every step how much the decoder holds."""
    decoder = FrameDecoder()
    reading = Reading()
    held = 0
    try:
        for chunk in chunks:
            decoder.feed(chunk)
            most = held + len(chunk)
            assert len(decoder) == len(decoder._data) == most  # nothing that was taken is kept
            while (frame := decoder.next_frame()) is not None:
                most -= HEADER_SIZE + len(frame.body)
                assert len(decoder) == most
                reading.read.append((frame, decode_from_client(frame.command, frame.version, frame.body)))
            held = len(decoder)
            assert held == len(decoder._data) <= UNFINISHED
    except ProtocolError as error:
        reading.error = error.kind
    return reading


@given(chunks())
def test_any_split_reads_the_same(chunks: list[bytes]) -> None:
    """Any bytes, however cut, give the same frames, messages and kind of error as at once; never another exception."""
    assert read(chunks) == read([b"".join(chunks)])


def as_bytes(frame: Frame) -> bytes:
    return encode_frame(frame.seq, frame.command, frame.version, frame.flag, frame.body)


def taken(decoder: FrameDecoder, most: int) -> list[bytes]:
    """At most so many of the frames that are complete, as bytes."""
    return [as_bytes(frame) for _ in range(most) if (frame := decoder.next_frame()) is not None]


@SHARED
@given(st.lists(frames(), max_size=6), st.data())
def test_good_frames_are_all_found(written: list[bytes], data: st.DataObject) -> None:
    """Frames whose headers fit come out as they went in, however they were cut and whenever they are taken."""
    decoder = FrameDecoder()
    found: list[bytes] = []
    for chunk in data.draw(chunks(st.just(b"".join(written)))):
        decoder.feed(chunk)
        found += taken(decoder, data.draw(st.integers(0, 3)))
    found += taken(decoder, len(written))
    assert found == written
    assert len(decoder) == 0


@given(st.binary(max_size=300), st.integers(0, 13))
def test_byte_by_byte(data: bytes, start: int) -> None:
    """Garbage one byte at a time reads as at once, from any byte of a frame on."""
    stream = (encode_frame(1, Command.PING, 2, 0, b"") + data)[start:]
    assert read(bytes((byte,)) for byte in stream) == read([stream])


# Memory


@SHARED
@given(
    st.integers(-(2**31), -1) | st.integers(MAX_BODY + 1, 2**31 - 1) | st.sampled_from((-(2**31), 2**31 - 1)),
    st.integers(1, HEADER_SIZE),
)
@example(-1, 1)
@example(-(2**31), 1)
@example(2**31 - 1, 1)
@example(MAX_BODY + 1, 1)
def test_bad_length_is_refused_at_once(length: int, cut: int) -> None:
    """The header's last byte brings the error, and no byte of the body is waited for; nor is it forgotten later."""
    header = HEADER.pack(length, 1, Command.PING, 2, 0, 0)
    decoder = FrameDecoder()
    for end in range(cut, HEADER_SIZE, cut):
        decoder.feed(header[end - cut : end])
        assert decoder.next_frame() is None
    decoder.feed(header[len(decoder) :])
    for _ in range(2):
        with pytest.raises(ProtocolError, match=f"a body of {length} bytes") as refused:
            decoder.next_frame()
        assert refused.value.kind == "length"


@pytest.mark.parametrize("length", [0, 1, MAX_BODY - 1, MAX_BODY])
def test_length_at_the_limit(length: int) -> None:
    """The shortest and the longest bodies are taken, and the decoder waits for the last byte of them."""
    body = os.urandom(length)
    data = encode_frame(7, Command.SYSTEM, 2, 0, body)
    decoder = FrameDecoder()
    decoder.feed(data[:-1])
    assert decoder.next_frame() is None
    assert len(decoder) == len(data) - 1
    decoder.feed(data[-1:])
    assert decoder.next_frame() == Frame(7, Command.SYSTEM, 2, 0, body)
    assert decoder.next_frame() is None
    assert len(decoder) == 0


def test_held_bytes_do_not_grow() -> None:
    """After megabytes of frames, each begun in one chunk and ended in the next, only the unfinished one is held."""
    frame = encode_frame(1, Command.IM, 2, 0, bytes(1000))
    stream = frame * 1000
    decoder = FrameDecoder()
    taken = 0
    for start in range(0, len(stream), 777):
        decoder.feed(stream[start : start + 777])
        while decoder.next_frame() is not None:
            taken += 1
        assert len(decoder._data) == len(decoder) < len(frame)
    assert taken == 1000
    assert decoder._data == b""


# Messages


def as_version(message: Message, version: int) -> Message:
    """The message as a peer of this version knows it: what its layout lacks has the reader's value."""
    if version == 0 and isinstance(message, IM | GroupIM):
        return msgspec.structs.replace(message, timestamp=0)
    if version < 2 and isinstance(message, Ack):
        return msgspec.structs.replace(message, status=0)
    return message


def decoded(decode: Callable[..., Message], *args: object) -> Message | str:
    """The message, or the kind of ProtocolError; any other exception is a failure of the test."""
    try:
        return decode(*args)
    except ProtocolError as error:
        return error.kind


@EACH_MESSAGE
@SHARED
@given(st.data())
def test_decode_undoes_encode(message: type[Message], data: st.DataObject) -> None:
    """A message of any class is read as it was written, in every version; later versions read as the newest."""
    sent = data.draw(messages(message))
    for version in VERSIONS:
        body = sent.encode(version)
        assert len(body) <= MAX_BODY
        assert message.decode(body, version) == as_version(sent, version)
    assert message.decode(sent.encode(NEWEST_VERSION), data.draw(st.integers(NEWEST_VERSION, 255))) == sent


@EACH_MESSAGE
@SHARED
@given(st.data())
def test_encode_undoes_decode(message: type[Message], data: st.DataObject) -> None:
    """A body that was read is written as it was, but for bytes beyond one of fixed size; or it is refused as short."""
    body = data.draw(content(100))
    version = data.draw(any_version)
    value = decoded(message.decode, body, version)
    if isinstance(value, str):
        assert value == "short"
        return
    written = value.encode(version)
    if message is Metadata:
        assert (written[:16], written[16:]) == (body[:16], bytes(16))
    else:
        assert written == body[: len(written)]
    if "content" in message.__struct_fields__:
        assert written == body


@EACH_MESSAGE
def test_too_large_for_its_field(message: type[Message]) -> None:
    """A value one beyond its field's limits is refused, never cut."""
    good = message.decode(bytes(MAX_BODY), NEWEST_VERSION)
    for field in msgspec.structs.fields(message):
        if field.type is int:
            limit = 1 << NARROW.get((message, field.name), INT64) - 1
            bad: tuple[int | bytes, ...] = (limit, -limit - 1)
        elif (message, field.name) in COUNTED:
            bad = (bytes(256),)
        else:
            continue
        for value in bad:
            too_large = msgspec.structs.replace(good, **{field.name: value})
            with pytest.raises(struct.error):
                too_large.encode(NEWEST_VERSION)


@given(st.integers(0, 255), any_byte, content(200))
@example(Command.AUTH_TOKEN, 2, b"\0\xff" + bytes(255) + b"\xff" + bytes(254))
def test_any_body_of_any_command(command: int, version: int, body: bytes) -> None:
    """Any body gives a message of the command's class or a ProtocolError that has one of two kinds."""
    for decode, may_send in ((decode_from_client, CLIENT_MAY_SEND), (decode_from_server, SERVER_MAY_SEND)):
        outcome = decoded(decode, command, version, body)
        if command not in may_send:
            assert outcome == "command"
        elif isinstance(outcome, str):
            assert outcome == "short"
        else:
            assert type(outcome) is MESSAGES[command]


def test_every_command_at_the_limits() -> None:
    """No body, and the longest, for each of the 256 command numbers in each version: a message or a ProtocolError."""
    bodies = (b"", b"\xff", bytes(MAX_BODY), b"\xff" * MAX_BODY)
    for command, version, body in product(range(256), (*VERSIONS, 255), bodies):
        for decode, may_send in ((decode_from_client, CLIENT_MAY_SEND), (decode_from_server, SERVER_MAY_SEND)):
            outcome = decoded(decode, command, version, body)
            if command not in may_send:
                assert outcome == "command"
            elif isinstance(outcome, str):
                assert outcome == "short"
                assert len(body) < 2
            else:
                assert outcome.command == command


# Leaving


def unjoin(data: bytes) -> Iterator[Frame]:
    decoder = FrameDecoder()
    decoder.feed(data)
    while (frame := decoder.next_frame()) is not None:
        yield frame
    assert len(decoder) == 0


@given(st.lists(st.tuples(server_messages, any_byte), max_size=4), st.integers(0, 2**31 - 10), any_version)
def test_joined_frames_are_read_again(sent: list[tuple[Message, int]], seq: int, version: int) -> None:
    """What leaves in one write is read as the same messages and flags, with consecutive seq, in the right version."""
    data, last = join_frames([message.frame(flag) for message, flag in sent], seq, version)
    received = [
        (frame.seq, frame.version, frame.flag, decode_from_server(frame.command, frame.version, frame.body))
        for frame in unjoin(data)
    ]
    assert received == [
        (seq + n, version, flag, as_version(message, version)) for n, (message, flag) in enumerate(sent, start=1)
    ]
    assert last == seq + len(sent)


@SHARED
@given(st.lists(server_messages, max_size=6), any_version)
def test_envelopes_stand_before_frames(sent: list[Message], version: int) -> None:
    """Each frame follows its envelope, which was told its size: without the envelopes the rest is the plain bytes."""
    frames = [message.frame() for message in sent]
    plain, _ = join_frames(frames, 0, version)
    enveloped, last = join_frames(frames, 0, version, lambda size: struct.pack("!q", size))
    stripped = b""
    while enveloped:
        (size,) = struct.unpack_from("!q", enveloped)
        stripped, enveloped = stripped + enveloped[8 : 8 + size], enveloped[8 + size :]
    assert (stripped, last) == (plain, len(sent))


@given(server_messages, any_byte)
def test_stored_bodies_leave_as_messages_do(message: Message, flag: int) -> None:
    """A body out of storage gives the frame that its message gave; ACKs, which differ, are never stored."""
    if isinstance(message, Ack):
        return
    fresh = message.frame(flag)
    stored = stored_frame(message.command, flag, message.encode(NEWEST_VERSION))
    assert (stored.command, stored.flag, stored.bodies) == (fresh.command, fresh.flag, fresh.bodies)


def test_seq_stays_an_int32() -> None:
    """After the largest seq comes 0: the header never overflows."""
    frames = [MESSAGES[Command.PONG]().frame()] * 3
    data, last = join_frames(frames, 2**31 - 3, 2)
    assert [frame.seq for frame in unjoin(data)] == [2**31 - 2, 2**31 - 1, 0]
    data, _ = join_frames(frames, last, 2)
    assert [frame.seq for frame in unjoin(data)] == [1, 2, 3]


# At full length

SOAK_FRAMES = 1_000_000
SOAK_STREAM = 100


def random_streams(rng: random.Random) -> Iterator[tuple[list[Frame], bool, bytes]]:
    """Streams of frames with any command and body, and of every other one, at its end, a header with a bad length."""
    for number in range(SOAK_FRAMES // SOAK_STREAM):
        written = [
            Frame(
                rng.getrandbits(32) - 2**31,
                rng.choice(tuple(Command)) if rng.random() < 0.9 else rng.getrandbits(8),
                rng.getrandbits(8) if rng.random() < 0.1 else rng.randrange(3),
                rng.getrandbits(8),
                rng.randbytes(rng.randrange(60) if rng.random() < 0.999 else rng.randrange(MAX_BODY + 1)),
            )
            for _ in range(SOAK_STREAM)
        ]
        data = b"".join(map(as_bytes, written))
        broken = number % 2 == 0
        if broken:
            length = rng.choice((-1, MAX_BODY + 1, rng.randrange(-(2**31), 0), rng.randrange(MAX_BODY + 1, 2**31)))
            data += HEADER.pack(length, 1, Command.PING, 2, 0, 0) + rng.randbytes(rng.randrange(50))
        yield written, broken, data


@pytest.mark.soak
def test_a_million_random_frames() -> None:
    """Every frame comes out as it went in, is read or refused, and a bad length ends each stream that has one."""
    seed = int(os.environ.get("IMSERVER_SEED") or random.SystemRandom().getrandbits(32))
    print(f"IMSERVER_SEED={seed} repeats this run")  # noqa: T201  # pytest shows it when the test fails
    rng = random.Random(seed)
    outcomes = dict.fromkeys(("read", "command", "short", "length"), 0)
    for written, broken, data in random_streams(rng):
        decoder = FrameDecoder()
        found: list[Frame] = []
        refused = False
        at = 0
        while at < len(data) and not refused:
            size = rng.randrange(1, 3000)
            decoder.feed(data[at : at + size])
            at += size
            try:
                while (frame := decoder.next_frame()) is not None:
                    found.append(frame)
            except ProtocolError as error:
                outcomes[error.kind] += 1
                refused = True
            assert refused or len(decoder) <= UNFINISHED
        assert (found, refused) == (written, broken)
        for frame in found:
            outcome = decoded(decode_from_client, frame.command, frame.version, frame.body)
            if isinstance(outcome, str):
                outcomes[outcome] += 1
            else:
                assert outcome.command == frame.command
                outcomes["read"] += 1
    assert outcomes["length"] == SOAK_FRAMES // SOAK_STREAM // 2
    assert outcomes["read"] + outcomes["command"] + outcomes["short"] == SOAK_FRAMES
    assert min(outcomes.values()) > 0
