"""Fills a catalogue that is ours from files: what ``python main.py ingest FILE...`` does.

An item that stands once per genre becomes one item of several genres; all else is of its first good row. Text that is
longer than its column ends in an ellipsis; genres that no longer fit are left out.
"""

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Protocol

import structlog

from config.catalogue_profile import CatalogueProfile
from config.source_files import SourceMapping
from core.errors import ConfigurationError
from core.ports.collaborative import Interaction
from core.ports.filling import IngestStore
from models.log_event import LogEvent
from models.source import SourceItem, SourceLike
from training.csv_rows import InvalidRow, Layout, RowProblem
from training.item_files import LikeLayout, fitting, item_layouts, like_layouts
from training.row_files import RowFile, open_rows
from training.track_files import LAYOUTS

Progress = Callable[[int, int], None]
"""Called with how many rows or items are done, and how many there are."""

_BATCH = 1000
_MAX_PROBLEMS = 1000

_log = structlog.get_logger()


class ItemLayout(Layout, Protocol):
    """A layout of files of items."""

    def item(self, cells: Mapping[str, str]) -> SourceItem:
        """The item of a row, by cells by column; raises ``InvalidRow``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveReport:
    """How many items were new, changed, and as they were."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestReport(SaveReport):
    """What an ingest did. ``problems`` holds the first thousand rows that were left out, ``n_bad_rows`` counts all.

    Where ``is_of_likes``, likes were inserted, none was changed, and a row of an item that nobody knows is a bad one.
    """

    source: str
    is_of_likes: bool = False
    n_rows: int = 0
    n_bad_rows: int = 0
    problems: tuple[RowProblem, ...] = ()

    @property
    def n_items(self) -> int:
        """Items, or likes, that the source has."""
        return self.n_inserted + self.n_updated + self.n_unchanged


def layouts_of(profile: CatalogueProfile, mapping: SourceMapping | None = None) -> tuple[ItemLayout | LikeLayout, ...]:
    """Those of the files that ``ingest`` takes for a catalogue of this profile; files of items come first.

    With a ``mapping`` files are taken as that says and in no other way.
    """
    if mapping is not None:
        profile = profile.model_copy(update={**dict(mapping), "track_files": False})
    return (*item_layouts(profile), *(LAYOUTS if profile.track_files else ()), *like_layouts(profile))


async def ingest(
    path: Path,
    store: IngestStore,
    layouts: Sequence[ItemLayout | LikeLayout],
    progress: Progress = lambda _done, _total: None,
) -> IngestReport:
    """Bring what the file holds, items or likes, into the catalogue; a second run changes nothing, none is deleted.

    A file of items is read twice, first for the genres of each, so that memory holds ids and genres but no rows. Raises
    ``ConfigurationError``, before anything is written, where the file is of none of ``layouts``, the item table holds
    rows that are not ours, or our own tables are not there; and ``DependencyUnavailable``: what was saved by then
    stays, and the next run goes on from there.
    """
    if not layouts:
        raise ConfigurationError("the catalogue profile declares no files: give it item_files")
    file = await asyncio.to_thread(open_rows, path)
    layout = file.layout_among(layouts)
    await store.prepare()
    if isinstance(layout, LikeLayout):
        return await _ingest_likes(file, layout, store, progress)
    return await _ingest_items(file, layout, store, progress)


async def _ingest_items(file: RowFile, layout: ItemLayout, store: IngestStore, progress: Progress) -> IngestReport:
    survey = await asyncio.to_thread(_survey, file, layout)
    saved = await save_items(layout.source, _items(file, layout, survey.genres), store, len(survey.genres), progress)
    report = _report(layout, survey.rows, saved)
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
        report = report.plus(await save_batch(source, batch, known, store))
        progress(report.n_inserted + report.n_updated + report.n_unchanged, n_total)
    return report


def _next_batch(items: Iterator[SourceItem]) -> list[tuple[SourceItem, bytes]]:
    return [(item, source_hash(item)) for item in islice(items, _BATCH)]


async def save_batch(
    source: str, batch: Sequence[tuple[SourceItem, bytes]], known: Mapping[str, bytes], store: IngestStore
) -> SaveReport:
    """Save those of ``batch``, with their hashes, that are not as ``known``: the ``content_hashes`` of the source."""
    changed = [(item, content) for item, content in batch if known.get(item.source_id) != content]
    if changed:
        await store.save(source, [item for item, _ in changed], [content for _, content in changed])
    n_updated = sum(item.source_id in known for item, _ in changed)
    return SaveReport(n_inserted=len(changed) - n_updated, n_updated=n_updated, n_unchanged=len(batch) - len(changed))


