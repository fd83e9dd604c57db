"""Names as search compares them: one spelling for all that a person may type for the same thing.

Hangul is taken apart into its letters (jamo), so that a slip of the finger is one letter and a syllable half typed is
the beginning of the whole one. Katakana reads as hiragana, accents and case fall away, and names in Hangul or kana are
there in Latin letters too. The consonants that Korean syllables begin with stand for the syllables (초성 검색).
"""

import re
import unicodedata

from anyascii import anyascii

_INITIALS = "ㄱㄲㄴㄷㄸㄹㅁㅂㅃㅅㅆㅇㅈㅉㅊㅋㅌㅍㅎ"
_VOWELS = "ㅏㅐㅑㅒㅓㅔㅕㅖㅗㅘㅙㅚㅛㅜㅝㅞㅟㅠㅡㅢㅣ"
_FINALS: tuple[str, ...] = ("", *"ㄱㄲㄳㄴㄵㄶㄷㄹㄺㄻㄼㄽㄾㄿㅀㅁㅂㅄㅅㅆㅇㅈㅊㅋㅌㅍㅎ")
# Keyboards make these of two letters, and someone who is not done typing has only the first of them.
_PAIRS: dict[str, str] = {
    "ㄳ": "ㄱㅅ", "ㄵ": "ㄴㅈ", "ㄶ": "ㄴㅎ", "ㄺ": "ㄹㄱ", "ㄻ": "ㄹㅁ", "ㄼ": "ㄹㅂ", "ㄽ": "ㄹㅅ", "ㄾ": "ㄹㅌ",
    "ㄿ": "ㄹㅍ", "ㅀ": "ㄹㅎ", "ㅄ": "ㅂㅅ", "ㅘ": "ㅗㅏ", "ㅙ": "ㅗㅐ", "ㅚ": "ㅗㅣ", "ㅝ": "ㅜㅓ", "ㅞ": "ㅜㅔ",
    "ㅟ": "ㅜㅣ", "ㅢ": "ㅡㅣ",
}  # fmt: skip
# What NFKC makes of letters that stand by themselves (The Unicode Standard, 18.6: Hangul Jamo).
_ALONE: dict[int, str] = {
    **{0x1100 + place: letter for place, letter in enumerate(_INITIALS)},
    **{0x1161 + place: letter for place, letter in enumerate(_VOWELS)},
    **{0x11A7 + place: letter for place, letter in enumerate(_FINALS) if letter},
}
_FIRST_SYLLABLE, _LAST_SYLLABLE = 0xAC00, 0xD7A3
_N_VOWELS, _N_FINALS = len(_VOWELS), len(_FINALS)
_KATAKANA = range(0x30A1, 0x30F7)
_TO_HIRAGANA = 0x60
_HANGUL, _KANA = re.compile(r"[가-힣]"), re.compile(r"[ぁ-ヿ]")
_HAN = re.compile(r"[\u3400-\u9fff々〇\U00020000-\U0003ffff]")
_CONSONANTS = re.compile(r"[ㄱ-ㅎ]")
# A syllable in folded letters: none but its first consonant stands before a vowel, which tells where the next begins.
_SYLLABLE = (
    r"[ㄱ-ㅎ](?:ㅗ[ㅏㅐㅣ]|ㅜ[ㅓㅔㅣ]|ㅡㅣ|[ㅏ-ㅣ])"
    r"(?:(?:ㄱㅅ|ㄴ[ㅈㅎ]|ㄹ[ㄱㅁㅂㅅㅌㅍㅎ]|ㅂㅅ)(?![ㅏ-ㅣ])|[ㄱ-ㅎ](?![ㅏ-ㅣ]))?"
)
_CHARACTER = re.compile(f"{_SYLLABLE}|[^ ]")
_WHOLE = re.compile(f"{_SYLLABLE}|{_KANA.pattern}|{_HAN.pattern}")
_JOINED = re.compile(r"['’`´.·・]")  # in don't, R.E.M. and ザ・ブルーハーツ no new word begins there


