"""The download-free embedder: what is near, what stays equal, and what makes an item worth embedding anew."""

import asyncio
import subprocess
import sys
import unicodedata
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.catalogue_statistics import CatalogueCount, CatalogueStatistics
from core.embedding import HashingEmbedder, content_hash
from core.item_tokens import style_of
from core.ports.index import Embedder
from core.text_features import NGRAM_LENGTHS, piece_features, token_features, words
from models.catalogue import Item
from tests.support.catalogue import SONGS

PLAIN = CatalogueStatistics.plain(SONGS.item.feature_scales, SONGS.item.frequent_words)

ROOT = Path(__file__).parents[1]
CALM = {"energy": 0.2, "danceability": 0.3, "tempo": 75.0, "acousticness": 0.9, "loudness": -18.0, "valence": 0.3}
LOUD = {"energy": 0.95, "danceability": 0.6, "tempo": 170.0, "acousticness": 0.001, "loudness": -3.0, "valence": 0.4}

texts = st.text(max_size=30)
numbers = st.floats(allow_nan=True, allow_infinity=True) | st.floats(-1, 1)
items = st.builds(
    Item,
    item_id=st.integers(-(2**63), 2**63 - 1),
    titles=st.dictionaries(st.sampled_from(["ko", "en", "ja"]), texts, max_size=3),
    creator=st.none() | texts,
    creator_local=st.none() | texts,
    genres=st.lists(texts, max_size=3).map(tuple),
    moods=st.lists(texts, max_size=2).map(tuple),
    language=st.none() | texts,
    features=st.dictionaries(st.sampled_from(["energy", "tempo", "playtime", "밝기"]), numbers, max_size=4),
)


def song(
    title: str = "",
    *,
    creator: str | None = None,
    genres: tuple[str, ...] = (),
    features: Mapping[str, float] | None = None,
    language: str | None = None,
) -> Item:
    return Item(
        item_id=1,
        titles={"en": title} if title else {},
        creator=creator,
        genres=genres,
        features=features or {},
        language=language,
    )


def cosine(one: Item, other: Item, dim: int = 128) -> float:
    first, second = HashingEmbedder(dim, statistics=PLAIN).embed_now([one, other])
    return float(first @ second)


def assert_nearer(query: Item, near: Item, far: Item) -> None:
    assert cosine(query, near) > cosine(query, far) + 0.05


async def test_it_is_an_embedder_that_names_its_kind_version_and_dimension() -> None:
    embedder: Embedder = HashingEmbedder(96)
    vectors = await embedder.embed([song("One"), song("Two")])
    assert (embedder.name, embedder.dim) == ("hashing-2-96", 96)
    assert vectors.shape == (2, 96)
    assert vectors.dtype == np.dtype(np.float32)


@pytest.mark.parametrize("dim", [0, 63, 257])
def test_a_dimension_out_of_range_is_refused(dim: int) -> None:
    with pytest.raises(ValueError, match=f"from 64 to 256, got {dim}"):
        HashingEmbedder(dim)


@given(st.lists(items, min_size=1, max_size=5), st.integers(64, 256))
def test_every_vector_is_of_unit_length_or_zero(batch: list[Item], dim: int) -> None:
    vectors = HashingEmbedder(dim).embed_now(batch)
    lengths = np.linalg.norm(vectors, axis=1)
    assert vectors.shape == (len(batch), dim)
    assert np.all(np.isclose(lengths, 1, atol=1e-5) | (lengths == 0))


@given(st.lists(items, min_size=1, max_size=6))
def test_an_items_vector_does_not_depend_on_its_batch(batch: list[Item]) -> None:
    embedder = HashingEmbedder()
    alone = np.concatenate([embedder.embed_now([item]) for item in batch])
    np.testing.assert_allclose(embedder.embed_now(batch), alone, atol=1e-6)


async def test_an_item_without_content_gets_the_zero_vector() -> None:
    empty, blank = song(), Item(item_id=2, titles={"en": "  ...  "}, features={"energy": float("nan")})
    assert not np.any(await HashingEmbedder().embed([empty, blank]))


async def test_no_items_make_no_vectors() -> None:
    assert (await HashingEmbedder(64).embed([])).shape == (0, 64)


async def test_chunks_are_put_together_in_order() -> None:
    embedder, many = HashingEmbedder(64), [song(f"Title {number}") for number in range(1100)]
    vectors = await embedder.embed(many)
    np.testing.assert_allclose(vectors[[0, 511, 512, 1099]], embedder.embed_now([many[n] for n in (0, 511, 512, 1099)]))


