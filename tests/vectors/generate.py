"""Writes the golden vectors, ``*.json`` beside this file: ``python tests/vectors/generate.py``.

A second opinion on the wire format: every byte is put together here by hand from protocol.md, with `struct` alone.
Nothing of imserver may be imported.

``frames.json``: frames that are right. Each has the sides that may send it (``c`` client, ``s`` server), its header,
the fields of its message (bytes in hex; a field that this version does not carry has the value that its reader
assumes), and the whole frame in hex. Frames of one name are one message as versions 0, 1 and 2 read it.
``refused.json``: bytes for which a client is to be disconnected, and what is wrong with them.
"""

import json
import struct
from pathlib import Path

HERE = Path(__file__).parent

INT8 = (-(2**7), 2**7 - 1)
INT32 = (-(2**31), 2**31 - 1)
INT64 = (-(2**63), 2**63 - 1)
#: JavaScript counts no further.
SAFE = 2**53 - 1

JSON_TEXT = '{"uuid":"0f5c9a6e-7d1b-4c1e-9a57-2f4f0d8f1c11","text":"Grüße, 世界 🌍"}'.encode()
NOT_TEXT = bytes(range(256))

Fields = dict[str, int | bytes]
Vector = dict[str, object]


def i8(number: int) -> bytes:
    return struct.pack(">b", number)


def u8(number: int) -> bytes:
    return struct.pack(">B", number)


def i32(number: int) -> bytes:
    return struct.pack(">i", number)


def i64(*numbers: int) -> bytes:
    return b"".join(struct.pack(">q", number) for number in numbers)


def header(length: int, seq: int, command: int, version: int, flag: int) -> bytes:
    return i32(length) + i32(seq) + u8(command) + u8(version) + u8(flag) + u8(0)


def frame(
    name: str, who: str, command: int, version: int, fields: Fields, body: bytes, *, seq: int = 1, flag: int = 0
) -> Vector:
    return {
        "name": name,
        "who": who,
        "header": {"length": len(body), "seq": seq, "command": command, "version": version, "flag": flag},
        "fields": {field: value.hex() if isinstance(value, bytes) else value for field, value in fields.items()},
        "frame": (header(len(body), seq, command, version, flag) + body).hex(),
    }


def auth_token(name: str, version: int, platform: int, token: bytes, device: bytes, seq: int = 1) -> Vector:
    fields: Fields = {"platform": platform, "token": token, "device": device}
    body = i8(platform) + u8(len(token)) + token + u8(len(device)) + device
    return frame(name, "c", 15, version, fields, body, seq=seq)


def peer(
    name: str, command: int, ends: tuple[int, int], timestamp: int, msgid: int, content: bytes, seq: int, flag: int
) -> list[Vector]:
    """IM or GROUP_IM. Version 0 has no timestamp."""
    sender, receiver = ends
    fields: Fields = {
        "sender": sender,
        "receiver": receiver,
        "timestamp": timestamp,
        "msgid": msgid,
        "content": content,
    }
    old = i64(sender) + i64(receiver) + i32(msgid) + content
    new = i64(sender) + i64(receiver) + i32(timestamp) + i32(msgid) + content
    return [
        frame(name, "cs", command, 0, fields | {"timestamp": 0}, old, seq=seq, flag=flag),
        frame(name, "cs", command, 1, fields, new, seq=seq, flag=flag),
        frame(name, "cs", command, 2, fields, new, seq=seq, flag=flag),
    ]


def ack(name: str, acknowledged: int, status: int, seq: int, flag: int = 0) -> list[Vector]:
    """The status is there from version 2."""
    old: Fields = {"seq": acknowledged, "status": 0}
    return [
        frame(name, "cs", 5, 0, old, i32(acknowledged), seq=seq, flag=flag),
        frame(name, "cs", 5, 1, old, i32(acknowledged), seq=seq, flag=flag),
        frame(name, "cs", 5, 2, old | {"status": status}, i32(acknowledged) + i8(status), seq=seq, flag=flag),
    ]


