"""Tells what has changed among the backend's items, which number no changes: by their dates and by sums of their ids.

``modified_at`` names what was changed, and usually what was added or deactivated. What leaves no date, a row deleted
or a flag set by hand, shows in the count and the sums of the active ids; only then are all ids read.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from config.catalogue_profile import CatalogueProfile
from core.ports.arrays import Ids
from core.ports.catalogue import ItemChanges, ItemsMark
from services.database import Database
from services.schema import LazyTables, ProfileTables

N_SCAN_TRIPS = 24
"""A scan of everything may take longer than the round trips that a job waits for."""

_BATCH = 1000
# A prime near 2**20.
_SHORT_ID_MODULUS = 1_048_573
# Changes show at their commit, dated when they were made, by clocks that differ: what is this old is looked at again.
_OVERLAP = timedelta(minutes=5)
# Within what MySQL's dates can say.
_LONG_AGO = datetime(1000, 1, 1)  # noqa: DTZ001 - as databases hold them


ITEM_IDS = sa.bindparam("item_ids", expanding=True, type_=sa.BigInteger)

Dated = tuple[Ids, Ids]
_NONE: Dated = (np.zeros(0, np.int64), np.zeros(0, np.int64))


@dataclass(frozen=True, slots=True)
class ItemsSummary:
    """The active items: their count, the sums of their shortened ids and of those squared, and the last change."""

    n_items: int
    id_sum: int
    square_sum: int
    modified_at: datetime | None

    def tells_of(self, active_ids: Ids) -> bool:
        """Whether it is the summary of just these."""
        sums = [_sums(active_ids[start : start + 2**20]) for start in range(0, len(active_ids), 2**20)]
        expected = (len(active_ids), sum(each[0] for each in sums), sum(each[1] for each in sums))
        return expected == (self.n_items, self.id_sum, self.square_sum)


def _sums(ids: Ids) -> tuple[int, int]:
    short = ids % _SHORT_ID_MODULUS
    return int(short.sum()), int((short * short).sum())


def summary_queries(tables: ProfileTables, profile: CatalogueProfile) -> list[sa.Select[*tuple[Any, ...]]]:
    """Of the active items, rows of a name, a count and three texts, for a union: see ``read_summary``."""
    item_id, modified_at = tables.item.columns[profile.item.id], tables.modified_at
    queries = [_summary("items", item_id, sa.null()).where(tables.is_active())]
    if modified_at is not None:
        # The items changed at that instant, too: the backend's instants are whole seconds.
        last = sa.select(sa.func.max(modified_at)).where(tables.is_active()).scalar_subquery()
        at_last = _summary("modified", item_id, sa.func.max(modified_at)).where(modified_at == last)
        queries.append(at_last.where(tables.is_active()))
    return queries


def _summary(name: str, item_id: sa.ColumnElement[int], what: sa.ColumnElement[Any]) -> sa.Select[*tuple[Any, ...]]:
    # Squares too: the sum of {1, 4} is that of {2, 3}. The modulus keeps the sums within SQLite's 64 bits.
    short_id = item_id % _SHORT_ID_MODULUS
    sums = (sa.func.sum(short_id), sa.func.sum(short_id * short_id), what)
    # As text, so that the branches of the union agree on a type.
    return sa.select(sa.literal(name), sa.func.count(), *(sa.cast(value, sa.String(64)) for value in sums))


def read_summary(rows: Iterable[Sequence[Any]]) -> ItemsSummary:
    """What the rows of ``summary_queries`` say."""
    by_name = {row[0]: row for row in rows}
    _, n_items, id_sum, square_sum, _ = by_name["items"]
    modified = by_name.get("modified")
    return ItemsSummary(n_items, int(id_sum or 0), int(square_sum or 0), _instant(modified[4] if modified else None))


def _instant(text: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        # Some number; the sums tell that something changed, but not what.
        return None


class SqlItemChanges:
    """What has changed among the items of MySQL, MariaDB or SQLite.

    Every method may also raise ``ConfigurationError``: the profile names what the database lacks.
    """

    def __init__(self, database: Database, profile: CatalogueProfile, tables: LazyTables) -> None:
        self._database, self._profile, self._tables = database, profile, tables

    async def mark(self) -> ItemsMark:
        """What there is now."""
        # Asked first: what changes meanwhile is looked at again, rather than missed.
        summary = await self.summary()
        return ItemsMark(summary.modified_at, *await self._active())

    async def summary(self) -> ItemsSummary:
        """What the active items come to, in one round trip."""
        query = sa.union_all(*summary_queries(await self._tables.get(), self._profile))
        async with self._database.connect(n_round_trips=N_SCAN_TRIPS) as connection:
            return read_summary((await connection.execute(query)).all())

    async def since(self, mark: ItemsMark, summary: ItemsSummary | None = None) -> ItemChanges:
        """What is not as it was at ``mark``; ``summary`` is of now, where it is at hand."""
        summary = summary or await self.summary()
        recent = await self._modified_since(mark.modified_at)
        # Sorting a million ids takes longer than jobs should wait.
        touched = await asyncio.to_thread(_not_in, recent, mark)
        active = await self._active_among(touched)
        found = await asyncio.to_thread(_with, mark, touched, active)
        if not await asyncio.to_thread(summary.tells_of, found[0]):
            found = await self._active()
        now = ItemsMark(summary.modified_at, *found)
        return await asyncio.to_thread(_changes, mark, now)

    async def _modified_since(self, modified_at: datetime | None) -> Dated:
        """What has a date of then or later, active or not."""
        tables = await self._tables.get()
        if tables.modified_at is None:
            return _NONE
        # None: there was no date yet, so that any is new.
        since = _LONG_AGO if modified_at is None else modified_at - _OVERLAP
        return await self._dated(tables, tables.modified_at >= since)

    async def _active(self) -> Dated:
        tables = await self._tables.get()
        return await self._dated(tables, tables.is_active())

    async def _active_among(self, item_ids: Ids) -> Dated:
        tables = await self._tables.get()
        wanted = tables.item.columns[self._profile.item.id].in_(ITEM_IDS)
        batches = [item_ids[start : start + _BATCH].tolist() for start in range(0, len(item_ids), _BATCH)]
        found = [await self._dated(tables, sa.and_(wanted, tables.is_active()), batch) for batch in batches]
        return np.concatenate([_NONE[0], *(ids for ids, _ in found)]), np.concatenate(
            [_NONE[1], *(d for _, d in found)]
        )

    async def _dated(
        self, tables: ProfileTables, condition: sa.ColumnElement[bool], item_ids: Sequence[int] | None = None
    ) -> Dated:
        """Ids, rising, and dates of the items that meet ``condition``."""
        item_id = tables.item.columns[self._profile.item.id]
        query = sa.select(item_id, tables.modified_at if tables.modified_at is not None else sa.null())
        ids, dates = [_NONE[0]], [_NONE[1]]
        async with self._database.connect(n_round_trips=N_SCAN_TRIPS) as connection:
            parameters = None if item_ids is None else {"item_ids": item_ids}
            result = await connection.stream(query.where(condition).order_by(item_id), parameters)
            async for batch in result.partitions(_BATCH):
                ids.append(np.array([row[0] for row in batch], np.int64))
                dates.append(date_numbers([row[1] for row in batch]))
                # Jobs run meanwhile: they need not wait until all is read.
                await asyncio.sleep(0)
        return np.concatenate(ids), np.concatenate(dates)


def date_numbers(values: Sequence[object]) -> Ids:
    """A number for each date, int64 (n,): microseconds, where it is an instant."""
    if all(isinstance(value, datetime) for value in values):
        return np.array(values, dtype="datetime64[us]").astype(np.int64)
    return np.array([crc32(repr(value).encode()) for value in values], np.int64)


def _places(ids: Ids, among: Ids) -> tuple[Ids, npt.NDArray[np.bool_]]:
    """Where ``ids`` stand in ``among``, which rises, and whether they do."""
    places = np.minimum(np.searchsorted(among, ids), max(len(among) - 1, 0))
    return places, among[places] == ids if len(among) else np.zeros(len(ids), np.bool_)


def _not_in(dated: Dated, mark: ItemsMark) -> Ids:
    """The ids of ``dated`` that ``mark`` does not have with these dates."""
    ids, dates = dated
    places, known = _places(ids, mark.active_ids)
    known[known] = mark.dates[places[known]] == dates[known]
    return ids[~known]


def _with(mark: ItemsMark, touched: Ids, active: Dated) -> Dated:
    """The active items, where ``touched`` are now ``active``, or no longer."""
    left = ~_places(mark.active_ids, touched)[1]
    ids, dates = np.concatenate([mark.active_ids[left], active[0]]), np.concatenate([mark.dates[left], active[1]])
    order = np.argsort(ids, kind="stable")
    return ids[order], dates[order]


def _changes(before: ItemsMark, now: ItemsMark) -> ItemChanges:
    changed = _not_in((now.active_ids, now.dates), before)
    gone = before.active_ids[~_places(before.active_ids, now.active_ids)[1]]
    return ItemChanges(changed, gone, now)
