"""The packed copy of the vectors: what is loaded through it is what the rows hold, whatever happens to it."""

import asyncio
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from core.errors import DependencyUnavailable
from models.log_event import LogEvent
from services import embedding_blocks
from services.database import Database
from services.embedding_blocks import EmbeddingBlocks
from services.embedding_store import SqlEmbeddingStore
from services.schema import embedding_block
from tests.support.catalogue import SONGS, OnMySql, OnSqlite, WithTables, connection, execute, statements_sent

NAME = "hashing-1-4"
PER_BLOCK = 10


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_blocks, "_PER_BLOCK", PER_BLOCK)
    monkeypatch.setattr(embedding_blocks, "_BLOCKS_AT_ONCE", 3)


def vector(item_id: int, generation: int = 0) -> list[float]:
    return [item_id / 1024, generation / 64, 1, 0]


class Held:
    """A store and what it should hold."""

    def __init__(self, database: Database) -> None:
        self.store = SqlEmbeddingStore(database, SONGS)
        self.blocks = EmbeddingBlocks(database)
        self.vectors: dict[int, list[float]] = {}

    async def save(self, item_ids: Sequence[int], generation: int = 0) -> None:
        new = {item_id: vector(item_id, generation) for item_id in item_ids}
        rows = np.array(list(new.values()), np.float32)
        await self.store.save(NAME, np.array(list(new), np.int64), rows, [b""] * len(new))
        self.vectors |= new

    async def delete(self, item_ids: Sequence[int]) -> None:
        await self.store.delete(NAME, item_ids)
        for item_id in item_ids:
            self.vectors.pop(item_id, None)

    async def check(self) -> None:
        found = await self.blocks.load(NAME)
        assert found.ids.tolist() == sorted(self.vectors)
        assert found.rows.tolist() == [self.vectors[item_id] for item_id in sorted(self.vectors)]


def bounds(url: str) -> list[tuple[int, int, int]]:
    block = embedding_block.c
    query = sa.select(block.first_id, block.last_id, block.n_items).order_by(block.first_id)
    with connection(url) as opened:
        found = [(row[0], row[1], row[2]) for row in opened.execute(query)]
    assert all(one[1] < other[0] for one, other in pairwise(found)), "blocks overlap"
    return found


