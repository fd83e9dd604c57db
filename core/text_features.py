"""Text as hashed features: words and character n-grams of any script, without a vocabulary and without downloads.

All of it is vectorised over a batch: a batch of items costs some numpy calls, not a Python loop per character.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float64]

NGRAM_LENGTHS = (2, 3, 4)

# The voicing marks of kana are letters of their own here: without them "ga" would equal "ka".
_WORD = re.compile("[\\w\u3099\u309a]+")
_DIACRITIC = re.compile("[\u0300-\u036f]")
_KATAKANA_TO_HIRAGANA = {code: code - 0x60 for code in range(0x30A1, 0x30F7)}

# Thai, Lao, Burmese, Khmer, Hangul, kana, kanji.
_FIRST_JOINING = "\u0e00"

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_POSITION = np.uint64(0xC2B2AE3D27D4EB4F)


@dataclass(frozen=True, slots=True)
class Features:
    """Hashed features of a batch, in any order: ``hashes`` uint64 (n,), ``rows`` int64 (n,), ``weights`` float64 (n,).

    ``rows`` says which text of the batch a feature belongs to.
    """

    hashes: Hashes
    rows: Rows
    weights: Weights


def words(text: str) -> list[str]:
    """The words of ``text``, folded so that spellings of one word are equal in any script.

    Compatibility decomposition (NFKD) makes full-width and half-width forms equal and splits a Hangul syllable into its
    jamo: n-grams of jamo still match where a particle or an ending changes a syllable's last consonant, which n-grams
    of syllables do not. Case and Latin diacritics are folded, katakana becomes hiragana.
    """
    return list(_words(text))


# An item is embedded with others: its title is asked for by words, by style and by letters within so many texts.
@lru_cache(maxsize=8192)
def _words(text: str) -> tuple[str, ...]:
    if text.isascii():
        return tuple(_WORD.findall(text.lower()))
    decomposed = unicodedata.normalize("NFKD", text).casefold()
    return tuple(_WORD.findall(_DIACRITIC.sub("", decomposed).translate(_KATAKANA_TO_HIRAGANA)))


def token_features(texts: Sequence[Iterable[str]]) -> Features:
    """One feature a distinct token; ``texts[i]`` are the tokens of row ``i``."""
    distinct = [(row, token) for row, tokens in enumerate(texts) for token in dict.fromkeys(tokens)]
    letters = _Letters.of([token for _, token in distinct])
    return Features(letters.word_hashes(), _rows(distinct), np.ones(len(distinct)))


def piece_features(texts: Sequence[Iterable[str]]) -> Features:
    """N-grams of letters, each distinct one once a row; ``texts[i]`` are the words of row ``i``.

    Of words alone in scripts that join words, or endings to words, where other forms of a word are other words: Hangul
    (by its jamo), kana, kanji, Thai. The pieces of a word weigh as much as the word: their squares sum up to 1.
    """
    joining = [[word for word in tokens if max(word, default="") >= _FIRST_JOINING] for tokens in texts]
    return _ngrams(joining, NGRAM_LENGTHS)


def pair_features(texts: Sequence[Iterable[str]]) -> Features:
    """Pairs of neighbouring letters of all words, as ``piece_features``; their hashes are of a space of their own."""
    pairs = _ngrams(texts, (2,))
    return Features(mixed(pairs.hashes ^ _POSITION), pairs.rows, pairs.weights)


def _ngrams(texts: Sequence[Iterable[str]], lengths: Iterable[int]) -> Features:
    distinct = [(row, word) for row, tokens in enumerate(texts) for word in dict.fromkeys(tokens)]
    if not distinct:
        return Features(np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0))
    letters = _Letters.of([f"<{word}>" for _, word in distinct])
    parts = [letters.ngrams(length) for length in lengths]
    hashes, owners = (np.concatenate(column) for column in zip(*parts, strict=True))
    return _once_a_row(Features(hashes, _rows(distinct)[owners], np.bincount(owners)[owners] ** -0.5))


def _rows(pairs: Sequence[tuple[int, str]]) -> Rows:
    return np.fromiter((row for row, _ in pairs), np.int64, len(pairs))


def _once_a_row(features: Features) -> Features:
    keys = mixed(features.hashes + features.rows.astype(np.uint64) * _MULTIPLIER)
    _, first = np.unique(keys, return_index=True)
    return Features(features.hashes[first], features.rows[first], features.weights[first])


def mixed(values: Hashes) -> Hashes:
    """A bijective scramble of 64 bits whose every output bit depends on every input bit.

    The finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014): the
    same numbers in every process and on every machine, unlike ``hash()``.
    """
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def hashes_of(tokens: Sequence[str]) -> Hashes:
    """Their hashes, as ``token_features`` gives them, uint64 (n,)."""
    return _Letters.of(tokens).word_hashes()


def hash_of(text: str) -> int:
    """The hash of one token, which must not be empty."""
    return int(hashes_of([text])[0])


@dataclass(frozen=True, slots=True)
class _Letters:
    """All letters of many words in one row: code points uint64 (n,), and the word each belongs to, int64 (n,)."""

    codes: Hashes
    owners: Rows
    starts: Rows

    @classmethod
    def of(cls, words: Sequence[str]) -> "_Letters":
        lengths = np.fromiter(map(len, words), np.int64, len(words))
        # A lone surrogate is no text, but a database may hold one, and it must not stop a batch.
        encoded = "".join(words).encode("utf-32-le", "surrogatepass")
        codes = np.frombuffer(encoded, "<u4").astype(np.uint64)
        return cls(codes, np.repeat(np.arange(len(words)), lengths), np.cumsum(lengths) - lengths)

    def word_hashes(self) -> Hashes:
        if not len(self.starts):
            return np.empty(0, np.uint64)
        places = (np.arange(len(self.codes)) - self.starts[self.owners]).astype(np.uint64)
        return mixed(np.add.reduceat(mixed(self.codes * _MULTIPLIER + places * _POSITION), self.starts))

    def ngrams(self, n: int) -> tuple[Hashes, Rows]:
        """The n-grams that lie within one word, and the word of each."""
        n_starts = max(len(self.codes) - n + 1, 0)
        hashes = np.full(n_starts, n, np.uint64)
        for place in range(n):
            hashes = mixed(hashes * _MULTIPLIER + self.codes[place : place + n_starts])
        within = self.owners[:n_starts] == self.owners[n - 1 :][:n_starts]
        return hashes[within], self.owners[:n_starts][within]
