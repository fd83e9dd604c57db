"""Versions of one work are found by their titles, in any script; different works stay apart."""

import re
import unicodedata
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.catalogue_profile import VersionWords, load_profile
from core.item_versions import VersionFinder
from models.recommendation import Candidate
from tests.support.builders import make_candidate, make_item

WORDS = load_profile("songs").versions
SONGS = VersionFinder(WORDS)

LETTERS = st.characters(codec="utf-8")
PARTS = st.sampled_from(
    [
        "Song",
        "봄날",
        "夜に",
        " ",
        " - ",
        "(",
        ")",
        "[",
        "~",
        "Live",
        "Remix",
        "feat. ",
        "라이브",
        "リミックス",
        "2",
        "ft",
    ]
)
TITLES = st.one_of(st.text(LETTERS, max_size=30), st.lists(PARTS, max_size=9).map("".join))


@pytest.mark.parametrize(
    "title",
    [
        "Spring Day - Remix",
        "Spring Day - R3HAB Remix",
        "Spring Day - Remastered 2011",
        "Spring Day - 2011 Remaster",
        "Spring Day (Remastered 2011) - Live",
        "Spring Day (Live at Wembley)",
        "Spring Day [Live]",
        "Spring Day - Live at Wembley / 1986",
        "Spring Day - Radio Edit",
        "Spring Day – Radio Edit",
        "Spring Day —Acoustic",
        "Spring Day - Acoustic Ver.",
        "Spring Day (feat. IU)",
        "Spring Day feat. IU",
        "Spring Day ft. IU & Suga",
        "Spring Day ft.IU",
        "Spring Day Featuring IU (Remix)",
        "Spring Day (with IU)",
        "Spring Day - w/ IU",
        "Spring Day (Sped Up)",
        "Spring Day sped up",
        "Spring Day (Inst.)",
        "Spring Day (Karaoke Version)",
        "Spring Day (MR)",
        "Spring Day ~Acoustic Ver.~",
        "Spring Day 【リミックス】",
        "Spring Day（ライブ）",
        "Spring Day (라이브)",
        "Spring Day (콘서트 라이브버전)",
        "Spring Day (Live at a hall whose name was too lo…",
        "Spring Day - Mixed",
        "Spring Day - Jerome Dub",
        "Spring Day (Kaytranada Edition)",
        "Spring Day [BTS vs. R3HAB]",
        'Spring Day - 12" Dub',
        "Spring Day - Soundtrack",
        'Spring Day (Theme From "Rocky")',
        "Spring Day - Recorded at Some Studios NYC",
        "Spring Day - Rerecorded",
        "Spring Day (10th Anniversary)",
        "Spring Day (Alternate Take)",
        "Spring Day - Mono / Remastered",
        "Spring Day - Versión Acústica",
        "Spring Day (con IU)",
        "Spring Day slowed + reverb",
        "Spring Day (Nightcore)",
        "Spring Day (Off Vocal)",
        "Spring Day (한국어ver.)",
        "Spring Day (日本語ver)",
        "Spring Day (일본어버전)",
        "Spring Day (풀버젼)",
        "Spring Day (스튜디오 라이브)",
        "Spring Day (리마스터 2020)",
        "Spring Day (ピアノバージョン)",
        "Spring Day (ライブ映像)",
        "Spring Day（ｱｺｰｽﾃｨｯｸ）",
        "Spring Day (TVサイズ ver.)",
        "ＳＰＲＩＮＧ ＤＡＹ",
        "spring  day!",
    ],
)
def test_a_version_has_the_title_of_its_original(title: str) -> None:
    assert SONGS.title(title) == SONGS.title("Spring Day") == "spring day"


@pytest.mark.parametrize(
    ("title", "original"),
    [("봄날 (라이브)", "봄날"), ("夜に駆ける - リミックス", "夜に駆ける"), ("봄날 - Inst.", "봄날")],
)
def test_titles_of_other_scripts_are_found_too(title: str, original: str) -> None:
    assert SONGS.title(title) == SONGS.title(original) == original


@pytest.mark.parametrize(
    ("one", "another"),
    [
        ("Title 1", "Title 2"),
        ("Part (1)", "Part (2)"),
        ("Sonata - No. 1", "Sonata - No. 2"),
        ("Fly", "Fly (Interlude)"),
        ("Home", "Home (Is Where You Are)"),
        ("Live Forever", "Forever"),
        ("Dance with Me", "Dance"),
        ("Alive", "A"),
        ("Up (Olive Tree)", "Up"),
        ("6 ft under", "6"),
        ("X-Ray", "X"),
        ("Night (Dublin)", "Night"),
        ("Night (Demons)", "Night"),
        ("Night (Editors)", "Night"),
        ("Night (Take Me Home)", "Night"),
        ("Night - Mixtape", "Night"),
        ("Night (Monologue)", "Night"),
        ("Night (Forever)", "Night"),
        ("Slowed Down by You", "Slowed"),
        ("밤 (드라이브)", "밤"),
        ("밤 (데모닉)", "밤"),
        ("밤 (디스커버리)", "밤"),
        ("夜 (ドライブ)", "夜"),
        ("夜 (デモンズ)", "夜"),
        ("夜 (ディスカバー)", "夜"),
        ("夜 (インストール)", "夜"),
        ("夜 (コミックス)", "夜"),
        ("कि", "का"),
        ("+", "÷"),
    ],
)
def test_different_titles_stay_apart(one: str, another: str) -> None:
    assert SONGS.title(one) != SONGS.title(another)


