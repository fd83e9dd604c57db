"""HTTP served beside connected parts: a process that consumes nothing loads what people ask for by itself."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from commands.demo import fill_catalogue
from config.settings import MEMORY_URL, Settings
from tests.support.private_servers import free_port
from tests.support.waiting import until
from workers.runtime.http import serving_http
from workers.runtime.parts import Parts, embedded, open_parts


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    settings = Settings(_env_file=None, http_port=free_port(), broker_url=SecretStr(MEMORY_URL))
    async with open_parts(embedded(settings, tmp_path)) as opened:
        await fill_catalogue(opened, (), 7, 60)
        await opened.broker.start()
        yield opened


async def test_it_searches_and_recommends_from_chosen_items(parts: Parts) -> None:
    async with (
        serving_http(parts, consuming=False),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{parts.settings.http_port}", timeout=20) as client,
    ):
        items = [item async for batch in parts.catalogue.stream() for item in batch]
        title = next(iter(items[0].titles.values()))
        found = (await client.get("/search", params={"q": title})).json()["items"]

        async def is_loaded() -> bool:
            return (await client.get(f"/items/{items[0].item_id}/similar")).status_code == 200

        await until(is_loaded, within_s=20)
        seeds = [item.item_id for item in items[:5]]
        answer = await client.post("/recommend/seeds", json={"itemIds": seeds, "limit": 5, "locale": "en"})
        queued = await client.post("/recommend/seeds", json={"itemIds": seeds, "explain": True})
        event = {"memberId": 1, "itemId": seeds[0], "type": "like"}
        told = await client.post("/events", json={"events": [event]})
    assert title in [next(iter(each["item"]["titles"].values())) for each in found]
    assert [len(answer.json()["items"]), queued.status_code, told.status_code] == [5, 202, 202]
    waiting = await parts.broker.waiting([parts.broker.topology.main.queue, parts.broker.topology.events.queue])
    assert set(waiting.values()) == {1}


async def test_until_the_index_is_there_it_says_what_is_missing_and_serves_the_rest(parts: Parts) -> None:
    async with (
        serving_http(parts, consuming=True),  # nobody loads the index here
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{parts.settings.http_port}", timeout=20) as client,
    ):
        (first, *_), *_ = [batch async for batch in parts.catalogue.stream()]
        away = await client.post("/recommend/seeds", json={"itemIds": [1, 2, 3]})
        there = await client.get(f"/items/{first.item_id}")
    assert (away.status_code, away.json()["dependency"], there.status_code) == (503, "index", 200)


async def test_how_far_its_own_index_is_behind_is_told_also_where_it_never_came(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def behind_s() -> float:
        answer = await client.get("/metrics")
        [told] = re.findall(r"^songs_ai_index_behind_seconds (\S+)$", answer.text, re.MULTILINE)
        return float(told)

    async def is_told() -> bool:
        return await behind_s() >= 0

    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{parts.settings.http_port}", timeout=20) as client:
        async with serving_http(parts, consuming=False):
            await until(is_told, within_s=20)
        monkeypatch.setattr(type(parts.index), "age_s", None)  # as it is before the first load
        monkeypatch.setattr(type(parts.index), "load", lambda _: asyncio.sleep(3600))
        async with serving_http(parts, consuming=False):
            await until(is_told, within_s=20)
            before_s = await behind_s()
            assert await behind_s() > before_s


async def test_it_ends_while_it_still_loads(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(parts.index), "load", lambda _: asyncio.sleep(3600))
    async with asyncio.timeout(15):
        async with serving_http(parts, consuming=False):
            pass
