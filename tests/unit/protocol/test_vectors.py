"""Frames and messages against the golden vectors, which were made without them (tests/vectors/generate.py)."""

import json
from itertools import groupby
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import pytest

from imserver.protocol.commands import CLIENT_MAY_SEND, NEWEST_VERSION, SERVER_MAY_SEND, Command
from imserver.protocol.errors import ProtocolError
from imserver.protocol.frame import HEADER_SIZE, Frame, FrameDecoder, OutFrame, encode_frame
from imserver.protocol.messages import MESSAGES, Message, decode_from_client, decode_from_server, stored_frame
from tests.fakes.frames import join_frames
from tests.vectors import generate


class Header(msgspec.Struct):
    length: int
    seq: int
    command: int
    version: int
    flag: int


class Vector(msgspec.Struct):
    name: str
    who: str
    header: Header
    fields: dict[str, Any]
    frame: str

    def __str__(self) -> str:
        return f"{self.name}, version {self.header.version}"

    @property
    def data(self) -> bytes:
        return bytes.fromhex(self.frame)

    @property
    def body(self) -> bytes:
        return self.data[HEADER_SIZE:]

    @property
    def message(self) -> Message:
        message = MESSAGES[self.header.command]
        types = get_type_hints(message)
        return message(
            **{name: bytes.fromhex(value) if types[name] is bytes else value for name, value in self.fields.items()}
        )


class Refused(msgspec.Struct):
    what: str
    kind: str
    bytes: str


VECTORS = Path(generate.__file__).parent
FRAMES = msgspec.json.decode((VECTORS / "frames.json").read_bytes(), type=list[Vector], strict=True)
REFUSED = msgspec.json.decode((VECTORS / "refused.json").read_bytes(), type=list[Refused], strict=True)
#: One message a name, as each version reads it.
MESSAGES_BY_VERSION = [list(vectors) for _, vectors in groupby(FRAMES, key=lambda vector: vector.name)]

each_frame = pytest.mark.parametrize("vector", FRAMES, ids=str)
SERVER_MESSAGES = [vectors for vectors in MESSAGES_BY_VERSION if "s" in vectors[0].who]


def name(vectors: list[Vector]) -> str:
    return vectors[0].name


def bodies(versions: list[Vector]) -> tuple[bytes, bytes, bytes]:
    """The bodies for versions 0, 1 and 2; a single vector stands for a layout that is the same in all."""
    if len(versions) == 1:
        return (versions[0].body,) * 3
    by_version = {vector.header.version: vector.body for vector in versions}
    return by_version[0], by_version[1], by_version[2]


def header(length: int, seq: int, command: int, version: int, flag: int) -> bytes:
    return generate.header(length, seq, command, version, flag)


def test_files_are_what_the_generator_gives() -> None:
    """The data and the program that made it are one."""
    files = generate.files()
    assert {path: path.read_text() for path in VECTORS.glob("*.json")} == files


def test_generator_is_a_second_opinion() -> None:
    """The generator takes nothing from imserver."""
    assert "import imserver" not in (source := Path(generate.__file__).read_text())
    assert "from imserver" not in source


def test_every_command_has_vectors_of_all_its_layouts() -> None:
    """No command is forgotten, and those whose layout differs stand there in all three versions."""
    differing = {Command.IM, Command.GROUP_IM, Command.ACK}
    assert {vector.header.command for vector in FRAMES} == set(Command)
    for versions in MESSAGES_BY_VERSION:
        differs = versions[0].header.command in differing
        assert [vector.header.version for vector in versions if differs or len(versions) > 1] == [0, 1, 2] * differs
        assert len({versions[-1].message.encode(version) for version in range(3)}) == 1 + differs


@each_frame
def test_header(vector: Vector) -> None:
    """The decoder reads every field of the header, and the body as it stands."""
    decoder = FrameDecoder()
    decoder.feed(vector.data)
    head = vector.header
    assert decoder.next_frame() == Frame(head.seq, head.command, head.version, head.flag, vector.body)
    assert len(vector.body) == head.length
    assert decoder.next_frame() is None
    assert len(decoder) == 0


@each_frame
def test_decode(vector: Vector) -> None:
    """The body is read as the fields, by the side that may get it; the other refuses the command."""
    head = vector.header
    for side, decode in (("c", decode_from_client), ("s", decode_from_server)):
        if side in vector.who:
            assert decode(head.command, head.version, vector.body) == vector.message
        else:
            with pytest.raises(ProtocolError) as refused:
                decode(head.command, head.version, vector.body)
            assert refused.value.kind == "command"