@pytest.mark.parametrize(
    "title", ["(Live)", "[Remix]", "- Remix", "Live", "feat. Nobody", "!!!", "(", " ", "リミックス"]
)
def test_a_title_that_is_nothing_but_a_mark_stays(title: str) -> None:
    assert SONGS.title(title)
    assert SONGS.title(title) != SONGS.title("Another")


@given(TITLES)
def test_a_plain_title_is_as_plain_as_it_gets(title: str) -> None:
    plain = SONGS.title(title)
    assert SONGS.title(plain) == plain
    assert bool(plain) == bool(title)


@given(TITLES)
def test_width_and_case_make_no_other_title(title: str) -> None:
    assert SONGS.title(unicodedata.normalize("NFKC", title)) == SONGS.title(title) or not title.strip()


@given(st.text(st.characters(categories=("Lo", "Nd")), min_size=1, max_size=10), st.sampled_from(WORDS.marks))
def test_every_mark_goes_from_a_bracket_and_from_behind_a_dash(name: str, mark: str) -> None:
    assert SONGS.title(f"{name} ({mark})") == SONGS.title(f"{name} - {mark}") == SONGS.title(name)


@pytest.mark.parametrize("mark", WORDS.endings)
def test_an_ending_marks_a_compound_and_only_its_end(mark: str) -> None:
    assert SONGS.title(f"夜 ({mark[0]}{mark})") == "夜"
    assert SONGS.title(f"夜 ({mark}{mark[0]})") != "夜"


SPELT = re.compile(r"[a-z0-9\u30a1-\u30fa\uac00-\ud7a3]")
"""Letters that words are made of; an ideograph is a word by itself, and a sign is none."""


@pytest.mark.parametrize("mark", [mark for mark in WORDS.marks if SPELT.match(mark[0])])
def test_a_mark_is_not_found_at_the_end_of_another_word(mark: str) -> None:
    assert SONGS.title(f"夜 ({mark[0] * 2}{mark})") != "夜"


@pytest.mark.parametrize("mark", [mark for mark in WORDS.marks if SPELT.match(mark[-1])])
def test_a_mark_is_not_found_at_the_beginning_of_another_word(mark: str) -> None:
    assert SONGS.title(f"夜 ({mark}{mark[-1] * 2})") != "夜"


def test_without_words_nothing_is_cut() -> None:
    assert VersionFinder(VersionWords()).title("Song - Live (Remix) feat. IU") == "song live remix feat iu"


def test_another_domain_has_other_words() -> None:
    games = VersionFinder(VersionWords(marks=("edition", "remastered"), tails=("goty", "deluxe edition")))
    titles = ("Skyrim", "Skyrim (Special Edition)", "Skyrim: Deluxe Edition", "Skyrim GOTY", "Skyrim - Remastered")
    assert {games.title(title) for title in titles} == {"skyrim"}
    assert games.title("Skyrim (Live)") == "skyrim live"


# --- items and candidates ---


def song(item_id: int, title: str, creator: str | None = "IU", score: float = 0.5) -> Candidate:
    return make_candidate(make_item(item_id, title=title, creator=creator), score)


def test_only_the_best_version_goes_through_in_the_order_of_the_candidates() -> None:
    found = [
        song(1, "Palette - Live"),
        song(2, "Eight"),
        song(3, "Palette"),
        song(4, "Eight (Prod. SUGA)"),
        song(5, "Ah"),
    ]
    assert [each.item.item_id for each in SONGS.without_versions(found, [])] == [1, 2, 5]


def test_no_version_of_an_owned_item_goes_through() -> None:
    owned = [make_item(9, title="Palette (feat. G-DRAGON)", creator="IU, G-DRAGON")]
    assert SONGS.without_versions([song(1, "Palette - Remix")], owned) == []


def test_the_same_title_by_someone_else_is_another_work() -> None:
    assert len(SONGS.without_versions([song(1, "Hello", "Adele"), song(2, "Hello", "Lionel Richie")], [])) == 2


def test_a_title_in_any_language_is_enough() -> None:
    korean = replace(make_item(1, creator="BTS"), titles={"ko": "봄날", "en": "Spring Day"})
    assert SONGS.keys(korean) & SONGS.keys(make_item(2, title="SPRING DAY - Live", creator="bts"))


def test_items_without_a_title_are_versions_of_nothing() -> None:
    untitled = [make_candidate(replace(make_item(n), titles={})) for n in (1, 2)]
    assert SONGS.without_versions(untitled, [untitled[0].item]) == untitled


@given(st.lists(st.tuples(TITLES.filter(bool), st.sampled_from(["A", "B", None])), max_size=12))
def test_one_of_each_work_goes_through(rows: list[tuple[str, str | None]]) -> None:
    found = [song(number, title, creator) for number, (title, creator) in enumerate(rows)]
    kept = SONGS.without_versions(found, [])
    keys = [key for each in kept for key in SONGS.keys(each.item)]
    assert len(keys) == len(set(keys))
    assert {key for each in found for key in SONGS.keys(each.item)} == set(keys)
    assert SONGS.without_versions(kept, []) == kept
