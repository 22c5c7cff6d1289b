"""May this sender send this, and in which words? Asked for clients and for HTTP alike."""

import json
import re
from collections.abc import Iterable, Sequence
from typing import Final

from twisted.internet.defer import Deferred

from imserver.interfaces import IConnection, IRelations, IWords
from imserver.model import Group, Relation
from imserver.protocol.commands import AckStatus, Flag


class Policy:
    """By default all may send to all, whatever they like, unless they are forbidden to speak."""

    def __init__(
        self,
        relations: IRelations | None = None,
        friends: bool = False,
        blacklist: bool = False,
        words: IWords | None = None,
    ) -> None:
        """
        Args:
            relations: needed where one of the next two is set.
            friends: a user sends to friends only, and the other must have them as a friend, too.
            blacklist: a user does not send to those who have blocked them.
            words: what is masked in messages.
        """
        if relations is None and (friends or blacklist):
            raise ValueError("friends and blacklist need relations")
        #: None: they do not matter.
        self._relations = relations if friends or blacklist else None
        self._friends = friends
        self._blacklist = blacklist
        self._words = words

    def peer(self, sender: IConnection, receiver: int) -> AckStatus | Deferred[AckStatus]:
        """May the connection's user send to this user of the same app? To themselves they always may.

        Where friends or blacklists matter the answer is a Deferred that fires with it. It fails with `Unavailable`
        where the database gave none: then nothing is known, and the message is not to be sent.
        """
        if sender.forbidden:
            return _SUCCESS if receiver == sender.uid else _MUTED
        if self._relations is None or receiver == sender.uid:
            return _SUCCESS
        return self._relations.relation(sender.user, receiver).addCallback(self._as_related)

    def _as_related(self, relation: Relation) -> AckStatus:
        if self._friends and not relation.friend:
            return AckStatus.NOT_MY_FRIEND
        if self._friends and not relation.friend_of:
            return AckStatus.NOT_YOUR_FRIEND
        if self._blacklist and relation.blocked:
            return AckStatus.IN_YOUR_BLACKLIST
        return _SUCCESS

    def group(self, sender: int, forbidden: bool, group: Group) -> AckStatus:
        """May this user, who may be forbidden to speak at all, speak in this group of their app?"""
        member = group.members.get(sender)
        if member is None:
            return AckStatus.NOT_GROUP_MEMBER
        return _MUTED if forbidden or member.muted else _SUCCESS

    def room(self, sender: IConnection, _room: int) -> AckStatus:
        """May the connection's user speak in this room?"""
        return _MUTED if sender.forbidden else _SUCCESS

    def customer(self, sender: IConnection) -> AckStatus:
        """May the connection's user send a customer message? Friends and blacklists are of one app, these of two."""
        return _MUTED if sender.forbidden else _SUCCESS

    def filtered(self, content: bytes, flag: int) -> bytes:
        """The content with the words masked that are not to be said; the same object where there are none.

        That is in `text` of a JSON object, and with the flag TEXT in the whole content (protocol.md, What each command
        does). All else stays as it was, byte for byte, and nothing gets longer.
        """
        words = self._words
        if words is None or words.empty:
            return content
        content = _with_text_masked(words, content)
        return _whole_masked(words, content) if flag & Flag.TEXT else content


# Asked for every message; a member of an enum takes longer to find.
_SUCCESS: Final = AckStatus.SUCCESS
_MUTED: Final = AckStatus.MUTED

# How `text` is found in JSON without changing a byte of the rest: the content is cut at every name "text" (also where
# it is written with escapes). With a number in each of these names a decoder then tells which are members of the
# content itself, and not of an object in it. Should the content have a name like those with a number, then one more
# `text` is filtered than need be.
_TEXT: Final = re.compile(rb'("(?:t|\\u0074)(?:e|\\u0065)(?:x|\\u0078)(?:t|\\u0074)"[ \t\r\n]*+:[ \t\r\n]*+)')
_NUMBERED: Final = "text, number %d"
_LITERAL: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"')
#: Of a string literal, what stands for one character, or a run of characters that stand for themselves.
_PIECE: Final = re.compile(r"\\u[Dd][89ABab]..\\u[Dd][C-Fc-f]..|\\u....|\\.|[^\\]+")
#: More lenient than clients, and in no need of what numbers are.
_decode_json: Final = json.JSONDecoder(parse_int=len, parse_float=len, strict=False).decode
_BEFORE_OBJECT: Final = b"\xef\xbb\xbf \t\r\n"


def _with_text_masked(words: IWords, content: bytes) -> bytes:
    """The content, if it is a JSON object, with `text` masked in it, however often it has one: parsers do not agree on
    which of them counts."""
    parts = _TEXT.split(content)
    before = list(parts)
    for number in _members(parts):
        rest = 2 * number + 2
        literal = _LITERAL.match(parts[rest])
        if literal:
            parts[rest] = _literal_masked(words, literal.group()) + parts[rest][literal.end() :]
    return content if parts == before else b"".join(parts)


def _members(parts: Sequence[bytes]) -> Iterable[int]:
    """Which of the names in `parts` (text, name, text, name, … text) are of the content itself. All, where it begins
    like an object but is broken or too deep: what one parser refuses another may show, Android's among them."""
    names = range(len(parts) // 2)
    if not names:
        return ()
    numbered = [parts[0]]
    for number in names:
        numbered += (f'"{_NUMBERED}":' % number).encode(), parts[2 * number + 2]
    whole = b"".join(numbered)
    try:
        decoded = _decode_json(whole.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
        return names if whole.lstrip(_BEFORE_OBJECT).startswith(b"{") else ()
    if not isinstance(decoded, dict):
        return ()
    return [number for number in names if _NUMBERED % number in decoded]


def _literal_masked(words: IWords, literal: bytes) -> bytes:
    """A string literal of JSON with each character masked that is part of a word."""
    source = literal.decode("utf-8", "surrogateescape")
    try:
        text = _decode_json(source)
    except ValueError:  # an escape that there is none of
        return literal
    masked = words.masked(text)
    if masked is text:
        return literal
    pieces = ['"']
    end = 0
    for piece in _PIECE.findall(source[1:-1]):
        start, end = end, end + (1 if piece[0] == "\\" else len(piece))
        pieces.append(piece if masked[start:end] == text[start:end] else masked[start:end])
    pieces.append('"')
    return "".join(pieces).encode("utf-8", "surrogateescape")


def _whole_masked(words: IWords, content: bytes) -> bytes:
    text = content.decode("utf-8", "surrogateescape")
    masked = words.masked(text)
    return content if masked is text else masked.encode("utf-8", "surrogateescape")
