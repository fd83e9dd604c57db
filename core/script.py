"""Whether a sentence is written in the script of a language, whatever titles and artists of other scripts it names."""

import re
from unicodedata import normalize

from config.prompt_texts import LocaleTexts
from core.name_index import is_latin

# A letter of the others is a syllable or a word: about as much as three Latin ones.
_LATIN_WEIGHT = 1 / 3
_LEAST_SHARE = 0.5


class Script:
    """The letters of one language: those that sentences consist of, and those of which each has at least one."""

    def __init__(self, texts: LocaleTexts) -> None:
        self._own = re.compile(f"[{texts.letters}]")
        self._telling = re.compile(f"[{texts.telling_letters or texts.letters}]")
        self._not_own = None if texts.telling_letters else re.compile(rf"(?![{texts.letters}])[^\W\d_]")

    def is_all_of(self, sentence: str) -> bool:
        """Whether ``sentence`` has no letters but the language's, which tell enough: ``is_of``, whatever it names."""
        return self._not_own is not None and not self._not_own.search(sentence) and bool(self._own.search(sentence))

    def is_of(self, sentence: str, without_names: str) -> bool:
        """Whether ``sentence`` is; ``without_names`` is what it says beside names, which may be nothing.

        Then the sentence itself must be: a title in another language is no label. The languages of one script are not
        told apart, but for those that have letters of their own.
        """
        said = without_names if any(map(str.isalpha, without_names)) else sentence
        letters = [char for char in normalize("NFKC", said) if char.isalpha()]
        own = sum(_weight(char) for char in letters if self._own.match(char))
        return own >= _LEAST_SHARE * sum(map(_weight, letters)) and any(map(self._telling.match, letters))


def _weight(letter: str) -> float:
    return _LATIN_WEIGHT if is_latin(letter) else 1.0
