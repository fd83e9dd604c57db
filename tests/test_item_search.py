"""Search by name: in every script, through slips of the finger, and after the catalogue has changed."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.search import built, catalogue, found_among_first, titles_of, with_a_slip
from core.errors import DependencyUnavailable
from core.ports.catalogue import ItemsMark
from core.search_match import Names, Query
from core.search_text import asked_initials, folded, initials_of, names_of
from models.catalogue import Item
from services.item_search import FollowingItemSearch
from services.search_index import NameIndex
from tests.support.builders import make_item
from tests.support.small_catalogue import ShownCatalogue, shown_items
from tests.support.waiting import until

N = 2000
ITEMS = catalogue(N, None)
INDEX = built(ITEMS)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def first(text: str) -> str:
    """The first title of what comes first."""
    hits = INDEX.search(text, 1)
    return next(iter(ITEMS[hits[0].item_id - 1].titles.values())) if hits else ""


# --- folding ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Beyoncé – Déjà Vu (feat. JAY-Z)", "beyonce deja vu feat jay z"),
        ("Don't  STOP", "dont stop"),
        ("Ørsted ß Łódź Æon", "orsted ss lodz aeon"),
        ("ドライフラワー", "どらいふらわー"),
        ("ﾄﾞﾗｲ", "どらい"),
        ("Ｈａｌｏ", "halo"),
        ("값", "ㄱㅏㅂㅅ"),
        ("사랑해ㅆ", "ㅅㅏㄹㅏㅇㅎㅐㅆ"),
        ("ㄳ", "ㄱㅅ"),
        ("Привет Ёлка", "привет елка"),
        ("!?…", ""),
        ("", ""),
    ],
)
def test_what_is_typed_alike_is_folded_alike(text: str, expected: str) -> None:
    assert folded(text) == expected


@given(TEXTS)
def test_what_is_folded_is_folded_for_good(text: str) -> None:
    assert folded(folded(text)) == folded(text)


@given(st.text(st.characters(min_codepoint=0xAC00, max_codepoint=0xD7A3), min_size=1, max_size=8))
def test_hangul_half_typed_is_the_beginning_of_the_whole(text: str) -> None:
    whole = folded(text)
    assert whole
    for n_typed in range(1, len(text) + 1):
        assert whole.startswith(folded(text[:n_typed]))


@pytest.mark.parametrize(
    ("text", "initials"), [("비틀비틀 짝짜꿍", "ㅂㅌㅂㅌ ㅉㅉㄲ"), ("IU 밤편지", "iu ㅂㅍㅈ"), ("Halo", ""), ("夜", "")]
)
def test_syllables_begin_with_their_initial_consonants(text: str, initials: str) -> None:
    assert initials_of(text) == initials


@pytest.mark.parametrize(
    ("query", "initials"),
    [("ㅂㅌ", "ㅂㅌ"), ("비ㅌ", "ㅂㅌ"), ("ㅂ ㅌ", "ㅂㅌ"), ("비틀", ""), ("비ㅡ", ""), ("halo", ""), ("", "")],
)
def test_only_consonants_that_stand_alone_ask_by_initials(query: str, initials: str) -> None:
    assert asked_initials(query) == initials


def test_what_is_spelt_out_has_a_name_in_latin_letters_and_a_kanji_has_none() -> None:
    assert "bitoruzu" in names_of("ビートルズ")
    assert "biteul" in names_of("비틀")
    assert names_of("夜に駆ける") == ("夜に駆ける",)


@given(st.lists(TEXTS, max_size=3), st.lists(TEXTS, max_size=2))
def test_names_are_packed_and_unpacked_as_they_were(titles: list[str], creators: list[str]) -> None:
    item = Item(item_id=1, titles=dict(enumerate_as_locales(titles)), creator="".join(creators) or None)
    names = Names.of(item)
    assert Names.unpacked(names.packed()) == Names(*map(list, names))


def enumerate_as_locales(titles: Sequence[str]) -> Sequence[tuple[str, str]]:
    return [(f"l{place}", title) for place, title in enumerate(titles) if title]


# --- matching ---


def score(query: str, *titles: str, creator: str | None = None, popularity: float = 0.0) -> float:
    item = Item(item_id=1, titles=dict(enumerate_as_locales(titles)), creator=creator)
    return Query.of(query).score(Names.of(item), popularity)


def test_the_very_title_is_better_than_one_that_begins_so_and_that_than_one_that_holds_it() -> None:
    asked = "golden bridge"
    scores = [score(asked, title) for title in ("Golden Bridge", "Golden Bridge Again", "My Golden Bridge", "Golden")]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == 4


def test_a_title_is_better_than_a_creator_of_that_name() -> None:
    assert score("halo", "Halo", creator="Beyoncé") > score("halo", "Sweet Dreams", creator="Halo") > 60


def test_of_equal_matches_the_more_popular_is_the_better() -> None:
    assert score("halo", "Halo", popularity=0.9) > score("halo", "Halo", popularity=0.1)


def test_popularity_makes_no_match_of_none() -> None:
    assert score("ㅋㅋ", "비틀비틀", popularity=1.0) == 0.0


def test_title_and_creator_match_in_any_order() -> None:
    assert min(score(asked, "좋은 날", creator="아이유") for asked in ("아이유 좋은 날", "좋은 날 아이유")) > 90


@given(TEXTS, TEXTS)
def test_a_score_is_in_its_range_whatever_is_asked(query: str, title: str) -> None:
    assert 0 <= score(query, title, creator=title or None, popularity=1.0) <= 104


# --- the index ---


@pytest.mark.parametrize(
    ("asked", "title"),
    [
        ("비틀비틀", "비틀비틀 짝짜꿍"),
        ("비틀ㅂ", "비틀비틀 짝짜꿍"),
        ("ㅂㅌㅂㅌ", "비틀비틀 짝짜꿍"),
        ("밤ㅍㅈ", "밤편지"),
        ("좋은날", "좋은 날"),
        ("아이유 밤편지", "밤편지"),
        ("밤펀지", "밤편지"),
        ("bampyeonji", "밤편지"),
        ("ㅅㄹㅎㅈㅁ", "사랑했지만"),
        ("よるにかける", "夜に駆ける"),
        ("ヨルニカケル", "夜に駆ける"),
        ("夜に駆ける", "夜に駆ける"),
        ("千本", "千本桜"),
        ("どらいふらわー", "ドライフラワー"),
        ("ドライフワラー", "ドライフラワー"),
        ("doraifurawa", "ドライフラワー"),
        ("BEYONCE", "Halo"),
        ("byeonce", "Halo"),
        ("hoppipolla", "Hoppípolla"),
        ("smels like teen sprit", "Smells Like Teen Spirit"),
        ("teen spirit", "Smells Like Teen Spirit"),
    ],
)
def test_it_comes_first_however_it_is_typed(asked: str, title: str) -> None:
    assert first(asked) == title


@pytest.mark.parametrize("asked", ["", " ", "!?", "\x00", "🎵"])
def test_where_no_letter_is_asked_nothing_is_found(asked: str) -> None:
    assert INDEX.search(asked, 10) == []


@given(TEXTS)
def test_whatever_is_asked_is_answered_in_order_and_once(asked: str) -> None:
    hits = INDEX.search(asked, 10)
    assert len(hits) <= 10
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert len({hit.item_id for hit in hits}) == len(hits)


def test_the_same_is_asked_the_same_is_found() -> None:
    assert INDEX.search("golden", 50) == INDEX.search("golden", 50)


def test_a_title_with_a_slip_finds_its_item_among_the_first_three_in_95_of_100() -> None:
    rng = random.Random(3)
    items = [item for item in ITEMS if len(folded(next(iter(item.titles.values())))) >= 6]
    asked = [(item, with_a_slip(rng, next(iter(item.titles.values())))) for item in rng.sample(items, 150)]
    assert all(text != next(iter(item.titles.values())) for item, text in asked[:3])
    assert found_among_first(INDEX, asked, titles_of(ITEMS)) >= 0.95


def test_what_is_put_again_is_found_by_its_new_name_alone() -> None:
    index = NameIndex()
    index.put([make_item(1, title="Golden Bridge"), make_item(2, title="Paper Letters")])
    index.commit()
    index.put([make_item(1, title="Silent Harbor")])
    index.remove([2])
    index.commit()
    assert [hit.item_id for hit in index.search("silent harbor", 5)] == [1]
    assert index.search("golden bridge", 5) == []
    assert index.search("paper letters", 5) == []
    assert len(index) == 1


# --- following the catalogue ---


@asynccontextmanager
async def following(
    items: ShownCatalogue, refresh_s: float = 60.0, patience_s: float = 5.0
) -> AsyncIterator[FollowingItemSearch]:
    search = FollowingItemSearch(items, refresh_s=refresh_s, patience_s=patience_s)
    async with search.following():
        yield search


async def ids(search: FollowingItemSearch, text: str) -> list[int]:
    return [hit.item_id for hit in await search.search(text, 5)]


async def test_nothing_is_read_before_somebody_searches_and_then_once() -> None:
    items = ShownCatalogue(shown_items())
    async with following(items) as search:
        await search.refresh()
        assert items.n_streams == 0
        found = await asyncio.gather(*(ids(search, "halo") for _ in range(3)))
    assert found == [[4]] * 3
    assert items.n_streams == 1


async def test_what_has_changed_is_found_after_a_refresh() -> None:
    items = ShownCatalogue(shown_items())
    async with following(items) as search:
        assert await ids(search, "halo") == [4]
        items.put(replace(items.active[4], titles={"en": "Single Ladies"}))
        items.put(make_item(900, title="Golden Bridge"))
        del items.active[1]
        await search.refresh()
        assert await ids(search, "single ladies") == [4]
        assert await ids(search, "golden bridge") == [900]
        assert await ids(search, "비틀비틀") == []


async def test_a_catalogue_that_changes_is_followed_by_itself() -> None:
    items = ShownCatalogue(shown_items())
    async with following(items, refresh_s=0.02) as search:
        assert await ids(search, "golden bridge") == []
        items.put(make_item(900, title="Golden Bridge"))

        async def is_found() -> bool:
            return await ids(search, "golden bridge") == [900]

        await until(is_found)


class _SlowCatalogue(ShownCatalogue):
    """Its names come once ``may_go`` is set, unless it ``is_away``."""

    def __init__(self) -> None:
        super().__init__(shown_items())
        self.may_go = asyncio.Event()
        self.is_away = False

    async def mark(self) -> ItemsMark:
        if self.is_away:
            raise DependencyUnavailable("database", "away")
        await self.may_go.wait()
        return await super().mark()


async def test_while_the_names_are_read_a_search_fails_and_says_so() -> None:
    items = _SlowCatalogue()
    async with following(items, patience_s=0.01) as search:
        with pytest.raises(DependencyUnavailable, match="still being read"):
            await search.search("halo", 5)
        items.may_go.set()

        async def is_read() -> bool:
            try:
                return await ids(search, "halo") == [4]
            except DependencyUnavailable:
                return False

        await until(is_read)


async def test_names_that_could_not_be_read_are_read_at_the_next_search() -> None:
    items = _SlowCatalogue()
    items.is_away = True
    items.may_go.set()
    async with following(items) as search:
        with pytest.raises(DependencyUnavailable, match="away"):
            await search.search("halo", 5)
        items.is_away = False
        assert await ids(search, "halo") == [4]


async def test_a_search_that_is_closed_while_it_reads_ends_at_once() -> None:
    items = _SlowCatalogue()
    async with asyncio.timeout(5):
        async with following(items, patience_s=0.01) as search:
            search.begin()
