"""The same-artist benchmark: who asks, what is withheld, and what counts as found."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.same_artist import (
    Songs,
    by_vectors,
    contestants,
    half_of,
    main,
    queries_of,
    ranks,
    read_songs,
    without_name,
)

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


def written(directory: Path, n: int = 400) -> Path:
    chance = np.random.default_rng(2)
    lines = []
    for number in range(n):
        artist = number % (n // 8)
        taste = np.random.default_rng(artist).random(10)
        near = np.clip(taste + 0.05 * chance.normal(size=10), 0, 1)
        numbers = ",".join(f"{value:.4f}" for value in near)
        lines.append(f"w{number} x{artist % 20},Artist {artist},pop,{numbers},50,t{number}\n")
    file = directory / "songs.csv"
    file.write_text(HEADER + "".join(lines), encoding="utf-8")
    return file


def test_fitted_vectors_find_nearly_what_the_exact_kernel_finds(tmp_path: Path) -> None:
    songs = read_songs(written(tmp_path))
    queries = queries_of(songs)
    found = {
        name: float(np.mean(ranks(songs, queries, make()) <= 20))
        for name, make in contestants(songs.items, {"liveness": 0.5}, salts=2).items()
        if "L1 of quantiles" in name or "256" in name
    }
    exact, plain, *fitted = found.values()
    assert len(fitted) == 2
    assert plain > 20 * 7 / 400
    assert all(0.85 * exact < each for each in fitted)


def test_the_halves_are_all_songs_and_share_none(tmp_path: Path) -> None:
    songs = read_songs(written(tmp_path, 80))
    halves = [half_of(songs, which) for which in (0, 1)]
    ids = [{item.item_id for item in half.items} for half in halves]
    assert ids[0] | ids[1] == set(range(80))
    assert not ids[0] & ids[1]
    for half in halves:
        assert half.artists.tolist() == [songs.artists[item.item_id] for item in half.items]


def test_the_table_prints_each_contestant_with_its_intervals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["same_artist", str(written(tmp_path, 80)), "--queries", "20", "--salts", "1", "--half", "1"]
    monkeypatch.setattr("sys.argv", [*arguments, "--only", "256"])
    main()
    first, _, *rows = capsys.readouterr().out.splitlines()
    assert first == "40 songs, 20 queries"
    assert [row.split("  ")[0] for row in rows] == [
        "hashing, 256 dimensions, plain",
        "hashing, 256 dimensions, fitted, salt 0",
    ]
    assert all(row.count(" to ") == 2 for row in rows)
