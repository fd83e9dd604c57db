"""Known words in a line of text of any script, found in one pass however many are known."""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

_GAP = re.compile(r"[\s-]+")
_LATIN, _HANGUL, _KATAKANA = (re.compile(f"[{own}]") for own in ("0-9a-z\u00df-\u024f", "가-힣", "ァ-ヺー"))
# Scripts whose words no letter of the same script may stand right before, and right after.
_CLOSED_BEFORE, _CLOSED_AFTER = (_LATIN, _HANGUL, _KATAKANA), (_LATIN, _KATAKANA)
_ENDING = re.compile(r"(?<=[가-힣])[가-힣]{0,3}|(?<=[ぁ-ん一-鿿])[ぁ-ん]{0,2}|")


@dataclass(frozen=True, slots=True)
class Found(Generic[T]):
    """A word that stands in the folded text from ``start`` to before ``end``; its ending goes on to ``ending``."""

    start: int
    end: int
    ending: int
    value: T


class Lexicon(Generic[T]):
    """Words and what they stand for.

    Blanks and hyphens inside a word may stand for each other or be missing. Latin words stand whole; Hangul ones begin
    a word, since particles follow; katakana ones are no part of another; hiragana and kanji are found anywhere.
    """

    def __init__(self) -> None:
        self._values: dict[str, T] = {}
        self._gaps: dict[str, set[int]] = {}
        self._lengths: dict[str, list[int]] = {}

    def add(self, word: str, value: T) -> None:
        """Know ``word``; what it stood for before stays."""
        parts = [part for part in _GAP.split(folded(word)) if part]
        if not (joined := "".join(parts)):
            return
        self._values.setdefault(joined, value)
        ends = [sum(map(len, parts[:n])) for n in range(1, len(parts))]
        self._gaps.setdefault(joined, set()).update(ends)
        lengths = self._lengths.setdefault(joined[0], [])
        if len(joined) not in lengths:
            lengths.append(len(joined))
            lengths.sort(reverse=True)

    def find(self, text: str) -> Iterator[Found[T]]:
        """The words in folded ``text`` from left to right, the longest first, none within another."""
        places = [place for place, char in enumerate(text) if not _GAP.match(char)]
        joined = "".join(text[place] for place in places)
        first = 0
        while first < len(joined):
            length = self._length_at(text, places, joined, first)
            if length:
                start, end = places[first], places[first + length - 1] + 1
                ending = _ENDING.match(text, end)
                yield Found(start, end, ending.end() if ending else end, self._values[joined[first : first + length]])
            first += length or 1

    def _length_at(self, text: str, places: list[int], joined: str, first: int) -> int:
        for length in self._lengths.get(joined[first], ()):
            word = joined[first : first + length]
            # Near the end of the text what is left may be a shorter word, whose turn comes.
            if (
                len(word) == length
                and word in self._values
                and self._stands(text, places[first : first + length], self._gaps[word])
            ):
                return length
        return 0

    @staticmethod
    def _stands(text: str, places: list[int], gaps: set[int]) -> bool:
        """Whether what stands at ``places`` is broken only where it may be, and is no part of another word."""
        start, end = places[0], places[-1] + 1
        if any(places[n] - places[n - 1] > 1 and n not in gaps for n in range(1, len(places))):
            return False
        before, after = text[start - 1 : start], text[end : end + 1]
        return not (_joins(text[start], before, _CLOSED_BEFORE) or _joins(text[end - 1], after, _CLOSED_AFTER))


def _joins(own: str, neighbour: str, scripts: tuple[re.Pattern[str], ...]) -> bool:
    return any(script.match(own) and script.match(neighbour) for script in scripts)


def folded(text: str) -> str:
    """``text`` with full and half width, composed and decomposed, upper and lower case made one."""
    return unicodedata.normalize("NFKC", text).casefold()
