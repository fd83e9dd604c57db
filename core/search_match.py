"""How well a query matches an item's names: the second look at what an index found, letter by letter."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rapidfuzz import fuzz

from core.search_text import asked_initials, folded, in_characters, initials_of, names_of, whole_characters
from models.catalogue import Item

_OF_ALIKE = 0.66
"""A name that is only like the query stands behind all that hold it as it was typed."""

MIN_SCORE = 62.0 * _OF_ALIKE
"""Below it a name has little more in common with the query than letters by chance."""

# Popularity adds up to 4, so that it carries no name past one that holds the query in a better place.
_POPULARITY = 4.0
_IS, _BEGINS, _HOLDS_WORDS, _BEGINS_A_WORD, _HOLDS = 100.0, 84.0, 76.0, 75.0, 70.0
_MORE_OF_BEGINNING, _MORE_OF_WORDS, _MORE_OF_A_WORD = 12.0, 4.0, 2.0
_OF_CREATOR, _TITLE_AND_CREATOR = 0.86, 91.0
_LIKE_A_CREATOR, _LIKE_A_PART, _IN_ANY_ORDER = 0.9, 0.88, 0.95
_LEAST_TO_COMPARE, _LEAST_OF_A_WORD = 4, 2
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
    """What was asked: ``text`` folded, and ``initials`` where it was typed in initial consonants.

    ``characters`` are its syllables, kana and Chinese characters: one is enough to be looked for inside a word.
    """

    text: str
    initials: str
    characters: tuple[str, ...]

    @classmethod
    def of(cls, asked: str) -> "Query":
        """Of what a person typed."""
        text = folded(asked)
        return cls(text, asked_initials(asked), tuple(whole_characters(text)))

    def __bool__(self) -> bool:
        """Whether there is a letter in it."""
        return bool(self.text)

    @property
    def letters(self) -> str:
        """The text without spaces."""
        return self.text.replace(" ", "")

    def score(self, names: Names, popularity: float) -> float:
        """How well it matches, 0 to 104; of equal matches the more popular (0 to 1) is the better.

        The very title is the best, then one that begins so, one of which a later word does, and one that holds it
        anywhere; only then come names with a slip.
        """
        more = _POPULARITY * popularity
        if self.initials:
            found = max((_of_initials(self.initials, initials) for initials in names.initials), default=0.0)
        else:
            found = self._as_it_stands(names)
        if found:
            return found + more
        alike = 0.0 if self.initials else self._alike(names)
        return _OF_ALIKE * (alike + more) if alike else 0.0

    def _as_it_stands(self, names: Names) -> float:
        asked = self.letters
        of_title = max([self._held_by(title, asked) for title in names.titles], default=0.0)
        of_creator = max([self._held_by(creator, asked) for creator in names.creators], default=0.0)
        return max(of_title, _OF_CREATOR * of_creator, self._is_both(names))

    def _held_by(self, name: str, asked: str) -> float:
        given = name.replace(" ", "")
        if asked not in given:
            return 0.0
        share = len(asked) / len(given)
        if given.startswith(asked):
            return _IS if asked == given else _BEGINS + _MORE_OF_BEGINNING * share
        if f" {self.text} " in f" {name} ":
            return _HOLDS_WORDS + _MORE_OF_WORDS * share
        if self._begins_a_word_of(name, asked):
            return _BEGINS_A_WORD + _MORE_OF_A_WORD * share
        return _HOLDS + share if self._is_inside(name, asked) else 0.0

    def _begins_a_word_of(self, name: str, asked: str) -> bool:
        if self.characters:
            return _begins_a_word(asked, name)
        return len(asked) >= _LEAST_OF_A_WORD and f" {self.text}" in name

    def _is_inside(self, name: str, asked: str) -> bool:
        """Whether it is more than letters that happen to stand there: of 간, not 가, and of Me Low, not melow."""
        if len(asked) >= _LEAST_TO_COMPARE:
            return bool(self.characters) or self.text in name
        if not self.characters:
            return False
        characters, given = (_BETWEEN.join(["", *in_characters(text), ""]) for text in (asked, name))
        return characters in given

    def _is_both(self, names: Names) -> float:
        """Whether the words are those of title and creator, in any order."""
        if " " not in self.text:
            return 0.0
        asked, n_letters = sorted(self.text.split()), len(self.text) - 1
        both = ((title, creator) for title in names.titles for creator in names.creators)
        is_both = any(
            len(title) + len(creator) == n_letters and asked == sorted(f"{title} {creator}".split())
            for title, creator in both
        )
        return _TITLE_AND_CREATOR if is_both else 0.0

    def _alike(self, names: Names) -> float:
        titles, creators = self._in_the_same_letters(names.titles), self._in_the_same_letters(names.creators)
        of_title = max((self._like(title) for title in titles), default=0.0)
        of_creator = max((self._like(creator) for creator in creators), default=0.0)
        of_both = 0.0
        if " " in self.text:
            both = [f"{title} {creator}" for title in names.titles for creator in names.creators]
            of_both = _IN_ANY_ORDER * max((fuzz.token_sort_ratio(self.text, name) for name in both), default=0.0)
        return max(of_title, _LIKE_A_CREATOR * of_creator, of_both)

    def _in_the_same_letters(self, names: Sequence[str]) -> Sequence[str]:
        """Those that it could be like at all."""
        if self.text.isascii():
            return [name for name in names if name.isascii()]
        if _LATIN.search(self.text):
            return names
        return [name for name in names if not name.isascii()]

    def _like(self, name: str) -> float:
        asked, given = self.letters, name.replace(" ", "")
        found = fuzz.ratio(asked, given)
        if _LEAST_TO_COMPARE <= len(asked) < len(given):
            found = max(found, _LIKE_A_PART * fuzz.partial_ratio(asked, given))
        return found


def _of_initials(asked: str, initials: str) -> float:
    given = initials.replace(" ", "")
    if asked not in given:
        return 0.0
    share = len(asked) / len(given)
    if given.startswith(asked):
        return _IS if asked == given else _BEGINS + _MORE_OF_BEGINNING * share
    return _BEGINS_A_WORD + _MORE_OF_A_WORD * share if _begins_a_word(asked, initials) else _HOLDS


def _begins_a_word(asked: str, name: str) -> bool:
    """Whether a word of ``name`` but the first begins so; what follows it counts too, as spaces may be left out."""
    words = name.split()
    return any("".join(words[place:]).startswith(asked) for place in range(1, len(words)))


def _spelt(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(name for each in names for name in names_of(each)))
