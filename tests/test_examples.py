"""The examples do what they say: the client against the application, and each publisher against a real broker."""

import asyncio
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from math import inf
from pathlib import Path

import orjson
import pytest

from api.server import HttpServer
from core.event_codec import decode_event
from core.job_codec import decode_job
from core.ports.results import ResultDocuments
from examples import songs_ai_client
from examples.songs_ai_client import Event, SongsAIClient, SongsAIProblem
from models.event import EventType
from models.job import Job, Strategy
from tests.support import debian_packages
from tests.support.faulty_wire import faulty_wire
from tests.support.http_app import HttpBench, http_bench
from tests.support.messaging import delete_topology, private_topology
from tests.support.waiting import until
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
        hits = await in_a_thread(client.search, "ㅂㅌㅂㅌ")
        second_page = await in_a_thread(partial(client.search, "title", limit=5, offset=5))
        item = await in_a_thread(client.item, 4)
        near = await in_a_thread(partial(client.similar, 4, limit=3))
        next_near = await in_a_thread(partial(client.similar, 4, limit=3, offset=3))
    (found,) = hits.items
    assert (found.item.item_id, found.item.title("en"), hits.next_offset) == (1, "비틀비틀 짝짜꿍", None)
    assert (len(second_page.items), second_page.next_offset) == (5, 10)
    assert (item.creator, item.features) == ("Beyoncé", {"energy": 0.04})
    assert (len(near.items), near.next_offset) == (3, 3)
    assert not {each.item.item_id for each in near.items} & {each.item.item_id for each in next_near.items}


async def test_the_client_finds_all_pages_of_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(songs_ai_client, "_MAX_PAGE", 7)
    async with served() as (bench, client):
        found = await in_a_thread(lambda: list(client.search_all("title")))
        first = await in_a_thread(lambda: next(client.search_all("title")))
        exposition = bench.metrics.expose("")[0].decode()
    assert len({each.item.item_id for each in found}) == len(found) == 36
    assert first == found[0]
    assert 'http_requests_total{code="2xx",route="/search"} 7.0' in exposition  # six pages, then one of another


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


# --- the client: streams that break off ---


@dataclass
class HandTime:
    """The client's ``time``: nothing is waited for, and the clock moves by what would have been."""

    now_s: float = 0.0
    slept_s: list[float] = field(default_factory=list)

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.now_s += seconds


@pytest.fixture
def hand_time(monkeypatch: pytest.MonkeyPatch) -> HandTime:
    clock = HandTime()
    monkeypatch.setattr(songs_ai_client, "time", clock)
    return clock


def event_of(status: str, progress: int) -> bytes:
    data = orjson.dumps({"jobId": "j", "status": status, "progress": progress, "error": None})
    return b"event: %b\ndata: %b\nid: %b-%d\n\n" % (status.encode(), data, status.encode(), progress)


