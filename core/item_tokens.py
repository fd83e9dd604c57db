"""What an embedder reads of an item besides its numbers: tokens, hashed, each with how much of its item it is.

- *words* of titles, creator and text columns, in one space, so that "feat. X" meets X; of words in scripts that join
  words, or endings to words, the n-grams of letters too.
- *style* of titles, which tells artists apart who never use a word twice: all in small letters, a full stop, two words.
- *tags*: genres, moods and language, and their words, so that "indie rock" is near "rock".
"""

import math
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from core.text_features import Hashes, Rows, Weights, hashes_of, pair_features, piece_features, words
from models.catalogue import Item

# Of inner products.
TEXT_WEIGHT, TAG_WEIGHT = 0.6, 0.17

_MAX_WORDS = 8
_MIN_UPPER = 3
_FIRST_NOT_LATIN = "\u2000"
_MARKS = re.compile(r"[^\w\s]+")
_NAMES = re.compile(r"[^\W\d_]+")
_DIGIT = re.compile(r"\d")


@dataclass(frozen=True, slots=True)
class Tokens:
    """Of a batch of items: ``hashes`` uint64 (n,), ``rows`` int64 (n,), rising, ``weights`` float64 (n,).

    ``is_tag`` bool (n,). Within a row no hash is there twice.
    """

    hashes: Hashes
    rows: Rows
    weights: Weights
    is_tag: npt.NDArray[np.bool_]

    def where(self, chosen: npt.NDArray[np.bool_]) -> "Tokens":
        """Those of them that are ``chosen``, bool (n,)."""
        return Tokens(self.hashes[chosen], self.rows[chosen], self.weights[chosen], self.is_tag[chosen])


def tokens_of(items: Sequence[Item], text_columns: Collection[str] = (), *, with_style: bool = True) -> Tokens:
    """The tokens of ``items``, the row of each being its item's place."""
    spoken = [_words_of(item, text_columns) for item in items]
    texts = [[*each, *(_styles_of(item) if with_style else ())] for each, item in zip(spoken, items, strict=True)]
    tags = [list(dict.fromkeys(_tags_of(item))) for item in items]
    pieces = piece_features(spoken)
    hashes = [hashes_of([token for each in kind for token in each]) for kind in (texts, tags)]
    text_weight = math.sqrt(TEXT_WEIGHT)
    # Together an item's tags weigh as much as one.
    shares = [math.sqrt(TAG_WEIGHT / len(each)) for each in tags for _ in each]
    rows = np.concatenate([_rows(texts), pieces.rows, _rows(tags)])
    weights = np.concatenate([np.full(len(hashes[0]), text_weight), text_weight * pieces.weights, shares])
    is_tag = np.arange(len(rows)) >= len(rows) - len(shares)
    all_hashes = np.concatenate([hashes[0], pieces.hashes, hashes[1]])
    order = np.argsort(rows, kind="stable")
    return Tokens(all_hashes[order], rows[order], weights[order], is_tag[order])


def letter_pairs_of(items: Sequence[Item], text_columns: Collection[str] = ()) -> Tokens:
    """The pairs of letters in the text of ``items``: what language it is in, where no word of it is known."""
    pairs = pair_features([_words_of(item, text_columns) for item in items])
    order = np.argsort(pairs.rows, kind="stable")
    ones = np.ones(len(order))
    return Tokens(pairs.hashes[order], pairs.rows[order], ones, np.zeros(len(order), np.bool_))


def style_of(title: str) -> Iterator[str]:
    """How ``title`` is written, whatever it says; nothing of one without words."""
    n_words = len(words(title))
    if not n_words:
        return
    names = _NAMES.findall(title)
    letters = "".join(names)
    if letters and letters == letters.lower():
        yield "lower"
    if len(letters) >= _MIN_UPPER and letters.isupper():
        yield "upper"
    if not letters.isascii():
        yield "accent"
    if max(letters, default="") > _FIRST_NOT_LATIN:
        yield "script"
    yield from dict.fromkeys(f"marks {marks}" for marks in _MARKS.findall(title))
    yield from _case_of(names)
    if _DIGIT.search(title):
        yield "digit"
    yield f"words {min(n_words, _MAX_WORDS)}"


def _case_of(names: Sequence[str]) -> Iterator[str]:
    """Whether the words after the first are Large, small or both, in a title that begins with a large letter."""
    if len(names) > 1 and names[0][0].isupper():
        n_small = sum(name[0].islower() for name in names[1:])
        yield "case title" if n_small == 0 else "case sentence" if n_small == len(names) - 1 else "case mixed"


def texts_of(item: Item, columns: Iterable[str]) -> list[str]:
    """What ``columns`` of ``item`` hold that is text."""
    return [text for column in columns if isinstance(text := item.columns.get(column), str)]


def _words_of(item: Item, columns: Iterable[str]) -> list[str]:
    texts = [*item.titles.values(), item.creator, item.creator_local, *texts_of(item, columns)]
    return list(dict.fromkeys(word for text in texts if text for word in words(text)))


def _styles_of(item: Item) -> Iterator[str]:
    return (f"style {locale} {style}" for locale, title in item.titles.items() for style in style_of(title))


def _tags_of(item: Item) -> Iterator[str]:
    for kind, tags in (("genre", item.genres), ("mood", item.moods), ("language", (item.language or "",))):
        for tag in tags:
            yield from _tokens_of_tag(kind, tag)


# A catalogue has few tags, and each on many items.
@lru_cache(maxsize=4096)
def _tokens_of_tag(kind: str, tag: str) -> tuple[str, ...]:
    parts = words(tag)
    return tuple(f"{kind}:{part}" for part in dict.fromkeys([" ".join(parts), *parts]) if part)


def _rows(texts: Sequence[Sequence[str]]) -> Rows:
    return np.repeat(np.arange(len(texts)), [len(each) for each in texts]).astype(np.int64)
