"""Words that are not to be said, from a file (`IWords`).

What is found is found by pyahocorasick, in one pass over the text. Two of its properties say how it is used here:

* It looks through the children of a node one after the other. If its letters were characters, the first node for a list
  of Chinese words would have thousands of children, and 32 KB of text would take 30 ms. So its letters are the bytes of
  UTF-8, of which no node has more than a few dozen: 1 ms, and words still begin and end where characters do.
* It keeps the GIL while it makes its links, so that another thread alone is no help: 0.2 s for 100,000 words. So it is
  given of each word only the beginning that tells it from all others, and the rest is compared where that is found:
  15 ms, and the server goes on with nothing longer than that in between.
"""

import os
import re
import stat
from collections.abc import Callable, Sequence
from heapq import merge
from typing import Any, Final, NamedTuple

from ahocorasick import STORE_INTS, Automaton
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from imserver.errors import StartError
from imserver.interfaces import IWords
from imserver.metrics import Metrics

MOST_WORDS: Final = 100_000
#: Characters that a word may have.
LONGEST_WORD: Final = 100
_MOST_BYTES: Final = 8 * 1024 * 1024
#: Bytes of a word that are looked for at least: fewer would be found too often in vain.
_LEAST: Final = 6

#: Words that are sorted in one go, in a millisecond or two.
_SORTED_AT_ONCE: Final = 5_000

#: Stands for the second and further bytes of a masked character; no text has it.
_GONE: Final = 0xFF
_RUN_OF_STARS: Final = re.compile(r"\*+")
_STARS: Final = bytes(_GONE if 0x80 <= byte < 0xC0 else ord("*") for byte in range(256))


@implementer(IWords)
class NoWords:
    """For servers where everything may be said."""

    empty = True

    def masked(self, text: str) -> str:
        return text


class _Loaded(NamedTuple):
    """The words of a file, ready for use."""

    #: By which a later file of the same name is told from it.
    signature: tuple[int, ...]
    #: Without their case, in bytes of UTF-8, each as the character of the same number.
    words: Sequence[str]
    #: How many of these characters are looked for, of each word.
    lengths: Sequence[int]
    #: Finds them: gives where the last is, and the index of the word.
    automaton: Any


@implementer(IWords)
class FileWords:
    """The words of a file, UTF-8, one a line; blank lines and those that begin with # are none. Case makes no
    difference."""

    _log = Logger()

    def __init__(self, path: str, metrics: Metrics) -> None:
        """Read the file, which takes up to half a second for 100,000 words.

        Raises:
            StartError: it cannot be used.
        """
        self._path = path
        self._metrics = metrics
        self._complaint = ""
        self._loaded = _load(path)

    @property
    def empty(self) -> bool:
        return not self._loaded.words

    def reload(self, in_thread: Callable[..., Deferred[_Loaded | None]]) -> Deferred[None]:
        """Take the words of the file if it is another than before. To be called every few seconds, and not before the
        last call's Deferred has fired.

        A file that cannot be used is counted and logged once, and the words in force stay.

        Args:
            in_thread: calls a function with arguments in another thread, as `deferToThread` does.

        Fires with None.
        """
        return in_thread(_load_changed, self._path, self._loaded.signature).addCallbacks(self._changed, self._refused)

    def _changed(self, loaded: _Loaded | None) -> None:
        self._complaint = ""
        if loaded is not None:
            self._loaded = loaded
            self._log.info("{path}: {number} words are in force from now on", path=self._path, number=len(loaded.words))

    def _refused(self, failure: Failure) -> None:
        failure.trap(StartError)
        complaint = failure.getErrorMessage()
        if complaint != self._complaint:
            self._complaint = complaint
            self._metrics.word_files_refused.inc()
            self._log.warn("{complaint}; the words as they were stay in force", complaint=complaint)

    def masked(self, text: str) -> str:
        _, words, lengths, automaton = self._loaded
        if not words:
            return text
        folded = _folded(text).encode("utf-8", "surrogatepass")
        letters = folded.decode("latin-1")
        stars, hidden = b"", None
        for last, index in automaton.iter(letters):
            first = last - lengths[index] + 1
            word = words[index]
            if letters.startswith(word, first):
                if hidden is None:
                    stars, hidden = folded.translate(_STARS), bytearray(folded)
                end = first + len(word)
                hidden[first:end] = stars[first:end]
        return text if hidden is None else _shown(text, hidden)


