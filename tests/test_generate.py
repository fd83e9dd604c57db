"""The made-up catalogue and listeners: the same from the same seed, with something in them to find."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from models.catalogue import Item
from models.source import SourceItem
from training.generate import generate_listeners, generate_songs
from training.track_files import FEATURE_BOUNDS, language_of


def as_items(songs: Sequence[SourceItem]) -> list[Item]:
    return [
        Item(
            item_id=100 + number,
            titles=song.titles,
            creator=song.creator,
            genres=song.genres,
            features=song.features,
            popularity=song.popularity or 0.0,
        )
        for number, song in enumerate(songs)
    ]


@pytest.fixture(scope="module")
def songs() -> list[SourceItem]:
    return generate_songs(7)


@pytest.fixture(scope="module")
def items(songs: list[SourceItem]) -> list[Item]:
    return as_items(songs)


def test_the_same_seed_makes_the_same_songs_and_another_one_others() -> None:
    assert generate_songs(1, 50, 10) == generate_songs(1, 50, 10)
    assert generate_songs(1, 50, 10) != generate_songs(2, 50, 10)


def test_no_song_stands_twice(songs: list[SourceItem]) -> None:
    assert len(songs) == len({song.source_id for song in songs}) == 2000
    assert len({(song.creator, *song.titles.values()) for song in songs}) == 2000


def test_worn_out_word_lists_still_make_different_songs() -> None:
    many = generate_songs(1, 3000, 1)
    assert len({next(iter(song.titles.values())) for song in many}) == 3000
    assert len({song.creator for song in generate_songs(1, 5000, 900)}) > 600


def test_titles_are_korean_english_and_japanese(songs: list[SourceItem]) -> None:
    languages = Counter(song.language for song in songs)
    assert languages.keys() == {"ko", "en", "ja"}
    assert min(languages.values()) > 200
    assert all(song.titles.keys() == {language_of(song.titles[song.language or ""])} for song in songs)


def test_every_song_is_complete_and_in_bounds(songs: list[SourceItem]) -> None:
    for song in songs:
        assert song.creator
        assert song.mood
        assert 1 <= len(song.genres) <= 2
        assert all(low <= song.features[name] <= high for name in song.features for low, high in [FEATURE_BOUNDS[name]])


def test_some_songs_have_two_genres(songs: list[SourceItem]) -> None:
    assert 50 < sum(len(song.genres) == 2 for song in songs) < 600


def test_popularity_has_a_long_tail(songs: list[SourceItem]) -> None:
    shares = np.array([song.popularity for song in songs], np.float64)
    assert shares.min() >= 0
    assert shares.max() <= 1
    assert np.median(shares) < 0.15
    assert shares.max() > 0.5


def test_songs_of_one_genre_sound_more_alike_than_songs_of_two(songs: list[SourceItem]) -> None:
    def energies(genre: str) -> list[float]:
        return [song.features["energy"] for song in songs if song.genres[0] == genre]

    assert np.mean(energies("metal")) - np.mean(energies("ballad")) > 0.4
    assert np.std(energies("metal")) < 0.2


# --- listeners ---


def test_the_same_seed_makes_the_same_listeners_however_many_there_are(items: list[Item]) -> None:
    assert generate_listeners(items, 3, 7) == generate_listeners(items, 10, 7)[:3]
    assert generate_listeners(items, 3, 7) != generate_listeners(items, 3, 8)


def test_listeners_like_existing_songs_each_once(items: list[Item]) -> None:
    ids = {item.item_id for item in items}
    listeners = generate_listeners(items, 50, 7, first_id=1000)
    assert [listener.member_id for listener in listeners] == list(range(1000, 1050))
    for listener in listeners:
        assert 5 <= len(listener.liked_ids) <= 20
        assert len(set(listener.liked_ids)) == len(listener.liked_ids)
        assert {*listener.liked_ids, *listener.playlist_ids} <= ids


def test_some_listeners_have_a_playlist(items: list[Item]) -> None:
    sizes = Counter(bool(listener.playlist_ids) for listener in generate_listeners(items, 50, 7))
    assert min(sizes[True], sizes[False]) > 5


def test_listeners_have_tastes(items: list[Item]) -> None:
    by_id = {item.item_id: item for item in items}
    shares = []
    for listener in generate_listeners(items, 50, 7):
        genres = Counter(by_id[item_id].genres[0] for item_id in listener.liked_ids)
        shares.append(sum(n for _, n in genres.most_common(3)) / genres.total())
    # Three of ten genres hold 0.3 of a random choice, or little more.
    assert np.mean(shares) > 0.75


def test_listeners_come_back_to_artists(items: list[Item]) -> None:
    by_id = {item.item_id: item for item in items}
    most = [
        Counter(by_id[item_id].creator for item_id in listener.liked_ids).most_common(1)[0][1]
        for listener in generate_listeners(items, 50, 7)
    ]
    assert np.mean(most) > 1.5


def test_different_listeners_have_different_tastes(items: list[Item]) -> None:
    assert len({listener.liked_ids for listener in generate_listeners(items, 200, 7)}) == 200


@pytest.mark.parametrize("n", [0, 1, 3])
def test_a_tiny_catalogue_is_no_trouble(items: list[Item], n: int) -> None:
    for listener in generate_listeners(items[:n], 5, 7):
        assert set(listener.liked_ids) == {item.item_id for item in items[:n]}


def test_items_without_features_genres_or_creator_are_no_trouble() -> None:
    bare = [Item(item_id=number, titles={}) for number in range(30)]
    mixed = [*bare, Item(item_id=99, titles={}, features={"energy": 0.5}, genres=("pop",), creator="A")]
    for catalogue in (bare, mixed):
        assert all(len(listener.liked_ids) >= 5 for listener in generate_listeners(catalogue, 5, 7))
