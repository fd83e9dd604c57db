"""Fills a catalogue that is ours from a file of tracks: what ``python main.py ingest FILE`` does.

What becomes of a track:

- A track that stands once per genre becomes one song of several genres; all else is of its first valid row.
- The title stands as in the file, in the column of its script: Hangul Korean, kana or kanji Japanese, anything else
  English.
- All artists, in the order of the file and joined by ", ", are the song's artist. The cap on songs per artist and the
  evidence of an artist in common compare that text whole, so a duo is an artist apart from each of the two: to split
  it again would cut "Tyler, The Creator" in two. Embeddings do see the names in it.
- Text that is longer than its column ends in an ellipsis; genres that no longer fit are left out.
"""

import asyncio
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import islice
from pathlib import Path

import structlog

from core.ports import IngestStore
from models.log_event import LogEvent
from models.source import SourceItem
from training.track_files import RowProblem, Track, TrackFile

Progress = Callable[[int, int], None]
"""Called with how many songs are done, and how many there are."""

_BATCH = 1000
_MAX_TEXT_CHARS = 255
_MAX_PROBLEMS = 1000
_MIDDLE = 0.5

_HANGUL = re.compile("[\u1100-\u11ff\u3130-\u318f\uac00-\ud7a3]")
_JAPANESE = re.compile("[\u3041-\u3096\u30a1-\u30fa\u3400-\u4dbf\u4e00-\u9fff\uff66-\uff9f]")

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestReport:
    """What an ingest did. ``problems`` holds the first thousand rows that were left out, ``n_bad_rows`` counts all."""

    source: str
    n_rows: int
    n_bad_rows: int
    problems: tuple[RowProblem, ...]
    n_inserted: int
    n_updated: int
    n_unchanged: int

    @property
    def n_songs(self) -> int:
        """Songs that the source has."""
        return self.n_inserted + self.n_updated + self.n_unchanged


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveReport:
    """How many songs were new, changed, and as they were."""

    n_inserted: int = 0
    n_updated: int = 0
    n_unchanged: int = 0

    def plus(self, other: "SaveReport") -> "SaveReport":
        """The sum of both."""
        return SaveReport(
            n_inserted=self.n_inserted + other.n_inserted,
            n_updated=self.n_updated + other.n_updated,
            n_unchanged=self.n_unchanged + other.n_unchanged,
        )


async def ingest(path: Path, store: IngestStore, progress: Progress = lambda _done, _total: None) -> IngestReport:
    """Bring the tracks of the file into the catalogue; a second run changes nothing, and nothing is ever deleted.

    The file is read twice, first for the genres of each track, so that memory holds ids and genres but no rows. Raises
    ``ConfigurationError``, before anything is written, where the file is of no known layout, ``song`` holds rows that
    are not ours, or our own tables are not there; and ``DependencyUnavailable``: what was saved by then stays, and the
    next run goes on from there.
    """
    file = await asyncio.to_thread(TrackFile, path)
    await store.prepare()
    survey = await asyncio.to_thread(_survey, file)
    songs = _songs(file, survey.genres)
    saved = await save_items(file.layout.source, songs, store, len(survey.genres), progress)
    report = IngestReport(
        source=file.layout.source,
        n_rows=survey.n_rows,
        n_bad_rows=survey.n_bad_rows,
        problems=tuple(survey.problems),
        n_inserted=saved.n_inserted,
        n_updated=saved.n_updated,
        n_unchanged=saved.n_unchanged,
    )
    _log.info(LogEvent.ITEMS_INGESTED, source=report.source, inserted=report.n_inserted, updated=report.n_updated)
    return report


async def save_items(
    source: str,
    items: Iterable[SourceItem],
    store: IngestStore,
    n_total: int,
    progress: Progress = lambda _done, _total: None,
) -> SaveReport:
    """Save those of ``items``, whose ids must differ, that ``store`` has not got as they are; in batches."""
    known = await store.content_hashes(source)
    iterator, report = iter(items), SaveReport()
    while batch := await asyncio.to_thread(_next_batch, iterator):
        report = report.plus(await _save_batch(source, batch, known, store))
        progress(report.n_inserted + report.n_updated + report.n_unchanged, n_total)
    return report


def _next_batch(items: Iterator[SourceItem]) -> list[tuple[SourceItem, bytes]]:
    return [(item, source_hash(item)) for item in islice(items, _BATCH)]


async def _save_batch(
    source: str, batch: Sequence[tuple[SourceItem, bytes]], known: Mapping[str, bytes], store: IngestStore
) -> SaveReport:
    changed = [(item, content) for item, content in batch if known.get(item.source_id) != content]
    if changed:
        await store.save(source, [item for item, _ in changed], [content for _, content in changed])
    n_updated = sum(item.source_id in known for item, _ in changed)
    return SaveReport(n_inserted=len(changed) - n_updated, n_updated=n_updated, n_unchanged=len(batch) - len(changed))


def source_hash(item: SourceItem) -> bytes:
    """16 bytes that change whenever anything of ``item`` does."""
    content = [
        sorted(item.titles.items()),
        [item.creator, item.mood, item.language, item.genres, item.popularity],
        sorted(item.features.items()),
    ]
    return blake2b(json.dumps(content).encode(), digest_size=16).digest()


# --- from rows to songs ---


class _Survey:
    """What the first reading finds: the genres of each track in order of appearance, and the rows that are bad."""

    def __init__(self) -> None:
        self.genres: dict[str, tuple[str, ...]] = {}
        self.problems: list[RowProblem] = []
        self.n_rows = self.n_bad_rows = 0

    def add(self, row: Track | RowProblem) -> None:
        self.n_rows += 1
        if isinstance(row, RowProblem):
            self.n_bad_rows += 1
            self.problems += [row] if len(self.problems) < _MAX_PROBLEMS else []
            return
        before = self.genres.get(row.track_id, ())
        new = row.genre is not None and row.genre not in before
        self.genres[row.track_id] = (*before, row.genre) if new and row.genre else before


def _survey(file: TrackFile) -> _Survey:
    survey = _Survey()
    for row in file.rows():
        survey.add(row)
    return survey


def _songs(file: TrackFile, genres: Mapping[str, tuple[str, ...]]) -> Iterator[SourceItem]:
    """One song for each track, in the order of the file."""
    waiting = dict(genres)
    for row in file.rows():
        if isinstance(row, Track) and row.track_id in waiting:
            yield replace(song_of(row), genres=_fitting(waiting.pop(row.track_id)))


def song_of(track: Track) -> SourceItem:
    """The song that a row becomes, with the genre of that row alone."""
    language = language_of(track.title)
    return SourceItem(
        source_id=track.track_id,
        titles={language: _shortened(track.title)},
        creator=_shortened(", ".join(track.artists)) or None,
        genres=_fitting((track.genre,) if track.genre else ()),
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


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_TEXT_CHARS else text[: _MAX_TEXT_CHARS - 1].rstrip() + "…"


def _fitting(genres: Iterable[str]) -> tuple[str, ...]:
    """The genres that fit into one comma-separated column; a comma within a genre becomes a slash."""
    kept: list[str] = []
    for genre in genres:
        name = genre.replace(",", "/")
        if len(", ".join([*kept, name])) <= _MAX_TEXT_CHARS:
            kept.append(name)
    return tuple(kept)
