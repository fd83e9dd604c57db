"""Finds known names in texts of any script: one dictionary look-up a character, however many names there are."""

from collections.abc import Iterable, Sequence
from unicodedata import normalize

MAX_NAME_CHARS = 160

_SPACES = ("  ", " \n", "\n ")
_HANGUL, _KATAKANA = ("가", "힣"), ("ァ", "ヿ")


def folded(text: str) -> str:
    """``text`` for comparison; as long as its NFKC form is, so that places in one are places in the other."""
    return folded_nfkc(normalize("NFKC", text))


def folded_nfkc(text: str) -> str:
    """``text``, which is in NFKC, for comparison, character by character."""
    # The one letter whose lower case is two characters.
    return text.replace("İ", "I").replace("’", "'").replace("‘", "'").lower()


def all_folded(names: Sequence[str]) -> list[str]:
    """Each of ``names`` folded, cut off, its spaces collapsed; in one go, as there are a thousand an answer."""
    if not names:
        return []
    cut = [name[:MAX_NAME_CHARS] for name in names]
    joined = folded("\n".join([name.replace("\n", " ") if "\n" in name else name for name in cut]))
    lines = joined.split("\n")
    is_odd = any(spaces in f"\n{joined}\n" for spaces in _SPACES) or not joined.replace("\n", "").isprintable()
    return [" ".join(line.split()) for line in lines] if is_odd else lines


class NameIndex:
    """Names by their first two characters; those of one are not kept: they would be found everywhere.

    ``base`` is an index that is made once and searched too.
    """

    def __init__(self, names: Iterable[str], base: "NameIndex | None" = None) -> None:
        by_start = {start: known.copy() for start, known in base._by_start.items()} if base else {}
        for name in names:
            start = name[:2]
            if start in by_start:
                by_start[start].append(name)
            elif len(start) > 1:
                by_start[start] = [name]
        self._by_start: dict[str, list[str]] = by_start

    def starts_at(self, text: str, places: Iterable[int]) -> list[int]:
        """Those of ``places`` in ``text``, which is folded, where ``at`` may find something."""
        return [place for place in places if text[place : place + 2] in self._by_start]

    def at(self, text: str, place: int) -> list[str]:
        """The names that stand as words at ``place`` in ``text``, which is folded, the longest first."""
        known = self._by_start.get(text[place : place + 2], ())
        names = [name for name in known if text.startswith(name, place) and is_word(text, place, place + len(name))]
        return sorted(names, key=len, reverse=True) if len(names) > 1 else names


def is_word(text: str, start: int, end: int) -> bool:
    """Whether ``text[start:end]`` can be a word of its own.

    Latin words end where their letters do, so a Korean particle may follow. Hangul may have a particle after it but
    nothing before it; a run of katakana is one word; before and after kanji and hiragana anything may stand.
    """
    before, after = text[start - 1 : start], text[end : end + 1]
    if is_latin(text[start]) and (is_latin(before) or before == "-"):
        return False
    if is_latin(text[end - 1]) and is_latin(after):
        return False
    if _within(text[start], _HANGUL) and _within(before, _HANGUL):
        return False
    return not (
        (_within(text[start], _KATAKANA) and _within(before, _KATAKANA))
        or (_within(text[end - 1], _KATAKANA) and _within(after, _KATAKANA))
    )


def is_latin(char: str) -> bool:
    """Whether ``char`` (or nothing) is a Latin letter or a digit."""
    return char.isalnum() and char < "\u0250"


def _within(char: str, letters: tuple[str, str]) -> bool:
    return letters[0] <= char <= letters[1]
