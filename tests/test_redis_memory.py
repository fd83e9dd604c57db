"""How full Redis is: what is told of it is what it does."""

from math import isnan
from pathlib import Path

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from config.settings import Settings
from core.errors import DependencyUnavailable
from services.redis_client import RedisScript, open_redis
from services.redis_memory import RedisMemory, redis_memory
from tests.support.private_servers import free_port
from tests.support.servers import BreakableServer
from tests.test_redis_client import administered
from workers.runtime.health import health_checks
from workers.runtime.parts import embedded, open_parts

MB = 1_048_576


async def memory_of(client: Redis) -> RedisMemory:
    found = await redis_memory(client)
    assert found is not None
    return found


# --- what is concluded ---


@pytest.mark.parametrize(
    ("used_mb", "limit_mb", "warning"),
    [
        (900, 0, None),
        (0, 640, None),
        (544, 640, None),
        (545, 640, "its memory is nearly full (545 of 640 MB, its maxmemory): then it refuses every write"),
        (640, 640, "its memory is nearly full (640 of 640 MB, its maxmemory): then it refuses every write"),
    ],
)
def test_a_warning_comes_before_the_end(used_mb: int, limit_mb: int, warning: str | None) -> None:
    assert RedisMemory(used=used_mb * MB, limit=limit_mb * MB, policy="noeviction").verdict() == warning


def test_a_full_one_is_not_to_be_had() -> None:
    with pytest.raises(DependencyUnavailable, match=r"redis: its memory is full \(1,282 of 1,280 MB, its maxmemory\)"):
        RedisMemory(used=1282 * MB, limit=1280 * MB, policy="noeviction").verdict()


@pytest.mark.parametrize("used_mb", [0, 700])
def test_one_that_throws_results_away_is_told_of_full_or_not(used_mb: int) -> None:
    verdict = RedisMemory(used=used_mb * MB, limit=640 * MB, policy="allkeys-lru").verdict()
    assert verdict == "maxmemory-policy allkeys-lru throws away what members and pollers have yet to read"


def test_without_a_limit_no_policy_matters() -> None:
    assert RedisMemory(used=MB, limit=0, policy="allkeys-lru").verdict() is None


# --- what a real one says, and does ---


async def test_what_is_called_full_refuses_writes_and_what_is_not_takes_them(private_redis: BreakableServer) -> None:
    async with open_redis(private_redis.url, max_connections=1, timeout_s=2) as client:
        take = RedisScript(client, "lease_take")
        with administered(private_redis) as admin:
            before = await memory_of(client)
            assert (before.limit, before.policy, before.verdict()) == (0, "noeviction", None)
            admin.config_set("maxmemory", before.used + 64 * MB)
            assert (await memory_of(client)).verdict() is None
            assert await take(["songs_ai:lease:memory"], ["one", 60_000]) == 1
            admin.config_set("maxmemory", before.used // 2)
            with pytest.raises(DependencyUnavailable, match="refuses every write"):
                (await memory_of(client)).verdict()
            with pytest.raises(DependencyUnavailable, match="maxmemory"):
                await take(["songs_ai:lease:another"], ["two", 60_000])
            admin.delete("songs_ai:lease:memory")


async def test_who_may_not_ask_does_not_know(private_redis: BreakableServer) -> None:
    with administered(private_redis) as admin:
        admin.acl_setuser("limited", enabled=True, passwords=["+no-secret"], keys=["*"], commands=["+ping"])
        url = private_redis.url.replace("redis://", "redis://limited:no-secret@")
        async with open_redis(url, max_connections=1, timeout_s=2) as client:
            assert await redis_memory(client) is None


async def test_asking_a_dead_one_is_an_outage() -> None:
    async with open_redis(f"redis://127.0.0.1:{free_port()}/0", max_connections=1, timeout_s=1) as client:
        with pytest.raises(DependencyUnavailable):
            await redis_memory(client)


# --- what the worker makes of it ---


async def test_health_warns_fails_and_recovers_and_the_figures_are_charted(
    private_redis: BreakableServer, tmp_path: Path
) -> None:
    settings = embedded(Settings(), tmp_path).model_copy(update={"redis_url": SecretStr(private_redis.url)})
    async with open_parts(settings) as parts:
        check = health_checks(parts, consuming=False)["redis"]

        def charted(name: str) -> float:
            exposed = parts.metrics.expose("")[0].decode()
            return float(exposed.split(f"\nsongs_ai_redis_memory_{name}_bytes ", 1)[1].split("\n", 1)[0])

        with administered(private_redis) as admin:
            assert isnan(charted("used"))
            assert isnan(charted("limit"))
            assert await check() is None
            used, limit = charted("used"), charted("limit")
            assert used > 0
            assert limit == 0
            admin.config_set("maxmemory", round(used / 0.9))
            assert "nearly full" in (await check() or "")
            assert charted("limit") == round(used / 0.9)
            admin.config_set("maxmemory", 1)
            with pytest.raises(DependencyUnavailable, match="memory is full"):
                await check()
            assert charted("limit") == 1
        assert await check() is None
