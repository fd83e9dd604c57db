"""Fills a catalogue that is ours from other services and databases: what ``python main.py import`` does.

Every source gives rows of text cells, a page at a time, and a declared layout says what becomes of them, as of files.
Where a source goes on is kept after each page that was saved: what breaks off is gone on with, and nothing comes twice.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TypeVar

import structlog

from config.catalogue_profile import CatalogueProfile, ColumnType
from config.source_files import ItemFile, LikeFile
from core.errors import ConfigurationError
from core.ports.collaborative import Interaction
from core.ports.filling import ImportCursors, IngestStore, ListedItem, ListStore, RowSource
from models.log_event import LogEvent
from models.source import SourceItem
from training.csv_rows import InvalidRow, clean, integer
from training.ingest import ItemLayout, SaveReport, interaction_of, save_batch, source_hash
from training.item_files import ItemLayout as DeclaredLayout
from training.item_files import LikeLayout, fitting
from training.track_files import TrackLayout

Progress = Callable[[int], None]
"""Called with how many rows are done."""

_MAX_PROBLEMS = 20

_log = structlog.get_logger()

T = TypeVar("T")


class SpotifyLayout(TrackLayout):
    """Tracks as Spotify's Web API has them: they have the genres of their artists, parted by semicolons."""

    def item(self, cells: Mapping[str, str]) -> SourceItem:
        """The song of a row; raises ``InvalidRow``."""
        genres = (genre.strip() for genre in cells[self.genre].split(";"))
        return replace(super().item(cells), genres=fitting(filter(None, genres)))


SPOTIFY = SpotifyLayout(source="spotify", title="name", artists="artists", genre="genres")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport(SaveReport):
    """What an import did; ``problems`` are the first rows that were left out, ``n_left_out`` counts all."""

    n_rows: int = 0
    n_left_out: int = 0
    problems: tuple[str, ...] = ()
    went_on: bool = False

    def with_page(self, n_rows: int, saved: SaveReport, problems: Sequence[str]) -> "ImportReport":
        """After one more page."""
        return replace(
            self,
            n_rows=self.n_rows + n_rows,
            n_inserted=self.n_inserted + saved.n_inserted,
            n_updated=self.n_updated + saved.n_updated,
            n_unchanged=self.n_unchanged + saved.n_unchanged,
            n_left_out=self.n_left_out + len(problems),
            problems=(*self.problems, *problems)[:_MAX_PROBLEMS],
        )


def layout_of(profile: CatalogueProfile, source: str) -> ItemLayout:
    """How items of ``source`` become those of ``profile``; raises ``ConfigurationError`` where nothing says so."""
    for file in profile.item_files:
        if file.source == source:
            return DeclaredLayout(file, profile.item.types)
    if source == SPOTIFY.source and profile.track_files:
        return SPOTIFY
    raise ConfigurationError(
        f"nothing says what becomes of {source}: give --mapping a file with item_files of source {source!r}, or "
        f"catalogue profile {profile.name!r} such a part"
    )


def copied_items(profile: CatalogueProfile, source: str) -> ItemFile:
    """The columns of the table of items itself, under their own names and ids."""
    table = profile.item
    further = (*table.text, *table.passthrough, *profile.candidate_fields, *profile.group_fields, *table.types)
    mapped = {table.id, *table.titles.values(), *_singles(profile).values(), None}
    columns = {name: name for name in further if name not in mapped}
    if table.active:
        columns[table.active] = table.active
    return ItemFile(
        source=source,
        id=table.id,
        keeps_ids=True,
        titles=table.titles,
        columns=columns,
        **_singles(profile),
    )


def _singles(profile: CatalogueProfile) -> dict[str, str | None]:
    names = ("creator", "creator_local", "genre", "mood", "language")
    return {name: getattr(profile.item, name) for name in names}


def copied_likes(profile: CatalogueProfile, source: str) -> LikeFile:
    """The columns of the table of likes itself."""
    likes = profile.likes
    return LikeFile(source=source, member=likes.member, item=likes.item, liked_at=likes.created_at)


def copying_layouts(profile: CatalogueProfile, source: str) -> tuple[ItemLayout, LikeLayout]:
    """How rows of another database with the tables of ``profile`` become rows of this one."""
    types: dict[str, ColumnType] = {
        **profile.item.types,
        **({profile.item.active: "flag"} if profile.item.active else {}),
    }
    return DeclaredLayout(copied_items(profile, source), types), LikeLayout(copied_likes(profile, source))


# --- page by page ---


