"""Reads tracks from CSV files, row by row: what is wrong with one row is said, and stops no other.

Two layouts are known by their headers: that of ``spotify_songs.csv``, and that of Kaggle's "Spotify Tracks Dataset", in
which a track stands once for each of its genres.
"""

import csv
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from core.errors import ConfigurationError

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
_MAX_ID_CHARS = 191
_MAX_SHOWN_CHARS = 40
_ARTIST_SEPARATOR = ";"
# A quoted cell may hold line breaks, but beyond this a quote was not closed.
_MAX_RECORD_LINES = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """One valid row. ``artists`` are in the file's order; ``popularity`` runs from 0 to 100; empty cells are absent."""

    track_id: str
    title: str
    artists: tuple[str, ...]
    genre: str | None
    features: Mapping[str, float]
    popularity: float | None


@dataclass(frozen=True, slots=True)
class RowProblem:
    """Why the row that begins on ``line`` (the header is line 1) was left out."""

    line: int
    reason: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The names that a kind of file gives its columns; ``source`` is the name that its tracks are known under."""

    source: str
    title: str
    artists: str
    genre: str

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that is read."""
        return ("track_id", self.title, self.artists, self.genre, "popularity", *FEATURE_BOUNDS)


LAYOUTS = (
    Layout(source="spotify_songs", title="track_name", artists="artist_name", genre="genre"),
    Layout(source="spotify_tracks", title="track_name", artists="artists", genre="track_genre"),
)


class TrackFile:
    """A CSV file of tracks in UTF-8, with or without a byte order mark. Reading blocks, and streams."""

    def __init__(self, path: Path) -> None:
        """Raises ``ConfigurationError`` where the file cannot be read, or its columns are of no known layout."""
        self._path = path
        first = next(self._records(None), (1, []))[1]
        if isinstance(first, RowProblem):
            raise ConfigurationError(f"{path.name}, {first}")
        header = first
        self._header = tuple(name.strip() for name in header)
        self.layout = _layout_of(self._header, path)

    def rows(self) -> Iterator[Track | RowProblem]:
        """Every row but the header and blank lines, in order."""
        records = self._records(len(self._header))
        next(records)
        for line, cells in records:
            if isinstance(cells, RowProblem):
                yield cells
            elif cells:
                yield self._row(line, cells)

    def _records(self, n_cells: int | None) -> Iterator[tuple[int, list[str] | RowProblem]]:
        """The line that each record begins on, and its cells.

        After a record over several lines that has not ``n_cells``, reading goes on at its second line, so that a quote
        that was not closed costs one row.
        """
        try:
            # What is no UTF-8 becomes lone surrogates, for which that row alone is refused.
            with self._path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
                lines = RecordLines(file)
                while (record := lines.record()) is not None:
                    yield lines.first, record
                    if isinstance(record, RowProblem) or len(record) != (n_cells or len(record)):
                        lines.go_back()
        except OSError as error:
            raise ConfigurationError(f"{self._path}: {error.strerror or error}") from error

    def _row(self, line: int, cells: Sequence[str]) -> Track | RowProblem:
        try:
            return _track(self.layout, self._header, cells)
        except _InvalidRow as error:
            return RowProblem(line, str(error))


class RecordLines:
    """Hands lines to the CSV reader, and remembers those of the record under way; ``tabs`` part unquoted cells."""

    def __init__(self, lines: Iterable[str], *, tabs: bool = False) -> None:
        self._lines = iter(lines)
        self._delimiter = "\t" if tabs else ","
        self._quoting: Literal[0, 3] = csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL
        self._waiting: deque[str] = deque()
        self._taken: list[str] = []
        self.first = 1

    def record(self) -> list[str] | RowProblem | None:
        """The next record, or None at the end; ``first`` is the line that it begins on, from 1."""
        self.first += len(self._taken)
        self._taken = []
        try:
            return next(csv.reader(self, delimiter=self._delimiter, quoting=self._quoting), None)
        except csv.Error as error:
            return RowProblem(self.first, f"is no CSV: {error}")

    @property
    def n_lines(self) -> int:
        """How many lines the record took."""
        return len(self._taken)

    def go_back(self) -> None:
        """Let the next record begin on the second line of this one."""
        self._waiting.extendleft(reversed(self._taken[1:]))
        del self._taken[1:]

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if len(self._taken) == _MAX_RECORD_LINES:
            raise csv.Error("a quote is not closed")
        line = self._waiting.popleft() if self._waiting else next(self._lines)
        self._taken.append(line)
        return line


class _InvalidRow(ValueError):
    """What is wrong with one row."""


def _layout_of(header: Sequence[str], path: Path) -> Layout:
    missing = {layout: [name for name in layout.columns if name not in header] for layout in LAYOUTS}
    nearest = min(LAYOUTS, key=lambda layout: len(missing[layout]))
    if missing[nearest]:
        state = "has not" if any(header) else "is empty; it must have"
        raise ConfigurationError(f"{path.name} {state} {_columns(missing[nearest])}")
    return nearest


def _columns(names: Sequence[str]) -> str:
    return f"the column{'s' if len(names) > 1 else ''} {', '.join(names)}"


def _track(layout: Layout, header: Sequence[str], cells: Sequence[str]) -> Track:
    if len(cells) != len(header):
        raise _InvalidRow(f"has {len(cells)} cells, the header has {len(header)}")
    named = {name: _clean(name, cell) for name, cell in zip(header, cells, strict=True)}
    features = {name: _number(name, named[name], bounds) for name, bounds in FEATURE_BOUNDS.items()}
    return Track(
        track_id=_identifier(named["track_id"]),
        title=_required(layout.title, named[layout.title]),
        artists=tuple(dict.fromkeys(filter(None, map(str.strip, named[layout.artists].split(_ARTIST_SEPARATOR))))),
        genre=named[layout.genre] or None,
        features={name: number for name, number in features.items() if number is not None},
        popularity=_number("popularity", named["popularity"], _POPULARITY_BOUNDS),
    )


def _clean(name: str, cell: str) -> str:
    if not cell.isascii() and any("\ud800" <= letter <= "\udfff" for letter in cell):
        raise _InvalidRow(f"{name} is not UTF-8: {_shown(cell)}")
    if "\0" in cell:
        raise _InvalidRow(f"{name} holds a NUL character: {_shown(cell)}")
    return cell.strip()


def _required(name: str, text: str) -> str:
    if not text:
        raise _InvalidRow(f"{name} is empty")
    return text


def _identifier(text: str) -> str:
    if len(text) > _MAX_ID_CHARS:
        raise _InvalidRow(f"track_id is longer than {_MAX_ID_CHARS} characters: {_shown(text)}")
    return _required("track_id", text)


def _number(name: str, text: str, bounds: tuple[float, float]) -> float | None:
    """The number, or None for an empty cell: what is not known is not wrong."""
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        raise _InvalidRow(f"{name} is not a number: {_shown(text)}") from None
    if "_" in text:  # Python's own way of writing 1_000, and nobody else's
        raise _InvalidRow(f"{name} is not a number: {_shown(text)}")
    low, high = bounds
    if not low <= number <= high:
        raise _InvalidRow(f"{name} is not from {low:g} to {high:g}: {text[:_MAX_SHOWN_CHARS]}")
    return number


def _shown(text: str) -> str:
    return repr(text if len(text) <= _MAX_SHOWN_CHARS else f"{text[:_MAX_SHOWN_CHARS]}...")
