"""Which of the words that a line of text names are denied: "no sad songs", "슬픈 노래는 싫어요", "悲しい曲以外"."""

import re
from collections.abc import Collection, Sequence
from typing import Protocol

from config.wish_table import WishTable
from core.wish_words import folded

_MAX_GAP = 12
_MAX_STEPS = 3
_PARTICLES = "[가-힣ぁ-ん]{0,3}?"
_NEVER = "(?!)"


class Named(Protocol):
    """A known word in a line, from ``start`` to before ``end``."""

    @property
    def start(self) -> int:
        """Of its first character."""

    @property
    def end(self) -> int:
        """Of what follows its last character."""


class Denials:
    """Reads what a profile's table says of denying.

    A denial before a word may be one other word away from it ("not too sad"), one after it some words that say nothing
    ("슬픈 노래는 정말 싫어요"). It holds for what is joined to the word too, on the side where the denial is not:
    "no rock or jazz", "락이나 재즈 말고".
    """

    def __init__(self, table: WishTable) -> None:
        near = rf"(?:\s+[^\s,.;!?]{{1,{_MAX_GAP}}})?[\s-]+$"
        self._before = re.compile(rf"(?<!\w){_any(table.not_before)}{near}")
        self._still_before = re.compile(rf"(?<!\w){_any(table.still_before)}{near}")
        step = rf"{_any(table.stepped_over)}{_any(table.particles)}?\s*"
        steps = rf"{_PARTICLES}\s*(?:{step}){{0,{_MAX_STEPS}}}"
        self._after = re.compile(rf"{steps}(?P<denial>{_any(table.not_after)})")
        self._still_after = re.compile(rf"{steps}{_any(table.still_after)}")
        joined = rf"{_PARTICLES}\s*(?:{step})?{_any(table.joiners)}"
        self._joined = re.compile(rf"{joined}\s*")
        self._listed = re.compile(rf"{_PARTICLES}\s*(?:{step})?[,、]\s*")
        self._qualifying = re.compile(rf"{_any(table.qualifying)}?\s*")

    def ends(self, line: str, named: Sequence[Named], is_kind: Sequence[bool]) -> dict[int, int]:
        """The places in ``named``, in order, of what is denied in ``line``, folded; each with where its denial begins.

        That is the word's own end where the denial stands before it. ``is_kind``: whether a word stands for a thing,
        so that what qualifies it is denied with it ("슬픈 발라드 말고").
        """
        before, after = set[int](), dict[int, int]()
        for place in range(len(named)):
            if self._is_denied_before(line, named, place, before):
                before.add(place)
        for place in reversed(range(len(named))):
            end = self._denial_after(line, named, place)
            if end is None and place + 1 in after and self._carries_back(line, named, place, is_kind):
                end = named[place].end
            if end is not None:
                after[place] = end
        return {place: named[place].end for place in before} | after

    def _is_denied_before(self, line: str, named: Sequence[Named], place: int, denied: Collection[int]) -> bool:
        first = named[place - 1].end if place else 0
        before = line[first : named[place].start]
        if self._still_before.search(before):
            return False
        return bool(self._before.search(before)) or (place - 1 in denied and self._carries(line, named, place))

    def _carries(self, line: str, named: Sequence[Named], place: int) -> bool:
        """Whether the denial of the word before goes on: right before this one, joined to it, or in a list that is."""
        between = line[named[place - 1].end : named[place].start]
        if between.isspace() or between == "-" or self._joined.fullmatch(between):
            return True
        return bool(self._listed.fullmatch(between)) and self._ends_joined(line, named, place)

    def _ends_joined(self, line: str, named: Sequence[Named], place: int) -> bool:
        """Whether the list that goes on at ``place`` ends with a joining word: "no rap, rock or metal"."""
        for last, word in zip(named[place:], named[place + 1 :], strict=False):
            between = line[last.end : word.start]
            if self._joined.fullmatch(between.lstrip(",")):
                return True
            if not self._listed.fullmatch(between):
                return False
        return False

    def _denial_after(self, line: str, named: Sequence[Named], place: int) -> int | None:
        end = named[place].end
        if self._still_after.match(line, end):
            return None
        match = self._after.match(line, end)
        return match.start("denial") if match else None

    def _carries_back(self, line: str, named: Sequence[Named], place: int, is_kind: Sequence[bool]) -> bool:
        """Whether the denial of the word after goes for this one: it is joined to it, or says of what sort it is."""
        between = line[named[place].end : named[place + 1].start]
        qualifies = is_kind[place + 1] and not is_kind[place] and self._qualifying.fullmatch(between)
        return bool(qualifies or self._joined.fullmatch(between))


def _any(words: Collection[str]) -> str:
    """A pattern of any of ``words``, the longest first; one that is never found where there are none."""
    escaped = [re.escape(folded(word)).replace("'", "['’]") for word in sorted(words, key=len, reverse=True)]
    return f"(?:{'|'.join(escaped) or _NEVER})"
