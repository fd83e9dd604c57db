"""Whether a sentence of the model names only what is true: the liked items, the items it speaks of, and what they are.

The check looks for names and kinds, not for meaning: what stands in quotation marks, names of items that the model was
shown, words written as names, genres and moods. It would rather let a claim pass than take a plain word for one;
whatever fails gives way to a sentence that follows from the evidence.
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import chain
from unicodedata import normalize

from config.prompt_texts import ClaimWords
from config.wish_table import Trait
from core.name_index import NameIndex, all_folded, folded, folded_nfkc, is_latin, is_word
from models.catalogue import Item
from models.recommendation import Candidate

_QUOTED = re.compile(
    r"\"([^\"]+)\"|“([^”]+)”|„([^“”]+)[“”]|«([^»]+)»|「([^」]+)」|『([^』]+)』|《([^》]+)》|〈([^〉]+)〉"
    r"|(?<!\w)‘(.+?)’(?![a-z])|(?<![^\W_])'([^']+)'(?![a-zA-Z])"
)
_QUOTES = re.compile("[\"“„«「『《〈‘']")
_CAPITALISED = re.compile(
    r"(?<![\w'’-])[A-ZÀ-Þ][\w'’&.-]*(?:\s+(?:[A-ZÀ-Þ][\w'’&.-]*|(?:of|the|and|de|la)(?=\s[A-ZÀ-Þ])))*"
)
_LATIN_WORD = re.compile(r"[A-Za-zÀ-ɏ][A-Za-zÀ-ɏ0-9'’&.-]*")
_LATIN_NAME = re.compile(r"(?<![A-Za-zÀ-ɏ])[A-ZÀ-Þ][A-Za-zÀ-ɏ0-9'’&.-]+(?:\s+[A-ZÀ-Þ][A-Za-zÀ-ɏ0-9'’&.-]*)*")
_OTHER_SCRIPT = re.compile(r"[぀-ヿ一-鿿가-힣]")
_LATIN_START = re.compile(r"[0-9a-zß-ɏ]+|[^\s0-9a-zß-ɏ]")
_HIRAGANA = re.compile(r"[ぁ-ゟ]+")
_WORD = re.compile(r"\w[\w'&-]*")
_MOOD_ENDING = re.compile("[가-힣]{0,3}|[ぁ-ん]{0,3}")
_TEMPO = re.compile(r"(?<![\w.])(\d{2,3})(?:\.\d+)?\s*-?\s*bpm|(?<![a-z])bpm\s*(?:of\s*)?(\d{2,3})(?!\d)")
# A year, but no decade: those are styles.
_YEAR = re.compile(r"(?<![\d.,])(?:19[2-9]\d|20[0-4]\d)(?!\d|['’]?s\b|\s?년대|年代)")
# An ellipsis in NFKC: what ends with it is the beginning of something longer.
_CUT = "..."
_SENTENCE_END = (".", "!", "?", ":", ";", "—", "–", '"', "“")
_MIN_PLAIN_WORD, _MIN_TITLE_WORDS, _SEVERAL = 4, 3, 2
_MIN_CREATOR, _MIN_TITLE, _MIN_TITLE_IN_CONTEXT, _MIN_HIRAGANA = 3, 5, 3, 4
_MIN_CUT, _MAX_LEFT_OVER, _MAX_EMPHASIS = 5, 3, 2


class ClaimRules:
    """What one language tells of names and kinds; ``synonyms`` are the names of each kind, in any language.

    ``moods`` are kinds too, each with its words, of which Korean and Japanese ones are stems, and its features.
    """

    def __init__(self, words: ClaimWords, synonyms: Iterable[Sequence[str]], moods: Sequence[Trait] = ()) -> None:
        self.words = words
        self.ids_of: dict[str, frozenset[str]] = {}
        self._traits = [(folded(mood.words[0]), mood.features) for mood in moods if mood.words]
        named = [(str(number), names) for number, names in enumerate(synonyms)]
        mooded = [(f"mood {mood.words[0]}", (*mood.words, *mood.labels.values())) for mood in moods if mood.words]
        self.moods = frozenset(folded(name) for _, names in mooded for name in names)
        self._stems = tuple(sorted((mood for mood in self.moods if not mood.isascii()), key=len, reverse=True))
        names = [(number, folded(name)) for number, names in (*named, *mooded) for name in names]
        for number, name in names:
            self.ids_of[_squeezed(name)] = self.ids_of.get(_squeezed(name), frozenset()) | {number}
        self.kinds = frozenset(name for _, name in names)
        self.index = NameIndex(self.kinds)
        self.kind_and_parts = lru_cache(maxsize=8192)(self._kind_and_parts)
        self.ids = lru_cache(maxsize=8192)(self._ids)

    def _ids(self, kind: str) -> frozenset[str]:
        """What stands for ``kind``, folded, under all its names: kinds with something in common are one."""
        squeezed = _squeezed(kind)
        stem = next((stem for stem in self._stems if kind.startswith(stem)), squeezed)
        return self.ids_of.get(squeezed) or self.ids_of.get(_squeezed(stem)) or frozenset((squeezed,))

    def _kind_and_parts(self, kind: str) -> tuple[str, frozenset[str]]:
        """``kind`` folded, and all that an item of it may be said to be: the kind itself, and each of its words."""
        name = folded(kind)
        return name, frozenset(chain.from_iterable(map(self.ids, (name, *_words(name)))))

    def moods_of(self, item: Item) -> Iterator[str]:
        """One name of each mood whose features ``item`` has, all of them."""
        for name, ranges in self._traits if item.features else ():
            if ranges and all(low <= item.features.get(each, math.nan) <= high for each, (low, high) in ranges.items()):
                yield name

    def is_named(self, text: str, start: int, end: int) -> bool:
        """Whether the words around a place in ``text``, folded, make a name of what stands there."""
        words = self.words
        return text.startswith(words.names_after, end) or f" {text[:start]}".endswith(words.names_before)


@dataclass(frozen=True, slots=True)
class _Sentence:
    """A sentence in NFKC, the same folded, and how it is written."""

    text: str
    low: str
    is_title: bool
    is_latin: bool

    @classmethod
    def of(cls, text: str, *, is_title: bool) -> "_Sentence":
        text = normalize("NFKC", text)
        words = [word for word in _LATIN_WORD.findall(text)[1:] if len(word) >= _MIN_PLAIN_WORD]
        is_capitalised = len(words) >= _MIN_TITLE_WORDS and not any(word[0].islower() for word in words)
        return cls(text, folded_nfkc(text), is_title or is_capitalised, not _OTHER_SCRIPT.search(text))

    def starts(self, place: int) -> bool:
        """Whether a sentence starts at ``place``, so that its first letter tells nothing."""
        before = self.text[:place].rstrip()
        return not before or before.endswith(_SENTENCE_END)


class _Support:
    """What a sentence may name for the sake of some items; ``facts`` are read where a sentence holds a figure."""

    def __init__(
        self, names: frozenset[str], kinds: frozenset[str], kind_ids: frozenset[str], facts: Iterable[str]
    ) -> None:
        self.names, self.kinds, self.kind_ids, self._facts = names, kinds, kind_ids, facts

    @cached_property
    def facts(self) -> frozenset[str]:
        """Years and tempos."""
        return frozenset(self._facts)

    @cached_property
    def words(self) -> frozenset[str]:
        """The words of all names and kinds."""
        return frozenset(chain.from_iterable(map(_words, chain(self.names, self.kinds))))


_Supports = tuple[_Support, ...]
_Parts = list[tuple[int, int]]
"""Places in a sentence, from the first character to after the last."""


class Truth:
    """What sentences may say to one who likes ``liked`` and was offered ``shown``. Built once an answer.

    What the listener asks for, ``words``, may be named too; that an item is of such a kind must follow from the item.
    """

    def __init__(self, rules: ClaimRules, shown: Sequence[Item], liked: Sequence[Item], words: str = "") -> None:
        self._rules = rules
        self._supports: dict[int, tuple[Candidate, _Support]] = {}
        titles, creators = _titles_and_creators(shown)
        liked_titles, liked_creators = _titles_and_creators(liked)
        self._titles = frozenset(chain(titles, liked_titles))
        self._creators = frozenset(chain(creators, liked_creators))
        moods = frozenset(map(folded, _distinct(item.moods for item in chain(shown, liked))))
        self._moods = moods | rules.moods
        genres = [rules.kind_and_parts(genre)[0] for genre in _distinct(item.genres for item in chain(shown, liked))]
        self._kinds = rules.kinds.union(moods, genres)
        self._index = NameIndex(self._titles.union(self._creators, moods, genres), rules.index)
        said = [folded(words), *_words(folded(words))]
        self._said = frozenset(said).difference(liked_titles, liked_creators)
        self._liked = self._support(
            [*liked_titles, *liked_creators, *said], self._kinds_of(liked), _YEAR.findall(words)
        )

    def unsupported(self, sentence: str, about: Sequence[Candidate] = (), *, is_title: bool = False) -> tuple[str, ...]:
        """What ``sentence`` names that neither the likes nor ``about`` support, as it names it; empty if all is true.

        A title may capitalise its words (``is_title``), so there these alone are no claim.
        """
        said = _Sentence.of(sentence, is_title=is_title)
        supports = (*map(self._about, about), self._liked)
        true_parts: _Parts = []
        known = list(self._known(said, supports, true_parts))
        claims = list(self._quotations(said, supports, true_parts))
        claims += [said.text[start:end] for start, end in known if not _is_within(start, true_parts)]
        claims += self._facts(said, supports, true_parts)
        if not (said.is_title and said.is_latin):
            claims += self._strangers(said, supports, true_parts)
        return tuple(dict.fromkeys(claims))

    def without_names(self, sentence: str) -> str:
        """``sentence``, in NFKC, without quotations, and titles and artists that the data holds."""
        said = _Sentence.of(_QUOTED.sub(" ", normalize("NFKC", sentence)), is_title=False)
        left, end = list[str](), 0
        for place in self._places(said):
            name = next((name for name in self._index.at(said.low, place) if self._is_name(name)), None)
            if name and place >= end:
                left.append(said.text[end:place])
                end = place + len(name)
        return " ".join([*left, said.text[end:]])

    def _is_name(self, name: str) -> bool:
        return name in self._titles or name in self._creators

    def _about(self, candidate: Candidate) -> _Support:
        """What a sentence about ``candidate`` may name; its reason, and what heads its group, ask for it."""
        if (known := self._supports.get(id(candidate))) is not None:
            return known[1]
        items = (candidate.item, *candidate.evidence.near)
        titles, creators = _titles_and_creators(items)
        fulfilled = (wished.labels.values() for wished in candidate.evidence.wish)
        made = self._support([*titles, *creators], self._kinds_of(items).union(*fulfilled), _facts(candidate.item))
        # With the candidate, whose number is its own as long as it lives.
        self._supports[id(candidate)] = (candidate, made)
        return made

    def _kinds_of(self, items: Iterable[Item]) -> set[str]:
        return _distinct(chain((*item.genres, *item.moods), self._rules.moods_of(item)) for item in items)

    def _support(self, names: Iterable[str], kinds: Iterable[str], facts: Iterable[str]) -> _Support:
        read = [self._rules.kind_and_parts(kind) for kind in kinds]
        return _Support(
            frozenset(filter(None, names)),
            frozenset(name for name, _ in read),
            frozenset(chain.from_iterable(ids for _, ids in read)),
            facts,
        )

    # --- names and kinds that the data holds ---

    def _known(self, said: _Sentence, supports: _Supports, true_parts: _Parts) -> Iterator[tuple[int, int]]:
        """Where names stand that the data holds and nothing supports; ``true_parts`` gets those that are true."""
        low, end = said.low, 0
        for place in self._places(said):
            for name in self._index.at(low, place) if place >= end else ():
                is_supported = self._is_supported(name, supports)
                if is_supported or self._is_claim(name, said, place, place + len(name)):
                    end = place + len(name)
                    if is_supported:
                        true_parts.append((place, end))
                    else:
                        yield place, end
                    break

    def _places(self, said: _Sentence) -> list[int]:
        """Where a name may start: amid Latin letters alone, not in the middle of a word."""
        if said.is_latin:
            return self._index.starts_at(said.low, [match.start() for match in _LATIN_START.finditer(said.low)])
        return self._index.starts_at(said.low, range(len(said.low)))

    def _is_supported(self, name: str, supports: _Supports) -> bool:
        is_wished_kind = name in self._said and name in self._rules.kinds
        if any((name in support.names and not is_wished_kind) or name in support.kinds for support in supports):
            return True
        return name in self._kinds and (
            self._is_kind_of(name, supports)
            or (
                len(words := re.findall(r"\w+", name)) >= _SEVERAL
                and all(self._is_kind_of(word, supports) for word in words)
            )
        )

    def _is_kind_of(self, name: str, supports: _Supports) -> bool:
        ids = self._rules.ids(name)
        return any(not ids.isdisjoint(support.kind_ids) for support in supports)

    def _is_claim(self, name: str, said: _Sentence, start: int, end: int) -> bool:
        if name in self._kinds and self._is_kind(name, said, start, end):
            return True
        is_creator = name in self._creators
        if not is_creator and name not in self._titles:
            return False
        if is_latin(name[0]):
            return self._is_latin_name(name, said, start, end, is_creator=is_creator)
        n = len(name.replace(" ", ""))
        is_short = n < _MIN_HIRAGANA and bool(_HIRAGANA.fullmatch(name))
        if not is_short and n >= (_MIN_CREATOR if is_creator else _MIN_TITLE):
            return True
        return (is_creator or n >= _MIN_TITLE_IN_CONTEXT) and self._rules.is_named(said.low, start, end)

    def _is_kind(self, name: str, said: _Sentence, start: int, end: int) -> bool:
        words = self._rules.words
        if name in words.plain_moods:
            return False
        if name in words.plain_kinds and not said.low.startswith(words.kind_nouns, end):
            return False
        if name not in self._moods:
            return True
        ending = _MOOD_ENDING.match(said.low, end) if name in self._rules.moods else None
        ends = range(end, (ending.end() if ending else end) + 1)
        return not any(said.low.startswith(words.scenes, place) for place in ends)

    def _is_latin_name(self, name: str, said: _Sentence, start: int, end: int, *, is_creator: bool) -> bool:
        """Whether it is written as a name; one word needs more than its letter case where that tells nothing."""
        written = [word for word in said.text[start:end].split() if len(word) >= _MIN_PLAIN_WORD or word[0].isalpha()]
        n_capitals = sum(not word[0].islower() for word in written)
        is_single = " " not in name
        if not written or written[0][0].islower() or (not is_single and n_capitals < _SEVERAL):
            return False
        if any(word[0].islower() and len(word) >= _MIN_PLAIN_WORD for word in written):
            return False
        if name in self._rules.words.plain:
            return False
        if not is_single and (is_creator or not said.is_title):
            # The first word of a sentence and words such as "I" are capitalised anyway.
            telling = written[1:] if said.starts(start) and not is_creator else written
            plain = self._rules.words.plain
            return any(word[0].isupper() and folded_nfkc(word) not in plain for word in telling)
        tells_nothing = said.is_title or said.starts(start) or not said.is_latin or len(name) < _MIN_PLAIN_WORD
        if is_creator and not said.is_latin and len(name) >= _MIN_CREATOR:
            return True
        return not tells_nothing or self._rules.is_named(said.low, start, end)

    # --- what stands in quotation marks ---

    def _quotations(self, said: _Sentence, supports: _Supports, true_parts: _Parts) -> Iterator[str]:
        if not _QUOTES.search(said.text):
            return
        for match in _QUOTED.finditer(said.text):
            whole = next(part for part in match.groups() if part is not None)
            quoted = whole.strip(" .,!?")
            if not quoted or _is_within(match.start(), true_parts):
                continue
            if _is_known(folded_nfkc(quoted), supports) or _is_known(folded_nfkc(whole), supports):
                true_parts.append(match.span())
            elif self._is_title_like(quoted, said, match):
                yield quoted

    def _is_title_like(self, quoted: str, said: _Sentence, match: re.Match[str]) -> bool:
        """Quotation marks may stress a plain word too: one in small letters, or a very short one."""
        low = folded_nfkc(quoted)
        if low in self._kinds or low in self._titles or low in self._creators:
            return True
        if is_latin(quoted[0]):
            return not quoted[0].islower() and low not in self._rules.words.plain
        return len(quoted) > _MAX_EMPHASIS or self._rules.is_named(said.low, match.start(), match.end())

    # --- facts that stand in figures, and prizes ---

    def _facts(self, said: _Sentence, supports: _Supports, true_parts: _Parts) -> Iterator[str]:
        for pattern in (_TEMPO, _YEAR):
            for match in pattern.finditer(said.low):
                figure = next(part for part in (*match.groups(), match.group()) if part)
                is_known = any(figure in support.facts for support in supports)
                if not is_known and not _is_within(match.start(), true_parts):
                    yield said.text[match.start() : match.end()]
        for boast in self._rules.words.boasts:
            place = said.low.find(boast)
            if place >= 0 and is_word(said.low, place, place + len(boast)) and not _is_within(place, true_parts):
                yield said.text[place : place + len(boast)]

    # --- names that the data does not hold ---

    def _strangers(self, said: _Sentence, supports: _Supports, true_parts: _Parts) -> Iterator[str]:
        """Runs of capitalised words that hold two unknown ones, or one in the place of a name."""
        for run in (_CAPITALISED if said.is_latin else _LATIN_NAME).finditer(said.text):
            start = run.start()
            parts = list(_LATIN_WORD.finditer(run.group()))
            if said.is_latin and said.starts(start):
                parts = parts[1:]
            unknown = [
                part
                for part in parts
                if part.group()[0].isupper()
                and not _is_within(start + part.start(), true_parts)
                and not self._is_known_word(part.group(), supports)
            ]
            if not unknown:
                continue
            first, last = start + unknown[0].start(), start + unknown[-1].end()
            if (
                len(unknown) >= _SEVERAL
                or self._rules.is_named(said.low, first, last)
                or _is_possessive(unknown[0].group())
            ):
                yield said.text[first:last]

    def _is_known_word(self, word: str, supports: _Supports) -> bool:
        word = folded_nfkc(word).rstrip("-'")
        if _CUT in word:
            return True
        word = word.rstrip(".")
        bare = word.removesuffix("'s")
        parts = {word, bare, bare.split("-")[0]}
        if len(bare) < _SEVERAL or not parts.isdisjoint(self._rules.words.plain):
            return True
        # The likes' words are made once, those of the items at hand only where they are needed.
        return not all(parts.isdisjoint(support.words) for support in reversed(supports))


def _titles_and_creators(items: Iterable[Item]) -> tuple[list[str], list[str]]:
    """The names of ``items`` and of their creators, of several each too, folded; some may be empty."""
    titles, creators = list[str](), list[str]()
    for item in items:
        titles += item.titles.values()
        for name in (item.creator, item.creator_local):
            if name:
                creators.append(name)
                if ";" in name:
                    creators += map(str.strip, name.split(";"))
    names = all_folded(titles + creators)
    return names[: len(titles)], names[len(titles) :]


def _distinct(kinds: Iterable[Iterable[str]]) -> set[str]:
    return set(chain.from_iterable(kinds))


def _facts(item: Item) -> Iterator[str]:
    """The years that the item's columns and titles hold, and its tempo."""
    for value in chain(item.columns.values(), item.titles.values()):
        yield from _YEAR.findall(str(value))
    if "tempo" in item.features:
        yield str(round(item.features["tempo"]))


def _is_within(place: int, parts: Iterable[tuple[int, int]]) -> bool:
    return any(start <= place < end for start, end in parts)


def _squeezed(kind: str) -> str:
    return "".join(char for char in kind.replace("&", "n") if char.isalnum()) or kind


@lru_cache(maxsize=16_384)
def _words(name: str) -> tuple[str, ...]:
    return (*_WORD.findall(name), *re.findall(r"\w+", name))


def _is_possessive(word: str) -> bool:
    return folded_nfkc(word).endswith("'s")


def _is_known(quoted: str, supports: _Supports) -> bool:
    """Whether ``quoted`` is something that may be named, or the beginning of it, as the prompt cuts long titles."""
    if any(quoted in support.names or quoted in support.kinds for support in supports):
        return True
    beginning, inside = quoted.rstrip("…. "), []
    for name in chain.from_iterable(support.names for support in supports):
        if name.startswith(beginning) and (len(beginning) >= _MIN_CUT or not name[len(beginning)].isalnum()):
            return True
        if name in quoted:
            inside.append(name)
    rest = quoted
    for name in sorted(inside, key=len, reverse=True):
        rest = rest.replace(name, " ")
    return bool(inside) and sum(char.isalnum() for char in rest) <= _MAX_LEFT_OVER
