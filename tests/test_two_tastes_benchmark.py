"""The benchmark of two tastes, on a small catalogue of its own."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.two_tastes import N_RANKED, N_RETRIEVED, N_SHOWN, Stage, TwoTastes, measure, show
from core.profile import TasteProfile
from core.ranking import RankingConfig
from models.catalogue import ItemFacts
from tests.support.builders import make_item
from tests.support.track_rows import SONGS_HEADER, SONGS_ROW, csv_text

GENRES = ("metal", "ballad")
AUDIO = {"metal": {"energy": 0.95, "acousticness": 0.02}, "ballad": {"energy": 0.25, "acousticness": 0.85}}


def write_tracks(path: Path) -> None:
    """500 songs of each genre: the ones of metal sound much the same, those of ballads are spread out."""
    generator = np.random.default_rng(3)
    rows = []
    for number in range(1000):
        genre = GENRES[number % 2]
        spread = 0.01 if genre == "metal" else 0.15
        audio = {name: str(abs(value + generator.normal() * spread)) for name, value in AUDIO[genre].items()}
        title = f"{generator.choice(['Night', 'Road', 'Sea', 'Fire'])} {number}"
        row = {"track_name": title, "artist_name": f"Artist {number}", "genre": genre, "track_id": f"t{number}"}
        rows.append({**SONGS_ROW, **audio, **row})
    path.write_text(csv_text(SONGS_HEADER, rows), encoding="utf-8")


async def test_ranking_keeps_what_retrieval_found_of_both_tastes(tmp_path: Path) -> None:
    tracks = tmp_path / "tracks.csv"
    write_tracks(tracks)
    found = await measure(tracks, GENRES, 6, RankingConfig())
    assert [len(stage.facts) for stage in found.stages] == [N_RETRIEVED, N_RANKED, N_SHOWN]
    assert len(found.liked) == 12
    for stage in found.stages:
        shares = [found.share(stage, genre) for genre in GENRES]
        assert sum(shares) == pytest.approx(1)
        assert min(shares) >= 0.42


LIKED = (make_item(1, genres=["metal"]), make_item(2, genres=["ballad"]), make_item(3, genres=["ballad"]))
CORNERS = np.eye(3, dtype=np.float32)
LISTENER = TwoTastes(
    TasteProfile(
        liked_ids=np.array([1, 2, 3], np.int64),
        liked_vectors=CORNERS,
        liked_weights=np.ones(3, np.float32),
        centroids=CORNERS,
        weights=np.full(3, 1 / 3, np.float32),
    ),
    LIKED,
    (Stage("ranked", [ItemFacts(place, genres=("pop",)) for place in range(4)], [0, 1, 2, 2]),),
)


def test_a_taste_s_share_is_that_of_all_interests_in_its_genre() -> None:
    (stage,) = LISTENER.stages
    assert [LISTENER.taste_of(interest) for interest in range(3)] == ["metal", "ballad", "ballad"]
    assert [LISTENER.share(stage, genre) for genre in GENRES] == [0.25, 0.75]


def test_what_is_shown_names_the_likes_and_the_shares(capsys: pytest.CaptureFixture[str]) -> None:
    show(LISTENER, GENRES)
    shown = capsys.readouterr().out
    assert all(item.title("en") in shown for item in LIKED)
    assert "metal likes: 25%, ballad likes: 75%" in shown
