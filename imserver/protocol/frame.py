"""Bytes <-> frames (protocol.md, Frames).

Going in, a `FrameDecoder` takes bytes as they arrive and gives a `Frame` at a time. Going out, a message is encoded
once as an `OutFrame`, whoever and however many receive it; `write_frames` puts the header of one connection before it.
"""

from collections.abc import Callable, Iterable
from struct import Struct
from typing import Final

import msgspec

from imserver.protocol.errors import ProtocolError

HEADER: Final = Struct("!iiBBBB")
HEADER_SIZE: Final = HEADER.size
#: Bytes that a body may have.
MAX_BODY: Final = 32767
#: The seq of a connection that lives for years begins again.
SEQ_MASK: Final = 0x7FFFFFFF

pack_header = HEADER.pack
_unpack_header = HEADER.unpack_from


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One frame as it came in. What its body means is the business of `imserver.protocol.messages`."""

    seq: int
    command: int
    version: int
    flag: int
    body: bytes


class FrameDecoder:
    """Takes bytes in any split, gives frames.

    It holds what `feed` brought and `next_frame` has not taken, and at most one unfinished frame besides: a header is
    refused as soon as it is complete, before any byte of its body is waited for. After a `ProtocolError` it is of no
    further use.
    """

    __slots__ = ("_at", "_data")

    def __init__(self) -> None:
        self._data = b""
        self._at = 0

    def feed(self, data: bytes) -> None:
        """Add bytes from the peer."""
        if self._at < len(self._data):
            data = self._data[self._at :] + data
        self._data = data
        self._at = 0

    def next_frame(self) -> Frame | None:
        """The next complete frame, or None until more bytes are fed.

        Raises `ProtocolError` where the header's length is below 0 or above `MAX_BODY`.
        """
        data = self._data
        at = self._at
        start = at + HEADER_SIZE
        if start > len(data):
            self._release()
            return None
        length, seq, command, version, flag, _padding = _unpack_header(data, at)
        if not 0 <= length <= MAX_BODY:
            raise ProtocolError("length", f"a body of {length} bytes; 0 to {MAX_BODY} are allowed")
        end = start + length
        if end > len(data):
            self._release()
            return None
        self._at = end
        return Frame(seq, command, version, flag, data[start:end])

    def _release(self) -> None:
        """Let go of the bytes that were taken, so that an idle connection holds none."""
        if self._at:
            self._data = self._data[self._at :]
            self._at = 0

    def __len__(self) -> int:
        """Bytes that were fed and not taken."""
        return len(self._data) - self._at


class OutFrame(msgspec.Struct, frozen=True, gc=False):
    """A frame ready to leave but for its header: encoded once, shared by all who receive it.

    ``bodies`` has the body for versions 0, 1 and 2 (mostly the same object three times).
    """

    command: int
    flag: int
    bodies: tuple[bytes, bytes, bytes]

    @property
    def size(self) -> int:
        """Bytes on the wire, at most."""
        return HEADER_SIZE + len(self.bodies[2])


#: Gives what the transport wants before a frame of so many bytes (WebSocket); None: nothing.
Envelope = Callable[[int], bytes] | None


def write_frames(
    append: Callable[[bytes], None], frames: Iterable[OutFrame], seq: int, version: int, envelope: Envelope
) -> int:
    """Append the bytes of `frames` for one connection, piece by piece. Gives the seq of the last.

    Args:
        append: takes the pieces.
        frames: what is to leave, in order.
        seq: the seq of the frame that left before them.
        version: 0, 1 or 2: whose bodies are taken.
        envelope: of the transport.
    """
    for frame in frames:
        seq += 1
        body = frame.bodies[version]
        length = len(body)
        if envelope is not None:
            append(envelope(HEADER_SIZE + length))
        append(pack_header(length, seq & SEQ_MASK, frame.command, version, frame.flag, 0))
        append(body)
    return seq


def encode_frame(seq: int, command: int, version: int, flag: int, body: bytes) -> bytes:
    """One frame as bytes, for those who send one at a time (clients, tests)."""
    return pack_header(len(body), seq, command, version, flag, 0) + body