async def test_the_event_loop_runs_on_while_a_catalogue_is_embedded() -> None:
    task = asyncio.create_task(HashingEmbedder(64).embed([song(f"Title {number}") for number in range(2000)]))
    n_turns = 0
    while not task.done():
        n_turns += 1
        await asyncio.sleep(0)
    assert n_turns > 10


def test_another_process_makes_the_same_vector() -> None:
    program = (
        "from core.embedding import HashingEmbedder; from models.catalogue import Item;"
        "import sys;"
        "item = Item(item_id=1, titles={'ko': '봄날'}, creator='방탄', genres=('pop',), features={'playtime': 3});"
        "sys.stdout.write(HashingEmbedder(64).embed_now([item]).tobytes().hex())"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1]
    assert len(runs[0]) == 64 * 4 * 2


# --- what is near ---


def test_songs_of_one_genre_are_nearer() -> None:
    assert_nearer(song("A", genres=("rock",)), song("B", genres=("rock",)), song("C", genres=("jazz",)))


def test_a_genre_is_near_its_subgenre() -> None:
    assert_nearer(song(genres=("indie rock",)), song(genres=("rock",)), song(genres=("jazz",)))


def test_one_of_several_genres_in_common_is_near() -> None:
    assert_nearer(song(genres=("rock", "metal")), song(genres=("rock",)), song(genres=("jazz",)))


def test_a_genre_is_not_a_language_or_a_mood_of_the_same_name() -> None:
    as_mood = Item(item_id=1, titles={}, moods=("latin",))
    assert cosine(song(genres=("latin",)), as_mood) < 0.9


def test_songs_that_sound_alike_are_nearer() -> None:
    almost = {**CALM, "energy": 0.25, "tempo": 80.0}
    assert_nearer(song("A", features=CALM), song("B", features=almost), song("C", features=LOUD))


def test_nearness_of_a_number_falls_with_its_distance() -> None:
    cosines = [cosine(song(features={"energy": 0.1}), song(features={"energy": e})) for e in (0.1, 0.3, 0.6, 0.9)]
    assert cosines == sorted(cosines, reverse=True)
    assert cosines[0] == pytest.approx(1)


def test_an_outlier_does_not_come_round_to_the_other_end() -> None:
    quiet = song(features={"loudness": -60.0})
    assert_nearer(quiet, song(features={"loudness": -30.0}), song(features={"loudness": 0.0}))


@pytest.mark.parametrize("name", ["energy", "tempo", "playtime"])
@pytest.mark.parametrize("value", [1e308, -1e308])
def test_an_absurd_number_is_an_outlier_and_no_trouble(name: str, value: float) -> None:
    for embedder in (HashingEmbedder(), HashingEmbedder(statistics=PLAIN)):
        assert np.all(np.isfinite(embedder.embed_now([song(features={name: value})])))


def test_numbers_that_nobody_declared_count_by_their_magnitude() -> None:
    game = song(features={"playtime": 100.0})
    assert_nearer(game, song(features={"playtime": 130.0}), song(features={"playtime": 2.0}))


def test_what_no_profile_speaks_of_is_no_word_of_songs() -> None:
    """Another domain's ``energy`` is none of Spotify's, and its ``mix`` says as much as any word."""
    energies = [song(features={"energy": value}) for value in (5.0, 90.0)]
    other = HashingEmbedder(128).embed_now(energies)
    assert (
        cosine(energies[0], energies[1])
        == pytest.approx(1, abs=1e-3)
        != pytest.approx(float(other[0] @ other[1]), abs=0.1)
    )
    titles = [song("Trail Mix"), song("Berry Mix"), song("Trail Bread")]
    first, mix, trail = HashingEmbedder(128).embed_now(titles)
    assert float(first @ mix) == pytest.approx(float(first @ trail), abs=0.15)
    assert_nearer(titles[0], titles[2], titles[1])


def test_items_with_nothing_in_common_are_not_near() -> None:
    generator = np.random.default_rng(3)
    many = [
        song(f"{generator.integers(10**12):x}", genres=(f"g{number}",), features={"energy": float(generator.random())})
        for number in range(60)
    ]
    vectors = HashingEmbedder().embed_now(many)
    between = (vectors @ vectors.T)[~np.eye(len(many), dtype=bool)]
    assert abs(float(between.mean())) < 0.25


