"""Wishes through real processes: the backend publishes them, the worker understands, the backend reads."""

from collections.abc import AsyncIterator, Mapping, Sequence
from statistics import fmean
from typing import Any

import orjson
import pytest

from tests.support.backend import faults_of, job_body
from tests.support.command import run_command
from tests.support.llm_server import LLMServer
from tests.support.worker_process import worker
from tests.test_end_to_end import CATALOGUE, GENRES, Site, dead_letters, open_site

pytestmark = pytest.mark.timeout(120)

LIKES = [5, 10, 15]
JAZZ = {"query": "재즈", "localTime": "23:10", "later": {"any": "thing"}}


@pytest.fixture
async def site(amqp_url: str, mysql_url: str, redis_url: str, llm_server: LLMServer) -> AsyncIterator[Site]:
    async with open_site(amqp_url, mysql_url, redis_url, llm_server) as site:
        yield site


def share_of(rows: Sequence[Mapping[str, Any]], told: str) -> float:
    return fmean(told in row["matched_criteria"] for row in rows)


async def results_of(site: Site, *bodies: dict[str, Any]) -> list[Mapping[str, Any]]:
    """The results of jobs that run one after the other."""
    async with worker(site.environment):
        for body in bodies:
            await site.backend.publish([body])
            await site.backend.wait([body["jobId"]], 20, until={"succeeded"})
    results: list[Mapping[str, Any]] = [await site.backend.result(body["jobId"]) for body in bodies]
    for result in results:
        assert faults_of(result, LIKES, CATALOGUE) == []
    return results


async def test_a_wish_comes_true(site: Site) -> None:
    fast: dict[str, Any] = {"locale": "en", "topK": 20, "strategy": "fast"}
    plain, wished = await results_of(site, job_body(7, LIKES, **fast), job_body(7, LIKES, **fast, context=JAZZ))
    assert share_of(plain["candidates"], "wish:jazz") == 0
    assert share_of(wished["candidates"], "wish:jazz") >= 0.7
    for row in wished["candidates"]:
        assert ("wish:jazz" in row["matched_criteria"]) == (row["song_id"] % len(GENRES) == GENRES.index("jazz"))


async def test_the_same_wish_is_not_paid_for_twice_and_another_is(site: Site) -> None:
    wishes: list[Any] = [
        None,
        JAZZ,
        {**JAZZ, "localTime": "2026-11-21T02:45:00+09:00"},
        {**JAZZ, "localTime": "12:00"},
    ]
    results = await results_of(site, *(job_body(7, LIKES, locale="en", context=wish) for wish in wishes))
    assert results[1]["fingerprint"] == results[2]["fingerprint"]
    assert len({result["fingerprint"] for result in results}) == 3
    assert site.llm.n_calls == 3


async def test_a_wish_that_is_none_is_dead_lettered_by_its_field(site: Site) -> None:
    body = job_body(7, LIKES, context={"query": ["calm"]})
    async with worker(site.environment):
        await site.backend.publish([body])
        statuses = await site.backend.wait([body["jobId"]], 20)
        (letter,) = await dead_letters(site, 1)
    assert statuses[body["jobId"]]["status"] == "failed"
    assert "context.query" in statuses[body["jobId"]]["error.message"]
    assert bytes(letter.body) == orjson.dumps(body)


async def test_the_command_line_wishes_too(site: Site) -> None:
    command = (
        "publish",
        "--member",
        "7",
        "--favorites",
        "5,10,15",
        "--strategy",
        "fast",
        "--wish",
        "calm jazz",
        "--wait",
    )
    async with worker(site.environment):
        printed = await run_command(*command, environment=site.environment)
    assert share_of(orjson.loads(printed.out)["candidates"][:20], "wish:jazz") >= 0.7
