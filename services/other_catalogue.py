"""Reads the tables of a backend that runs elsewhere, in order of their keys; nothing is written there.

The rows are text cells by column, as of a file.
"""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from config.catalogue_profile import CatalogueProfile
from core.errors import ConfigurationError, DependencyUnavailable
from core.ports.filling import RowPage
from services.database import Database

_PAGE = 1000
_N_TRIPS = 12


class TableSource:
    """``RowSource`` of one table: ``columns``, and those of ``owner``, a table that it is joined with, if any.

    Rows come in order of the primary key. It is what is gone on from, also by the next import: what has a lower key and
    has changed since is read where the import begins afresh. ``optional`` columns may be missing.
    """

    def __init__(
        self,
        database: Database,
        source: str,
        table: str,
        columns: Iterable[str],
        *,
        optional: Iterable[str] = (),
        owner: tuple[str, str, str] | None = None,
    ) -> None:
        """``owner``: the table, the column that both have, and the column that is wanted."""
        self._database, self._source, self._name, self._owner = database, source, table, owner
        self._columns, self._optional = tuple(columns), frozenset(optional)

    @property
    def key(self) -> str:
        """See ``RowSource.key``."""
        return f"{self._source}/{self._name}"

    async def pages(self, cursor: str | None) -> AsyncGenerator[RowPage, None]:
        """See ``RowSource.pages``."""
        async with self._reading() as connection:
            query, key = await connection.run_sync(self._query)
        last = json.loads(cursor) if cursor else None
        while True:
            page = query if last is None else query.where(sa.tuple_(*key) > sa.tuple_(*map(sa.literal, last)))
            async with self._reading() as connection:
                rows = (await connection.execute(page)).mappings().all()
            if not rows:
                return
            last = self._place([rows[-1][f"key_{place}"] for place in range(len(key))])
            yield RowPage([self._cells(row) for row in rows], json.dumps(last))

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[AsyncConnection]:
        """As ``Database.connect``, of a database that DATABASE_URL does not name."""
        try:
            async with self._database.connect(n_round_trips=_N_TRIPS) as connection:
                yield connection
        except DependencyUnavailable as error:
            raise DependencyUnavailable("--from", str(error)) from error

    def _query(self, connection: sa.Connection) -> tuple[sa.Select[Any], list[sa.ColumnElement[Any]]]:
        inspector = sa.inspect(connection)
        found = self._found(inspector)
        names = inspector.get_pk_constraint(self._name)["constrained_columns"]
        if not names:
            raise ConfigurationError(f"--from: table {self._name!r} has no primary key to read it by")
        table = sa.table(self._name, *(sa.column(name) for name in {*found, *names}))
        key = [table.c[name] for name in names]
        wanted = [table.c[name] for name in self._columns if name in found]
        keys = [column.label(f"key_{place}") for place, column in enumerate(key)]
        query: sa.Select[Any] = sa.select(*wanted, *keys).order_by(*key).limit(_PAGE)
        if self._owner is None:
            return query, list(key)
        name, shared, of_interest = self._owner
        owner = sa.table(name, sa.column(shared), sa.column(of_interest))
        joined = table.join(owner, owner.c[shared] == table.c[shared])
        return query.add_columns(owner.c[of_interest]).select_from(joined), list(key)

    def _place(self, last: list[Any]) -> list[Any]:
        """What a cursor can hold."""
        if not all(isinstance(value, int | str) for value in last):
            raise ConfigurationError(f"--from: the primary key of table {self._name!r} is neither number nor text")
        return last

    def _found(self, inspector: sa.Inspector) -> set[str]:
        try:
            found = {column["name"] for column in inspector.get_columns(self._name)}
        except sa.exc.NoSuchTableError:
            raise ConfigurationError(
                f"--from: the database has no table {self._name!r}: is it the one that CATALOGUE_PROFILE describes?"
            ) from None
        if missing := [repr(name) for name in self._columns if name not in found | self._optional]:
            raise ConfigurationError(f"--from: table {self._name!r} has no column {', '.join(missing)}")
        return found

    def _cells(self, row: Mapping[str, object]) -> Mapping[str, str]:
        return {name: _text(value) for name, value in row.items()}


def _text(value: object) -> str:
    match value:
        case None:
            return ""
        case bytes():  # a BIT(1), as Hibernate makes flags
            return str(int.from_bytes(value, "big"))
        case datetime():
            return value.replace(tzinfo=UTC).isoformat()
    return str(value)


def list_source(database: Database, source: str, profile: CatalogueProfile) -> TableSource | None:
    """What is in lists of members, with whose lists they are; None where ``profile`` has none."""
    lists = profile.lists
    if lists is None:
        return None
    owner = (lists.parent, lists.key, lists.member)
    return TableSource(database, source, lists.table, (lists.key, lists.item), owner=owner)
