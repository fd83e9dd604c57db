"""Search by a part of a name: a character or two inside it, and the beginning of a later word."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.search import built, held_by_first, later_beginning, part_inside
from core.search_match import MIN_SCORE, Names, Query
from core.search_text import folded, in_characters, whole_characters
from models.catalogue import Item
from services.search_index import NameIndex
from tests.support.builders import make_item

_N_POPULAR = 400


def score(query: str, title: str, popularity: float = 0.0, creator: str | None = None) -> float:
    item = Item(item_id=1, titles={"en": title}, creator=creator)
    return Query.of(query).score(Names.of(item), popularity)


def named(*names: str | tuple[str, str | None], popularity: Sequence[float] = ()) -> list[Item]:
    """Items of these titles, or titles and creators, with ids from 1 on."""
    pairs = [(name, None) if isinstance(name, str) else name for name in names]
    return [
        Item(
            item_id=place,
            titles={"en": title},
            creator=creator,
            popularity=dict(enumerate(popularity, 1)).get(place, 0),
        )
        for place, (title, creator) in enumerate(pairs, 1)
    ]


def found(index: NameIndex, asked: str, n: int = 10) -> list[int]:
    return [hit.item_id for hit in index.search(asked, n)]


INSIDE = [
    ("桜", "千本桜"),
    ("恋", "君に恋をした"),
    ("手紙", "ひとりの手紙"),
    ("星空", "透明な星空"),
    ("ドア", "真夜中のドア"),
    ("どあ", "真夜中のドアの前"),
    ("の", "真夜中のドア"),
    ("비", "봄비"),
    ("밤", "여름밤"),
    ("여름", "한여름밤"),
    ("왕", "사자왕국"),
    ("값", "몸값이"),
    ("밤", "여름밤ㅋㅋ"),
    ("비", "봄비ㅠㅠ"),
]
LATER = [
    ("lov", "Bleeding Love"),
    ("lo", "Bleeding Love"),
    ("lan", "Magic Lantern"),
    ("gar", "The Secret Garden"),
    ("riv", "Slow River"),
    ("secretgar", "The Secret Garden"),
    ("love", "恋 LOVE"),
    ("별", "은하 별빛"),
    ("벼", "은하 별빛"),
    ("ㅂ", "은하 별빛"),
    ("ㅂ", "은하 별나라"),
    ("ㅂㅂ", "은하 별빛"),
    ("별ㅂ", "은하 별빛"),
]


@pytest.mark.parametrize(("asked", "title"), [*INSIDE, *LATER])
def test_a_part_of_a_title_finds_it(asked: str, title: str) -> None:
    others = ["Golden Bridge", "夕凪", "강물", "ヒカリ"]
    assert found(built(named(*others, title)), asked)[0] == len(others) + 1
    assert score(asked, title) >= MIN_SCORE


@pytest.mark.parametrize(("asked", "creator"), [("放送", "ナギ放送"), ("별", "은별 소녀"), ("gir", "Blue Girls")])
def test_a_part_of_a_creator_finds_what_is_theirs(asked: str, creator: str) -> None:
    assert found(built(named("Golden Bridge", ("夕凪", creator))), asked)[0] == 2


@pytest.mark.parametrize(
    ("asked", "title"),
    [("가", "인간"), ("안", "하나둘"), ("고", "청과"), ("갑", "몸값"), ("l", "Bleeding Love"), ("ov", "Bleeding Love")],
)
def test_letters_that_only_happen_to_stand_there_are_no_part(asked: str, title: str) -> None:
    assert score(asked, title) < MIN_SCORE
    assert found(built(named(title)), asked) == []


@pytest.mark.parametrize(
    ("asked", "titles"),
    [
        ("lov", ("Lov", "Lovely Day", "Bleeding Love")),
        ("love", ("Love", "Lovely Day", "Bleeding Lovers", "Foxgloves")),
        ("별", ("별", "별빛", "은하 별빛", "은별")),
        ("여름", ("여름", "여름밤", "한 여름밤", "한여름")),
        ("ㅂㅂ", ("별빛", "별빛 아래", "은하 별빛", "은하별빛")),
        ("恋", ("恋", "恋心", "夜 恋心", "初恋")),
        ("ドア", ("ドア", "ドアベル", "夜の ドアベル", "夜のドア")),
    ],
)
def test_a_better_place_goes_before_any_popularity(asked: str, titles: Sequence[str]) -> None:
    scores = [score(asked, title, popularity=place / 9) for place, title in enumerate(titles)]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == len(titles)
    popularity = [place / 9 for place in range(len(titles))]
    assert found(built(named(*titles, popularity=popularity)), asked) == list(range(1, len(titles) + 1))


def test_of_titles_that_hold_it_in_the_same_place_the_popular_one_comes_first() -> None:
    for asked, titles in (("밤", ("여름밤", "가을밤")), ("lov", ("Bleeding Love", "Burning Love"))):
        index = built(named(*titles, popularity=(0.1, 0.9)))
        assert found(index, asked) == [2, 1]


@pytest.mark.parametrize(("asked", "inside", "slip"), [("밤", "봄밤", "바람"), ("lan", "Slow Lantern", "Lean")])
def test_what_holds_it_goes_before_what_is_a_slip_away(asked: str, inside: str, slip: str) -> None:
    assert found(built(named(slip, inside, popularity=(1.0, 0.0))), asked)[0] == 2


def test_letters_across_two_latin_words_are_no_better_than_a_slip() -> None:
    assert found(built(named("Bury Me Low", "Mellow")), "melow") == [2, 1]


@pytest.mark.parametrize(
    ("asked", "popular", "wanted"),
    [
        ("lo", "Hey Lovers", "Lo"),
        ("lo", "Hey Lovers", "Lonely"),
        ("lo", "Lovers", "Lo"),
        ("별", "별빛", "별"),
        ("왕", "왕국", "왕"),
        ("별", "은별", "별"),
        ("별", "은별", "별빛"),
        ("별", "은별", "은하 별빛"),
        ("왕", "여왕", "왕국"),
        ("恋", "初恋", "恋"),
        ("恋", "初恋", "恋心"),
        ("の", "夜の星", "のはら"),
        ("사랑", "첫사랑", "사랑"),
        ("사랑", "첫사랑", "사랑해"),
        ("사랑", "첫사랑", "나의 사랑해"),
        ("手紙", "古手紙", "手紙を書く"),
        ("love", "Glove", "Lover"),
        ("love", "Glove", "Hey Lover"),
    ],
)
def test_hundreds_of_popular_ones_do_not_hide_a_better_place(asked: str, popular: str, wanted: str) -> None:
    items = [make_item(place, title=f"{popular} {place}", popularity=1.0) for place in range(2, _N_POPULAR)]
    index = built([make_item(1, title=wanted, popularity=0.0), *items])
    assert found(index, asked)[0] == 1


@pytest.mark.parametrize(("asked", "title"), [("ㅋㅋㅋ", "ㅋㅋㅋ"), ("ㅠㅠ", "ㅠㅠ")])
def test_a_title_of_single_letters_is_found(asked: str, title: str) -> None:
    assert found(built(named("Golden Bridge", title)), asked) == [2]


# --- in characters ---

_HANGUL = st.characters(min_codepoint=0xAC00, max_codepoint=0xD7A3)
_KANA = st.sampled_from(
    "あいうえおかがきくけこさしじすせそたちつてとなにのはばぱひふまみもやゆよらりるれろわをんアイウカガキドレンヴー"
)
_HAN = st.characters(min_codepoint=0x4E00, max_codepoint=0x9FA5)
_LATIN = st.sampled_from("abcdefghijklmnoprstuvwxyzéöß")


@given(st.text(_HANGUL, min_size=1, max_size=10))
def test_folded_hangul_is_told_apart_into_its_syllables_again(text: str) -> None:
    syllables = [folded(syllable) for syllable in text]
    assert whole_characters(folded(text)) == in_characters(folded(text)) == syllables


@given(st.text(st.one_of(_HANGUL, _KANA, _HAN, _LATIN, st.just(" ")), max_size=20))
def test_no_letter_is_lost_between_characters(text: str) -> None:
    asked = folded(text)
    assert "".join(in_characters(asked)) == asked.replace(" ", "")
    assert [each for each in in_characters(asked) if not each.isascii()] == whole_characters(asked)


# --- every word of every title ---

_RUNS = st.one_of(
    st.text(_HANGUL, min_size=1, max_size=4),
    st.text(_KANA, min_size=1, max_size=4),
    st.text(_HAN, min_size=1, max_size=4),
)
_WORDS = st.one_of(st.text(_LATIN, min_size=1, max_size=7), st.lists(_RUNS, min_size=1, max_size=3).map("".join))
_TITLES = st.lists(_WORDS, min_size=1, max_size=4).map(" ".join)


def parts_of(data: st.DataObject, title: str) -> str:
    """A word of two letters at least or, where no letter is Latin, any run of characters in one."""
    words = [word for word in title.split() if not word[0].isascii() or len(word) > 1]
    word = data.draw(st.sampled_from(words or [title]))
    if any(letter.isascii() or letter in "éöß" for letter in word):
        return word
    start = data.draw(st.integers(0, len(word) - 1))
    return word[start : data.draw(st.integers(start + 1, len(word)))]


@settings(max_examples=60)
@given(st.lists(_TITLES, min_size=1, max_size=12), st.data())
def test_every_word_of_a_title_finds_its_item_before_those_that_do_not_hold_it(
    titles: list[str], data: st.DataObject
) -> None:
    items = named(*titles)
    wanted = data.draw(st.sampled_from(items))
    asked = parts_of(data, wanted.titles["en"])
    order = found(built(items), asked, len(items))
    assert wanted.item_id in order
    letters = folded(asked).replace(" ", "")
    holds = [any(letters in name.replace(" ", "") for name in Names.of(items[each - 1]).titles) for each in order]
    assert all(holds[: order.index(wanted.item_id) + 1])


# --- what the benchmark asks ---


@pytest.mark.parametrize("title", ["Bleeding Love", "千本桜", "여름 밤비", "夜に駆ける"])
def test_the_benchmark_asks_for_parts_that_are_there(title: str) -> None:
    rng = random.Random(1)
    index, items = built(named(title)), {item.item_id: item for item in named(title)}
    parts = [part_inside(rng, title) for _ in range(10)]
    assert all(part in title and not title.startswith(part) for part in parts)
    assert held_by_first(index, [(items[1], part) for part in parts], items) == 1.0
    assert held_by_first(index, [(items[1], "qqqq")], items) == 0.0


def test_the_benchmark_asks_for_the_beginning_of_a_later_word() -> None:
    rng = random.Random(1)
    assert {later_beginning(rng, "Bleeding Love") for _ in range(20)} == {"Lo", "Lov"}
    assert {later_beginning(rng, "여름 밤편지") for _ in range(20)} == {"밤", "밤편"}
