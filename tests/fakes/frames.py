"""Frames as bytes, for tests."""

from collections.abc import Iterable

from imserver.protocol.frame import Envelope, OutFrame, write_frames


def join_frames(frames: Iterable[OutFrame], seq: int, version: int, envelope: Envelope = None) -> tuple[bytes, int]:
    """The bytes of `frames` for one connection, and the seq of the last. See `write_frames`."""
    pieces: list[bytes] = []
    last = write_frames(pieces.append, frames, seq, version, envelope)
    return b"".join(pieces), last
