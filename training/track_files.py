"""Files of tracks, and the songs that they become: what ingest of a catalogue of songs takes beside what is declared.

Two layouts are known by their headers: that of ``spotify_songs.csv``, and that of Kaggle's "Spotify Tracks Dataset", in
which a track stands once for each of its genres. What becomes of a track:

- The title stands as in the file, in the column of its script: Hangul Korean, kana or kanji Japanese, anything else
  English.
- All artists, in the order of the file and joined by ", ", are the song's artist. The cap on songs per artist and the
  evidence of an artist in common compare that text whole, so a duo is an artist apart from each of the two: to split
  it again would cut "Tyler, The Creator" in two. Embeddings do see the names in it.
- Its mood follows from valence and energy.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from models.source import SourceItem
from training.csv_rows import identifier, number_in, required
from training.item_files import fitting, shortened

# Bounds as Spotify's reference documents them ("Get Track's Audio Features"), wider where real files go beyond.
FEATURE_BOUNDS: Mapping[str, tuple[float, float]] = {
    "danceability": (0, 1),
    "energy": (0, 1),
    "loudness": (-100, 10),
    "speechiness": (0, 1),
    "acousticness": (0, 1),
    "instrumentalness": (0, 1),
    "liveness": (0, 1),
    "valence": (0, 1),
    "tempo": (0, 400),
    "duration_ms": (1, 86_400_000),
}
_POPULARITY_BOUNDS = (0, 100)
_ARTIST_SEPARATOR = ";"
_MIDDLE = 0.5

_HANGUL = re.compile("[\u1100-\u11ff\u3130-\u318f\uac00-\ud7a3]")
_JAPANESE = re.compile("[\u3041-\u3096\u30a1-\u30fa\u3400-\u4dbf\u4e00-\u9fff\uff66-\uff9f]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """One valid row. ``artists`` are in the file's order; ``popularity`` runs from 0 to 100; empty cells are absent."""

    track_id: str
    title: str
    artists: tuple[str, ...]
    genre: str | None
    features: Mapping[str, float]
    popularity: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackLayout:
    """The names that a kind of file gives its columns; ``source`` is the name that its tracks are known under."""

    source: str
    title: str
    artists: str
    genre: str

    @property
    def needed(self) -> tuple[str, ...]:
        """Every column that is read."""
        return ("track_id", self.title, self.artists, self.genre, "popularity", *FEATURE_BOUNDS)

    def item(self, cells: Mapping[str, str]) -> SourceItem:
        """The song of a row; raises ``InvalidRow``."""
        return song_of(self.track(cells))

    def track(self, cells: Mapping[str, str]) -> Track:
        """The row itself."""
        features = {name: number_in(name, cells[name], bounds) for name, bounds in FEATURE_BOUNDS.items()}
        artists = map(str.strip, cells[self.artists].split(_ARTIST_SEPARATOR))
        return Track(
            track_id=identifier("track_id", cells["track_id"]),
            title=required(self.title, cells[self.title]),
            artists=tuple(dict.fromkeys(filter(None, artists))),
            genre=cells[self.genre] or None,
            features={name: number for name, number in features.items() if number is not None},
            popularity=number_in("popularity", cells["popularity"], _POPULARITY_BOUNDS),
        )


LAYOUTS = (
    TrackLayout(source="spotify_songs", title="track_name", artists="artist_name", genre="genre"),
    TrackLayout(source="spotify_tracks", title="track_name", artists="artists", genre="track_genre"),
)


def song_of(track: Track) -> SourceItem:
    """The song that a row becomes, with the genre of that row alone."""
    language = language_of(track.title)
    return SourceItem(
        source_id=track.track_id,
        titles={language: shortened(track.title)},
        creator=shortened(", ".join(track.artists)) or None,
        genres=fitting((track.genre,) if track.genre else ()),
        mood=mood_of(track.features),
        language=language,
        features=track.features,
        popularity=None if track.popularity is None else round(track.popularity / 100, 4),
    )


def language_of(title: str) -> str:
    """``ko``, ``ja`` or ``en``, by the script of ``title``."""
    if _HANGUL.search(title):
        return "ko"
    return "ja" if _JAPANESE.search(title) else "en"


def mood_of(features: Mapping[str, float]) -> str | None:
    """The quadrant of valence and energy: happy, tense, calm or sad; None where one of the two is not known.

    Russell, "A circumplex model of affect" (1980): in this order pleasant and activated, unpleasant and activated,
    pleasant and quiet, unpleasant and quiet. Both features run from 0 to 1, and the axes cross in the middle.
    """
    if "valence" not in features or "energy" not in features:
        return None
    if features["energy"] >= _MIDDLE:
        return "happy" if features["valence"] >= _MIDDLE else "tense"
    return "calm" if features["valence"] >= _MIDDLE else "sad"
