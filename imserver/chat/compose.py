"""Messages as storage takes them, and whom they concern: for clients and back ends alike."""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

from imserver.chat.policy import Policy
from imserver.model import MOST_AHEAD, SAFE_INTEGER, Group, NewMessage, Resend, UserKey, user_timeline
from imserver.protocol.commands import Command
from imserver.protocol.frame import Frame
from imserver.protocol.messages import IM, GroupIM, stamped_body

#: Bytes of a body of IM or GROUP_IM before its content.
_HEAD: Final = 24


def is_id(number: int) -> bool:
    """Can there be a user, a group or an app of this number?"""
    return 0 < number < SAFE_INTEGER


def heard_body(policy: Policy, frame: Frame, message: IM | GroupIM, created: int) -> bytes:
    """The body of an IM or GROUP_IM as everybody gets it. Of a client of version 0 it may be too long for the others
    (`MAX_BODY`), by four bytes."""
    body = stamped_body(frame.body, frame.version, created)
    content = policy.filtered(message.content, frame.flag)
    return body if content is message.content else body[:_HEAD] + content


def one_to_one(
    command: int,
    flag: int,
    body: bytes,
    created: int,
    sender: UserKey | None,
    receiver: UserKey,
    device: int = 0,
    resend: Resend | None = None,
) -> tuple[NewMessage, tuple[UserKey, ...]]:
    """A message from one user, or from the app itself (None), to another. Gives it, and those in whose timelines it
    stands. To oneself it stands once."""
    users = (receiver,) if sender is None or sender == receiver else (sender, receiver)
    timelines = tuple([user_timeline(user) for user in users])
    return NewMessage(command, flag, body, created, timelines, device, resend, sender), users


def to_group(
    flag: int,
    body: bytes,
    now: float,
    group: Group,
    sender: UserKey | None,
    device: int = 0,
    resend: Resend | None = None,
) -> NewMessage:
    """A GROUP_IM, which concerns all members. The sender need not be one."""
    own = 0
    if sender is not None and not group.is_super:
        place = bisect_left(group.users, sender)
        if place < len(group.users) and group.users[place] == sender:
            own = place
    created = created_in(group, now)
    return NewMessage(Command.GROUP_IM, flag, body, created, group.timelines, device, resend, sender, own)


def to_users(command: int, body: bytes, created: int, users: Sequence[UserKey]) -> NewMessage:
    """A message of the server's own, in each user's timeline."""
    return NewMessage(command, 0, body, created, tuple([user_timeline(user) for user in users]))


def created_in(group: Group, now: float) -> int:
    """When what is said in a group now counts as created, in seconds since 1970.

    Members of a super group get what was created after they joined, and both times are whole seconds: so what is said
    counts as created after the newest of them joined.
    """
    seconds = int(now)
    if group.is_super and seconds <= group.last_joined <= seconds + MOST_AHEAD:
        return group.last_joined + 1
    return seconds
