"""One process on one SQLite database: two would each think that they are its one writer."""

import fcntl
import os
from pathlib import Path

from imserver.database.errors import CannotOpen


class ProcessLock:
    """An flock on a file, which names who holds it.

    It is held by the open file: it outlives a fork (twistd becomes a daemon), and ends with the process however that
    ends. The file stays behind; to remove it would let two processes lock two files of one name.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    def acquire(self) -> None:
        """Take the lock, for the life of this process or until `release`.

        Raises `CannotOpen` where another process holds it, or the file cannot be written.
        """
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise CannotOpen(
                f"{self._path}: {error.strerror}; the server needs a directory that exists and that it may write"
            ) from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(file, 20).decode("ascii", "replace").strip()
            os.close(file)
            raise CannotOpen(
                f"{self._path}: a server runs on this database already, pid {holder or 'unknown'}; stop it first"
            ) from None
        self._file = file
        self.sign()

    def sign(self) -> None:
        """Write the pid of this process into the file; again after a fork."""
        if self._file is not None:
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let another process have it. No error where it is not held."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)