def realtime(name: str, command: int, version: int, sender: int, receiver: int, content: bytes) -> Vector:
    fields: Fields = {"sender": sender, "receiver": receiver, "content": content}
    return frame(name, "cs", command, version, fields, i64(sender, receiver) + content, seq=70)


def customer(name: str, command: int, version: int, ids: dict[str, int], timestamp: int, flag: int = 0) -> Vector:
    fields: Fields = {**ids, "timestamp": timestamp, "content": JSON_TEXT}
    return frame(name, "cs", command, version, fields, i64(*ids.values()) + i32(timestamp) + JSON_TEXT, flag=flag)


def content(name: str, command: int, version: int, content: bytes) -> Vector:
    return frame(name, "s", command, version, {"content": content}, content, seq=14)


def key(name: str, who: str, command: int, version: int, number: int) -> Vector:
    return frame(name, who, command, version, {"key": number}, i64(number), seq=30)


def group_key(name: str, who: str, command: int, version: int, group: int, number: int) -> Vector:
    return frame(name, who, command, version, {"group": group, "key": number}, i64(group, number), seq=40)


def metadata(name: str, version: int, number: int, previous: int) -> Vector:
    body = i64(number, previous) + bytes(16)
    return frame(name, "cs", 37, version, {"key": number, "previous": previous}, body, seq=16)


def frames() -> list[Vector]:
    # fmt: off
    return [
        frame("AUTH_STATUS ok", "s", 3, 2, {"status": 0}, i32(0)),
        frame("AUTH_STATUS refused", "s", 3, 0, {"status": 1}, i32(1)),
        *peer("IM", 4, (1, 2), 1700000000, 9, JSON_TEXT, seq=5, flag=0x01),
        *peer("IM without content", 4, (1, 1), 0, 0, b"", seq=2, flag=0),
        *peer("IM, largest numbers", 4, (INT64[1], INT64[1]), INT32[1], INT32[1], NOT_TEXT, seq=INT32[1], flag=0xFF),
        *peer("IM, smallest numbers", 4, (INT64[0], INT64[0]), INT32[0], INT32[0], b"\0", seq=0, flag=0x08),
        *ack("ACK", 5, 0, seq=6),
        *ack("ACK of the largest seq, of a super group", INT32[1], INT8[1], seq=7, flag=0x20),
        *ack("ACK of the smallest seq", INT32[0], INT8[0], seq=8),
        *ack("ACK, muted", -1, 66, seq=9),
        content("GROUP_NOTIFICATION", 7, 2, JSON_TEXT),
        *peer("GROUP_IM", 8, (3, SAFE), 1, 2, JSON_TEXT, seq=12, flag=0x30),
        frame("PING", "c", 13, 2, {}, b"", seq=1000),
        frame("PING of a client whose seq went round", "c", 13, 1, {}, b"", seq=INT32[0]),
        frame("PONG", "cs", 14, 2, {}, b"", seq=13),
        auth_token("AUTH_TOKEN", 2, 2, b"4f2c9d", "Gerät-7".encode()),
        auth_token("AUTH_TOKEN of the web, without a device", 1, 3, b"t", b"", seq=0),
        auth_token("AUTH_TOKEN without anything", 0, 0, b"", b"", seq=-1),
        auth_token("AUTH_TOKEN, as long as it can be", 2, INT8[0], b"T" * 255, NOT_TEXT[1:]),
        realtime("RT", 17, 1, 1, 2, JSON_TEXT),
        realtime("RT without content", 17, 2, INT64[0], INT64[1], b""),
        frame("ENTER_ROOM", "c", 18, 1, {"room": 77}, i64(77)),
        frame("LEAVE_ROOM", "c", 19, 2, {"room": INT64[1]}, i64(INT64[1])),
        realtime("ROOM_IM", 20, 2, 1, 77, NOT_TEXT),
        content("SYSTEM", 21, 1, NOT_TEXT),
        content("SYSTEM without content", 21, 2, b""),
        frame("UNREAD_COUNT", "c", 22, 2, {"count": 12}, i32(12)),
        frame("UNREAD_COUNT below zero", "c", 22, 1, {"count": -1}, i32(-1)),
        customer("CUSTOMER", 24, 1,
                 {"customer_appid": 7, "customer": 1001, "store": 5, "seller": 88}, 1700000001, 0x02),
        customer("CUSTOMER_SUPPORT", 25, 2,
                 {"customer_appid": INT64[1], "customer": INT64[0], "store": 0, "seller": -1}, INT32[0]),
        key("SYNC", "c", 26, 1, 0),
        key("SYNC_BEGIN", "s", 27, 2, 1),
        key("SYNC_END", "s", 28, 1, SAFE),
        key("SYNC_NOTIFY", "s", 29, 2, INT64[1]),
        group_key("SYNC_GROUP", "c", 30, 1, 9, 0),
        group_key("SYNC_GROUP_BEGIN", "s", 31, 2, 9, 1),
        group_key("SYNC_GROUP_END", "s", 32, 0, 9, 3001),
        group_key("SYNC_GROUP_NOTIFY", "s", 33, 2, INT64[1], INT64[0]),
        key("SYNC_KEY", "c", 34, 0, 3000),
        group_key("GROUP_SYNC_KEY", "c", 35, 2, 9, 3000),
        content("NOTIFICATION", 36, 1, JSON_TEXT),
        metadata("METADATA", 2, 3, 2),
        metadata("METADATA, largest keys", 1, SAFE, SAFE - 1),
        customer("CUSTOMER_V2", 64, 2,
                 {"sender_appid": 7, "sender": 1001, "receiver_appid": 1453, "receiver": 88}, 1700000002, 0x10),
    ]
    # fmt: on


