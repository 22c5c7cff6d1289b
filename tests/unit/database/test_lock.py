"""One process on one database."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from imserver.database.errors import CannotOpen
from imserver.database.lock import ProcessLock

#: Takes the lock, says so, and keeps it until its input ends.
HOLDER = """
import sys
from pathlib import Path
from imserver.database.lock import ProcessLock
lock = ProcessLock(Path(sys.argv[1]))
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""
#: The same in a child that outlives the process that took it, as a daemon does.
FORKER = """
import os, sys
from pathlib import Path
from imserver.database.lock import ProcessLock
lock = ProcessLock(Path(sys.argv[1]))
lock.acquire()
if os.fork():
    os._exit(0)
lock.sign()
print(os.getpid(), flush=True)
sys.stdin.read()
"""


def run(program: str, path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "imserver.db.lock"


def test_a_second_process_is_refused(path: Path) -> None:
    """It is told who holds the lock, and has it once that one is gone, however it went."""
    with run(HOLDER, path) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        lock = ProcessLock(path)
        with pytest.raises(CannotOpen) as refused:
            lock.acquire()
        assert str(refused.value) == f"{path}: a server runs on this database already, pid {holder.pid}; stop it first"
        holder.kill()
    lock.acquire()
    assert path.read_text() == f"{os.getpid()}\n"
    lock.release()


def test_the_lock_outlives_a_fork(path: Path) -> None:
    """The process that took it ends when twistd becomes a daemon; its child holds on, under its own pid."""
    with run(FORKER, path) as parent:
        assert parent.stdout is not None
        child = parent.stdout.readline().strip()
        assert parent.wait(30) == 0
        assert child != str(parent.pid)
        with pytest.raises(CannotOpen, match=f"already, pid {child};"):
            ProcessLock(path).acquire()
        assert parent.stdin is not None
        parent.stdin.close()
        assert parent.stdout.read() == ""  # the child has ended
    lock = ProcessLock(path)
    lock.acquire()
    lock.release()


def test_release_gives_it_back(path: Path) -> None:
    """To the same process and to others; releasing what is not held is no error."""
    first, second = ProcessLock(path), ProcessLock(path)
    first.release()
    first.acquire()
    with pytest.raises(CannotOpen, match=f"pid {os.getpid()}"):
        second.acquire()
    first.release()
    second.acquire()
    second.release()


def test_only_its_owner_reads_it(path: Path) -> None:
    """It lies in the data directory, like everything else of the server's."""
    lock = ProcessLock(path)
    lock.acquire()
    assert path.stat().st_mode & 0o777 == 0o600
    lock.release()


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    """One line that says which, and what is needed."""
    path = tmp_path / "nowhere" / "imserver.db.lock"
    with pytest.raises(CannotOpen) as refused:
        ProcessLock(path).acquire()
    assert str(refused.value) == (
        f"{path}: No such file or directory; the server needs a directory that exists and that it may write"
    )
