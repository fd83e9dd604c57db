"""The health of a real worker, whose servers are behind wires that stall and break."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest

from config.settings import Settings
from services.call_budgets import nano_usd, spend_key
from services.circuit_breaker import BREAKER_PREFIX, RedisCircuitBreaker
from services.redis_client import open_redis
from tests.support.catalogue import create_all_tables, insert_songs
from tests.support.faulty_wire import FaultyWire, faulty_wire
from tests.support.messaging import delete_topology
from tests.support.waiting import until
from tests.support.worker_process import WorkerProcess, worker
from workers.topology import build_topology

pytestmark = pytest.mark.timeout(120)

UNREADY_WITHIN_S = 30.0
READY_WITHIN_S = 30.0
NEEDED = {"broker", "consumer", "database", "redis"}


@dataclass(frozen=True, slots=True)
class Site:
    environment: Mapping[str, str]
    wires: Mapping[str, FaultyWire]


@pytest.fixture
async def site(amqp_url: str, mysql_url: str, redis_url: str) -> AsyncIterator[Site]:
    prefix = f"health.{uuid.uuid4().hex[:8]}"
    await asyncio.to_thread(create_all_tables, mysql_url)
    await asyncio.to_thread(insert_songs, mysql_url, *({"song_id": n, "title_en": f"Song {n}"} for n in range(1, 9)))
    environment = {"NAME_PREFIX": prefix, "DEPENDENCY_TIMEOUT_S": "2", "OPENAI_BASE_URL": "http://127.0.0.1:1/v1"}
    async with AsyncExitStack() as stack:
        urls = {"broker": amqp_url, "database": mysql_url, "redis": redis_url}
        wires = {name: await stack.enter_async_context(faulty_wire(url)) for name, url in urls.items()}
        yield Site({**environment, **{f"{name.upper()}_URL": wire.url for name, wire in wires.items()}}, wires)
    await delete_topology(amqp_url, build_topology(prefix))


async def ready(client: httpx.AsyncClient) -> tuple[int, Mapping[str, Any]]:
    response = await client.get("/health/ready")
    return response.status_code, response.json()


async def found_in(client: httpx.AsyncClient, seconds: float) -> list[tuple[int, Mapping[str, Any]]]:
    found, ends_s = [], time.monotonic() + seconds
    while time.monotonic() < ends_s:
        found.append(await ready(client))
        await asyncio.sleep(0.1)
    return found


async def test_a_model_that_is_not_asked_degrades_and_no_more(site: Site, redis_url: str) -> None:
    (model, *_) = Settings(openai_base_url="http://127.0.0.1:1/v1").llm_strategies.models

    async def llm_is(wanted: str) -> bool:
        code, body = await ready(client)
        assert code == 200
        return (body["checks"]["llm"]["status"], body["status"]) == (wanted, "ok" if wanted == "ok" else "degraded")

    async def charted() -> tuple[float, float]:
        """The breaker, and what was spent today, though this worker asks nobody."""
        text = await process.metrics()
        names = (f'songs_ai_llm_breaker_state{{model="{model}"}}', "songs_ai_llm_spend_today_usd")
        breaker, spent = (float(text.split(f"\n{name} ", 1)[1].split("\n", 1)[0]) for name in names)
        return breaker, spent

    async with worker(site.environment) as process, process.client() as client:
        await until(lambda: llm_is("ok"), within_s=READY_WITHIN_S)
        assert await charted() == (0, 0)
        async with open_redis(redis_url, max_connections=2, timeout_s=5) as redis:
            breaker = RedisCircuitBreaker(redis, n_failures=1, window_s=30, cool_down_s=60, probe_s=5)
            await breaker.settle(model, "a call of another worker", "timeout")
            await redis.set(spend_key(datetime.now(ZoneInfo(Settings().time_zone))), nano_usd(1.5))
            await until(lambda: llm_is("unavailable"), within_s=UNREADY_WITHIN_S)
            assert model in (await ready(client))[1]["checks"]["llm"]["reason"]
            assert await charted() == (2, 1.5)
            await redis.delete(BREAKER_PREFIX + model)
        await until(lambda: llm_is("ok"), within_s=READY_WITHIN_S)
        assert (await charted())[0] == 0


async def test_a_slow_answer_is_no_outage_an_outage_is_and_liveness_knows_of_neither(site: Site) -> None:
    async with worker(site.environment) as process, process.client() as client:
        async with AsyncExitStack() as stack:
            for wire in site.wires.values():
                await stack.enter_async_context(wire.stalled())
            during = await found_in(client, 1.8)
        during += await found_in(client, 1.5)
        assert {code for code, _ in during} == {200}
        seen = {body["checks"]["redis"]["status"] for _, body in during}
        assert seen == {"ok", "degraded"}, "the stall was not even noticed"
        assert (await ready(client))[1]["status"] == "ok"

        n_before = len(process.log)
        for wire in site.wires.values():
            await wire.cut()
        cut_s = time.monotonic()
        await until(lambda: _is(client, 503), within_s=UNREADY_WITHIN_S)
        assert time.monotonic() - cut_s > 1, "it fell at the first look"

        async def all_named() -> bool:
            checks = (await ready(client))[1]["checks"]
            return {name for name, check in checks.items() if check["status"] == "unavailable"} == NEEDED

        await until(all_named, within_s=UNREADY_WITHIN_S)
        for path in ("/health/live", "/health/started"):
            assert (await client.get(path)).status_code == 200

        for wire in site.wires.values():
            await wire.start()
        await until(lambda: _is(client, 200), within_s=READY_WITHIN_S)
        said = process.log[n_before:]
        assert {name for name in NEEDED if f'"dependency":"{name}","event":"dependency_recovered"' in said} == NEEDED


async def test_where_mysql_is_away_at_the_start_rabbitmq_is_not_blamed(site: Site) -> None:
    await site.wires["database"].cut()
    process = WorkerProcess(site.environment, forked=True)
    await process.launch()
    try:
        await process.first_health(READY_WITHIN_S)
        async with process.client() as client:
            await until(lambda: _stands(client, "broker", "ok"), within_s=READY_WITHIN_S)
            checks = (await ready(client))[1]["checks"]
            away = {name for name, check in checks.items() if check["status"] == "unavailable"}
            assert away == {"database", "consumer", "index"}
            assert checks["consumer"]["reason"] == "consumer: takes no jobs yet"
            await site.wires["database"].start()
            await until(lambda: _stands(client, "consumer", "ok"), within_s=READY_WITHIN_S)
            assert (await ready(client))[0] == 200
    finally:
        await process.kill()


async def _stands(client: httpx.AsyncClient, name: str, status: str) -> bool:
    return bool((await ready(client))[1]["checks"][name]["status"] == status)


async def _is(client: httpx.AsyncClient, code: int) -> bool:
    return (await ready(client))[0] == code
