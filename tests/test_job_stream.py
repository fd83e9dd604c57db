"""Jobs by HTTP: one look, and streams of server-sent events, over real sockets."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

import httpx
import pytest

import api.jobs
from api.server import HttpServer
from core.errors import DependencyUnavailable
from core.ports.results import JobView, ResultDocuments
from models.job import Job
from tests.support.http_app import HttpBench, http_bench
from tests.support.waiting import until

JOB = Job(job_id="j-1", member_id=7, requested_at_ns=1)
DOCUMENTS = ResultDocuments(result=b'{"groups":[]}', cached_view=b"{}", preference=b"{}")


@dataclass
class Told:
    """One event of a stream."""

    event: str
    id: str
    data: dict[str, object]


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api.jobs, "LOOK_EVERY_S", 0.01)


@asynccontextmanager
async def served(answer_timeout_s: float = 30.0) -> AsyncIterator[tuple[HttpBench, httpx.AsyncClient]]:
    async with (
        http_bench(answer_timeout_s=answer_timeout_s) as bench,
        HttpServer(bench.app, "127.0.0.1", 0) as server,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", timeout=10) as client,
    ):
        yield bench, client


async def events_of(response: httpx.Response) -> AsyncIterator[Told]:
    fields: dict[str, str] = {}
    async for line in response.aiter_lines():
        name, _, value = line.partition(": ")
        if line and name:
            fields[name] = value
        elif fields:
            yield Told(fields["event"], fields["id"], json.loads(fields["data"]))
            fields = {}


async def all_events(client: httpx.AsyncClient, job_id: str, last: str = "") -> list[Told]:
    headers = {"Last-Event-ID": last} if last else {}
    async with client.stream("GET", f"/jobs/{job_id}/events", headers=headers) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        return [event async for event in events_of(response)]


async def running(bench: HttpBench) -> None:
    await bench.results.mark_queued(JOB)
    await bench.results.claim(JOB, token="t")


async def test_a_job_is_seen_from_its_queue_to_its_result() -> None:
    async with http_bench() as bench:
        await bench.results.mark_queued(JOB)
        queued = (await bench.client.get("/jobs/j-1")).json()
        await bench.results.claim(JOB, token="t")
        await bench.results.succeed(JOB, DOCUMENTS, token="t")
        ended = (await bench.client.get("/jobs/j-1")).json()
    assert (queued["status"], queued["progress"], queued["result"]) == ("queued", 0, None)
    assert (ended["status"], ended["progress"], ended["result"]) == ("succeeded", 100, {"groups": []})
    assert datetime.fromisoformat(queued["submittedAt"]).utcoffset() is not None
    assert ended["finishedAt"]


async def test_a_job_that_failed_says_why() -> None:
    async with http_bench() as bench:
        await running(bench)
        await bench.results.fail("j-1", code="MODEL_ERROR", message="no answer", token="t")
        told = (await bench.client.get("/jobs/j-1")).json()
    assert (told["status"], told["error"]) == ("failed", {"code": "MODEL_ERROR", "message": "no answer"})


@pytest.mark.parametrize("path", ["/jobs/none", "/jobs/none/events"])
async def test_a_job_that_nobody_knows_is_not_found(path: str) -> None:
    async with http_bench() as bench:
        answer = await bench.client.get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


async def test_a_stream_tells_each_change_once_and_ends_with_the_job() -> None:
    async with served() as (bench, client):
        await bench.results.mark_queued(JOB)
        async with client.stream("GET", "/jobs/j-1/events") as response:
            events = events_of(response)
            told = [await anext(events)]
            await bench.results.claim(JOB, token="t")
            told.append(await anext(events))
            await bench.results.report_progress(JOB, 50)
            told.append(await anext(events))
            await bench.results.succeed(JOB, DOCUMENTS, token="t")
            told += [event async for event in events]
    assert [(each.event, each.data["progress"]) for each in told] == [
        ("queued", 0),
        ("running", 0),
        ("running", 50),
        ("succeeded", 100),
    ]
    assert all(each.data["jobId"] == "j-1" for each in told)


async def test_who_comes_back_is_not_told_again_what_they_know() -> None:
    async with served() as (bench, client):
        await running(bench)
        await bench.results.report_progress(JOB, 50)
        async with client.stream("GET", "/jobs/j-1/events", headers={"Last-Event-ID": "running-50"}) as response:
            await bench.results.fail("j-1", code="MODEL_ERROR", message="no answer", token="t")
            told = [event async for event in events_of(response)]
        again = await all_events(client, "j-1", last="failed-50")
    assert [each.event for each in told] == ["failed"]
    assert told[0].data["error"] == {"code": "MODEL_ERROR", "message": "no answer"}
    assert [each.event for each in again] == ["failed"]  # the end is always told


async def test_a_stream_outlives_the_time_that_an_answer_may_take() -> None:
    async with served(answer_timeout_s=0.2) as (bench, client):
        await running(bench)
        async with client.stream("GET", "/jobs/j-1/events") as response:
            events = events_of(response)
            await anext(events)
            await asyncio.sleep(0.4)  # what is tested is that this time does nothing
            await bench.results.succeed(JOB, DOCUMENTS, token="t")
            assert [event.event async for event in events] == ["succeeded"]


async def test_between_events_there_are_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastapi.routing._PING_INTERVAL", 0.05)
    async with served() as (bench, client):
        await running(bench)
        async with client.stream("GET", "/jobs/j-1/events") as response:
            async for line in response.aiter_lines():
                if line.startswith(":"):
                    break
            assert line == ": ping"


async def test_a_stream_ends_by_itself_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api.jobs, "STREAM_S", 0.05)
    async with served() as (bench, client):
        await running(bench)
        assert [each.event for each in await all_events(client, "j-1")] == ["running"]


async def test_a_client_who_goes_frees_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served() as (bench, client):
        await running(bench)
        looks = 0
        look = bench.results.job

        async def counted(job_id: str) -> JobView | None:
            nonlocal looks
            looks += 1
            return await look(job_id)

        monkeypatch.setattr(bench.results, "job", counted)
        before = len(asyncio.all_tasks())
        async with client.stream("GET", "/jobs/j-1/events") as response:
            await anext(events_of(response))
            n_open = len(asyncio.all_tasks())

        async def is_freed() -> bool:
            return len(asyncio.all_tasks()) <= before

        await until(is_freed)
        seen = looks
        await asyncio.sleep(0.05)
    assert n_open > before
    assert looks == seen


async def test_a_redis_that_is_away_for_a_moment_does_not_end_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served() as (bench, client):
        await running(bench)
        look = bench.results.job
        n_failed = 0

        async def failing(job_id: str) -> JobView | None:
            nonlocal n_failed
            if n_failed == 0 or n_failed >= 4:
                n_failed += 1
                return await look(job_id)
            n_failed += 1
            raise DependencyUnavailable("redis", "away")

        monkeypatch.setattr(bench.results, "job", failing)
        async with client.stream("GET", "/jobs/j-1/events") as response:
            events = events_of(response)
            await anext(events)
            await bench.results.succeed(JOB, DOCUMENTS, token="t")
            assert [event.event async for event in events] == ["succeeded"]
    assert n_failed >= 4
