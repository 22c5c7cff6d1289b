"""Words that are not to be said, looked for one by one. tests/contract holds those of a file to what these do."""

from collections.abc import Iterable

from zope.interface import implementer

from imserver.interfaces import IWords


@implementer(IWords)
class FakeWords:
    def __init__(self, words: Iterable[str]) -> None:
        self._words = [[_folded(character) for character in word] for word in words]
        self.empty = not self._words
        #: The texts that were looked at.
        self.looked_at: list[str] = []

    def masked(self, text: str) -> str:
        self.looked_at.append(text)
        folded = [_folded(character) for character in text]
        hidden = [False] * len(text)
        for word in self._words:
            for start in range(len(text) - len(word) + 1):
                if folded[start : start + len(word)] == word:
                    hidden[start : start + len(word)] = [True] * len(word)
        if not any(hidden):
            return text
        return "".join("*" if is_hidden else character for is_hidden, character in zip(hidden, text, strict=True))


def _folded(character: str) -> str:
    """A character in its simple lower case, of which each has just one."""
    return {"İ": "i", "ς": "\u03c3"}.get(character) or character.lower()