def _shown(text: str, hidden: bytearray) -> str:
    """The text with stars where `hidden` has them: that is the text folded, as bytes, and masked."""
    masked = hidden.replace(bytes((_GONE,)), b"").decode("utf-8", "surrogatepass")
    shown: list[str] = []
    end = 0
    for stars in _RUN_OF_STARS.finditer(masked):
        shown += text[end : stars.start()], stars.group()
        end = stars.end()
    return "".join(shown) + text[end:]


def _folded(text: str) -> str:
    """The text without its case: as many characters, each whatever stands beside it. `str.casefold` makes two of some
    characters, `str.lower` of one (İ), and it makes another of a Σ at the end of a word (ς) than elsewhere."""
    return text.replace("İ", "i").lower().replace("ς", "\N{GREEK SMALL LETTER SIGMA}")


def _load_changed(path: str, signature: tuple[int, ...]) -> _Loaded | None:
    """As `_load`; None where the file is still the one with this signature."""
    return None if _signature(path) == signature else _load(path)


def _load(path: str) -> _Loaded:
    """Raises `StartError` where the file cannot be used."""
    # Taken before the file is read: a change meanwhile is one that the next look finds.
    signature = _signature(path)
    words = _in_order([word.encode().decode("latin-1") for word in _words(path)])
    automaton = Automaton(STORE_INTS)
    lengths = []
    for index, (before, word, after) in enumerate(zip(["", *words], words, [*words[1:], ""], strict=False)):
        # What it does not share with its neighbours in this order, it shares with no other.
        beginning = word[: max(_shared(before, word), _shared(word, after), _LEAST - 1) + 1]
        automaton.add_word(beginning, index)
        lengths.append(len(beginning))
    automaton.make_automaton()
    return _Loaded(signature, words, lengths, automaton)


def _in_order(words: Sequence[str]) -> list[str]:
    """As `sorted`, which keeps the GIL all the while."""
    some = [sorted(words[start : start + _SORTED_AT_ONCE]) for start in range(0, len(words), _SORTED_AT_ONCE)]
    return list(merge(*some))


def _shared(one: str, other: str) -> int:
    """How many letters the two have in common at their beginning."""
    for number, (letter, other_letter) in enumerate(zip(one, other, strict=False)):
        if letter != other_letter:
            return number
    return min(len(one), len(other))


def _signature(path: str) -> tuple[int, ...]:
    try:
        status = os.stat(path)
    except OSError as error:
        raise _unreadable(path, error.strerror) from None
    if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for
        raise _unreadable(path, "not a regular file")
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _words(path: str) -> set[str]:
    """The words of the file, without their case."""
    try:
        with open(path, "rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise _unreadable(path, error.strerror) from None
    if len(data) > _MOST_BYTES:
        raise StartError(f"{path}: more than {_MOST_BYTES} bytes; is it the word file?")
    words = set()
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        try:
            word = line.decode().strip()
        except UnicodeDecodeError:
            raise StartError(f"{path}, line {number}: not UTF-8; save the file as UTF-8 text") from None
        if not word or word.startswith("#"):
            continue
        if len(word) > LONGEST_WORD:
            raise StartError(f"{path}, line {number}: more than {LONGEST_WORD} characters; write one word a line")
        words.add(_folded(word))
        if len(words) > MOST_WORDS:
            raise StartError(f"{path}, line {number}: more than {MOST_WORDS} words; shorten the list")
    return words


def _unreadable(path: str, reason: str | None) -> StartError:
    return StartError(f"{path}: cannot be read: {reason}; name an existing, readable word file (policy.word_file)")
