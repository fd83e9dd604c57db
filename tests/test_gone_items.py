"""Items that are gone are taken out of all results, whichever worker dies of it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import orjson
import pytest
from redis.asyncio import Redis

from commands.catalogue import embed_items
from config.settings import Settings
from core.errors import DependencyUnavailable
from tests.support.catalogue import create_all_tables, insert_songs, update_song
from tests.support.event_site import documents_of
from tests.support.waiting import until
from workers import gone_items
from workers.gone_items import GoneItems
from workers.runtime.consuming import prepare, running_consumers
from workers.runtime.parts import open_parts

ONE, OTHER = frozenset({1, 2}), frozenset({3})


class Shelves:
    """Says of each sweep what it was told to; None: another worker is at it."""

    def __init__(self, outcomes: Sequence[int | Exception | None]) -> None:
        self._outcomes = list(outcomes)
        self.asked: list[frozenset[int]] = []

    async def withdraw_from_all(self, item_ids: frozenset[int]) -> int | None:
        self.asked.append(item_ids)
        outcome = self._outcomes.pop(0) if self._outcomes else 0
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


@asynccontextmanager
async def sweeping(shelves: Shelves) -> AsyncIterator[GoneItems]:
    gone = GoneItems(shelves, again_after_s=0.05)
    running = asyncio.create_task(gone.run())
    yield gone
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def asked(shelves: Shelves, *sweeps: frozenset[int]) -> None:
    async def are_asked() -> bool:
        return len(shelves.asked) >= len(sweeps)

    await until(are_asked)
    await asyncio.sleep(0.15)  # and no more come
    assert shelves.asked == list(sweeps)


async def test_what_another_worker_is_at_is_swept_once_more_when_that_one_may_be_dead() -> None:
    shelves = Shelves([None])
    async with sweeping(shelves) as gone:
        gone.note(ONE)
        await asked(shelves, ONE, ONE)


async def test_what_others_are_at_for_ever_is_left_to_them() -> None:
    shelves = Shelves([None] * 10)
    async with sweeping(shelves) as gone:
        gone.note(ONE)
        await asked(shelves, ONE, ONE)


async def test_what_is_swept_here_is_swept_once() -> None:
    shelves = Shelves([7])
    async with sweeping(shelves) as gone:
        gone.note(ONE)
        await asked(shelves, ONE)


async def test_an_outage_is_waited_for_the_first_time_and_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gone_items, "PAUSE_S", 0.01)
    away = DependencyUnavailable("redis", "away")
    shelves = Shelves([away, None, away, 3])
    async with sweeping(shelves) as gone:
        gone.note(ONE)
        await asked(shelves, ONE, ONE, ONE, ONE)
        gone.note(OTHER)
        await asked(shelves, ONE, ONE, ONE, ONE, OTHER)


# --- items that went while no worker ran ---


@pytest.fixture
def site(tmp_path: Path, redis_url: str) -> dict[str, str]:
    """A catalogue of four songs with vectors."""
    url = f"sqlite:///{tmp_path / 'songs.db'}"
    create_all_tables(url)
    insert_songs(url, *({"song_id": n, "title_en": f"Song {n}", "artist": f"Artist {n}"} for n in range(1, 5)))
    return {
        "DATABASE_URL": url,
        "REDIS_URL": redis_url,
        "BROKER_URL": "memory://",
        "EMBEDDING_DIM": "64",
        "INDEX_REFRESH_S": "1",
    }


async def shown_in(redis: Redis, key: str) -> list[int]:
    return [row["song_id"] for row in orjson.loads(await redis.get(key) or b"{}")["candidates"]]


async def cache_results(redis: Redis) -> None:
    for member_id in (7, 8):
        await redis.set(f"latest:recommendation:{member_id}", documents_of(1, 2, 3).result)


@pytest.mark.parametrize("by_hand", [False, True])
async def test_what_went_while_no_worker_ran_leaves_the_results_too(site: dict[str, str], by_hand: bool) -> None:
    settings = Settings(**{name.lower(): value for name, value in site.items()})  # type: ignore[arg-type]
    async with open_parts(settings) as parts:
        await embed_items(parts)
        await cache_results(parts.redis)
    update_song(site["DATABASE_URL"], 2, is_active=False)
    async with open_parts(settings) as parts:
        if by_hand:
            await embed_items(parts)
            assert await shown_in(parts.redis, "latest:recommendation:8") == [1, 3]
            return
        await prepare(parts)
        async with running_consumers(parts):

            async def swept() -> bool:
                found = [await shown_in(parts.redis, f"latest:recommendation:{member_id}") for member_id in (7, 8)]
                return found == [[1, 3], [1, 3]]

            await until(swept)