class BlockTests(WithTables):
    async def test_nothing_is_packed_and_loaded_as_nothing(self, database: Database) -> None:
        held = Held(database)
        await held.check()
        assert await held.store.pack(NAME) == 0
        await held.check()

    @pytest.mark.parametrize("n", [1, PER_BLOCK, PER_BLOCK + 1, 7 * PER_BLOCK + 3])
    async def test_all_is_packed_once(self, url: str, database: Database, n: int) -> None:
        held = Held(database)
        await held.save(range(5, 5 + n))
        await held.check()
        assert await held.store.pack(NAME) == n
        await held.check()
        assert [each[2] for each in bounds(url)] == [PER_BLOCK] * (n // PER_BLOCK) + [n % PER_BLOCK] * (
            n % PER_BLOCK > 0
        )
        assert await held.store.pack(NAME) == 0

    async def test_a_packed_store_is_loaded_without_its_rows(self, database: Database) -> None:
        held = Held(database)
        await held.save(range(100))
        await held.store.pack(NAME)
        with statements_sent() as statements:
            await held.check()
        of_rows = [each for each in statements if "FROM songs_ai_embedding " in each.replace("\n", "") + " "]
        assert len(of_rows) == 1
        assert "change_no >" in of_rows[0]

    async def test_changes_after_packing_win_and_are_packed_where_they_belong(
        self, url: str, database: Database
    ) -> None:
        held = Held(database)
        await held.save(range(0, 200, 2))
        await held.store.pack(NAME)
        before = len(bounds(url))
        await held.save([4, 7, 150, 300, -9], generation=1)
        await held.delete([6, 198, 12345])
        await held.check()
        assert await held.store.pack(NAME) < 60
        await held.check()
        assert len(bounds(url)) == before + 1

    async def test_at_random(self, url: str, database: Database) -> None:
        generator = np.random.default_rng(3)
        held = Held(database)
        for generation in range(12):
            await held.save(generator.integers(-50, 150, size=30).tolist(), generation)
            await held.delete(generator.integers(-50, 150, size=10).tolist())
            await held.check()
            if generation % 3:
                await held.store.pack(NAME)
                await held.check()
                assert sum(each[2] for each in bounds(url)) == len(held.vectors)

    async def test_blocks_that_lose_all_are_gone(self, url: str, database: Database) -> None:
        held = Held(database)
        await held.save(range(35))
        await held.store.pack(NAME)
        await held.delete(range(10, 35))
        await held.store.pack(NAME)
        await held.check()
        assert bounds(url) == [(0, 9, 10)]

    async def test_a_packer_that_dies_half_way_loses_nothing_and_is_gone_on_with(
        self, url: str, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        held = Held(database)
        await held.save(range(100))
        packed, n_calls = embedding_blocks._packed, 0

        def dies(name: str, rows: Sequence[Sequence[object]]) -> dict[str, object] | None:
            nonlocal n_calls
            n_calls += 1
            if n_calls == 5:
                raise DependencyUnavailable("mysql", "gone away")
            return packed(name, rows)

        for generation in range(1, 3):
            n_calls = 0
            with monkeypatch.context() as patched:
                patched.setattr(embedding_blocks, "_packed", dies)
                with pytest.raises(DependencyUnavailable):
                    await held.store.pack(NAME)
            bounds(url)
            await held.check()
            await held.save(range(0, 120, 5), generation)
            await held.check()
        await held.store.pack(NAME)
        await held.check()

    async def test_a_damaged_block_is_read_from_its_rows_and_packed_anew(
        self, url: str, database: Database, capsys: pytest.CaptureFixture[str]
    ) -> None:
        held = Held(database)
        await held.save(range(40))
        await held.store.pack(NAME)
        execute(url, "UPDATE songs_ai_embedding_block SET checksum = checksum + 1 WHERE first_id = 10")
        await held.save([11, 50], generation=1)
        await held.check()
        assert "embedding_block_damaged" in capsys.readouterr().out
        await held.store.pack(NAME)
        await held.check()
        assert "embedding_block_damaged" not in capsys.readouterr().out

    async def test_packers_and_writers_at_once(self, url: str, database: Database) -> None:
        held = Held(database)
        await held.save(range(200))

        async def write() -> None:
            for generation in range(1, 6):
                await held.save(range(generation * 7, 200, 13), generation)
                await held.delete([generation, 100 + generation])

        await asyncio.gather(held.store.pack(NAME), write(), SqlEmbeddingStore(database, SONGS).pack(NAME))
        await held.check()
        await asyncio.gather(held.store.pack(NAME), SqlEmbeddingStore(database, SONGS).pack(NAME))
        await held.check()
        assert sum(each[2] for each in bounds(url)) == len(held.vectors)

    async def test_readers_meanwhile_see_every_vector(self, database: Database) -> None:
        held = Held(database)
        await held.save(range(150))
        packing = asyncio.create_task(held.store.pack(NAME))
        while not packing.done():
            assert (await held.blocks.load(NAME)).ids.tolist() == list(range(150))
        await packing

    async def test_embedders_have_blocks_of_their_own(self, database: Database) -> None:
        held = Held(database)
        await held.save(range(15))
        await held.store.save("other", np.array([3], np.int64), np.ones((1, 8), np.float32), [b""])
        await held.store.pack(NAME)
        await held.store.pack("other")
        await held.check()
        assert (await held.blocks.load("other")).rows.shape == (1, 8)

    @pytest.mark.parametrize("packed_first", [False, True])
    async def test_a_vector_of_another_length_stops_neither_load_nor_pack(
        self, database: Database, packed_first: bool
    ) -> None:
        held = Held(database)
        await held.save(range(15))
        if packed_first:
            await held.store.pack(NAME)
        for item_id, dim in ((7, 8), (99, 8), (100, 300)):
            await held.store.save(NAME, np.array([item_id], np.int64), np.ones((1, dim), np.float32), [b""])
        others = [item_id for item_id in range(15) if item_id != 7]
        assert (await held.blocks.load(NAME)).ids.tolist() == others
        await held.store.pack(NAME)
        loaded = await held.blocks.load(NAME)
        assert loaded.ids.tolist() == others
        await held.save([7])
        await held.store.pack(NAME)
        assert (await held.blocks.load(NAME)).ids.tolist() == list(range(15))

    async def test_a_block_of_another_length_is_left_out_where_it_is_the_smaller_part(self, database: Database) -> None:
        held = Held(database)
        await held.store.save(NAME, np.arange(5), np.ones((5, 8), np.float32), [b""] * 5)
        await held.store.pack(NAME)
        await held.save(range(20, 40))
        assert (await held.blocks.load(NAME)).ids.tolist() == list(range(20, 40))

    async def test_bytes_that_are_no_vector_are_left_out_and_told_of(self, url: str, database: Database) -> None:
        held = Held(database)
        await held.save(range(3))
        execute(url, "UPDATE songs_ai_embedding SET vector_bytes = 'abc' WHERE item_id < 2")
        with capture_logs() as logs:
            assert (await held.blocks.load(NAME)).ids.tolist() == [2]
        assert [entry["item_ids"] for entry in logs if entry["event"] == LogEvent.EMBEDDINGS_LEFT_OUT] == [[0, 1]]
        execute(url, "UPDATE songs_ai_embedding SET vector_bytes = 'abc'")
        await held.store.pack(NAME)
        assert len((await held.blocks.load(NAME)).ids) == 0

    async def test_what_was_saved_before_changes_were_numbered_is_packed_too(
        self, url: str, database: Database
    ) -> None:
        held = Held(database)
        await held.save(range(15))
        execute(url, "UPDATE songs_ai_embedding SET change_no = 0", "DELETE FROM songs_ai_embedding_mark")
        await held.check()
        assert await held.store.pack(NAME) == 15
        await held.check()


class TestBlocksInMySql(OnMySql, BlockTests):
    pass


class TestBlocksInSqlite(OnSqlite, BlockTests):
    pass
