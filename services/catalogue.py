"""The catalogue as the backend's item table holds it, seen through the catalogue profile. It is only ever read."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from functools import lru_cache
from math import isfinite, nan
from typing import Any

import orjson
import sqlalchemy as sa

from config.catalogue_profile import CatalogueProfile
from core.ports.catalogue import ItemChanges, ItemsMark
from models.catalogue import Item, Scalar
from services.database import Database
from services.item_changes import SqlItemChanges
from services.popularity import popularity
from services.schema import LazyTables, ProfileTables, item_columns, item_feature, result_columns

_IDS = "item_ids"
# Not ``str | int`` where it is asked: that would make the union anew for each of two thousand values of a job.
_PLAIN = (str, int, float, bool)
_NUMBERS = (int, float)


class SqlCatalogue:
    """A ``Catalogue`` in MySQL, MariaDB or SQLite.

    Every method may also raise ``ConfigurationError``: the profile names what the database lacks.
    """

    def __init__(self, database: Database, profile: CatalogueProfile) -> None:
        self._database = database
        self._profile = profile
        self._tables = LazyTables(database, profile)
        self._changes = SqlItemChanges(database, profile, self._tables)
        self._reader = _ItemReader(profile)

    async def check(self) -> None:
        """Return if the database has all that the profile names, and our own tables.

        Raises ``ConfigurationError`` naming the table or column that is missing, or the command that makes it.
        """
        await self._tables.check()

    async def items(self, item_ids: Collection[int]) -> dict[int, Item]:
        """The active items among ``item_ids`` by id, in one round trip, without features and popularity."""
        rows = await self._rows(await self._tables.statement(_shown_query), item_ids)
        return {item.item_id: item for item in map(self._reader.shown, rows)}

    async def active_ids(self, item_ids: Collection[int]) -> set[int]:
        """Those of ``item_ids`` that exist and are active, in one round trip."""
        rows = await self._rows(await self._tables.statement(_active_query), item_ids)
        return {row[0] for row in rows}

    async def stream(self, batch_size: int = 1000) -> AsyncIterator[Sequence[Item]]:
        """All active items, complete, in order of id and in batches: for offline steps, never for a job."""
        tables = await self._tables.get()
        next_ids = _next_ids_query(tables, self._profile, batch_size)
        complete = _complete_query(tables, self._profile)
        last: int | None = None
        while ids := await self._ids_after(next_ids, last):
            items = self._reader.complete(await self._rows(complete, ids))
            if items:
                yield sorted(items, key=lambda item: item.item_id)
            last = ids[-1]

    async def mark(self) -> ItemsMark:
        """What there is now."""
        return await self._changes.mark()

    async def changes(self, mark: ItemsMark) -> ItemChanges:
        """What is not as it was at ``mark``: by ``modified_at`` where the table has it, and by what is there."""
        return await self._changes.since(mark)

    async def complete_items(self, item_ids: Collection[int]) -> Sequence[Item]:
        """The active items among ``item_ids``, complete as ``stream`` has them, in order of id."""
        query = _complete_query(await self._tables.get(), self._profile)
        return sorted(self._reader.complete(await self._rows(query, item_ids)), key=lambda item: item.item_id)

    async def features(self, item_ids: Collection[int]) -> dict[int, Mapping[str, float]]:
        """See ``core.ports.FeatureStore``."""
        ids = sa.bindparam(_IDS, expanding=True, type_=sa.BigInteger)
        # As text, which orjson reads in a fraction of the time: a job waits for it.
        text = sa.type_coerce(item_feature.c.features, sa.Text).label("text")
        query: sa.Select[Any] = sa.select(item_feature.c.item_id, text).where(item_feature.c.item_id.in_(ids))
        rows = await self._rows(query, item_ids)
        return {row.item_id: features for row in rows if (features := _features_in(row.text))}

    async def _rows(self, query: sa.Select[Any], item_ids: Collection[int]) -> Sequence[sa.Row[Any]]:
        if not item_ids:
            return ()
        async with self._database.connect() as connection:
            rows: Sequence[sa.Row[Any]] = (await connection.execute(query, {_IDS: list(item_ids)})).all()
        return rows

    async def _ids_after(self, query: sa.Select[int], last: int | None) -> Sequence[int]:
        async with self._database.connect() as connection:
            return (await connection.scalars(query, {"last": last})).all()


def _next_ids_query(tables: ProfileTables, profile: CatalogueProfile, n: int) -> sa.Select[int]:
    item_id = tables.item.columns[profile.item.id]
    last = sa.bindparam("last", type_=sa.BigInteger)
    return (
        sa.select(item_id).where(tables.is_active(), sa.or_(last.is_(None), item_id > last)).order_by(item_id).limit(n)
    )


def _shown_query(tables: ProfileTables, profile: CatalogueProfile) -> sa.Select[Any]:
    """All columns of the profile's, of the active items whose ids it takes as ``item_ids``."""
    return _active_query(tables, profile).with_only_columns(
        *(tables.item.columns[name] for name in item_columns(profile))
    )


