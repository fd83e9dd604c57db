"""What a language model answered, as far as it can be used: read, checked, and counted where it cannot.

Only handles that were sent count, and only sentences that are plain text of the locale and name what is supported.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from core.handles import Handles, read_handle
from core.json_salvage import read_object
from core.plain_text import has_markup, plain_line
from core.script import Script
from core.truth import Truth
from models.recommendation import Candidate

UNTRUE, FOREIGN = "untrue_", "foreign_"

_MAX_LABEL, _MAX_TAGLINE, _MAX_REASON, _MAX_TASTE = 40, 90, 160, 240
_MIN_SENTENCE = 4


@dataclass(frozen=True, slots=True)
class Choice:
    """A candidate that the model picked; ``reason`` is its sentence, or None where that was unusable."""

    candidate: Candidate
    reason: str | None


@dataclass(frozen=True, slots=True)
class AnswerGroup:
    """A group as the model named it; ``label`` and ``tagline`` may be empty."""

    label: str
    tagline: str
    choices: tuple[Choice, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What is usable of a model's answer: no candidate twice, none that was not shown.

    ``dropped`` counts the rest by cause: ``unknown_handle``, ``repeated_handle``, ``bad_pick``, ``bad_group``,
    ``bad_reason``, ``bad_taste``; and sentences that name what nothing supports: ``untrue_reason``, ``untrue_label``,
    ``untrue_tagline``, ``untrue_taste``; and as ``foreign_...`` those of another language. ``is_whole`` is False where
    the JSON was cut short or broken.
    """

    groups: tuple[AnswerGroup, ...]
    taste: str
    dropped: Mapping[str, int] = field(default_factory=dict)
    is_whole: bool = True

    @property
    def choices(self) -> list[Choice]:
        """All choices in the model's order."""
        return [choice for group in self.groups for choice in group.choices]


NO_ANSWER = Answer(groups=(), taste="", is_whole=False)


def parse_answer(text: str, handles: Handles, *, letters: str = r"\w") -> Answer:
    """The usable part of ``text``; sentences must have ``letters`` (a set of a regular expression) of the locale.

    Takes any text; one that is no JSON at all gives an answer without groups.
    """
    try:
        document, is_whole = read_object(text)
    except ValueError:
        return NO_ANSWER
    reader = _Reader(handles, letters)
    groups = [group for raw in _listed(document.get("groups")) if (group := reader.group(raw)).choices]
    taste = reader.sentence(document.get("taste"), _MAX_TASTE, "bad_taste") or ""
    return Answer(groups=tuple(groups), taste=taste, dropped=dict(reader.dropped), is_whole=is_whole)


class _Reader:
    """Reads one answer and counts what it drops."""

    def __init__(self, handles: Handles, letters: str) -> None:
        self.dropped: Counter[str] = Counter()
        self._handles = handles
        self._letters = re.compile(f"[{letters}]")
        self._seen: set[int] = set()

    def group(self, raw: object) -> AnswerGroup:
        document = raw if isinstance(raw, dict) else {}
        if not document:
            self.dropped["bad_group"] += 1
        choices = [choice for pick in _listed(document.get("picks")) if (choice := self._choice(pick))]
        label, tagline = document.get("label"), document.get("tagline")
        return AnswerGroup(_titled(label, _MAX_LABEL), _titled(tagline, _MAX_TAGLINE), tuple(choices))

    def sentence(self, raw: object, max_chars: int, cause: str) -> str | None:
        """``raw`` as plain text, or None where it is no sentence of the locale."""
        text = plain_line(raw, max_chars) if isinstance(raw, str) else ""
        if len(text) >= _MIN_SENTENCE and self._letters.search(text) and not has_markup(text):
            return text
        self.dropped[cause] += 1
        return None

    def _choice(self, raw: object) -> Choice | None:
        pick = raw if isinstance(raw, dict) else {}
        handle = read_handle(pick.get("h"))
        if handle is None or handle not in self._handles or handle in self._seen:
            self.dropped[self._cause(handle)] += 1
            return None
        self._seen.add(handle)
        return Choice(self._handles[handle], self.sentence(pick.get("r"), _MAX_REASON, "bad_reason"))

    def _cause(self, handle: int | None) -> str:
        if handle is None:
            return "bad_pick"
        return "repeated_handle" if handle in self._seen else "unknown_handle"


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _titled(value: object, max_chars: int) -> str:
    text = plain_line(value, max_chars) if isinstance(value, str) else ""
    return text if any(char.isalnum() for char in text) and not has_markup(text) else ""


def only_written_in(answer: Answer, script: Script, truth: Truth) -> Answer:
    """``answer`` without the sentences that are, beside the names of ``truth``, not written in ``script``."""

    def is_kept(sentence: str, about: Sequence[Candidate], is_title: bool) -> bool:
        return script.is_all_of(sentence) or script.is_of(sentence, truth.without_names(sentence))

    return _only(answer, FOREIGN, is_kept)


def only_true(answer: Answer, truth: Truth) -> Answer:
    """``answer`` without the sentences that name what neither the likes nor the picks they are about support."""

    def is_kept(sentence: str, about: Sequence[Candidate], is_title: bool) -> bool:
        return not truth.unsupported(sentence, about, is_title=is_title)

    return _only(answer, UNTRUE, is_kept)


def _only(answer: Answer, cause: str, is_kept: Callable[[str, Sequence[Candidate], bool], bool]) -> Answer:
    """``answer`` with only the sentences that are kept; the others are counted by ``cause`` and part."""
    dropped = Counter(answer.dropped)

    def kept(sentence: str, part: str, about: Sequence[Candidate] = (), *, is_title: bool = False) -> str:
        if not sentence or is_kept(sentence, about, is_title):
            return sentence
        dropped[cause + part] += 1
        return ""

    def checked(group: AnswerGroup) -> AnswerGroup:
        shown = [choice.candidate for choice in group.choices]
        return AnswerGroup(
            kept(group.label, "label", shown, is_title=True),
            kept(group.tagline, "tagline", shown, is_title=True),
            tuple(
                replace(choice, reason=kept(choice.reason or "", "reason", [choice.candidate]) or None)
                for choice in group.choices
            ),
        )

    groups = tuple(checked(group) for group in answer.groups)
    return replace(answer, groups=groups, taste=kept(answer.taste, "taste"), dropped=dict(dropped))
