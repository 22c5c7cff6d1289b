"""IWords, as the file and the fake have to do it."""

from collections.abc import Callable, Collection

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zope.interface.verify import verifyObject

from imserver.directory.words import FileWords, NoWords
from imserver.interfaces import IWords
from imserver.metrics import Metrics
from tests.fakes.words import FakeWords

Make = Callable[[Collection[str]], FileWords | FakeWords]


@pytest.fixture(params=["fake", "file"])
def make(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Makes words of a list."""
    if request.param == "fake":
        return FakeWords
    path = tmp_path_factory.mktemp("words") / "words.txt"

    def file(words: Collection[str]) -> FileWords:
        path.write_text("\n".join(words), "utf-8")
        return FileWords(str(path), Metrics())

    return file


def test_provides_the_interface(make: Make) -> None:
    """The declarations are true."""
    assert verifyObject(IWords, make(["bad"]))
    assert verifyObject(IWords, NoWords())


@pytest.mark.parametrize(
    ("words", "text", "masked"),
    [
        (["bad"], "bad", "***"),
        (["bad"], "a bad, bad day", "a ***, *** day"),
        # Within other words, too: many languages have no spaces.
        (["bad"], "forbade badly", "for***e ***ly"),
        (["坏话"], "他说坏话了", "他说**了"),
        (["坏话"], "坏 话", "坏 话"),
        (["very bad"], "very bad, very good", "********, very good"),
        # One within another, and one over another.
        (["bad", "a", "d"], "bad day", "*** **y"),
        (["abcdefgh", "cde"], "abcdefg abcdefgh xcdex", "ab***fg ******** x***x"),
        (["abcd", "cdef"], "abcdef cdefabcd", "****** ********"),
        (["aba"], "ababa", "*****"),
        (
            ["abcdefgh1", "abcdefgh2", "abcdefgh"],
            "abcdefgh1 abcdefgh2 abcdefgh3 abcdefg",
            "********* ********* ********3 abcdefg",
        ),
        (["abcdef", "abcdefgh"], "abcdef abcdefg abcdefgh", "****** ******g ********"),
        (
            ["abcdefg1", "abcdefg2", "abcdefg3"],
            "abcdefg1 abcdefg2 abcdefg3 abcdefg4",
            "******** ******** ******** abcdefg4",
        ),
        # Case.
        (["Bad"], "bAD Bad", "*** ***"),
        (["ПЛОХО"], "плохо Плохо", "***** *****"),
        (["\uff42\uff41\uff44"], "\uff22\uff21\uff24", "***"),
        # Characters whose other case is two characters, or of another size in UTF-8.
        (["iş"], "İŞ iş İŞ", "** ** **"),
        (["straße"], "STRAẞE straße STRASSE", "****** ****** STRASSE"),
        (["kb"], "KB xKBx", "** x**x"),
        (["ⱥ"], "xȺx", "x*x"),
        (["σας"], "ΣΑΣ σας ΣΑΣΑ", "*** *** ***\u0391"),
        (["x"], "İxßxŉx", "İ*ß*ŉ*"),
        # Of every size in UTF-8, and half a character of UTF-16.
        (["é", "中", "😀"], "aéb中c😀d", "a*b*c*d"),
        (["bad"], "\ud83dbad\ude00", "\ud83d***\ude00"),
        (["é"], "\udcc3\udca9é", "\udcc3\udca9*"),
        # Of which all begin with the same bytes.
        (["中国"], "中囼中国囼国", "中囼**囼国"),
        (["*"], "a*b", "a*b"),
        (["bad"], "b\0ad\nbad", "b\0ad\n***"),
        (["bad"], "", ""),
    ],
)
def test_masking(make: Make, words: list[str], text: str, masked: str) -> None:
    """Each character of each word, wherever it is, becomes a star."""
    assert make(words).masked(text) == masked


def test_nothing_to_mask(make: Make) -> None:
    """The same object, so that callers can tell."""
    text = "Nothing here"
    assert make(["bad", "herring"]).masked(text) is text
    assert NoWords().masked(text) is text


def test_no_words(make: Make) -> None:
    """Callers need not even ask."""
    words = make([])
    assert (words.empty, NoWords().empty, make(["bad"]).empty) == (True, True, False)
    text = "bad"
    assert words.masked(text) is text


# Few letters, so that words are found, in one another and over one another; of every size in UTF-8, and some that are
# special in another case.
LETTERS = st.sampled_from("abAB中囼éÉß😀😁iİKk\u03c3Σς")
WORDS = st.lists(st.text(LETTERS, min_size=1, max_size=12), max_size=12)
TEXTS = st.text(LETTERS | st.sampled_from(" *\n\ud83d\udc80"), max_size=60)


@given(words=WORDS, texts=st.lists(TEXTS, max_size=4), data=st.data())
def test_every_text(
    tmp_path_factory: pytest.TempPathFactory, words: list[str], texts: list[str], data: st.DataObject
) -> None:
    """Words of a file are found where they are found one by one, in texts that are mostly words and parts of them."""
    path = tmp_path_factory.getbasetemp() / "words.txt"
    path.write_text("\n".join(words), "utf-8")
    if words:
        pieces = st.lists(st.sampled_from(words), max_size=10)
        texts = [text + "".join(data.draw(pieces))[data.draw(st.integers(0, 3)) :] for text in texts]
    text = "".join(texts)
    masked = FileWords(str(path), Metrics()).masked(text)
    assert masked == FakeWords(words).masked(text)
    assert len(masked) == len(text)
