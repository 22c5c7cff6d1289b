"""The file of words: what is in it, what is wrong with it, and what happens when it changes."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from ahocorasick import Automaton
from twisted.internet.defer import Deferred, execute
from twisted.internet.threads import deferToThread
from twisted.logger import LogEvent, LogLevel, capturedLogs, formatEvent
from twisted.python.failure import Failure

from imserver.directory.words import LONGEST_WORD, MOST_WORDS, FileWords
from imserver.errors import StartError
from imserver.metrics import Metrics


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "words.txt"


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def log() -> Iterator[Sequence[LogEvent]]:
    """What is logged."""
    with capturedLogs() as events:
        yield events


def warnings(log: Sequence[LogEvent]) -> list[str]:
    return [formatEvent(event) for event in log if event["log_level"] is LogLevel.warn]


def refusal(file: Path) -> str:
    """What is said about the file when the server starts, without its name; one line."""
    with pytest.raises(StartError) as caught:
        FileWords(str(file), Metrics())
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(str(file))
    return line.removeprefix(str(file))


def change(file: Path, content: bytes | str) -> None:
    """Replace the file, as editors do."""
    new = file.with_suffix(".new")
    new.write_bytes(content.encode() if isinstance(content, str) else content)
    new.replace(file)


def reload(words: FileWords) -> None:
    """Look for a change, without a thread."""
    fired: list[None] = []
    words.reload(execute).addCallback(fired.append)
    assert fired == [None]


# What is in it.


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_lines(file: Path, metrics: Metrics, end: str, mark: str) -> None:
    """A word a line, whatever ends it and whatever an editor puts before all; blank lines and comments are none."""
    lines = [f"{mark}first", "", "# comment", "   ", " last one\t", "#word", "坏话"]
    file.write_bytes(end.join(lines).encode())
    words = FileWords(str(file), metrics)
    assert words.masked("first, last one: comment word 坏话") == "*****, ********: comment word **"


@pytest.mark.parametrize("content", ["", "\n\n", "# nothing yet\n", "\ufeff"])
def test_file_without_words(file: Path, metrics: Metrics, content: str) -> None:
    """That is how an operator allows everything without a restart."""
    file.write_text(content, "utf-8")
    words = FileWords(str(file), metrics)
    assert words.empty
    assert words.masked("nothing") == "nothing"


def test_most_that_it_may_hold(file: Path, metrics: Metrics) -> None:
    """A hundred thousand words, and the longest word, are taken; words that differ in case only count once."""
    longest = "x" * LONGEST_WORD
    file.write_text("\n".join([longest, *(f"word{number:06}" for number in range(MOST_WORDS - 1)), longest.upper()]))
    words = FileWords(str(file), metrics)
    text = f"word000000 word{MOST_WORDS - 2:06} word{MOST_WORDS - 1:06} {longest}"
    assert words.masked(text) == f"{'*' * 10} {'*' * 10} word{MOST_WORDS - 1:06} {'*' * LONGEST_WORD}"


# What is wrong with it.


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"good\n\xff\n", ", line 2: not UTF-8; save the file as UTF-8 text"),
        (b"\n\n# \xe4\xb8\n", ", line 3: not UTF-8; save the file as UTF-8 text"),
        (b"a\n" + b"x" * 101 + b"\n", ", line 2: more than 100 characters; write one word a line"),
        (
            b"\n".join(b"%d" % number for number in range(100_001)),
            ", line 100001: more than 100000 words; shorten the list",
        ),
        (b"\n" * (8 * 1024 * 1024 + 1), ": more than 8388608 bytes; is it the word file?"),
    ],
    ids=["bytes", "comment", "long", "many", "large"],
)
def test_refusal_names_line_and_remedy(file: Path, content: bytes, line: str) -> None:
    """Each mistake is one line that says where it is and what to do."""
    file.write_bytes(content)
    assert refusal(file) == line


def test_file_that_cannot_be_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is missing, or is none; a pipe is not waited for."""
    remedy = "; name an existing, readable word file (policy.word_file)"
    assert refusal(file) == f": cannot be read: No such file or directory{remedy}"
    assert refusal(file.parent) == f": cannot be read: not a regular file{remedy}"
    os.mkfifo(file)
    assert refusal(file) == f": cannot be read: not a regular file{remedy}"
    # The tests may run as root, who may read everything.
    change(file, "bad")

    def may_not(path: str, mode: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("imserver.directory.words.open", may_not, raising=False)
    assert refusal(file) == f": cannot be read: Permission denied{remedy}"


# When it changes.


def test_change_is_taken(file: Path, metrics: Metrics, log: Sequence[LogEvent]) -> None:
    """New words are in force, old ones no more; the log says how many, and not which."""
    file.write_text("bad\nworse")
    words = FileWords(str(file), metrics)
    change(file, "worst")
    assert words.masked("bad, worse, worst") == "***, *****, worst"
    reload(words)
    assert words.masked("bad, worse, worst") == "bad, worse, *****"
    assert [formatEvent(event) for event in log] == [f"{file}: 1 words are in force from now on"]
    change(file, "")
    reload(words)
    assert words.empty
    change(file, "bad")
    reload(words)
    assert words.masked("bad, worse, worst") == "***, worse, worst"


@pytest.mark.parametrize("what", ["size", "time", "file"])
def test_what_tells_a_change(file: Path, metrics: Metrics, what: str) -> None:
    """Each of them alone: another size, another time of change, another file of that name."""
    file.write_text("bad")
    os.utime(file, ns=(0, 0))
    words = FileWords(str(file), metrics)
    changed = "worse" if what == "size" else "bat"
    if what == "file":
        change(file, changed)
    else:
        file.write_text(changed)
    os.utime(file, ns=(0, 1 if what == "time" else 0))
    reload(words)
    assert words.masked(changed) == "*" * len(changed)


def test_unchanged_file_is_not_read(file: Path, metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every few seconds it is merely looked at."""
    file.write_text("bad")
    words = FileWords(str(file), metrics)
    monkeypatch.setattr("imserver.directory.words.open", None, raising=False)
    reload(words)
    assert words.masked("bad") == "***"


def test_change_while_it_is_read(file: Path, metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of a new file may be read; then the next look takes the rest."""
    file.write_text("bad")
    words = FileWords(str(file), metrics)
    change(file, "wor")

    def open_and_write(path: str, mode: str) -> Any:
        opened = open(path, mode)  # noqa: SIM115 - it is the caller's
        monkeypatch.undo()
        change(file, "worse")
        return opened

    monkeypatch.setattr("imserver.directory.words.open", open_and_write, raising=False)
    reload(words)
    assert words.masked("worse") == "***se"
    reload(words)
    assert words.masked("worse") == "*****"


@pytest.mark.parametrize("bad", [b"\xff", None], ids=["content", "missing"])
def test_bad_file_changes_nothing(file: Path, metrics: Metrics, log: Sequence[LogEvent], bad: bytes | None) -> None:
    """The words as they were stay in force; it is logged and counted once, until it is mended and bad again."""
    file.write_text("bad")
    words = FileWords(str(file), metrics)
    for times in (1, 2):
        if bad is None:
            file.unlink()
        else:
            change(file, bad)
        for _ in range(3):
            reload(words)
            assert words.masked("bad, worse") == "***, worse"
        assert metrics.word_files_refused.values == {"": times}
        assert len(warnings(log)) == times
        assert warnings(log)[-1].startswith(str(file))
        assert warnings(log)[-1].endswith("; the words as they were stay in force")
        change(file, "bad")
        reload(words)
    change(file, "worse")
    reload(words)
    assert words.masked("bad, worse") == "bad, *****"


def test_another_complaint_is_logged_too(file: Path, metrics: Metrics, log: Sequence[LogEvent]) -> None:
    """Who mends one mistake and makes the next one hears of it."""
    file.write_text("bad")
    words = FileWords(str(file), metrics)
    change(file, b"\xff")
    reload(words)
    change(file, b"good\n\xff")
    reload(words)
    assert [line.partition(";")[0] for line in warnings(log)] == [f"{file}, line {n}: not UTF-8" for n in (1, 2)]
    assert metrics.word_files_refused.values == {"": 2}


def test_file_that_comes_back(file: Path, metrics: Metrics) -> None:
    """What could not be opened is tried again although it did not change."""
    file.write_text("bad")
    words = FileWords(str(file), metrics)
    change(file, "worse")
    with pytest.MonkeyPatch.context() as patch:

        def out_of_files(path: str, mode: str) -> None:
            raise OSError(24, "Too many open files", path)

        patch.setattr("imserver.directory.words.open", out_of_files, raising=False)
        reload(words)
    assert words.masked("worse") == "worse"
    reload(words)
    assert words.masked("worse") == "*****"


def test_bug_is_not_taken_for_a_bad_file(file: Path, metrics: Metrics) -> None:
    """Nothing but a bad file is passed over."""
    file.write_text("bad")
    words = FileWords(str(file), metrics)
    failures: list[Failure] = []

    def in_thread(*_: object) -> Deferred[Any]:
        return execute(lambda: 1 // 0)

    words.reload(in_thread).addErrback(failures.append)
    assert [failure.type for failure in failures] == [ZeroDivisionError]
    assert metrics.word_files_refused.values == {"": 0}


@pytest_twisted.ensureDeferred
async def test_reactor_does_not_wait(file: Path, metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is looked at, read and made ready in another thread; until that is done the old words are in force."""
    change(file, "bad")
    words = FileWords(str(file), metrics)
    change(file, "worse")
    threads: set[int] = set()
    in_force: list[str] = []

    def noting(call: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any) -> Any:
            threads.add(threading.get_ident())
            in_force.append(words.masked("bad, worse"))
            return call(*arguments)

        return noted

    monkeypatch.setattr("imserver.directory.words.open", noting(open), raising=False)
    monkeypatch.setattr("imserver.directory.words.Automaton", noting(Automaton))
    await words.reload(deferToThread)
    assert in_force == ["***, worse", "***, worse"]
    assert threading.get_ident() not in threads
    assert words.masked("bad, worse") == "bad, *****"