@dataclass(frozen=True, slots=True, kw_only=True)
class Importing:
    """What an import is made of; ``n_rows`` bounds it, and ``afresh`` begins it anew whatever was read before."""

    source: RowSource
    cursors: ImportCursors
    n_rows: int | None = None
    afresh: bool = False
    progress: Progress = lambda _: None


Saved = tuple[SaveReport, list[str]]


async def import_items(importing: Importing, layout: ItemLayout, store: IngestStore) -> ImportReport:
    """Bring the items of a source into the catalogue; raises as ``ingest`` does, and as ``RowSource.pages``."""
    await store.prepare()
    known = await store.content_hashes(layout.source)

    async def save(rows: Sequence[Mapping[str, str]]) -> Saved:
        items, problems = _items(rows, layout)
        hashed = [(item, source_hash(item)) for item in items]
        saved = await save_batch(layout.source, hashed, known, store)
        known.update({item.source_id: content for item, content in hashed})
        return saved, problems

    return await _import(importing, save)


async def import_likes(importing: Importing, layout: LikeLayout, store: IngestStore) -> ImportReport:
    """Bring likes of items that the same source brought; those of others are left out."""
    known = await store.item_ids(layout.source)

    def like_of(cells: Mapping[str, str]) -> Interaction:
        like = layout.like(cells)
        return interaction_of(like, _known(known, like.source_id))

    async def save(rows: Sequence[Mapping[str, str]]) -> Saved:
        likes, problems = _read(rows, layout.needed, like_of)
        kept = {(like.member_id, like.item_id): like for like in likes}
        n_new = await store.save_likes(list(kept.values())) if kept else 0
        return SaveReport(n_inserted=n_new, n_unchanged=len(likes) - n_new), problems

    return await _import(importing, save)


async def import_lists(
    importing: Importing, profile: CatalogueProfile, source: str, items: IngestStore, store: ListStore
) -> ImportReport:
    """Bring lists of members, such as playlists, of items that the same source brought."""
    lists = profile.lists
    if lists is None:
        return ImportReport()
    known, names = await items.item_ids(source), (lists.key, lists.member, lists.item)

    def listed(cells: Mapping[str, str]) -> ListedItem:
        list_id, member_id, _ = (integer(name, cells[name]) for name in names)
        return ListedItem(list_id, member_id, _known(known, cells[lists.item]))

    async def save(rows: Sequence[Mapping[str, str]]) -> Saved:
        found, problems = _read(rows, names, listed)
        n_new = await store.save_lists(list(dict.fromkeys(found))) if found else 0
        return SaveReport(n_inserted=n_new, n_unchanged=len(found) - n_new), problems

    return await _import(importing, save)


async def _import(
    importing: Importing, save: Callable[[Sequence[Mapping[str, str]]], Awaitable[Saved]]
) -> ImportReport:
    key, limit = importing.source.key, importing.n_rows
    cursor = None if importing.afresh else await importing.cursors.cursor(key)
    report = ImportReport(went_on=cursor is not None)
    async with aclosing(importing.source.pages(cursor)) as pages:
        async for page in pages:
            rows = page.rows if limit is None else page.rows[: limit - report.n_rows]
            saved, problems = await save(rows)
            if len(rows) == len(page.rows):
                await importing.cursors.keep(key, page.cursor)
            report = report.with_page(len(rows), saved, problems)
            importing.progress(report.n_rows)
            if report.n_rows == limit:
                break
    _log.info(LogEvent.ITEMS_INGESTED, source=key, inserted=report.n_inserted, updated=report.n_updated)
    return report


def _items(rows: Sequence[Mapping[str, str]], layout: ItemLayout) -> tuple[list[SourceItem], list[str]]:
    """Each item of a page once, the last row of it."""
    items, problems = _read(rows, layout.needed, layout.item)
    return list({item.source_id: item for item in items}.values()), problems


def _read(
    rows: Sequence[Mapping[str, str]], needed: Sequence[str], read: Callable[[Mapping[str, str]], T]
) -> tuple[list[T], list[str]]:
    """What ``read`` makes of the good rows, and what is wrong with the others."""
    found: list[T] = []
    problems: list[str] = []
    for row in rows:
        try:
            found.append(read({name: clean(name, row.get(name, "")) for name in needed}))
        except InvalidRow as error:
            problems.append(f"{row.get(needed[0]) or 'a row'}: {error}")
    return found, problems


def _known(known: Mapping[str, int], source_id: str) -> int:
    if source_id not in known:
        raise InvalidRow(f"item {source_id!r} was not imported")
    return known[source_id]
