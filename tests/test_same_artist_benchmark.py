"""The same-artist benchmark: who asks, what is withheld, and what counts as found."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.same_artist import Songs, by_vectors, queries_of, ranks, read_songs, without_name

HEADER = (
    "track_name,artist_name,genre,danceability,energy,loudness,speechiness,acousticness,instrumentalness,liveness,"
    "valence,tempo,duration_ms,popularity,track_id\n"
)


def songs_of(artists: list[int], titles: list[int]) -> Songs:
    return Songs([], np.array(artists), np.array(titles))


@pytest.mark.parametrize(
    ("title", "artist", "left"),
    [("Hello (with ADELE)", "Adele", "Hello (with  )"), ("Madele", "Adele", "Madele"), ("A+B?", "A+B", " ?")],
)
def test_the_artists_name_is_taken_out_where_it_is_words_of_its_own(title: str, artist: str, left: str) -> None:
    assert without_name(title, artist) == left


def test_a_song_asks_only_where_its_artist_has_another_title() -> None:
    assert queries_of(songs_of([0, 0, 1, 1, 2], [0, 1, 2, 2, 3])).tolist() == [0, 1]


def test_the_rank_counts_songs_of_others_that_are_nearer() -> None:
    vectors = np.array([[1, 0], [0.6, 0.8], [0.8, 0.6]], np.float32)
    assert ranks(songs_of([0, 0, 1], [0, 1, 2]), np.array([0, 1]), by_vectors(vectors)).tolist() == [2, 2]


def test_songs_of_the_querys_title_neither_hit_nor_push_back() -> None:
    vectors = np.array([[1, 0], [1, 0], [1, 0], [0.6, 0.8]], np.float32)
    assert ranks(songs_of([0, 0, 1, 0], [0, 0, 0, 1]), np.array([0]), by_vectors(vectors)).tolist() == [1]


def test_songs_that_are_all_as_near_are_no_success() -> None:
    songs = songs_of([0, 0, 1, 2], [0, 1, 2, 3])
    assert ranks(songs, np.array([0]), by_vectors(np.zeros((4, 2), np.float32))).tolist() == [3]


def test_neither_artist_nor_popularity_is_embedded(tmp_path: Path) -> None:
    file = tmp_path / "songs.csv"
    file.write_text(HEADER + "Hi (Abba mix),Abba,pop,.1,.2,-3,.1,.1,0,.1,.5,120,200000,90,t1\n", encoding="utf-8")
    (item,) = read_songs(file).items
    assert (item.creator, item.popularity, "popularity" in item.features) == (None, 0.0, False)
    assert "Abba" not in item.titles["en"]
