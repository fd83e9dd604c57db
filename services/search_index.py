"""Names found by their letters: tantivy picks some hundreds of items, ``core.search_match`` puts them in order."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from heapq import nsmallest
from itertools import pairwise

import tantivy

from core.ports.catalogue import SearchHit
from core.search_match import MIN_SCORE, Names, Query
from core.search_text import chinese_characters, whole_characters
from models.catalogue import Item

# Of a long text the letters say more, so that what it means stands among fewer.
_LONG, _N_OF_LONG, _N_OF_SHORT = 10, 100, 200
_N_OF_INITIALS = 500
_HEAP_BYTES = 32_000_000
# A word as it was typed, but for a letter, is worth several of the letter groups that any word is made of.
_SAME_WORD = 6.0
# So many more match a letter or two than are compared that the places where they stand go before all else, in tiers
# that neither letter groups nor popularity (at most 1.5 times) bridge.
_IS, _BEGINS, _BEGINS_A_WORD, _INSIDE = 1600.0, 800.0, 400.0, 200.0
_HELD = 12.0
_LEAST_FUZZY, _TWO_SLIPS = 4, 12
_SHORT = 3
_LONGEST_SYLLABLE = 5  # of 뷁, a consonant and two each of vowels and consonants
_LEAST_WEIGHT = 0.2
_GRAM = 3


class NameIndex:
    """The names of items, in memory. One thread at a time may change it; any may search.

    What is put in or taken out is found, or no longer found, after ``commit``.
    """

    def __init__(self, spellings: Sequence[str] = ()) -> None:
        self._spellings = spellings
        self._schema = _schema()
        self._index = tantivy.Index(self._schema)
        for name, shortest in (("grams", _GRAM), ("initials", 2)):
            ngrams = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.ngram(shortest, _GRAM)).build()
            self._index.register_tokenizer(name, ngrams)
        self._names: dict[int, str] = {}
        self._writer: tantivy.IndexWriter | None = None

    def __len__(self) -> int:
        """Number of items."""
        return len(self._names)

    def put(self, items: Iterable[Item]) -> None:
        """Take in ``items``, in place of what was known of them."""
        writer = self._open_writer()
        for item in items:
            if item.item_id in self._names:
                writer.delete_documents_by_term("id", item.item_id)
            names = Names.of(item, self._spellings)
            self._names[item.item_id] = names.packed()
            writer.add_document(_document(item, names))

    def remove(self, item_ids: Collection[int]) -> None:
        """Forget these items."""
        writer = self._open_writer()
        for item_id in item_ids:
            writer.delete_documents_by_term("id", item_id)
            self._names.pop(item_id, None)

    def commit(self) -> None:
        """Let searches see what was changed."""
        writer, self._writer = self._open_writer(), None
        writer.commit()
        writer.wait_merging_threads()  # and with it goes its memory
        self._index.reload()

    def search(self, text: str, n: int) -> list[SearchHit]:
        """The ``n`` items whose names match ``text`` best, best first; none where it holds no letter or digit."""
        query = Query.of(text)
        if not query:
            return []
        scored = [hit for hit in self._compared(query) if hit.score >= MIN_SCORE]
        return nsmallest(n, scored, key=lambda hit: (-hit.score, hit.item_id))

    def _compared(self, query: Query) -> Iterator[SearchHit]:
        searcher = self._index.searcher()
        if query.initials:
            wanted, n = self._query_of_initials(query.initials), _N_OF_INITIALS
        else:
            wanted = self._query_of_words(query)
            n = _N_OF_LONG if len(query.text) >= _LONG else _N_OF_SHORT
        # Where letters say little, popularity decides who is compared at all.
        by = "weight" if _is_short(query) else None
        places = [place for _, place in searcher.search(wanted, n, count=False, weight_by_field=by).hits]
        ids = searcher.fast_field_values("id", places)
        weights = searcher.fast_field_values("weight", places)
        for item_id, weight in zip(ids, weights, strict=True):
            # What another thread has just taken out may still be found for a moment.
            if isinstance(item_id, int) and (names := self._names.get(item_id)) is not None:
                yield SearchHit(
                    item_id, query.score(Names.unpacked(names), float(weight or _LEAST_WEIGHT) - _LEAST_WEIGHT)
                )

    def _query_of_words(self, query: Query) -> tantivy.Query:
        words = query.text.split()
        grams = {gram for word in words for gram in _grams(f"^{word}$", _GRAM)}
        is_short = _is_short(query)
        return self._any_of(
            [
                *(self._term("grams", gram) for gram in sorted(grams)),
                *(self._term("words", each) for word in words for each in chinese_characters(word)),
                *(self._like(word, may_go_on=not is_short) for word in words),
                *(self._starts(query.letters) if is_short else ()),
                *self._inside(query.characters, _INSIDE if is_short else _HELD),
            ]
        )

    def _starts(self, letters: str) -> Iterator[tantivy.Query]:
        """Of few letters: names that are or begin so, and those of which a later word does."""
        few = letters[:_SHORT]
        for term, weight in ((f"={letters}", _IS), (f"^{few}", _BEGINS), (f"-{few}", _BEGINS_A_WORD)):
            yield tantivy.Query.const_score_query(self._term("starts", term), weight)

    def _inside(self, characters: Sequence[str], weight: float) -> Iterator[tantivy.Query]:
        """Names that hold these one after the other, wherever it is."""
        if characters:
            terms = [(tantivy.Occur.Must, self._term("inside", term)) for term in _pairs(characters) or characters]
            yield tantivy.Query.const_score_query(tantivy.Query.boolean_query(terms), weight)

    def _query_of_initials(self, initials: str) -> tantivy.Query:
        bordered = f"^{initials}$"
        grams = {gram for length in (2, _GRAM) for gram in _grams(bordered, length)}
        starts = {f" {initials[:length]}" for length in (1, 2)}
        return self._any_of([self._term("initials", gram) for gram in sorted(grams | starts)])

    def _like(self, word: str, *, may_go_on: bool) -> tantivy.Query:
        """A word as it stands, or with a slip or two; a short one may be the beginning of another."""
        distance = 0 if len(word) < _LEAST_FUZZY else 1 if len(word) < _TWO_SLIPS else 2
        fuzzy = tantivy.Query.fuzzy_term_query(
            self._schema, "words", word, distance=distance, prefix=may_go_on and len(word) <= _SHORT
        )
        return tantivy.Query.const_score_query(fuzzy, _SAME_WORD)

    def _term(self, field: str, term: str) -> tantivy.Query:
        return tantivy.Query.term_query(self._schema, field, term, index_option="basic")

    @staticmethod
    def _any_of(queries: Sequence[tantivy.Query]) -> tantivy.Query:
        return tantivy.Query.boolean_query([(tantivy.Occur.Should, query) for query in queries])

    def _open_writer(self) -> tantivy.IndexWriter:
        if self._writer is None:
            self._writer = self._index.writer(_HEAP_BYTES, num_threads=1)
        return self._writer


def _schema() -> tantivy.Schema:
    builder = tantivy.SchemaBuilder()
    builder.add_integer_field("id", indexed=True, fast=True)
    builder.add_float_field("weight", fast=True)
    for field, tokenizer in (
        ("grams", "grams"),
        ("words", "whitespace"),
        ("starts", "whitespace"),
        ("inside", "whitespace"),
        ("initials", "initials"),
    ):
        builder.add_text_field(field, tokenizer_name=tokenizer, index_option="basic")
    return builder.build()


def _document(item: Item, names: Names) -> tantivy.Document:
    document = tantivy.Document()
    document.add_integer("id", item.item_id)
    document.add_float("weight", _LEAST_WEIGHT + item.popularity)
    spelt_names = [*names.titles, *names.creators]
    spelt = " ".join(spelt_names)
    words = sorted(set(spelt.split()))
    for word in words:
        document.add_text("grams", f"^{word}$")
    document.add_text("words", " ".join([*words, *chinese_characters(spelt)]))
    document.add_text("starts", " ".join({start for name in spelt_names for start in _starts_of(name)}))
    inside = {term for name in spelt_names if not name.isascii() for term in _inside_of(name)}
    document.add_text("inside", " ".join(inside))
    for initials in names.initials:
        document.add_text("initials", f"^{initials.replace(' ', '')}$")
        for word in initials.split()[1:]:
            document.add_text("initials", f" {word[:2]}")
    return document


def _is_short(query: Query) -> bool:
    return len(query.initials or query.text) <= _SHORT or query.characters == (query.text,)


def _starts_of(name: str) -> Iterator[str]:
    """The first letters of a name and of its later words, and a short name itself, each with a mark of which it is."""
    words = name.split()
    whole = "".join(words)
    if len(whole) <= _LONGEST_SYLLABLE:
        yield f"={whole}"
    for length in range(1, _SHORT + 1):
        yield f"^{whole[:length]}"
        for place in range(1, len(words)):
            yield f"-{''.join(words[place:])[:length]}"


def _inside_of(name: str) -> list[str]:
    characters = whole_characters(name.replace(" ", ""))
    return [*characters, *_pairs(characters)]


def _pairs(characters: Sequence[str]) -> list[str]:
    return [first + second for first, second in pairwise(characters)]


def _grams(text: str, length: int) -> list[str]:
    return [text[start : start + length] for start in range(len(text) - length + 1)]