@pytest.mark.parametrize(
    ("query", "near", "far"),
    [
        ("Blinding Lights", "blinding light", "Shape of You"),
        ("Beyoncé", "BEYONCE", "Rihanna"),
        ("Ｆｕｌｌｗｉｄｔｈ", "fullwidth", "something"),
        ("사랑했지만", "사랑해", "거북이"),
        ("봄날의 기억", "봄날", "여름밤"),
        ("ガラスの少年", "がらすの", "ひまわり"),
        ("別世界", "世界", "光線"),
        ("ﾌﾞﾙｰ", "ブルー", "ピンク"),
    ],
)
def test_spellings_of_one_word_are_near_in_any_script(query: str, near: str, far: str) -> None:
    assert_nearer(song(query), song(near), song(far))


def test_frequent_words_say_less_than_rare_ones() -> None:
    query = song("Halcyon - Remastered Version")
    assert_nearer(query, song("Halcyon"), song("Nightfall - Remastered Version"))


def test_a_guest_in_the_title_is_near_the_guests_own_songs() -> None:
    assert_nearer(song("Hello (feat. Adele)"), song("Skyfall", creator="Adele"), song("Skyfall", creator="Sting"))


def test_composed_and_decomposed_hangul_are_one() -> None:
    assert cosine(song("한글"), song(unicodedata.normalize("NFD", "한글"))) == pytest.approx(1)


def test_the_voicing_of_kana_tells_words_apart() -> None:
    assert words("かき") != words("かぎ")


def test_text_columns_are_read_where_they_are_named() -> None:
    item = Item(item_id=1, titles={"ja": "夜"}, columns={"title_yomi": "よる", "tj_number": 5})
    plain, reading = HashingEmbedder(), HashingEmbedder(text_columns=["title_yomi", "tj_number", "absent"])
    spoken = plain.embed_now([song("よる")])[0]
    assert float(reading.embed_now([item])[0] @ spoken) > float(plain.embed_now([item])[0] @ spoken) + 0.2


def test_a_lone_surrogate_stops_nothing() -> None:
    assert np.any(HashingEmbedder().embed_now([song("broken \ud800 title")]))


# --- by statistics of a catalogue ---

WORDS = ("love", "night", "fire", "heart", "moon", "rain", "road", "dream", "gold", "home")


