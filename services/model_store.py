"""Fitted models, kept in tables of ours in blocks of a megabyte, so that no statement outgrows a server's packet.

Every change of what is in force is a row of history. The one in force changes under a lock on all rows of its kind, so
that of two who compared their version with the same active one only the first puts it in its place.
"""

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from hashlib import blake2b
from zlib import crc32

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from core.errors import ConfigurationError
from core.ports.clock import Clock
from core.ports.model_store import ModelOrigin, Promotion, StoredVersion
from services.database import Database
from services.schema import ai_model, ai_model_block, model_origin, model_promotion
from services.stored_instants import aware, naive

# A quarter of the smallest max_allowed_packet that servers are found with (4 MB).
BLOCK_BYTES = 1 << 20
_DIGEST_BYTES = 32
# Models are read and written off the hot path, a block at a time.
_N_BLOCK_TRIPS, _N_VERSION_TRIPS = 4, 2
_N_CHANGE_TRIPS = 8
_MAX_REASON_CHARS = 1023
ROLLBACK = "rollback"


class SqlModelStore:
    """A ``ModelStore`` and ``ModelRegistry`` in MySQL, MariaDB or SQLite."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database, self._clock = database, clock

    async def active_version(self, kind: str) -> str | None:
        """The version in force, or None; cheap enough to ask at every refresh."""
        query = sa.select(ai_model.c.version).where(ai_model.c.kind == kind, ai_model.c.active)
        async with self._database.connect(n_round_trips=_N_VERSION_TRIPS) as connection:
            version: str | None = (await connection.execute(query)).scalar()
        return version

    async def load(self, kind: str, version: str) -> bytes | None:
        """What was saved, checked by its checksum; None where there is no such version.

        Raises ``ConfigurationError`` naming kind and version where the stored bytes are not those that were saved.
        """
        row = sa.select(ai_model.c.n_bytes, ai_model.c.checksum).where(*_is(ai_model, kind, version))
        async with self._database.connect(n_round_trips=_N_VERSION_TRIPS) as connection:
            found = (await connection.execute(row)).one_or_none()
        if found is None:
            return None
        n_bytes, checksum = found
        payload = bytearray()
        for part in range(-(-n_bytes // BLOCK_BYTES)):
            payload += await self._block(kind, version, part)
        # Off the event loop: more than half a second for the model of a million items, while jobs run.
        if len(payload) != n_bytes or await asyncio.to_thread(_digest, payload) != checksum:
            raise _spoilt(kind, version)
        return bytes(payload)

    async def _block(self, kind: str, version: str, part: int) -> bytes:
        block = sa.select(ai_model_block.c.payload, ai_model_block.c.checksum).where(
            *_is(ai_model_block, kind, version), ai_model_block.c.part == part
        )
        async with self._database.connect(n_round_trips=_N_BLOCK_TRIPS) as connection:
            found = (await connection.execute(block)).one_or_none()
        if found is None or crc32(found.payload) != found.checksum:
            raise _spoilt(kind, version)
        return bytes(found.payload)

    async def save(self, kind: str, version: str, payload: bytes, metrics: Mapping[str, float]) -> None:
        """Keep ``payload`` under ``version``, in one transaction; a version that is there already is left as it is."""
        row = {
            "kind": kind,
            "version": version,
            "created_at": self._now(),
            "active": False,
            "n_bytes": len(payload),
            "checksum": _digest(payload),
            "metrics": json.loads(json.dumps(dict(metrics), allow_nan=False)),
        }
        try:
            await self._insert(row, payload)
        except sa.exc.IntegrityError:
            # Another has saved it since we looked: which is as good, and if it is not there after all, a bug.
            if not await self._has(kind, version):
                raise

    async def _insert(self, row: Mapping[str, object], payload: bytes) -> None:
        kind, version = str(row["kind"]), str(row["version"])
        n_trips = 3 + _N_BLOCK_TRIPS * (1 + len(payload) // BLOCK_BYTES)
        async with self._database.begin(n_round_trips=n_trips) as connection:
            if await _exists(connection, kind, version):
                return
            await connection.execute(sa.insert(ai_model), dict(row))
            for part, block in enumerate(_blocks(payload)):
                stored = {"kind": kind, "version": version, "part": part, "payload": block, "checksum": crc32(block)}
                await connection.execute(sa.insert(ai_model_block), stored)

    async def _has(self, kind: str, version: str) -> bool:
        async with self._database.connect(n_round_trips=_N_VERSION_TRIPS) as connection:
            return await _exists(connection, kind, version)

    async def activate(self, kind: str, version: str) -> None:
        """Put a saved version in force; raises ``ConfigurationError`` naming a version that is not there."""
        async with self._database.begin(n_round_trips=_N_CHANGE_TRIPS) as connection:
            active = await _locked(connection, kind)
            await self._put_in_force(connection, _Change(kind, version, active, "activate", ""))

    # --- versions ---

    async def versions(self, kind: str) -> Sequence[StoredVersion]:
        """See ``ModelRegistry.versions``."""
        columns = (ai_model.c.version, ai_model.c.created_at, ai_model.c.active, ai_model.c.n_bytes, ai_model.c.metrics)
        query = sa.select(*columns).where(ai_model.c.kind == kind)
        newest_first = query.order_by(ai_model.c.created_at.desc(), ai_model.c.version)
        async with self._database.connect(n_round_trips=_N_CHANGE_TRIPS) as connection:
            rows = (await connection.execute(newest_first)).all()
            previous = await _previous(connection, kind)
        return [
            StoredVersion(
                kind=kind,
                version=row.version,
                created_at=aware(row.created_at),
                active=bool(row.active),
                previous=row.version == previous,
                n_bytes=row.n_bytes,
                metrics=row.metrics,
            )
            for row in rows
        ]

    async def origin(self, kind: str, version: str) -> ModelOrigin | None:
        """See ``ModelRegistry.origin``."""
        query = sa.select(model_origin).where(*_is(model_origin, kind, version))
        async with self._database.connect(n_round_trips=_N_VERSION_TRIPS) as connection:
            row = (await connection.execute(query)).one_or_none()
        if row is None:
            return None
        until = row.data_until and aware(row.data_until)
        return ModelOrigin(recipe=json.dumps(row.recipe), data_figures=json.dumps(row.data_figures), data_until=until)

    async def note_origin(self, kind: str, version: str, origin: ModelOrigin) -> None:
        """See ``ModelRegistry.note_origin``."""
        row = {
            "kind": kind,
            "version": version,
            "recipe": json.loads(origin.recipe),
            "data_figures": json.loads(origin.data_figures),
            "data_until": origin.data_until and naive(origin.data_until),
        }
        async with self._database.begin(n_round_trips=_N_CHANGE_TRIPS) as connection:
            await _locked(connection, kind)
            if await _exists(connection, kind, version, model_origin):
                return
            await connection.execute(sa.insert(model_origin), row)

    async def promote(self, kind: str, version: str, *, instead_of: str | None, cause: str, reason: str) -> bool:
        """See ``ModelRegistry.promote``."""
        async with self._database.begin(n_round_trips=_N_CHANGE_TRIPS) as connection:
            active = await _locked(connection, kind)
            if active != instead_of:
                return False
            await self._put_in_force(connection, _Change(kind, version, active, cause, reason))
        return True

    async def roll_back(self, kind: str, reason: str) -> str:
        """See ``ModelRegistry.roll_back``."""
        async with self._database.begin(n_round_trips=_N_CHANGE_TRIPS) as connection:
            active = await _locked(connection, kind)
            previous = await _previous(connection, kind)
            if previous is None:
                raise ConfigurationError(
                    f"no version of {kind!r} was in force before the one that is now: see `models history`"
                )
            await self._put_in_force(connection, _Change(kind, previous, active, ROLLBACK, reason))
        return previous

    async def promotions(self, kind: str) -> Sequence[Promotion]:
        """See ``ModelRegistry.promotions``."""
        async with self._database.connect(n_round_trips=_N_VERSION_TRIPS) as connection:
            return await _history(connection, kind)

    async def prune(self, n_kept: int) -> Sequence[tuple[str, str]]:
        """See ``ModelRegistry.prune``."""
        async with self._database.connect(n_round_trips=_N_VERSION_TRIPS) as connection:
            kinds = (await connection.scalars(sa.select(ai_model.c.kind).distinct())).all()
        surplus = [(kind, each.version) for kind in kinds for each in (await self.versions(kind))[n_kept:]]
        return [(kind, version) for kind, version in surplus if await self._delete(kind, version)]

    async def _delete(self, kind: str, version: str) -> bool:
        """False where the version came to be in force, or to be the one before, since it was looked at."""
        # A model of a million items has hundreds of blocks.
        async with self._database.begin(n_round_trips=_N_CHANGE_TRIPS * _N_BLOCK_TRIPS) as connection:
            active = await _locked(connection, kind)
            if version in (active, await _previous(connection, kind)):
                return False
            for table in (ai_model_block, model_origin, ai_model):
                await connection.execute(sa.delete(table).where(*_is(table, kind, version)))
        return True

    async def _put_in_force(self, connection: AsyncConnection, change: "_Change") -> None:
        kind, version = change.kind, change.version
        if not await _exists(connection, kind, version):
            raise ConfigurationError(f"there is no model {kind!r} of version {version!r}")
        if version == change.replaced:
            return
        # One statement for both, so that there is never a moment with two or none.
        await connection.execute(
            sa.update(ai_model).where(ai_model.c.kind == kind).values(active=ai_model.c.version == version)
        )
        row = {**asdict(change), "reason": change.reason[:_MAX_REASON_CHARS], "promoted_at": self._now()}
        await connection.execute(sa.insert(model_promotion), row)

    def _now(self) -> datetime:
        return naive(self._clock.now())


@dataclass(frozen=True, slots=True)
class _Change:
    """A row of history to be."""

    kind: str
    version: str
    replaced: str | None
    cause: str
    reason: str


async def _locked(connection: AsyncConnection, kind: str) -> str | None:
    """The version in force, once nobody else may change which it is before the transaction ends."""
    # All rows of the kind, and not the active one: where none is in force there is none to lock.
    rows = sa.select(ai_model.c.version, ai_model.c.active).where(ai_model.c.kind == kind).with_for_update()
    return next((row.version for row in await connection.execute(rows) if row.active), None)


async def _history(connection: AsyncConnection, kind: str) -> list[Promotion]:
    columns = [column for column in model_promotion.c if column.name != "number"]
    query = sa.select(*columns).where(model_promotion.c.kind == kind).order_by(model_promotion.c.number)
    rows = (await connection.execute(query)).mappings()
    return [Promotion(**{**row, "promoted_at": aware(row["promoted_at"])}) for row in rows]


async def _previous(connection: AsyncConnection, kind: str) -> str | None:
    query = sa.select(ai_model.c.version).where(ai_model.c.kind == kind)
    kept = set(await connection.scalars(query))
    return previous_of(await _history(connection, kind), kept)


def previous_of(history: Sequence[Promotion], kept: set[str]) -> str | None:
    """The version of those ``kept`` that was in force before the one that is now.

    A rollback takes back what came since its version was in force, so that the next one goes further back still.
    """
    past: list[str] = []
    for step in history:
        if step.cause == ROLLBACK and step.version in past:
            while past[-1] != step.version:
                past.pop()
            continue
        if not past and step.replaced is not None:
            past.append(step.replaced)
        past.append(step.version)
    active = past.pop() if past else None
    return next((version for version in reversed(past) if version in kept and version != active), None)


def _is(table: sa.Table, kind: str, version: str) -> tuple[sa.ColumnElement[bool], ...]:
    return table.c.kind == kind, table.c.version == version


async def _exists(connection: AsyncConnection, kind: str, version: str, table: sa.Table = ai_model) -> bool:
    query = sa.select(sa.func.count()).select_from(table).where(*_is(table, kind, version))
    return bool((await connection.execute(query)).scalar_one())


def _blocks(payload: bytes) -> Iterator[bytes]:
    for start in range(0, len(payload), BLOCK_BYTES):
        yield payload[start : start + BLOCK_BYTES]


def _digest(payload: bytes | bytearray) -> bytes:
    return blake2b(payload, digest_size=_DIGEST_BYTES).digest()


def _spoilt(kind: str, version: str) -> ConfigurationError:
    return ConfigurationError(f"the stored model {kind!r} of version {version!r} is spoilt: fit it again")