@each_frame
def test_encode(vector: Vector) -> None:
    """The fields are written as the body, and header and body as the frame."""
    head = vector.header
    assert vector.message.encode(head.version) == vector.body
    assert encode_frame(head.seq, head.command, head.version, head.flag, vector.body) == vector.data


@each_frame
def test_who_may_send_it(vector: Vector) -> None:
    """The vectors and the tables agree on who may send what."""
    command = vector.header.command
    assert ("c" in vector.who) == (command in CLIENT_MAY_SEND)
    assert ("s" in vector.who) == (command in SERVER_MAY_SEND)


@pytest.mark.parametrize("versions", SERVER_MESSAGES, ids=name)
def test_out_frame(versions: list[Vector]) -> None:
    """A message encoded once, from its newest form, leaves to each version as that version reads it."""
    newest = versions[-1]
    head = newest.header
    out = newest.message.frame(head.flag)
    assert out.size == HEADER_SIZE + max(map(len, bodies(versions)))
    for version, body in enumerate(bodies(versions)):
        expected = header(len(body), head.seq, head.command, version, head.flag) + body
        assert join_frames([out], head.seq - 1, version) == (expected, head.seq)


@pytest.mark.parametrize(
    "versions", [vectors for vectors in SERVER_MESSAGES if vectors[0].header.command != Command.ACK], ids=name
)
def test_stored_frame(versions: list[Vector]) -> None:
    """What was stored in the newest layout leaves to each version as that version reads it."""
    head = versions[-1].header
    newest = bodies(versions)[NEWEST_VERSION]
    out = stored_frame(head.command, head.flag, newest)
    assert (out.command, out.flag, out.bodies) == (head.command, head.flag, bodies(versions))


def test_join_frames() -> None:
    """Frames of many messages follow each other with consecutive seq, each in its connection's version."""
    out = [versions[-1].message.frame(versions[-1].header.flag) for versions in SERVER_MESSAGES]
    for version in range(NEWEST_VERSION + 1):
        expected = b"".join(
            header(len(body), 7 + n, versions[-1].header.command, version, versions[-1].header.flag) + body
            for n, versions in enumerate(SERVER_MESSAGES)
            for body in [bodies(versions)[version]]
        )
        assert join_frames(out, 6, version) == (expected, 6 + len(SERVER_MESSAGES))
    assert join_frames([], 6, 2) == (b"", 6)


def test_join_frames_with_envelopes() -> None:
    """The transport's envelope stands before each frame and is told the size of the frame in this version."""
    out = [OutFrame(Command.IM, 0, (b"", b"1234", b"1234")), OutFrame(Command.SYSTEM, 0, (b"x",) * 3)]
    for version, first in enumerate((b"", b"1234", b"1234")):
        expected = (
            b"<%d>" % (12 + len(first))
            + header(len(first), 1, 4, version, 0)
            + first
            + b"<13>"
            + header(1, 2, 21, version, 0)
            + b"x"
        )
        assert join_frames(out, 0, version, lambda size: b"<%d>" % size) == (expected, 2)


@pytest.mark.parametrize("refused", REFUSED, ids=lambda refused: refused.what)
def test_refused(refused: Refused) -> None:
    """Bytes that the protocol forbids raise the right kind of ProtocolError."""

    def read() -> None:
        decoder = FrameDecoder()
        decoder.feed(bytes.fromhex(refused.bytes))
        while (frame := decoder.next_frame()) is not None:
            decode_from_client(frame.command, frame.version, frame.body)

    with pytest.raises(ProtocolError) as error:
        read()
    assert error.value.kind == refused.kind


def test_refused_names_every_short_body() -> None:
    """One byte more than a refused short body is enough: the vectors stand at the limit."""
    limits: dict[tuple[int, int], int] = {}
    for refused in REFUSED:
        if refused.kind == "short" and refused.what.startswith("command"):
            data = bytes.fromhex(refused.bytes)
            limits[data[8], data[9]] = max(limits.get((data[8], data[9]), 0), len(data) - HEADER_SIZE)
    for (command, version), size in limits.items():
        assert decode_from_client(command, version, bytes(size + 1)).command == command
    with_body = CLIENT_MAY_SEND - {Command.PING, Command.PONG}
    assert {command for command, _ in limits} == with_body


def test_json_is_plain() -> None:
    """Other programs can read the vectors: plain JSON with the keys that the generator's docstring names."""
    for vector in json.loads((VECTORS / "frames.json").read_text()):
        assert vector.keys() == {"name", "who", "header", "fields", "frame"}