def generated(n: int, seed: int = 5) -> tuple[list[Item], list[int]]:
    """Songs and their artists: each has a taste in numbers, some words, and a way of writing titles."""
    chance = np.random.default_rng(seed)
    songs, artists = [], [number % (n // 8) for number in range(n)]
    for number, artist in enumerate(artists):
        own = np.random.default_rng(artist)
        favourites, taste, is_lower = own.choice(WORDS, 3, replace=False), own.normal(size=3), own.random() < 0.5
        title = f"{chance.choice(favourites)} {chance.choice(WORDS)} {chance.choice(['(remix)', 'again', ''])}".title()
        values = (taste + 0.5 * chance.normal(size=3)).tolist()
        songs.append(
            Item(
                item_id=number,
                titles={"en": title.lower() if is_lower else title},
                genres=("rock" if artist % 3 else "pop",),
                features=dict(zip(("energy", "tempo", "playtime"), values, strict=True)),
            )
        )
    return songs, artists


def fitted(songs: list[Item], dim: int = 256, salt: int = 0) -> HashingEmbedder:
    counting = CatalogueCount()
    counting.add(songs)
    return HashingEmbedder.fitted(counting, dim, salt=salt)


def hits(vectors: npt.NDArray[np.float32], artists: list[int], n: int = 10) -> float:
    """The share of songs among whose nearest ``n`` is one of the same artist."""
    near = vectors @ vectors.T
    np.fill_diagonal(near, -1)
    nearest = np.argsort(-near, axis=1)[:, :n]
    return float(np.mean(np.any(np.array(artists)[nearest] == np.array(artists)[:, None], axis=1)))


@given(st.lists(items, min_size=1, max_size=8), st.lists(items, max_size=4), st.sampled_from([64, 101, 256]))
def test_by_any_statistics_every_vector_is_of_unit_length_or_zero(
    catalogue: list[Item], later: list[Item], dim: int
) -> None:
    embedder = fitted(catalogue, dim)
    lengths = np.linalg.norm(embedder.embed_now([*catalogue, *later]), axis=1)
    assert np.all(np.isclose(lengths, 1, atol=1e-5) | (lengths == 0))
    assert not np.any(embedder.embed_now([song()]))


@given(st.lists(items, min_size=2, max_size=6))
def test_by_statistics_too_an_items_vector_does_not_depend_on_its_batch(batch: list[Item]) -> None:
    embedder = fitted(batch, 64)
    alone = np.concatenate([embedder.embed_now([item]) for item in batch])
    np.testing.assert_allclose(embedder.embed_now(batch), alone, atol=1e-5)


def test_its_name_is_of_its_statistics() -> None:
    songs, _ = generated(80)
    one, again, more, other = fitted(songs), fitted(songs), fitted(songs[1:]), fitted(songs, salt=1)
    assert one.name == again.name == f"hashing-2-256-{one.statistics.version[:8]}"
    assert len({one.name, more.name, other.name, HashingEmbedder().name}) == 4


def test_statistics_that_were_stored_make_the_same_vectors() -> None:
    songs, _ = generated(80)
    embedder = fitted(songs)
    stored = CatalogueStatistics.from_bytes(embedder.statistics.to_bytes())
    read = HashingEmbedder(256, statistics=stored)
    assert read.name == embedder.name
    np.testing.assert_array_equal(read.embed_now(songs), embedder.embed_now(songs))


def test_another_process_fits_the_same() -> None:
    program = (
        "from core.embedding import HashingEmbedder; from core.catalogue_statistics import CatalogueCount;"
        "from models.catalogue import Item; import sys;"
        "items = [Item(item_id=n, titles={'ko': '봄날 %d' % (n % 3)}, genres=('pop', 'k'), features={'x': n % 7})"
        " for n in range(40)];"
        "counting = CatalogueCount(); counting.add(items); embedder = HashingEmbedder.fitted(counting, 64);"
        "sys.stdout.write(embedder.name + embedder.embed_now(items).tobytes().hex())"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1]


def test_songs_of_one_artist_are_found_better_by_statistics() -> None:
    songs, artists = generated(800)
    plain, by_fit = HashingEmbedder(statistics=PLAIN).embed_now(songs), fitted(songs).embed_now(songs)
    by_chance = 10 * 7 / 800
    assert hits(by_fit, artists) > hits(plain, artists) > 3 * by_chance


def test_songs_that_come_after_the_fit_are_found_as_well() -> None:
    songs, artists = generated(800)
    before, after = fitted(songs[:600]), fitted(songs)
    vectors = before.embed_now(songs)
    assert hits(vectors, artists) > 0.9 * hits(after.embed_now(songs), artists)


def test_short_titles_are_not_near_everything() -> None:
    songs, _ = generated(600)
    songs = [*songs[:300], *(replace(item, titles={"en": "Zyx"}) for item in songs[300:])]
    vectors = fitted(songs).embed_now(songs)
    near = vectors @ vectors.T
    np.fill_diagonal(near, -1)
    n_short = np.mean(np.argsort(-near[:300], axis=1)[:, :10] >= 300)
    assert n_short < 0.6


def test_more_numbers_than_there_are_dimensions_for_share_them() -> None:
    values = np.random.default_rng(1).normal(size=(200, 70)).tolist()
    names = [f"number {place}" for place in range(70)]
    songs = [
        Item(item_id=row, titles={}, features=dict(zip(names, each, strict=True))) for row, each in enumerate(values)
    ]
    near = replace(songs[0], item_id=999, features={name: v + 0.05 for name, v in songs[0].features.items()})
    embedder = fitted(songs)
    cosines = np.sort(embedder.embed_now(songs) @ embedder.embed_now([near])[0])
    assert embedder.embed_now([songs[0]])[0] @ embedder.embed_now([near])[0] == pytest.approx(cosines[-1], abs=1e-5)
    assert cosines[-1] > 2 * cosines[-2]


def test_a_number_that_the_statistics_know_nothing_of_changes_nothing() -> None:
    embedder = fitted([song(title, features={"x": n}) for n, title in enumerate(["one two", "two one", "one"])])
    with_more = song("one two", features={"x": 1, "unknown": 5.0})
    np.testing.assert_array_equal(*embedder.embed_now([with_more, replace(with_more, features={"x": 1})]))


async def test_a_wish_is_near_what_has_it_by_statistics_too() -> None:
    songs, _ = generated(800)
    embedder = fitted(songs)
    wish = Item(item_id=0, titles={"": "moon"}, genres=("rock",))
    order = np.argsort(-(embedder.embed_now(songs) @ await embedder.embed_wish("", wish)))[:20]
    assert all(songs[place].genres == ("rock",) for place in order)
    assert np.mean(["moon" in songs[place].titles["en"].lower() for place in order]) > 0.8
    assert not np.any(await embedder.embed_wish("", Item(item_id=0, titles={"": "qwertz"})))


def test_style_tells_how_a_title_is_written() -> None:
    assert set(style_of("all i want...")) == {"lower", "marks ...", "words 3"}
    assert set(style_of("HUMBLE.")) == {"upper", "marks .", "words 1"}
    assert set(style_of("Let it Be 2")) == {"case mixed", "digit", "words 4"}
    assert set(style_of("Let it be")) == {"case sentence", "words 3"}
    assert set(style_of("Corazón Latino")) == {"accent", "case title", "words 2"}
    assert {"script", "lower"} <= set(style_of("봄날"))
    assert not set(style_of(" ...! "))


# --- features of text ---


@given(st.lists(st.lists(st.text(alphabet="abかき글", min_size=1, max_size=6), max_size=4), max_size=4))
def test_pieces_are_those_of_words_in_scripts_that_join_words(rows: list[list[str]]) -> None:
    def expected(row: list[str]) -> int:
        marked = [f"<{word}>" for word in set(row) if set(word) - set("ab")]
        return len({word[i : i + n] for word in marked for n in NGRAM_LENGTHS for i in range(len(word) - n + 1)})

    features = piece_features(rows)
    counts = [int(np.sum(features.rows == row)) for row in range(len(rows))]
    assert counts == [expected(row) for row in rows]


def test_the_pieces_of_a_word_weigh_as_much_as_the_word() -> None:
    features = piece_features([["봄날의", "spring"], ["世界"]])
    squares = np.bincount(features.rows, features.weights**2)
    np.testing.assert_allclose(squares, [1, 1])


def test_a_token_counts_once_a_row_and_is_the_same_in_every_row() -> None:
    features = token_features([["x", "x"], ["x", "y"], []])
    assert features.rows.tolist() == [0, 1, 1]
    assert features.hashes[0] == features.hashes[1] != features.hashes[2]


def test_the_order_of_letters_matters() -> None:
    features = token_features([["ab"], ["ba"]])
    assert features.hashes[0] != features.hashes[1]


# --- the content hash ---


def test_the_content_hash_has_16_bytes_and_ignores_what_no_embedder_reads() -> None:
    item = song("One", features={"energy": 0.5})
    other = replace(item, item_id=9, popularity=0.9, columns={"tj_number": 77})
    assert content_hash(item) == content_hash(other)
    assert len(content_hash(item)) == 16


@pytest.mark.parametrize(
    "change",
    [
        {"titles": {"ko": "One"}},
        {"creator": "B"},
        {"creator_local": "비"},
        {"genres": ("rock", "pop")},
        {"moods": ("sad",)},
        {"language": "ko"},
        {"features": {"energy": 0.51}},
        {"features": {"valence": 0.5}},
    ],
)
def test_the_content_hash_changes_with_anything_that_is_read(change: dict[str, object]) -> None:
    item = song("One", genres=("pop", "rock"), features={"energy": 0.5})
    assert content_hash(replace(item, **change)) != content_hash(item)  # type: ignore[arg-type]


def test_the_content_hash_does_not_depend_on_the_order_of_titles_and_features() -> None:
    one = Item(item_id=1, titles={"ko": "가", "en": "a"}, features={"x": 1.0, "y": 2.0})
    other = Item(item_id=1, titles={"en": "a", "ko": "가"}, features={"y": 2.0, "x": 1.0})
    assert content_hash(one) == content_hash(other)


def test_the_content_hash_reads_the_text_columns_that_are_named() -> None:
    one, other = (Item(item_id=1, titles={}, columns={"title_yomi": text}) for text in ("a", "b"))
    assert content_hash(one) == content_hash(other)
    assert content_hash(one, ["title_yomi"]) != content_hash(other, ["title_yomi"])


@given(items, items)
def test_equal_hashes_mean_equal_vectors(one: Item, other: Item) -> None:
    embedder = HashingEmbedder(64)
    if content_hash(one) == content_hash(other):
        np.testing.assert_array_equal(embedder.embed_now([one]), embedder.embed_now([other]))
