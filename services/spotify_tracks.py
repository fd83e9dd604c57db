"""Tracks of Spotify as rows of text cells, page by page.

Of a track there are its title, artists, popularity and length; what more the application may read is asked for as well:
the genres of its artists, and the audio features that Spotify no longer gives to new applications.
"""

import json
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from hashlib import blake2b

from core.ports.filling import RowPage
from services.spotify import Answer, Spotify

FEATURES = (
    "danceability", "energy", "loudness", "speechiness", "acousticness", "instrumentalness", "liveness", "valence",
    "tempo",
)  # fmt: skip

# Of one search.
_MAX_FOUND = 1000


class SpotifySource:
    """``RowSource`` of the tracks of one playlist or one search."""

    def __init__(self, spotify: Spotify, *, playlist: str = "", query: str = "") -> None:
        self._spotify, self._playlist, self._query = spotify, playlist, query

    @property
    def key(self) -> str:
        """See ``RowSource.key``."""
        what = f"playlist {self._playlist}" if self._playlist else f"search {self._query}"
        return f"spotify:{blake2b(what.encode(), digest_size=16).hexdigest()}"

    async def pages(self, cursor: str | None) -> AsyncGenerator[RowPage, None]:
        """See ``RowSource.pages``; a playlist that has changed meanwhile is read from its beginning."""
        snapshot = await self._spotify.snapshot(self._playlist) if self._playlist else ""
        offset, seen = json.loads(cursor) if cursor else (0, snapshot)
        offset = offset if seen == snapshot else 0
        while True:
            page = await self._page(offset)
            entries = page.get("items") or []
            offset += len(entries)
            more = bool(page.get("next") and entries) and (bool(self._playlist) or offset < _MAX_FOUND)
            rows = await self._rows([_track(entry) for entry in entries])
            yield RowPage(rows, json.dumps([offset, snapshot]) if more else None)
            if not more:
                return

    async def _page(self, offset: int) -> Answer:
        if self._playlist:
            return await self._spotify.playlist_page(self._playlist, offset)
        return await self._spotify.search(self._query, offset)

    async def _rows(self, tracks: Sequence[Answer]) -> list[Mapping[str, str]]:
        """A local file has no id, and is told as a bad row; what was taken down is not there at all."""
        artist_ids = dict.fromkeys(str(artist["id"]) for track in tracks for artist in _artists(track) if artist["id"])
        ids = list(dict.fromkeys(str(track["id"]) for track in tracks if track.get("id")))
        genres = await self._spotify.genres(list(artist_ids)) if artist_ids else {}
        features = await self._spotify.features(ids) if ids else {}
        return [_row(track, genres, features.get(str(track.get("id")), {})) for track in tracks if track]


def _track(entry: object) -> Answer:
    """Of an entry of a playlist, or of a search, which holds tracks themselves; empty where it is none."""
    if not isinstance(entry, dict):
        return {}
    # Tracks of a playlist have a flag of the name themselves.
    held = [entry[name] for name in ("item", "track") if name in entry and not isinstance(entry[name], bool)]
    track = held[0] if held else entry
    return track if isinstance(track, dict) and track.get("type", "track") == "track" else {}


def _artists(track: Answer) -> Iterable[Answer]:
    return ({"id": artist.get("id"), "name": artist.get("name") or ""} for artist in track.get("artists") or [])


def _row(track: Answer, genres: Mapping[str, Sequence[str]], features: Answer) -> Mapping[str, str]:
    of_artists = [genre for artist in _artists(track) for genre in genres.get(str(artist["id"]), ())]
    numbers = {name: features.get(name) for name in FEATURES}
    cells = {"popularity": track.get("popularity"), "duration_ms": track.get("duration_ms"), **numbers}
    return {
        "track_id": str(track.get("id") or ""),
        "name": str(track.get("name") or ""),
        "artists": ";".join(artist["name"].replace(";", ",") for artist in _artists(track)),
        "genres": ";".join(dict.fromkeys(of_artists)),
        "album": str((track.get("album") or {}).get("name") or ""),
        **{name: "" if value is None else str(value) for name, value in cells.items()},
    }