def refused() -> list[Vector]:
    def bad(what: str, kind: str, data: bytes) -> Vector:
        return {"what": what, "kind": kind, "bytes": data.hex()}

    def short(what: str, version: int, command: int, body: bytes) -> Vector:
        return bad(what, "short", header(len(body), 1, command, version, 0) + body)

    # Version, command, and the least that the body of a client's frame holds. PING and PONG hold nothing.
    # fmt: off
    shortest = [
        (0, 4, 20), (1, 4, 24), (2, 4, 24), (0, 5, 4), (1, 5, 4), (2, 5, 5), (0, 8, 20), (1, 8, 24), (2, 8, 24),
        (2, 15, 3), (2, 17, 16), (2, 18, 8), (2, 19, 8), (2, 20, 16), (2, 22, 4), (2, 24, 36), (2, 25, 36), (2, 26, 8),
        (2, 30, 16), (2, 34, 8), (2, 35, 16), (2, 37, 32), (2, 64, 36),
    ]
    # fmt: on
    clients_may_send = {13, 14} | {command for _, command, _ in shortest}
    vectors = [
        bad(f"length {length}", "length", header(length, 1, 13, 2, 0))
        for length in (-1, INT32[0], 32768, 65536, INT32[1])
    ]
    vectors += [
        bad(f"command {command}", "command", header(0, 1, command, 2, 0))
        for command in range(256)
        if command not in clients_may_send
    ]
    vectors += [
        short(f"command {command} of version {version}, body of {size}", version, command, bytes(size))
        for version, command, least in shortest
        for size in (0, least - 1)
    ]
    vectors += [
        short("a token without a length of a device", 2, 15, i8(2) + u8(3) + b"123"),
        short("a token that is cut", 2, 15, i8(2) + u8(5) + b"1234"),
        short("a device that is cut", 2, 15, i8(2) + u8(1) + b"1" + u8(255) + b"d" * 254),
    ]
    return vectors


def files() -> dict[Path, str]:
    """What each file is to hold: a vector a line."""
    return {
        HERE / name: "[\n" + ",\n".join(json.dumps(vector) for vector in vectors) + "\n]\n"
        for name, vectors in {"frames.json": frames(), "refused.json": refused()}.items()
    }


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text)
