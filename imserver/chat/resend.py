"""How a message is recognised when its client sends it again (protocol.md, Resending)."""

from hashlib import blake2b
from struct import Struct

import msgspec

from imserver.model import Resend, UserKey

#: Seconds for which a uuid stands for one message.
UUID_WINDOW = 24 * 3600
#: Seconds for which the same content under the same msgid is one message.
MSGID_WINDOW = 600

_BY_UUID = Struct("!cqqqqB")
_BY_MSGID = Struct("!cqqqqBqi")


class _Identified(msgspec.Struct, gc=False):
    """Of a content that is a JSON object, only this is looked at."""

    uuid: str = ""


_decode = msgspec.json.Decoder(_Identified).decode


def resend_of(
    sender: UserKey, receiver: UserKey, command: int, device: int, msgid: int, content: bytes
) -> Resend | None:
    """By what this message would be recognised; None where a second one like it is a message of its own.

    Args:
        sender, receiver: whom it is from and for.
        command: its command.
        device: the device number that it was sent from.
        msgid: the client's number for it; 0: it has none.
        content: as the client sent it.
    """
    if b'"uuid"' in content:
        try:
            uuid = _decode(content).uuid
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            uuid = ""
        if uuid:
            digest = blake2b(_BY_UUID.pack(b"u", *sender, *receiver, command), digest_size=16)
            digest.update(uuid.encode("utf-8", "surrogatepass"))
            return Resend(digest.digest(), UUID_WINDOW)
    if msgid:
        digest = blake2b(_BY_MSGID.pack(b"m", *sender, *receiver, command, device, msgid), digest_size=16)
        digest.update(content)
        return Resend(digest.digest(), MSGID_WINDOW)
    return None
