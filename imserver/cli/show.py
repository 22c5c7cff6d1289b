"""Messages as lines: for people, and as JSON for programs."""

import base64
import json
import time
from typing import Any

from imserver.protocol.commands import Flag
from imserver.protocol.messages import Message


def printable(text: str) -> str:
    """The text without what could steer a terminal: whoever wrote it is a stranger."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def text_of(content: bytes) -> str:
    """What a person would call the message: the `text` of JSON content, else all of it; printable."""
    text = content.decode("utf-8", "replace")
    try:
        said = json.loads(text)
    except ValueError:
        return printable(text)
    if isinstance(said, dict) and isinstance(said.get("text"), str):
        return printable(said["text"])
    return printable(text)


def for_people(message: Message, flag: int, key: int) -> str:
    """One line: when, who to whom, what."""
    stamp = getattr(message, "timestamp", 0)
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(stamp or None))
    sender, receiver = _ends(message)
    kind = "" if message.command.name == "IM" else f"{message.command.name} "
    who = f"{sender} -> {receiver}: " if sender else ""
    return f"{when}  {kind}{who}{text_of(getattr(message, 'content', b''))}"


def _ends(message: Message) -> tuple[int, int]:
    for ends in (("sender", "receiver"), ("customer", "seller")):
        if hasattr(message, ends[0]):
            return getattr(message, ends[0]), getattr(message, ends[1])
    return 0, 0


def for_programs(message: Message, flag: int, key: int) -> dict[str, Any]:
    """All of it. Content that is no UTF-8 is in `content_base64` instead of `content`."""
    shown: dict[str, Any] = {
        "command": message.command.name,
        "key": key,
        "pushed": bool(flag & Flag.PUSH),
        "self": bool(flag & Flag.SELF),
    }
    for field in message.__struct_fields__:
        value = getattr(message, field)
        if isinstance(value, bytes):
            try:
                shown[field] = value.decode()
            except UnicodeDecodeError:
                shown[f"{field}_base64"] = base64.b64encode(value).decode()
        else:
            shown[field] = value
    return shown