def _active_query(tables: ProfileTables, profile: CatalogueProfile) -> sa.Select[Any]:
    """The ids of the active items among those that it takes as ``item_ids``."""
    ids = sa.bindparam(_IDS, expanding=True, type_=sa.BigInteger)
    item_id = tables.item.columns[profile.item.id]
    return sa.select(item_id).where(item_id.in_(ids), tables.is_active())


def _complete_query(tables: ProfileTables, profile: CatalogueProfile) -> sa.Select[Any]:
    """The same, followed by features, given popularity and number of likes."""
    item_id, liked_id = tables.item.columns[profile.item.id], tables.likes.columns[profile.likes.item]
    ids = sa.bindparam(_IDS, expanding=True, type_=sa.BigInteger)
    likes = sa.select(liked_id.label("item_id"), sa.func.count().label("n")).where(liked_id.in_(ids)).group_by(liked_id)
    counted = likes.subquery("counted")
    return (
        _shown_query(tables, profile)
        .add_columns(sa.type_coerce(item_feature.c.features, sa.Text), item_feature.c.popularity, counted.c.n)
        .outerjoin(item_feature, item_feature.c.item_id == item_id)
        .outerjoin(counted, counted.c.item_id == item_id)
    )


class _ItemReader:
    """Makes items of the rows of the queries above."""

    def __init__(self, profile: CatalogueProfile) -> None:
        source = profile.item
        place = {name: position for position, name in enumerate(item_columns(profile))}
        texts = (source.creator, source.creator_local, source.genre, source.mood, source.language)
        self._id = place[source.id]
        self._texts = [place[name] if name else None for name in texts]
        self._kept = [(name, place[name]) for name in dict.fromkeys([*result_columns(profile), *source.text])]
        self._titles = [(locale, place[name]) for locale, name in source.titles.items()]

    def complete(self, rows: Sequence[Sequence[Any]]) -> list[Item]:
        shares = popularity([_number(row[-2]) for row in rows], [row[-1] or 0 for row in rows])
        return [
            self.shown(row, features=_features_in(row[-3]) if row[-3] else None, popularity=share)
            # Plain tuples: a row of the library looks its negative places up by name first.
            for row, share in zip(map(tuple, rows), shares.tolist(), strict=True)
        ]

    def shown(self, row: Sequence[Any], features: Mapping[str, float] | None = None, popularity: float = 0.0) -> Item:
        texts = [None if place is None else _text(row[place]) for place in self._texts]
        creator, creator_local, genres, moods, language = texts
        return Item(
            item_id=row[self._id],
            titles={locale: text for locale, place in self._titles if (text := _text(row[place]))},
            creator=creator,
            creator_local=creator_local,
            genres=parts(genres),
            moods=parts(moods),
            language=language,
            columns={name: _scalar(row[place]) for name, place in self._kept},
            features=features or {},
            popularity=popularity,
        )


@lru_cache(maxsize=8192)
def parts(text: str | None) -> tuple[str, ...]:
    """The values of a comma-separated column, trimmed, each once."""
    return tuple(dict.fromkeys(part for raw in (text or "").split(",") if (part := raw.strip())))


def _text(value: object) -> str | None:
    """Text of a column, of a binary one too."""
    if isinstance(value, str):
        return value.strip() or None
    if value is None:
        return None
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return text.strip() or None


def _number(value: float | None) -> float:
    return nan if value is None else value


def _features(value: object) -> dict[str, float]:
    """The numbers in it that are any: one odd value of one row must not stop a whole catalogue."""
    if not isinstance(value, Mapping):
        return {}
    return {str(name): float(number) for name, number in value.items() if _is_finite(number)}


def _is_finite(number: object) -> bool:
    try:
        return isinstance(number, _NUMBERS) and isfinite(number)
    except OverflowError:  # an integer beyond all floats: MariaDB keeps JSON as it is written
        return False


def _features_in(text: str) -> dict[str, float]:
    try:
        return _features(orjson.loads(text))
    except orjson.JSONDecodeError:  # NaN, in which SQLite sees no harm
        return {}


def _scalar(value: object) -> Scalar:
    """``value`` as JSON can say it: exact for whole numbers, ISO 8601 for dates."""
    if value is None or isinstance(value, _PLAIN):
        return value
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, datetime | date):
        return value.isoformat()
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
