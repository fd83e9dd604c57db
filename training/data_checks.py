"""Reads what ``core.data_checks`` judges: a file before it is taken in, or all that a site has before it is fitted."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from rich.table import Table

from config.catalogue_profile import CatalogueProfile
from core.data_checks import CheckReport
from core.data_figures import DataFigures, ItemCount, with_interactions
from core.ports.catalogue import Catalogue
from core.ports.collaborative import InteractionLog
from models.catalogue import Item
from models.source import SourceItem, SourceLike
from training.csv_rows import RowProblem
from training.ingest import ItemLayout, layouts_of
from training.item_files import LikeLayout
from training.row_files import open_rows
from training.track_files import FEATURE_BOUNDS

Progress = Callable[[int], None]
"""Called with how many rows, items and interactions are read."""

_ROWS_A_STEP = 1000
_COLOURS = {"passed": "green", "warned": "yellow", "failed": "red"}


class OrphanCount(Protocol):
    """Counts what is of no item."""

    async def count(self) -> tuple[int, int]:
        """How many rows of likes, lists and events there are, and how many of them are of items that there are not."""


def ranges_of(profile: CatalogueProfile) -> Mapping[str, tuple[float, float]]:
    """By feature, as the profile's files declare them."""
    found = dict(FEATURE_BOUNDS) if profile.track_files else {}
    for file in profile.item_files:
        found.update(file.features)
    return found


# --- files ---


def figures_of_file(
    path: Path, profile: CatalogueProfile, before: DataFigures | None = None, progress: Progress = lambda _: None
) -> DataFigures:
    """Of a file that ``ingest`` would take; raises ``ConfigurationError`` as that does where it is of no layout."""
    file = open_rows(path)
    layout = file.layout_among(layouts_of(profile))
    rows = _Rows(ItemCount(ranges_of(profile)))
    for row in file.rows(_reader(layout)):
        rows.add(row)
        if rows.n % _ROWS_A_STEP == 0:
            progress(rows.n)
    return rows.figures(before)


def _reader(layout: ItemLayout | LikeLayout) -> Callable[[Mapping[str, str]], SourceItem | SourceLike]:
    return layout.like if isinstance(layout, LikeLayout) else layout.item


class _Rows:
    """What rows of a file say of ids: once, once more, or otherwise; an item once per genre is as it should be."""

    def __init__(self, items: ItemCount) -> None:
        self._items = items
        self._contents: dict[object, bytes] = {}
        self._seen: set[tuple[object, object]] = set()
        self._bad: dict[str, int] = {}
        self._n_repeated = self._n_conflicting = self._n_several = 0
        self.n = 0

    def add(self, row: SourceItem | SourceLike | RowProblem) -> None:
        self.n += 1
        match row:
            case RowProblem():
                # Without the value, which differs from row to row.
                reason = row.reason.partition(":")[0]
                self._bad[reason] = self._bad.get(reason, 0) + 1
            case SourceLike():
                self._note((row.member_id, row.source_id), b"", None)
            case SourceItem():
                content = _content(row)
                if self._note(row.source_id, content, row.genres):
                    self._items.add(row.features, row.genres, _name(row.titles.values(), row.creator))

    def _note(self, key: object, content: bytes, part: object) -> bool:
        """Whether nothing was known of ``key``."""
        if key not in self._contents:
            self._contents[key] = content
            self._seen.add((key, part))
            return True
        self._n_conflicting += self._contents[key] != content
        if (key, part) in self._seen:
            self._n_repeated += 1
        else:
            self._n_several += 1
            self._seen.add((key, part))
        return False

    def figures(self, before: DataFigures | None) -> DataFigures:
        return replace(
            self._items.figures(before if self._items.n_items else None),
            n_rows=self.n,
            bad_rows=self._bad,
            n_repeated=self._n_repeated,
            n_conflicting=self._n_conflicting,
            n_several=self._n_several,
        )


def _content(item: SourceItem) -> bytes:
    """What must be the same in each row of an item."""
    told = [sorted(item.titles.items()), item.creator, sorted(item.features.items())]
    return blake2b(repr(told).encode("utf-8", "surrogatepass"), digest_size=8).digest()


def _name(titles: Any, creator: str | None) -> str:  # noqa: ANN401 - any iterable of titles
    return "\n".join([*sorted(titles), creator or ""])


# --- sites ---


async def figures_of_catalogue(
    catalogue: Catalogue,
    profile: CatalogueProfile,
    orphans: OrphanCount,
    before: DataFigures | None = None,
    progress: Progress = lambda _: None,
) -> DataFigures:
    """Of all active items, and how much of what members do is of none."""
    count = ItemCount(ranges_of(profile))
    async for items in catalogue.stream():
        for item in items:
            _add(count, item)
        progress(count.n_items)
    n_signs, n_orphaned = await orphans.count()
    return replace(count.figures(before), n_signs=n_signs, n_orphaned=n_orphaned)


def _add(count: ItemCount, item: Item) -> None:
    count.add(item.features, item.genres, _name(item.titles.values(), item.creator))


async def with_log(
    figures: DataFigures, log: InteractionLog, before: DataFigures | None = None, progress: Progress = lambda _: None
) -> DataFigures:
    """``figures`` with those of all that members like and do."""
    owners, weights = [np.zeros(0, np.int64)], [np.zeros(0)]
    n = 0
    async for batch in log.stream():
        owners.append(np.array([each.member_id for each in batch], np.int64))
        weights.append(np.array([each.weight for each in batch], np.float64))
        n += len(batch)
        progress(n)
    return with_interactions(figures, np.concatenate(owners), np.concatenate(weights), before)


# --- for people ---


def table_of(report: CheckReport, *, whole: bool = True) -> Iterator[Table | str]:
    """All findings, or those that did not pass; and beneath them what they come to."""
    shown = [each for each in report.findings if whole or each.outcome != "passed"]
    if shown:
        table = Table("check", "of", "figure", "limit", "", "what it says")
        for each in shown:
            outcome = f"[{_COLOURS[each.outcome]}]{each.outcome}[/]"
            table.add_row(each.rule, each.subject, f"{each.figure:.4g}", f"{each.limit:.4g}", outcome, each.says)
        yield table
    yield from _rows_told(report.figures)
    counts = {outcome: sum(each.outcome == outcome for each in report.findings) for outcome in _COLOURS}
    beside = "" if report.compared else "; no figures of a last accepted version to compare with"
    yield f"{', '.join(f'{n} {outcome}' for outcome, n in counts.items())}{beside}"


def _rows_told(figures: DataFigures) -> Iterator[str]:
    if figures.n_rows:
        repeated = f"{figures.n_repeated:,} repeated, {figures.n_conflicting:,} conflicting"
        several = f"{figures.n_several:,} of another genre, " if figures.n_items else ""
        of_items = f" of {figures.n_items:,} items" if figures.n_items else ""
        yield f"{figures.n_rows:,} rows{of_items}: {several}{repeated}"
    for reason, n in _most(figures.bad_rows):
        yield f"{n:,} bad rows: {reason}"


def _most(counts: Mapping[str, int]) -> Sequence[tuple[str, int]]:
    return sorted(counts.items(), key=lambda each: (-each[1], each[0]))
