"""Units that are packed as they leave: the same bytes as the frames that they stand for."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from imserver.model import AckOfStored, EntryPush, Unit, UserKey, user_timeline
from imserver.protocol.commands import Command, Flag
from imserver.protocol.frame import HEADER_SIZE, Envelope, write_frames
from imserver.protocol.messages import IM, Customer, GroupIM, Message, SyncNotify

ALICE = user_timeline(UserKey(7, 1))

seqs = st.one_of(st.integers(0, 2**31 - 1), st.integers(2**31 - 4, 2**31 - 1))
versions = st.integers(0, 2)
keys = st.integers(2, 2**53 - 1)
envelopes: st.SearchStrategy[Envelope] = st.sampled_from([None, lambda size: b"<%d>" % size])
messages = st.one_of(
    st.builds(IM, *[st.integers(1, 2**53)] * 2, *[st.integers(0, 2**31 - 1)] * 2, st.binary(max_size=300)),
    st.builds(GroupIM, *[st.integers(1, 2**53)] * 2, *[st.integers(0, 2**31 - 1)] * 2, st.binary(max_size=300)),
    st.builds(Customer, *[st.integers(1, 2**53)] * 4, st.integers(0, 2**31 - 1), st.binary(max_size=300)),
)


def written(write: Callable[..., int], *of: object) -> tuple[bytes, int]:
    pieces: list[bytes] = []
    last = write(pieces.append, *of)
    return b"".join(pieces), last


def same_as_its_frames(unit: Unit, seq: int, version: int, envelope: Envelope) -> None:
    data, last = written(unit.write, seq, version, envelope)
    assert (data, last) == written(write_frames, unit.frames, seq, version, envelope)
    assert unit.commands == tuple(frame.command for frame in unit.frames)
    assert unit.size == sum(HEADER_SIZE + len(frame.bodies[2]) for frame in unit.frames)


@given(messages, keys, st.sampled_from([Flag.PUSH, Flag.PUSH | Flag.TEXT]), seqs, versions, envelopes)
def test_a_pushed_entry(message: Message, key: int, flag: int, seq: int, version: int, envelope: Envelope) -> None:
    """METADATA, the message in the version of its receiver, SYNC_NOTIFY."""
    unit = EntryPush(ALICE, key, message.frame(flag))
    same_as_its_frames(unit, seq, version, envelope)
    assert [frame.command for frame in unit.frames] == [Command.METADATA, message.command, Command.SYNC_NOTIFY]
    assert unit.notify == SyncNotify(key).frame()
    assert unit.timeline == ALICE


@given(st.integers(-(2**31), 2**31 - 1), keys, st.sampled_from([0, Flag.SUPER_GROUP]), seqs, versions, envelopes)
def test_the_ack_of_a_stored_message(
    acked: int, key: int, flag: int, seq: int, version: int, envelope: Envelope
) -> None:
    """METADATA and ACK; below version 2 without a status."""
    unit = AckOfStored(acked, key, flag)
    pieces: list[bytes] = []
    unit.write(pieces.append, seq, version, None)
    data = b"".join(pieces)
    assert len(data) == unit.size - (version < 2)
    same_as_its_frames(unit, seq, version, envelope)
