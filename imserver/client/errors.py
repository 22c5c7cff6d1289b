"""What can go wrong for a client. Every text is one line that can be shown to people."""

from typing import Final

from imserver.protocol.commands import AckStatus

_REASONS: Final[dict[int, str]] = {
    AckStatus.NOT_MY_FRIEND: "the receiver is not your friend",
    AckStatus.NOT_YOUR_FRIEND: "you are not the receiver's friend",
    AckStatus.IN_YOUR_BLACKLIST: "the receiver has blocked you",
    AckStatus.NOT_GROUP_MEMBER: "you are not a member of the group",
    AckStatus.GROUP_NONEXISTENT: "there is no such group",
    AckStatus.MUTED: "you are muted or forbidden to speak",
    AckStatus.RATE_LIMIT: "too many messages at once; send it again later",
    AckStatus.NOT_STORED: "the server could not store it; send it again",
}


class ClientError(Exception):
    """What every failure of this library is."""


class CannotConnect(ClientError):
    """There is no connection to be had at this address, now."""


class Closed(ClientError):
    """The connection is gone; the text says why."""


class TookTooLong(ClientError):
    """What was waited for did not come within its deadline."""


class SignInRefused(ClientError):
    """The server does not take this token. Trying again with it is of no use."""


class NotConnected(ClientError):
    """There is no signed-in connection, and what was to be sent does not wait for one."""


class TooManyOutstanding(ClientError):
    """So many messages wait for their ACK that no more are taken. Wait for some of them."""


class NotAcknowledged(ClientError):
    """No ACK came. Whether the message was stored is not known; sent again with the same uuid it is stored once."""


class Refused(ClientError):
    """The server refused a message. ``status`` is its ACK status (protocol.md, Commands)."""

    def __init__(self, status: int) -> None:
        super().__init__(_REASONS.get(status, f"the server refused it with status {status}"))
        self.status = status
