"""Where a client keeps its sync key between runs (protocol.md, Timelines and sync keys)."""

import os
from pathlib import Path
from typing import Protocol

from imserver.client.errors import ClientError


class SyncKeyStore(Protocol):
    """Keeps one user's sync key. Both methods return at once."""

    def load(self) -> int:
        """The key that was saved last; 0 where there is none. Raises `ClientError` where it cannot be read."""

    def save(self, key: int) -> None:
        """Replace the key. Raises `OSError` where that is not possible; the client then stops with it."""


class MemorySyncKeyStore:
    """Forgets with the process: the next run starts at the key that the server saved."""

    def __init__(self, key: int = 0) -> None:
        self.key = key

    def load(self) -> int:
        return self.key

    def save(self, key: int) -> None:
        self.key = key


class FileSyncKeyStore:
    """A file that holds the key as a decimal number. It is replaced as a whole: a reader sees the old key or the new.

    It is not fsynced: after a power cut it may hold an earlier key, and some messages come a second time.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._new = self._path.with_name(f"{self._path.name}.new")

    def load(self) -> int:
        try:
            text = self._path.read_text("ascii", "replace").strip()
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise ClientError(f"cannot read the sync key in {self._path}: {error.strerror}") from error
        if not text.isdecimal():
            raise ClientError(f"{self._path} holds no sync key; remove it to start at the key that the server saved")
        return int(text)

    def save(self, key: int) -> None:
        self._new.write_text(f"{key}\n", "ascii")
        self._new.replace(self._path)
