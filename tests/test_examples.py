"""The examples do what they say: the client against the application, and each publisher against a real broker."""

import asyncio
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import orjson
import pytest

from api.server import HttpServer
from core.event_codec import decode_event
from core.job_codec import decode_job
from core.ports.results import ResultDocuments
from examples.songs_ai_client import Event, SongsAIClient, SongsAIProblem
from models.event import EventType
from models.job import Job, Strategy
from tests.support import debian_packages
from tests.support.http_app import HttpBench, http_bench
from tests.support.messaging import delete_topology, private_topology
from workers.amqp_broker import AmqpBroker

EXAMPLES = Path(__file__).parents[1] / "examples"
JARS = [Path("/usr/share/java") / name for name in ("amqp-client.jar", "slf4j-api.jar", "slf4j-nop.jar")]
KEY = "k3y"
SEEDS = [1, 3, 5]


# --- the client ---


@asynccontextmanager
async def served(api_key: str = KEY, rate_limit: str = "") -> AsyncIterator[tuple[HttpBench, SongsAIClient]]:
    async with (
        http_bench(api_key=api_key, rate_limit=rate_limit) as bench,
        HttpServer(bench.app, "127.0.0.1", 0) as server,
    ):
        yield bench, SongsAIClient(f"http://127.0.0.1:{server.port}/", api_key=api_key, timeout_s=10)


in_a_thread = asyncio.to_thread


async def test_the_client_searches_and_looks_at_items() -> None:
    async with served() as (_, client):
        (found,) = await in_a_thread(client.search, "ㅂㅌㅂㅌ")
        second_page = await in_a_thread(partial(client.search, "title", limit=5, offset=5))
        item = await in_a_thread(client.item, 4)
        near = await in_a_thread(partial(client.similar, 4, n=3))
    assert (found.item.item_id, found.item.title("en")) == (1, "비틀비틀 짝짜꿍")
    assert len(second_page) == 5
    assert (item.creator, item.features) == ("Beyoncé", {"energy": 0.04})
    assert len(near) == 3


async def test_the_client_recommends_from_chosen_items() -> None:
    async with served() as (_, client):
        answer = await in_a_thread(partial(client.recommend, SEEDS, limit=5, locale="en", wish="jazz"))
    assert len(answer.items) == 5
    assert all(each.reason and each.evidence["sources"] for each in answer.items)
    assert [seed.item_id for seed in answer.seeds] == SEEDS
    assert answer.taste["genres"] == ["pop"]


async def test_the_client_follows_a_job_to_its_result() -> None:
    async with served() as (bench, client):
        job_id = await in_a_thread(partial(client.explain, SEEDS, locale="en", member_id=7))
        (job,) = bench.publisher.main
        following = asyncio.create_task(in_a_thread(lambda: list(client.follow(job_id))))
        await bench.results.claim(job, token="t")
        documents = ResultDocuments(result=b'{"groups":[]}', cached_view=b"{}", preference=b"{}")
        await bench.results.succeed(job, documents, token="t")
        told = await following
        state = await in_a_thread(client.job, job_id)
    assert (told[-1].status, told[-1].progress) == ("succeeded", 100)
    assert (state.status, state.result) == ("succeeded", {"groups": []})


async def test_the_client_asks_for_members_and_tells_what_they_did() -> None:
    async with served() as (bench, client):
        job_id = await in_a_thread(client.recommend_for, 7, [1, 2])
        ids = await in_a_thread(client.tell, [Event(7, "like", 3, event_id="e-1"), Event(7, "play", 3, value=30.5)])
        view = orjson.dumps({"generated_date": "2026-01-31", "groups": [], "candidates": [{"song_id": 9}]})
        job = Job(job_id="other", member_id=7, requested_at_ns=1)
        await bench.results.claim(job, token="t")
        await bench.results.succeed(job, ResultDocuments(result=b"{}", cached_view=view, preference=b"{}"), token="t")
        kept = await in_a_thread(client.recommendations, 7)
    assert [each.job_id for each in bench.publisher.main] == [job_id]
    assert [event.event_id for event in bench.events.published] == ids
    assert ids[0] == "e-1"
    assert kept["candidates"] == [{"song_id": 9}]


