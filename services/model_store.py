"""Fitted models, kept in tables of ours in blocks of a megabyte, so that no statement outgrows a server's packet."""

import asyncio
import json
from collections.abc import Iterator, Mapping
from datetime import UTC
from hashlib import blake2b
from zlib import crc32

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from core.errors import ConfigurationError
from core.ports import Clock
from services.database import Database
from services.schema import ai_model, ai_model_block

# A quarter of the smallest max_allowed_packet that servers are found with (4 MB).
BLOCK_BYTES = 1 << 20
_DIGEST_BYTES = 32
# Models are read and written off the hot path, a block at a time.
_N_BLOCK_TRIPS, _N_VERSION_TRIPS = 4, 2


class SqlModelStore:
    """A ``ModelStore`` in MySQL, MariaDB or SQLite."""

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
            "created_at": self._clock.now().astimezone(UTC).replace(tzinfo=None),
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
        async with self._database.begin(n_round_trips=4) as connection:
            if not await _exists(connection, kind, version):
                raise ConfigurationError(f"there is no model {kind!r} of version {version!r}")
            # One statement for both, so that there is never a moment with two or none.
            await connection.execute(
                sa.update(ai_model).where(ai_model.c.kind == kind).values(active=ai_model.c.version == version)
            )


def _is(table: sa.Table, kind: str, version: str) -> tuple[sa.ColumnElement[bool], ...]:
    return table.c.kind == kind, table.c.version == version


async def _exists(connection: AsyncConnection, kind: str, version: str) -> bool:
    query = sa.select(sa.func.count()).select_from(ai_model).where(*_is(ai_model, kind, version))
    return bool((await connection.execute(query)).scalar_one())


def _blocks(payload: bytes) -> Iterator[bytes]:
    for start in range(0, len(payload), BLOCK_BYTES):
        yield payload[start : start + BLOCK_BYTES]


def _digest(payload: bytes | bytearray) -> bytes:
    return blake2b(payload, digest_size=_DIGEST_BYTES).digest()


def _spoilt(kind: str, version: str) -> ConfigurationError:
    return ConfigurationError(f"the stored model {kind!r} of version {version!r} is spoilt: fit it again")
