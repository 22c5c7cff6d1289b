"""Where a client keeps its sync key."""

from pathlib import Path

import pytest

from imserver.client import ClientError, FileSyncKeyStore, MemorySyncKeyStore


def test_memory() -> None:
    """It starts with what it is given and keeps what is saved."""
    store = MemorySyncKeyStore()
    assert store.load() == 0
    store.save(7)
    assert store.load() == 7


def test_file(tmp_path: Path) -> None:
    """The key is there for the next run, also a lower one, and nothing else is left in the directory."""
    path = tmp_path / "key"
    assert FileSyncKeyStore(path).load() == 0
    FileSyncKeyStore(path).save(2**53 - 1)
    assert FileSyncKeyStore(path).load() == 2**53 - 1
    FileSyncKeyStore(path).save(3)
    assert FileSyncKeyStore(path).load() == 3
    assert list(tmp_path.iterdir()) == [path]


def test_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    """Whoever has the old file open goes on reading the old key."""
    path = tmp_path / "key"
    FileSyncKeyStore(path).save(10)
    with path.open() as old:
        FileSyncKeyStore(path).save(11)
        assert old.read() == "10\n"


@pytest.mark.parametrize("content", [b"", b"seven\n", b"-1\n", b"\xff\xfe", b"1 2\n"])
def test_another_file(tmp_path: Path, content: bytes) -> None:
    """A file that holds something else is not taken for a key, and says what to do."""
    path = tmp_path / "key"
    path.write_bytes(content)
    with pytest.raises(ClientError, match="holds no sync key; remove it"):
        FileSyncKeyStore(path).load()


def test_unreadable(tmp_path: Path) -> None:
    """What cannot be read is not taken for a missing file."""
    with pytest.raises(ClientError, match="cannot read the sync key"):
        FileSyncKeyStore(tmp_path).load()