async def test_the_client_raises_what_the_worker_says_is_wrong() -> None:
    async with served(rate_limit="2/minute") as (_, client):
        with pytest.raises(SongsAIProblem, match="404: there is no item 999"):
            await in_a_thread(client.item, 999)
        with pytest.raises(SongsAIProblem) as refused:
            await in_a_thread(client.recommend, [1])
        with pytest.raises(SongsAIProblem) as too_often:
            await in_a_thread(client.item, 4)
    assert (refused.value.status, refused.value.document["errors"][0]["field"]) == (422, "itemIds")
    assert too_often.value.status == 429
    assert too_often.value.retry_after_s is not None
    assert KEY not in repr(client)


async def test_without_its_key_the_client_is_refused() -> None:
    async with served() as (_, client):
        with pytest.raises(SongsAIProblem, match="401"):
            await in_a_thread(SongsAIClient(client.base_url).recommend, SEEDS)


# --- the publishers ---


async def published_by(amqp_url: str, *command: str, cwd: Path = EXAMPLES) -> None:
    """Run the program against a broker of a worker that was started once; its job and its event must be right."""
    topology = private_topology()
    prefix = topology.main.exchange.removesuffix(".exchange")
    broker = AmqpBroker(amqp_url, topology)
    try:
        await broker.start()
        done = await asyncio.to_thread(
            partial(subprocess.run, capture_output=True, text=True, timeout=50, check=False, cwd=cwd),
            [*command, amqp_url, prefix],
        )
        assert done.returncode == 0, done.stderr
        job = decode_job(await only_body(broker, topology.main.queue))
        event = decode_event(await only_body(broker, topology.events.queue))
    finally:
        await broker.close()
        await delete_topology(amqp_url, topology)
    assert job.job_id == done.stdout.strip()
    assert (job.member_id, job.favorite_item_ids, job.strategy, job.top_k) == (7, (1, 2, 3), Strategy.DEFAULT, 50)
    assert (event.member_id, event.item_id, event.type) == (7, 3, EventType.LIKE)
    assert job.requested_at_ns is not None
    assert event.occurred_at_ns is not None


async def only_body(broker: AmqpBroker, queue: str) -> bytes:
    async with broker.browse(queue) as deliveries:
        (delivery,) = [each async for each in deliveries]
        assert delivery.properties.content_type == "application/json"
        return delivery.body


def needs(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed here, so its example was NOT run")


async def test_the_python_example_publishes(amqp_url: str) -> None:
    await published_by(amqp_url, sys.executable, "publish.py")


@pytest.mark.timeout(150)
async def test_the_java_example_publishes(amqp_url: str) -> None:
    needs("javac")
    if not JARS[0].exists():
        if not debian_packages.can_install():
            pytest.skip("librabbitmq-client-java is not installed here, so the Java example was NOT run")
        if problem := await asyncio.to_thread(debian_packages.install, ["librabbitmq-client-java"]):
            pytest.skip(f"the Java example was NOT run, for want of librabbitmq-client-java: {problem}")
    await published_by(amqp_url, "java", "-cp", ":".join(map(str, JARS)), str(EXAMPLES / "java" / "Publish.java"))


@pytest.mark.timeout(150)
async def test_the_node_example_publishes(amqp_url: str, tmp_path: Path) -> None:
    needs("node")
    needs("npm")
    shutil.copytree(EXAMPLES / "node", tmp_path / "node", ignore=shutil.ignore_patterns("node_modules"))
    npm = ["npm", "ci", "--no-audit", "--no-fund", "--silent"]
    run = partial(subprocess.run, capture_output=True, text=True, timeout=90, check=False, cwd=tmp_path / "node")
    installed = await asyncio.to_thread(run, npm)
    if installed.returncode != 0:
        pytest.skip(f"the Node example was NOT run, for npm could not install amqplib: {installed.stderr[-500:]}")
    await published_by(amqp_url, "node", "publish.js", cwd=tmp_path / "node")