def chunked(*parts: bytes, ends: bool = True) -> bytes:
    """A stream of events as servers send it; one that does not end is cut instead."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + (b"0\r\n\r\n" if ends else b"")


def refusal(status: str, **headers: str) -> bytes:
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([f"HTTP/1.1 {status}", "Content-Length: 2", *lines, "", "{}"]).encode()


@asynccontextmanager
async def scripted(*answers: bytes) -> AsyncIterator[tuple[SongsAIClient, list[str]]]:
    """A client of a server that gives each connection the next answer and hangs up; what each asked with as its id."""
    left, asked = list(answers), []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        asked.append(next((line[15:] for line in head.splitlines() if line.lower().startswith("last-event-id: ")), ""))
        writer.write(left.pop(0) if len(left) > 1 else left[0])
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        yield SongsAIClient(f"http://127.0.0.1:{port}", timeout_s=10), asked


def statuses(client: SongsAIClient, within_s: float = 600.0) -> list[tuple[str, int]]:
    return [(each.status, each.progress) for each in client.follow("j", within_s=within_s)]


async def test_the_client_goes_on_where_a_real_connection_was_cut(hand_time: HandTime) -> None:
    job = Job(job_id="j", member_id=7, requested_at_ns=1)
    seen: asyncio.Queue[str] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def follow(client: SongsAIClient) -> list[tuple[str, int]]:
        told = []
        for each in client.follow("j", within_s=inf):
            told.append((each.status, each.progress))
            loop.call_soon_threadsafe(seen.put_nowait, each.status)
        return told

    async with served() as (bench, direct), faulty_wire(direct.base_url) as wire, asyncio.timeout(30):
        await bench.results.mark_queued(job)
        following = asyncio.create_task(in_a_thread(follow, SongsAIClient(wire.url, api_key=KEY, timeout_s=10)))
        assert await seen.get() == "queued"
        await bench.results.claim(job, token="t")
        assert await seen.get() == "running"
        await wire.cut()
        await bench.results.report_progress(job, 40)
        await until(partial(has_slept, hand_time))
        await wire.start()
        assert await seen.get() == "running"
        documents = ResultDocuments(result=b"{}", cached_view=b"{}", preference=b"{}")
        await bench.results.succeed(job, documents, token="t")
        told = await following
    assert told == [("queued", 0), ("running", 0), ("running", 40), ("succeeded", 100)]


async def has_slept(clock: HandTime) -> bool:
    return len(clock.slept_s) > 1


async def test_half_an_event_is_none_and_comes_whole_with_the_next_stream(hand_time: HandTime) -> None:
    running, ended = event_of("running", 5), event_of("succeeded", 100)
    cuts = [
        chunked(running, running.replace(b"5", b"6")[:30], ends=False),
        b"%b40\r\nevent: run" % chunked(ends=False),  # in the middle of a chunk
        b"",
        chunked(b": ping\n\n"),
        chunked(ended),
    ]
    async with scripted(*cuts) as (client, asked):
        told = await in_a_thread(statuses, client)
    assert told == [("running", 5), ("succeeded", 100)]
    assert asked == ["", *["running-5"] * 4]
    assert hand_time.slept_s == [0.5, 1.0, 2.0, 4.0]


async def test_the_pause_doubles_to_its_ceiling_and_all_has_an_end(hand_time: HandTime) -> None:
    async with scripted(chunked(event_of("running", 5)), chunked()) as (client, _):
        with pytest.raises(TimeoutError, match="job j has not ended"):
            await in_a_thread(statuses, client, 120.0)
    assert hand_time.slept_s == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]


async def test_what_comes_makes_the_next_pause_short_again(hand_time: HandTime) -> None:
    answers = [chunked(event_of("running", 5)), chunked(), chunked(event_of("running", 6)), chunked()]
    async with scripted(*answers, chunked(event_of("failed", 6))) as (client, _):
        assert (await in_a_thread(statuses, client))[-1] == ("failed", 6)
    assert hand_time.slept_s == [0.5, 1.0, 0.5, 1.0]


@pytest.mark.parametrize(("said", "paused_s"), [(b"80", 0.08), (b"60000", 60.0), (b"0", 0.01), (b"soon", 0.5)])
async def test_the_stream_says_how_long_to_wait(hand_time: HandTime, said: bytes, paused_s: float) -> None:
    first = chunked(b"retry: %b\n" % said + event_of("running", 5), ends=False)
    async with scripted(first, chunked(event_of("succeeded", 100))) as (client, _):
        await in_a_thread(statuses, client)
    assert hand_time.slept_s == [paused_s]


async def test_a_worker_that_is_away_for_a_moment_is_waited_for(hand_time: HandTime) -> None:
    answers = [chunked(event_of("running", 5)), refusal("503 Service Unavailable", Retry_After="5")]
    async with scripted(*answers, refusal("429 Too Many"), chunked(event_of("succeeded", 100))) as (client, _):
        assert (await in_a_thread(statuses, client))[-1] == ("succeeded", 100)
    assert hand_time.slept_s == [0.5, 5.0, 2.0]


async def test_a_job_that_is_gone_is_told_at_once(hand_time: HandTime) -> None:
    async with scripted(chunked(event_of("running", 5)), refusal("404 Not Found")) as (client, _):
        with pytest.raises(SongsAIProblem, match="404"):
            await in_a_thread(statuses, client)
    assert hand_time.slept_s == [0.5]


@pytest.mark.parametrize("answer", [refusal("503 Service Unavailable"), b"", b"SSH-2.0-none\r\n"])
async def test_what_is_wrong_from_the_beginning_is_raised_and_not_tried_again(
    hand_time: HandTime, answer: bytes
) -> None:
    async with scripted(answer) as (client, asked):
        with pytest.raises((SongsAIProblem, OSError)):
            await in_a_thread(statuses, client)
    assert (hand_time.slept_s, len(asked)) == ([], 1)


async def test_an_answer_that_is_cut_is_an_error_of_the_connection() -> None:
    async with scripted(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{") as (client, _):
        with pytest.raises(OSError, match="broke off"):
            await in_a_thread(client.item, 4)


# --- the client: members ---


async def test_the_client_asks_for_members_and_tells_what_they_did() -> None:
    async with served() as (bench, client):
        job_id = await in_a_thread(partial(client.recommend_for, 7, [1, 2], locale="ja"))
        ids = await in_a_thread(client.tell, [Event(7, "like", 3, event_id="e-1"), Event(7, "play", 3, value=30.5)])
        view = orjson.dumps({"generated_date": "2026-01-31", "groups": [], "candidates": [{"song_id": 9}]})
        job = Job(job_id="other", member_id=7, requested_at_ns=1)
        await bench.results.claim(job, token="t")
        await bench.results.succeed(job, ResultDocuments(result=b"{}", cached_view=view, preference=b"{}"), token="t")
        kept = await in_a_thread(client.recommendations, 7)
    assert [(each.job_id, each.locale) for each in bench.publisher.main] == [(job_id, "ja")]
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
