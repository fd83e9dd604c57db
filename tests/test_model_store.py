"""Fitted models to the database and back, whole or not at all."""

import asyncio

import pytest
import sqlalchemy as sa

from core.errors import ConfigurationError
from services import model_store
from services.database import Database
from services.model_store import BLOCK_BYTES, SqlModelStore
from services.schema import ai_model, ai_model_block
from tests.support.catalogue import OnMySql, OnSqlite, WithTables, connection
from tests.support.hand_clock import HandClock

KIND = "collaborative"
# No block is like another, and the last is short.
LONG = bytes(range(256)) * (BLOCK_BYTES // 128) + b"the end"


def store_on(database: Database) -> SqlModelStore:
    return SqlModelStore(database, HandClock())


class ModelStoreTests(WithTables):
    async def test_a_model_comes_back_as_it_was_saved(self, database: Database) -> None:
        store = store_on(database)
        await store.save(KIND, "1", LONG, {"ndcg": 0.3})
        await store.save(KIND, "2", b"", {})
        assert await store.load(KIND, "1") == LONG
        assert await store.load(KIND, "2") == b""

    async def test_no_statement_carries_more_than_a_block(self, url: str, database: Database) -> None:
        await store_on(database).save(KIND, "1", LONG, {})
        with connection(url) as opened:
            lengths = opened.scalars(sa.select(sa.func.length(ai_model_block.c.payload))).all()
        assert len(lengths) == 3
        assert max(lengths) <= BLOCK_BYTES

    async def test_what_is_not_there_is_none(self, database: Database) -> None:
        store = store_on(database)
        await store.save(KIND, "1", b"model", {})
        assert await store.load(KIND, "2") is None
        assert await store.load("embedder", "1") is None
        assert await store.active_version(KIND) is None

    async def test_one_version_of_a_kind_is_in_force(self, url: str, database: Database) -> None:
        store = store_on(database)
        for kind, version in ((KIND, "1"), (KIND, "2"), ("embedder", "1")):
            await store.save(kind, version, b"model", {})
            await store.activate(kind, version)
        assert (await store.active_version(KIND), await store.active_version("embedder")) == ("2", "1")
        await store.activate(KIND, "1")
        assert await store.active_version(KIND) == "1"
        with connection(url) as opened:
            active = sa.select(sa.func.count()).where(ai_model.c.kind == KIND, ai_model.c.active)
            assert opened.scalar(active) == 1

    async def test_a_version_that_was_never_saved_is_not_put_in_force(self, database: Database) -> None:
        store = store_on(database)
        await store.save(KIND, "1", b"model", {})
        await store.activate(KIND, "1")
        with pytest.raises(ConfigurationError, match="'collaborative' of version '2'"):
            await store.activate(KIND, "2")
        assert await store.active_version(KIND) == "1"

    async def test_a_version_that_is_there_is_left_as_it_is(self, database: Database) -> None:
        store = store_on(database)
        await store.save(KIND, "1", b"first", {})
        await store.activate(KIND, "1")
        await store.save(KIND, "1", b"second", {})
        assert await store.load(KIND, "1") == b"first"
        assert await store.active_version(KIND) == "1"

    async def test_two_fits_may_save_the_same_version_at_once(self, url: str, database: Database) -> None:
        store = store_on(database)
        for version in map(str, range(5)):
            await asyncio.gather(*(store.save(KIND, version, LONG, {"ndcg": 0.3}) for _ in range(3)))
            assert await store.load(KIND, version) == LONG
        with connection(url) as opened:
            assert opened.scalar(sa.select(sa.func.count()).select_from(ai_model)) == 5

    async def test_what_another_saved_after_we_looked_is_left_as_it_is(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store, looks = store_on(database), iter((False, True))
        await store.save(KIND, "1", b"first", {})

        async def look(*_: object) -> bool:
            return next(looks)

        with monkeypatch.context() as patched:
            patched.setattr(model_store, "_exists", look)
            await store.save(KIND, "1", b"second", {})
        assert await store.load(KIND, "1") == b"first"

    async def test_a_row_that_cannot_be_inserted_for_another_reason_is_told(self, url: str, database: Database) -> None:
        with connection(url) as opened:
            orphan = {"kind": KIND, "version": "1", "part": 0, "payload": b"", "checksum": 0}
            opened.execute(sa.insert(ai_model_block), orphan)
        with pytest.raises(sa.exc.IntegrityError):
            await store_on(database).save(KIND, "1", LONG, {})

    async def test_a_changed_block_is_refused_by_name(self, url: str, database: Database) -> None:
        store = store_on(database)
        await store.save(KIND, "1", LONG, {})
        with connection(url) as opened:
            changed = sa.update(ai_model_block).where(ai_model_block.c.part == 1)
            opened.execute(changed.values(payload=b"something else"))
        with pytest.raises(ConfigurationError, match="'collaborative' of version '1'"):
            await store.load(KIND, "1")

    async def test_a_missing_block_is_refused(self, url: str, database: Database) -> None:
        store = store_on(database)
        await store.save(KIND, "1", LONG, {})
        with connection(url) as opened:
            opened.execute(sa.delete(ai_model_block).where(ai_model_block.c.part == 2))
        with pytest.raises(ConfigurationError):
            await store.load(KIND, "1")

    async def test_an_interrupted_save_leaves_nothing(self, database: Database) -> None:
        store = store_on(database)
        with pytest.raises(ValueError, match="JSON compliant"):
            await store.save(KIND, "1", LONG, {"ndcg": float("nan")})
        assert await store.load(KIND, "1") is None

    async def test_two_workers_may_put_models_in_force_at_once(self, database: Database) -> None:
        store = store_on(database)
        for version in ("1", "2"):
            await store.save(KIND, version, b"model", {})
        await asyncio.gather(store.activate(KIND, "1"), store.activate(KIND, "2"))
        assert await store.active_version(KIND) in {"1", "2"}


class TestModelStoreOnSqlite(OnSqlite, ModelStoreTests):
    pass


class TestModelStoreOnMySql(OnMySql, ModelStoreTests):
    pass
