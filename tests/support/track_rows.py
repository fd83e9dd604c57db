"""Rows of track files, in both layouts."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence

_FEATURES = {
    "danceability": "0.7",
    "energy": "0.8",
    "loudness": "-5.5",
    "speechiness": "0.05",
    "acousticness": "0.1",
    "instrumentalness": "0.0",
    "liveness": "0.2",
    "valence": "0.6",
    "tempo": "120.5",
    "duration_ms": "200000",
}

SONGS_ROW: Mapping[str, str] = {
    "track_name": "Dawn",
    "artist_name": "Yoon",
    "genre": "pop",
    **_FEATURES,
    "popularity": "66",
    "track_id": "t1",
}
SONGS_HEADER = tuple(SONGS_ROW)

KAGGLE_ROW: Mapping[str, str] = {
    "Unnamed: 0": "0",
    "track_id": "5SuO",
    "artists": "Gen Hoshino;Guest",
    "album_name": "Comedy",
    "track_name": "Comedy",
    "popularity": "73",
    "duration_ms": "230666",
    "explicit": "False",
    "danceability": "0.676",
    "energy": "0.461",
    "key": "1",
    "loudness": "-6.746",
    "mode": "0",
    "speechiness": "0.143",
    "acousticness": "0.0322",
    "instrumentalness": "1.01e-06",
    "liveness": "0.358",
    "valence": "0.715",
    "tempo": "87.917",
    "time_signature": "4",
    "track_genre": "acoustic",
}
KAGGLE_HEADER = tuple(KAGGLE_ROW)


def csv_text(header: Sequence[str], rows: Iterable[Mapping[str, str]]) -> str:
    """A CSV file of these rows, with unix line ends."""
    file = io.StringIO()
    writer = csv.DictWriter(file, header, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()
