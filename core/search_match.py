"""How well a query matches an item's names: the second look at what an index found, letter by letter."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rapidfuzz import fuzz

from core.search_text import asked_initials, folded, initials_of, names_of
from models.catalogue import Item

MIN_SCORE = 62.0
"""Below it a name has little more in common with the query than letters by chance."""

_POPULARITY = 4.0
_OF_CREATOR = 0.9
_BEGINS, _HOLDS_WORDS, _HOLDS, _LIKE_A_PART, _IN_ANY_ORDER = 88.0, 84.0, 74.0, 0.88, 0.95
_LEAST_TO_COMPARE = 4
_LATIN = re.compile("[a-z]")
# No folded name holds these (ASCII's separators of units and records).
_BETWEEN, _AFTER = "\x1f", "\x1e"


class Names(NamedTuple):
    """An item's names, folded, and the initial consonants of those that are in Hangul."""

    titles: Sequence[str]
    creators: Sequence[str]
    initials: Sequence[str]

    @classmethod
    def of(cls, item: Item, spellings: Sequence[str] = ()) -> "Names":
        """Those of ``item``; ``spellings`` are columns that spell its title in other ways."""
        others = [value for name in spellings if isinstance(value := item.columns.get(name), str)]
        titles = list(dict.fromkeys([*item.titles.values(), *others]))
        creators = list(dict.fromkeys(name for name in (item.creator, item.creator_local) if name))
        return cls(
            titles=_spelt(titles),
            creators=_spelt(creators),
            initials=[initials for name in [*titles, *creators] if (initials := initials_of(name))],
        )

    @classmethod
    def unpacked(cls, packed: str) -> "Names":
        """What ``packed`` packed."""
        return cls(*(part.split(_BETWEEN) if part else [] for part in packed.split(_AFTER)))

    def packed(self) -> str:
        """All of it as one text, as there is one of each item of a catalogue to keep."""
        return _AFTER.join(_BETWEEN.join(part) for part in self)


@dataclass(frozen=True, slots=True)
class Query:
    """What was asked: ``text`` folded, and ``initials`` where it was typed in initial consonants."""

    text: str
    initials: str

    @classmethod
    def of(cls, asked: str) -> "Query":
        """Of what a person typed."""
        return cls(folded(asked), asked_initials(asked))

    def __bool__(self) -> bool:
        """Whether there is a letter in it."""
        return bool(self.text)

    def score(self, names: Names, popularity: float) -> float:
        """How well it matches, 0 to 104; of equal matches the more popular (0 to 1) is the better."""
        if self.initials:
            found = max((self._score_of_initials(initials) for initials in names.initials), default=0.0)
        else:
            found = self._score_of_text(names)
        return found + _POPULARITY * popularity if found else 0.0

    def _score_of_initials(self, initials: str) -> float:
        if initials == self.initials:
            return 100.0
        if initials.startswith(self.initials):
            return _BEGINS + (100 - _BEGINS) * len(self.initials) / len(initials)
        return _HOLDS if self.initials in initials else 0.0

    def _score_of_text(self, names: Names) -> float:
        titles, creators = self._in_the_same_letters(names.titles), self._in_the_same_letters(names.creators)
        of_title = max((self._score_of_name(title) for title in titles), default=0.0)
        of_creator = max((self._score_of_name(creator) for creator in creators), default=0.0)
        of_both = 0.0
        if " " in self.text:
            both = [f"{title} {creator}" for title in names.titles for creator in names.creators]
            of_both = _IN_ANY_ORDER * max((fuzz.token_sort_ratio(self.text, name) for name in both), default=0.0)
        return max(of_title, _OF_CREATOR * of_creator, of_both)

    def _in_the_same_letters(self, names: Sequence[str]) -> Sequence[str]:
        """Those that it could be like at all."""
        if self.text.isascii():
            return [name for name in names if name.isascii()]
        if _LATIN.search(self.text):
            return names
        return [name for name in names if not name.isascii()]

    def _score_of_name(self, name: str) -> float:
        asked, given = self.text.replace(" ", ""), name.replace(" ", "")
        share = min(len(asked) / len(given), 1.0)
        if given.startswith(asked):
            return _BEGINS + (100 - _BEGINS) * share
        if f" {self.text} " in f" {name} ":
            return _HOLDS_WORDS + (_BEGINS - _HOLDS_WORDS) * share
        found = fuzz.ratio(asked, given)
        if len(asked) >= _LEAST_TO_COMPARE:
            found = max(found, _HOLDS + share if asked in given else 0.0)
            if len(asked) < len(given):
                found = max(found, _LIKE_A_PART * fuzz.partial_ratio(asked, given))
        return found


def _spelt(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(name for each in names for name in names_of(each)))
