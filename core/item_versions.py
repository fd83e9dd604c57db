"""Which items are one work: a remix, a live recording or a new edition stands beside its original in no list.

Titles are compared without what only tells one version from another, found by the words of the catalogue profile.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache

from config.catalogue_profile import VersionWords
from models.catalogue import Item
from models.recommendation import Candidate

WorkKey = tuple[str, str]
"""The first creator and a title, both folded."""

# A bracket may have lost its end, where a title was too long for its column.
_BRACKET = re.compile(r"[(\[{<~〈《「『【〔]([^()\[\]{}<>~〈〉《》「」『』【】〔〕]*)(?:[)\]}>~〉》」』】〕]|$)")
_DASH = re.compile(r"\s[-‐‑‒–—―−]\s*(?=\S)")
_KATAKANA = "[\u30a1-\u30fa\u30fc]"
_HANGUL = "[\uac00-\ud7a3]"
# Letters and digits but those of the languages that are written without spaces, or with few.
_ALPHABETIC = r"[^\W\u3005-\u30ff\u3400-\u9fff\uac00-\ud7a3]"
_NOTHING = r"(?!)"
_FIRST_CREATOR = re.compile(r"[,;/&、・×]")


class _Spaces(dict[int, int]):
    """A table for ``str.translate``, filled as characters are met: a blank for all that says nothing of a title."""

    def __missing__(self, code: int) -> int:
        self[code] = code if unicodedata.category(chr(code))[0] in "LMNS" else ord(" ")
        return self[code]


_SPACES_FOR_THE_REST = _Spaces()


class VersionFinder:
    """Recognises versions by ``words``; without any, only by how titles are written."""

    def __init__(self, words: VersionWords) -> None:
        self._mark = re.compile("|".join([*_whole(words.marks), *_ends(words.endings)]) or _NOTHING)
        self._opening = re.compile("|".join(_whole(words.openings)) or _NOTHING)
        tails = "|".join(_whole(words.tails))
        self._tail = re.compile(rf"(?<=.)\s(?:{tails}).*$", re.DOTALL) if tails else None

    def title(self, title: str) -> str:
        """``title`` folded and without marks of a version; never empty, unless ``title`` is.

        Case, width and punctuation are folded (NFKC). A bracket or what follows a dash goes where it holds a word of
        versions; all else stays, numbers too. A title that is nothing but a mark stays.
        """
        plain = _folded(title)
        while (shorter := self._plainer(plain)) != plain:
            plain = shorter
        return plain or title

    def keys(self, item: Item) -> frozenset[WorkKey]:
        """One key a title that the item has: items with a key in common are versions of one work."""
        creator = first_creator(item.creator)
        return frozenset((creator, self.title(title)) for title in item.titles.values())

    def without_versions(self, candidates: Sequence[Candidate], owned: Iterable[Item]) -> list[Candidate]:
        """``candidates``, given best first, without versions of ``owned`` items or of better candidates."""
        taken = {key for item in owned for key in self.keys(item)}
        kept = []
        for candidate in candidates:
            keys = self.keys(candidate.item)
            if taken.isdisjoint(keys):
                kept.append(candidate)
                taken |= keys
        return kept

    def _plainer(self, text: str) -> str:
        """``text`` without its marks and punctuation, or as it is where nothing else would be left."""
        bare = _BRACKET.sub(lambda found: " " if self._is_mark(found[1]) else found[0], text)
        first, *suffixes = _DASH.split(bare)
        bare = " - ".join([first, *(suffix for suffix in suffixes if not self._is_mark(suffix))])
        bare = self._tail.sub("", bare) if self._tail else bare
        return _letters(bare) or _letters(text) or text

    def _is_mark(self, part: str) -> bool:
        part = part.strip()
        return bool(self._mark.search(part) or self._opening.match(part))


@lru_cache(maxsize=16_384)
def first_creator(creator: str | None) -> str:
    """The first of several, folded: the one whom a work and its versions have in common."""
    return _letters(_FIRST_CREATOR.split(_folded(creator or ""), maxsplit=1)[0])


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).strip()


def _letters(text: str) -> str:
    """Letters, their marks, digits and symbols, with one space in place of all that stands between."""
    return " ".join(text.translate(_SPACES_FOR_THE_REST).split())


def _whole(words: Iterable[str]) -> list[str]:
    """Patterns of ``words`` where they stand alone: with no letter of their own script on either side."""
    by_script: dict[str, list[str]] = {}
    for word in words:
        by_script.setdefault(_script(_folded(word)[:1]), []).append(word)
    return [
        (rf"(?<!{letters})" if letters else "") + f"(?:{'|'.join(_ends(alike))})"
        for letters, alike in by_script.items()
    ]


def _ends(words: Iterable[str]) -> list[str]:
    """Patterns of ``words`` where they end a word, whatever stands before them.

    One a script: its letters are a large set, which takes milliseconds to compile.
    """
    by_script: dict[str, list[str]] = {}
    for word in map(_folded, words):
        by_script.setdefault(_script(word[-1:]), []).append(re.escape(word))
    return [f"(?:{'|'.join(alike)})" + (rf"(?!{letters})" if letters else "") for letters, alike in by_script.items()]


def _script(char: str) -> str:
    """The pattern of letters that ``char`` would make one word with; empty for ideographs and signs.

    Japanese changes its script within a phrase, and Latin marks stand beside Korean and Japanese without a space.
    """
    return next((letters for letters in (_KATAKANA, _HANGUL, _ALPHABETIC) if re.match(letters, char)), "")