def folded(text: str) -> str:
    """``text`` as words of folded letters, one space between them; empty where nothing in it is a letter or digit."""
    plain = _JOINED.sub("", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(plain.translate(_LETTERS).split())


def names_of(text: str) -> tuple[str, ...]:
    """All folded spellings of a name: as it is written, and in Latin letters where it is in Hangul or kana."""
    latin = folded(anyascii(text).replace("-", "")) if _is_spelt_out(text) else ""
    return tuple(dict.fromkeys(name for name in (folded(text), latin) if name))


def initials_of(text: str) -> str:
    """What the syllables of ``text`` begin with, beside its other letters, as words; empty without Hangul."""
    if not (_HANGUL.search(text) or _CONSONANTS.search(text)):
        return ""
    plain = _JOINED.sub("", unicodedata.normalize("NFC", text).casefold())
    return " ".join("".join(_initial(character) for character in plain).split())


def asked_initials(query: str) -> str:
    """The same of a query that is typed in initial consonants, in part at least; empty where it is not.

    ``ㅂㅌ`` asks so, and so does ``비ㅌ``; a vowel by itself (``비ㅡ``) is a syllable half typed, and no such query.
    """
    plain = unicodedata.normalize("NFC", query)
    if not _CONSONANTS.search(plain) or any(letter in plain for letter in _VOWELS):
        return ""
    return "".join(_initial(character).strip() for character in plain.casefold())


def chinese_characters(text: str) -> list[str]:
    """Those of ``text``: each is a word by itself, and no space says where one begins."""
    return _HAN.findall(text)


def whole_characters(text: str) -> list[str]:
    """The syllables, kana and Chinese characters of the folded ``text``: one of them may be a word inside a longer."""
    return _WHOLE.findall(text)


def in_characters(text: str) -> list[str]:
    """The folded ``text`` without spaces, Hangul in syllables and all else letter by letter."""
    return _CHARACTER.findall(text)


class _Letters(dict[int, str]):
    """What each character is folded to, for ``str.translate``; found once."""

    def __missing__(self, code: int) -> str:
        self[code] = _folded_character(chr(code))
        return self[code]


_LETTERS = _Letters()


def _folded_character(character: str) -> str:
    """Its letters, a space where it separates words, or nothing."""
    code = ord(character)
    if _FIRST_SYLLABLE <= code <= _LAST_SYLLABLE:
        return "".join(_PAIRS.get(letter, letter) for letter in _letters(code))
    if code in _KATAKANA:
        return chr(code - _TO_HIRAGANA)
    kind = unicodedata.category(character)[0]
    if kind not in "LN":
        return "" if kind == "M" else " "
    if code in _ALONE:
        return _PAIRS.get(_ALONE[code], _ALONE[code])
    return _without_marks(character)


def _without_marks(character: str) -> str:
    """A letter without its accents; a kana keeps the marks that make another sound of it."""
    bare = "".join(part for part in unicodedata.normalize("NFD", character) if unicodedata.category(part) != "Mn")
    if bare.isascii() or "LATIN" not in unicodedata.name(character, ""):
        return character if _KANA.match(character) else bare
    return str(anyascii(bare)).lower()


def _letters(code: int) -> tuple[str, str, str]:
    """The jamo of a syllable (The Unicode Standard, 3.12)."""
    rest, final = divmod(code - _FIRST_SYLLABLE, _N_FINALS)
    initial, vowel = divmod(rest, _N_VOWELS)
    return _INITIALS[initial], _VOWELS[vowel], _FINALS[final]


def _initial(character: str) -> str:
    code = ord(character)
    if _FIRST_SYLLABLE <= code <= _LAST_SYLLABLE:
        return _letters(code)[0]
    return character if character in _INITIALS else _folded_character(character)


def _is_spelt_out(text: str) -> bool:
    """Whether its letters say how it sounds, in another script than the Latin one."""
    return bool((_HANGUL.search(text) or _KANA.search(text)) and not _HAN.search(text))