def source_hash(item: SourceItem) -> bytes:
    """16 bytes that change whenever anything of ``item`` does."""
    content: list[object] = [
        sorted(item.titles.items()),
        [item.creator, item.mood, item.language, item.genres, item.popularity],
        sorted(item.features.items()),
    ]
    if item.creator_local or item.columns:
        content.append([item.creator_local, sorted(item.columns.items())])
    return blake2b(json.dumps(content).encode(), digest_size=16).digest()


# --- from rows to items ---


@dataclass(slots=True)
class _Rows:
    """How many rows were read, and those that are bad."""

    n: int = 0
    n_bad: int = 0
    problems: list[RowProblem] = field(default_factory=list)

    def add(self, row: object) -> None:
        self.n += 1
        if isinstance(row, RowProblem):
            self.n_bad += 1
            self.problems += [row] if len(self.problems) < _MAX_PROBLEMS else []


@dataclass(slots=True)
class _Survey:
    """What the first reading finds: the rows, and the genres of each item in order of appearance."""

    rows: _Rows = field(default_factory=_Rows)
    genres: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def add(self, row: SourceItem | RowProblem) -> None:
        self.rows.add(row)
        if isinstance(row, RowProblem):
            return
        before = self.genres.get(row.source_id)
        self.genres[row.source_id] = tuple(dict.fromkeys([*before, *row.genres])) if before else row.genres


def _survey(file: RowFile, layout: ItemLayout) -> _Survey:
    survey = _Survey()
    for row in file.rows(layout.item):
        survey.add(row)
    return survey


def _items(file: RowFile, layout: ItemLayout, genres: Mapping[str, tuple[str, ...]]) -> Iterator[SourceItem]:
    """Each item once, in the order of the file."""
    waiting = dict(genres)
    for row in file.rows(layout.item):
        if isinstance(row, SourceItem) and row.source_id in waiting:
            its_genres = waiting.pop(row.source_id)
            yield row if its_genres == row.genres else replace(row, genres=fitting(its_genres))


# --- likes ---


async def _ingest_likes(file: RowFile, layout: LikeLayout, store: IngestStore, progress: Progress) -> IngestReport:
    n_total = await asyncio.to_thread(lambda: sum(1 for _ in file.rows(dict)))
    known, seen = await store.item_ids(layout.source), _Rows()
    rows, n_inserted = file.rows(lambda cells: _like_of(layout, cells, known)), 0
    while batch := await asyncio.to_thread(list, islice(rows, _BATCH)):
        likes = {(row.member_id, row.item_id): row for row in batch if not isinstance(row, RowProblem)}
        n_inserted += await store.save_likes(list(likes.values()))
        for row in batch:
            seen.add(row)
        progress(seen.n, n_total)
    _log.info(LogEvent.ITEMS_INGESTED, source=layout.source, likes=n_inserted)
    saved = SaveReport(n_inserted=n_inserted, n_unchanged=seen.n - seen.n_bad - n_inserted)
    return _report(layout, seen, saved, is_of_likes=True)


def _report(layout: Layout, rows: _Rows, saved: SaveReport, *, is_of_likes: bool = False) -> IngestReport:
    return IngestReport(
        source=layout.source,
        is_of_likes=is_of_likes,
        n_rows=rows.n,
        n_bad_rows=rows.n_bad,
        problems=tuple(rows.problems),
        n_inserted=saved.n_inserted,
        n_updated=saved.n_updated,
        n_unchanged=saved.n_unchanged,
    )


def _like_of(layout: LikeLayout, cells: Mapping[str, str], known: Mapping[str, int]) -> Interaction:
    like = layout.like(cells)
    if like.source_id not in known:
        raise InvalidRow(f"{layout.file.item} {like.source_id!r} is no item of {layout.source}")
    return interaction_of(like, known[like.source_id])


def interaction_of(like: SourceLike, item_id: int) -> Interaction:
    """The like, of the item as the catalogue knows it."""
    at = like.liked_at.replace(tzinfo=UTC) if like.liked_at else None
    return Interaction(member_id=like.member_id, item_id=item_id, weight=1.0, occurred_at=at)
