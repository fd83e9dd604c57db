"""The benchmark of wishes, on a small catalogue of its own."""

from datetime import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.wishes import SHOWN, TOP_K, WISHES, Row, listeners, measure, named, shares
from models.catalogue import Item
from models.job import JobContext
from tests.support.track_rows import SONGS_HEADER, SONGS_ROW, csv_text

GENRES = ("rock", "jazz", "rap")


def song(item_id: int, genre: str = "rock", **features: float) -> Item:
    return Item(item_id=item_id, titles={}, genres=(genre,), features=features)


def write_tracks(path: Path) -> None:
    generator = np.random.default_rng(3)
    rows = []
    for number in range(600):
        audio = {
            name: str(value) for name, value in zip(("valence", "energy"), generator.uniform(0, 1, 2), strict=True)
        }
        row = {"artist_name": f"Artist {number}", "genre": GENRES[number % 3], "track_id": f"t{number}"}
        rows.append({**SONGS_ROW, **audio, **row, "track_name": f"Song {generator.integers(10**9)}"})
    path.write_text(csv_text(SONGS_HEADER, rows), encoding="utf-8")


async def test_a_wish_moves_what_it_names_and_nothing_is_told_without_one(tmp_path: Path) -> None:
    tracks = tmp_path / "tracks.csv"
    write_tracks(tracks)
    plain, bright, jazz = [
        shares(rows)
        async for _, rows in measure(tracks, [None, JobContext(query="밝은"), JobContext(query="jazz")], 3, 5)
    ]
    assert bright.features["valence"] > plain.features["valence"] + 0.1
    assert plain.told == 0
    assert bright.told > 0.7
    assert jazz.genres["jazz"] > 0.7 > plain.genres["jazz"]
    assert plain.own > jazz.own


def test_shares_are_of_all_rows() -> None:
    rows = [
        Row(song(1, valence=0.2, tempo=100.0), is_own=True, is_told=True),
        Row(song(2, "jazz", valence=0.4), is_own=False, is_told=True),
    ]
    found = shares(rows)
    assert found.features["valence"] == pytest.approx(0.3)
    assert (found.features["tempo"], found.features["energy"]) == (100, 0)
    assert set(found.features) == set(SHOWN)
    assert (found.genres, found.own, found.told) == ({"jazz": 0.5, "rock": 0.5}, 0.5, 1.0)


def test_listeners_take_genres_in_turn_and_are_the_same_again() -> None:
    items = [song(n, GENRES[n % 3]) for n in range(1, 40)]
    likes = listeners(items, 5, 4)
    assert likes == listeners(items, 5, 4)
    assert [{GENRES[n % 3] for n in liked} for liked in likes] == [{"jazz"}, {"rap"}, {"rock"}, {"jazz"}, {"rap"}]
    assert all(len(set(liked)) == 4 for liked in likes)


def test_a_wish_is_named_by_its_own_words() -> None:
    assert named(None) == "(none)"
    assert named(JobContext(query="a", mood="b", activity="c", local_time=time(7, 5))) == "a / b / c / 07:05"
    assert len({named(wish) for wish in WISHES}) == len(WISHES)
    assert TOP_K == 50
