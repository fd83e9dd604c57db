"""The main job through real processes: the backend publishes, the worker works, the backend reads. And its faults."""

import asyncio
import contextlib
import signal
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random

import aio_pika
import orjson
import pytest

from api.health import ENDING
from config.settings import Settings
from core.embedding import HashingEmbedder
from services.catalogue import SqlCatalogue
from services.database import Database
from services.embedding_store import SqlEmbeddingStore
from tests.support.backend import Backend, Document, faults_of, job_body, open_backend
from tests.support.catalogue import SONGS, add_to_playlist, create_all_tables, insert_songs, like, update_song
from tests.support.command import run_command
from tests.support.llm_faults import Fault
from tests.support.llm_server import LLMServer
from tests.support.messaging import delete_topology
from tests.support.servers import BreakableServer
from tests.support.waiting import until
from tests.support.worker_process import WorkerProcess, worker
from training.embed import embed_catalogue
from workers.topology import build_topology
from workers.topology import declare as declare_topology

pytestmark = pytest.mark.timeout(120)

N_SONGS = 300
CATALOGUE = range(1, N_SONGS + 1)
DIM = int(Settings.model_fields["embedding_dim"].default)
REPAIRABLE = {
    *(Fault.UNKNOWN_HANDLES, Fault.REPEATED_HANDLES, Fault.WRONG_LANGUAGE),
    *(Fault.TEXT_TOKENS, Fault.NEGATIVE_TOKENS, Fault.HUGE_TOKENS),
}
GENRES = ("ballad", "rock", "jazz", "hip hop", "city pop")


def song(song_id: int) -> Mapping[str, object]:
    return {
        "song_id": song_id,
        "title_en": f"Song number {song_id}",
        "title_kr": f"노래 {song_id}" if song_id % 3 == 0 else None,
        "artist": f"Artist {song_id % 40}",
        "genre": GENRES[song_id % len(GENRES)],
        "mood": "calm" if song_id % 2 else "happy",
        "tj_number": 10_000 + song_id,
    }


async def fill_catalogue(url: str) -> None:
    await asyncio.to_thread(create_all_tables, url)
    await asyncio.to_thread(insert_songs, url, *(song(song_id) for song_id in CATALOGUE))
    await embed(url)


async def embed(url: str) -> None:
    database = Database(url)
    try:
        embedder, store = HashingEmbedder(DIM, text_columns=SONGS.item.text), SqlEmbeddingStore(database, SONGS)
        await embed_catalogue(SqlCatalogue(database, SONGS), embedder, store, text_columns=SONGS.item.text)
    finally:
        await database.close()


@dataclass(frozen=True, slots=True)
class Site:
    """Where a worker runs: its servers, as settings, and the backend beside it."""

    environment: dict[str, str]
    backend: Backend
    llm: LLMServer
    prefix: str

    @property
    def amqp_url(self) -> str:
        return self.environment["BROKER_URL"]


@contextlib.asynccontextmanager
async def open_site(
    amqp_url: str, mysql_url: str, redis_url: str, llm: LLMServer, **settings: str
) -> AsyncIterator[Site]:
    prefix = f"e2e.{uuid.uuid4().hex[:8]}"
    environment = {
        "BROKER_URL": amqp_url,
        "DATABASE_URL": mysql_url,
        "REDIS_URL": redis_url,
        "OPENAI_BASE_URL": llm.base_url,
        "NAME_PREFIX": prefix,
        "RETRY_DELAYS_S": "0.2,0.5,1",
        "JOB_LEASE_S": "2",
        "LLM_TIMEOUT_S": "3",
        "LLM_MAX_RETRIES": "1",
        "DEPENDENCY_TIMEOUT_S": "2",
        "SHUTDOWN_GRACE_S": "8",
        **settings,
    }
    await fill_catalogue(mysql_url)
    await declare(amqp_url, prefix, settings)
    async with open_backend(amqp_url, redis_url, prefix) as backend:
        yield Site(environment, backend, llm, prefix)
    await delete_topology(amqp_url, build_topology(prefix, (0.2, 0.5, 1)))


async def declare(amqp_url: str, prefix: str, settings: Mapping[str, str] | None = None) -> None:
    """As the backend does at its own start."""
    settings = settings or {}
    topology = build_topology(
        prefix,
        (0.2, 0.5, 1),
        "quorum" if settings.get("QUEUE_TYPE") == "quorum" else "classic",
        delivery_limit=int(settings.get("DELIVERY_LIMIT", "20")),
    )
    async with await aio_pika.connect(amqp_url) as connection, connection.channel() as channel:
        await declare_topology(channel, topology, timeout_s=10)


@pytest.fixture
async def site(amqp_url: str, mysql_url: str, redis_url: str, llm_server: LLMServer) -> AsyncIterator[Site]:
    async with open_site(amqp_url, mysql_url, redis_url, llm_server) as site:
        yield site


def jobs_of(members: Sequence[int], **fields: object) -> list[Document]:
    chance = Random(len(members))
    return [job_body(member, chance.sample(CATALOGUE, 6), **fields) for member in members]


async def all_succeeded(site: Site, bodies: Sequence[Document], timeout_s: float = 60) -> None:
    statuses = await site.backend.wait([body["jobId"] for body in bodies], timeout_s, until={"succeeded"})
    assert {fields["progress"] for fields in statuses.values()} == {"100"}
    for body in bodies:
        result = await site.backend.result(body["jobId"])
        assert faults_of(result, body["favoriteSongIds"], CATALOGUE) == []


# --- the main job ---


async def test_a_job_comes_back_as_the_contract_says(site: Site) -> None:
    body = job_body(7, [3, 4, 5], locale="ko")
    async with worker(site.environment, afresh=True):
        await site.backend.publish([body])
        statuses = await site.backend.wait([body["jobId"]], 20)
    fields = statuses[body["jobId"]]
    assert fields["status"] == "succeeded"
    assert fields["startedAt"].endswith("Z")
    assert fields["finishedAt"] >= fields["startedAt"] >= fields["submittedAt"]
    result = await site.backend.result(body["jobId"])
    assert faults_of(result, {3, 4, 5}, CATALOGUE) == []
    assert (result["status"], result["degraded"], len(result["candidates"])) == ("completed", False, 50)
    assert result == await site.backend.json("latest:recommendation:7")
    view, preference = await site.backend.json("recommend:7"), await site.backend.json("preference:7")
    assert view["favorite_song_ids"] == preference["favorite_song_ids"] == [3, 4, 5]
    assert view["groups"] == result["groups"]
    assert set(preference["preference"]) == {
        "preferred_genres",
        "preferred_moods",
        "overall_taste",
        "favorite_artists",
    }


async def test_a_worker_that_searches_inside_the_database_serves_the_same_contract(site: Site) -> None:
    bodies = [job_body(7, [3, 4, 5]), job_body(9, [])]
    async with worker({**site.environment, "RETRIEVAL": "database"}) as process:
        await site.backend.publish(bodies)
        await all_succeeded(site, bodies)
        metrics, log = await process.metrics(), process.log
    assert f"songs_ai_index_items {N_SONGS}.0" in metrics
    assert "songs_ai_index_recall_ratio 1.0" in metrics
    assert '"kind":"sign_codes"' in log.replace(" ", "") or '"kind":"native"' in log.replace(" ", "")
    outcome = await run_command("retrieval", environment={**site.environment, "RETRIEVAL": "database"})
    assert outcome.code == 0
    assert outcome.out.startswith("RETRIEVAL=database: ")
    assert f"\n{N_SONGS} items of hashing-" in outcome.out


async def test_likes_and_playlists_in_mysql_serve_a_job_that_names_none(site: Site) -> None:
    url = site.environment["DATABASE_URL"]
    await asyncio.to_thread(like, url, 8, 10, 11, 12)
    await asyncio.to_thread(add_to_playlist, url, 8, 20, 21)
    bodies = [job_body(8), job_body(9, []), job_body(8, [30])]
    async with worker(site.environment):
        await site.backend.publish(bodies)
        await site.backend.wait([body["jobId"] for body in bodies], 20, until={"succeeded"})
    by_likes, cold, by_job = [await site.backend.result(body["jobId"]) for body in bodies]
    assert faults_of(by_likes, {10, 11, 12, 20, 21}, CATALOGUE) == []
    assert faults_of(by_job, {10, 11, 12, 20, 21, 30}, CATALOGUE) == []
    assert {candidate["recommendation_type"] for candidate in cold["candidates"]} == {"popular"}


async def test_every_member_costs_one_llm_call_and_an_unchanged_one_none(site: Site) -> None:
    bodies = jobs_of(range(100, 160))
    again = [{**body, "jobId": str(uuid.uuid4())} for body in bodies]
    async with worker(site.environment) as process:
        await site.backend.publish(bodies)
        await all_succeeded(site, bodies)
        assert site.llm.n_calls == 60
        await site.backend.publish(again)
        await all_succeeded(site, again)
        metrics = await process.metrics()
    assert site.llm.n_calls == 60
    assert "songs_ai_recommendations_total{" in metrics


async def test_four_jobs_of_one_listener_at_once_share_one_llm_call_between_two_workers(site: Site) -> None:
    site.llm.delay_s = 0.3
    bodies = [{**body, "jobId": str(uuid.uuid4())} for body in jobs_of(range(200, 210)) for _ in range(4)]
    async with worker(site.environment), worker(site.environment):
        await site.backend.publish(bodies)
        await all_succeeded(site, bodies)
    assert site.llm.n_calls == 10


async def test_the_same_job_delivered_five_times_is_done_once(site: Site) -> None:
    (body,) = jobs_of([300])
    async with worker(site.environment), worker(site.environment):
        await site.backend.publish([body] * 5)
        await all_succeeded(site, [body])
        await until(lambda: queues_are_empty(site), within_s=20)
    assert site.llm.n_calls == 1


async def test_a_song_deactivated_in_mysql_is_gone_from_the_next_result(site: Site) -> None:
    body = job_body(7, [3, 4, 5])
    async with worker({**site.environment, "INDEX_REFRESH_S": "3600"}):
        await site.backend.publish([body])
        await all_succeeded(site, [body])
        first = (await site.backend.result(body["jobId"]))["candidates"][0]["song_id"]
        await asyncio.to_thread(update_song, site.environment["DATABASE_URL"], first, is_active=False)
        changed = job_body(7, [3, 4, 6])
        await site.backend.publish([changed])
        await all_succeeded(site, [changed])
    shown = {candidate["song_id"] for candidate in (await site.backend.result(changed["jobId"]))["candidates"]}
    assert first not in shown


async def test_an_invalid_job_is_dead_lettered_with_its_reason_and_its_poller_is_told(site: Site) -> None:
    body = job_body(7, [1]) | {"topK": 0}
    async with worker(site.environment):
        await site.backend.publish_raw(b"{not json")
        await site.backend.publish([body])
        statuses = await site.backend.wait([body["jobId"]], 20)
        letters = await dead_letters(site, 2)
    assert statuses[body["jobId"]]["status"] == "failed"
    assert "topK" in statuses[body["jobId"]]["error.message"]
    assert {bytes(letter.body) for letter in letters} == {b"{not json", orjson.dumps(body)}
    assert {letter.headers["x-dead-letter-reason"] for letter in letters} == {"invalid"}
    assert all(letter.headers["__TypeId__"] for letter in letters)


async def test_a_job_published_from_the_command_line_is_printed_as_the_backend_would_read_it(site: Site) -> None:
    command = ("publish", "--member", "7", "--favorites", "3,4,5", "--locale", "en", "--wait")
    async with worker(site.environment):
        first, again = [await run_command(*command, environment=site.environment) for _ in range(2)]
    for printed in (first, again):
        assert faults_of(orjson.loads(printed.out), {3, 4, 5}, CATALOGUE) == []
    assert site.llm.n_calls == 1


async def test_older_clients_ask_over_http(site: Site) -> None:
    await asyncio.to_thread(like, site.environment["DATABASE_URL"], 8, 10, 11)
    likes = {"memberId": 7, "favorite_song_ids": [3, 4, 5]}
    async with worker(site.environment) as process, process.client() as client:
        assert (await client.post("/recommend/cached", json={"memberId": 7})).status_code == 404
        queued = (await client.post("/recommend", json=likes)).json()
        assert queued["status"] == "queued"
        await site.backend.wait([queued["jobId"]], 20, until={"succeeded"})
        completed = (await client.post("/recommend", json=likes)).json()
        result = await site.backend.result(queued["jobId"])
        assert (completed["status"], completed["generated_date"]) == ("completed", result["generated_date"])
        cached = (await client.post("/recommend/cached", json={"memberId": 7})).json()
        assert (cached["cached"], cached["groups"]) == (True, result["groups"])
        assert (await client.post("/favorites/updated", json={**likes, "memberId": 9})).json()["status"] == "queued"
        warmed = (await client.post("/warm/active?limit=5")).json()
        assert (warmed["status"], bool(warmed["task_id"])) == ("queued", True)
        await until(lambda: has_view(site, 8), within_s=20)
        await until(lambda: has_view(site, 9), within_s=20)


async def test_a_site_that_forbids_declaring_is_served_with_the_backends_own_queues(
    amqp_url: str, mysql_url: str, redis_url: str, llm_server: LLMServer
) -> None:
    prefix = f"e2e.{uuid.uuid4().hex[:8]}"
    theirs = build_topology(prefix, (5, 30, 120), batch=False, events=False)
    await fill_catalogue(mysql_url)
    await asyncio.to_thread(like, mysql_url, 8, 10, 11)
    async with await aio_pika.connect(amqp_url) as connection, connection.channel() as channel:
        await declare_topology(channel, theirs, timeout_s=10)
    environment = {
        "BROKER_URL": amqp_url,
        "DATABASE_URL": mysql_url,
        "REDIS_URL": redis_url,
        "OPENAI_BASE_URL": llm_server.base_url,
        "NAME_PREFIX": prefix,
        "TOPOLOGY_MODE": "passive",
    }
    async with (
        open_backend(amqp_url, redis_url, prefix) as backend,
        worker(environment) as process,
        process.client() as client,
    ):
        site = Site(environment, backend, llm_server, prefix)
        bodies = jobs_of([7])
        await backend.publish(bodies)
        await all_succeeded(site, bodies)
        assert (await client.post("/warm/active?limit=5")).status_code == 200
        await until(lambda: has_view(site, 8), within_s=20)
    await delete_topology(amqp_url, theirs)


async def test_an_answer_from_the_cache_never_holds_a_song_deactivated_since(site: Site) -> None:
    first, second = job_body(7, [3, 4, 5]), job_body(7, [5, 4, 3])
    async with worker({**site.environment, "INDEX_REFRESH_S": "3600"}):
        await site.backend.publish([first])
        await all_succeeded(site, [first])
        gone = (await site.backend.result(first["jobId"]))["candidates"][0]["song_id"]
        await asyncio.to_thread(update_song, site.environment["DATABASE_URL"], gone, is_active=False)
        await site.backend.publish([second])
        await all_succeeded(site, [second])
    assert gone not in {song["song_id"] for song in (await site.backend.result(second["jobId"]))["candidates"]}


# --- provisional results ---


async def test_a_member_who_has_nothing_is_shown_the_ranked_list_until_the_llm_has_answered(site: Site) -> None:
    site.llm.delay_s = 2.5
    body = job_body(7, [3, 4, 5])
    async with worker(site.environment) as process, process.client() as client:
        await site.backend.publish([body])
        await site.llm.called(1)
        latest, view = await site.backend.json("latest:recommendation:7"), await site.backend.json("recommend:7")
        cached = (await client.post("/recommend/cached", json={"memberId": 7})).json()
        fields = (await site.backend.statuses([body["jobId"]]))[body["jobId"]]
        assert fields["status"] == "running"
        assert not await site.backend.exists(f"job:result:{body['jobId']}")
        await all_succeeded(site, [body])
        metrics = await process.metrics()
    assert latest["provisional"] is view["provisional"] is cached["provisional"] is True
    assert (latest["status"], latest["model"], len(latest["candidates"])) == ("completed", "offline", 50)
    assert faults_of(latest, {3, 4, 5}, CATALOGUE) == []
    assert all(candidate["reason"] for candidate in latest["candidates"])
    final = await site.backend.json("latest:recommendation:7")
    assert final == await site.backend.result(body["jobId"])
    assert final["provisional"] is (await site.backend.json("recommend:7"))["provisional"] is False
    assert 'songs_ai_provisional_results_total{outcome="written"} 1.0' in metrics
    assert "songs_ai_provisional_result_duration_seconds_count 1.0" in metrics


async def test_what_a_killed_worker_showed_is_replaced_by_the_next_workers_result(site: Site) -> None:
    site.llm.delay_s = 2.5
    body = job_body(7, [3, 4, 5])
    first = WorkerProcess(site.environment, forked=True)
    await first.start()
    try:
        await site.backend.publish([body])
        await site.llm.called(1)
    finally:
        await first.kill()
    assert (await site.backend.json("latest:recommendation:7"))["provisional"]
    site.llm.delay_s = 0
    async with worker(site.environment):
        await all_succeeded(site, [body])
    assert await site.backend.json("latest:recommendation:7") == await site.backend.result(body["jobId"])


async def test_a_member_who_has_a_result_keeps_it_until_the_next_one_is_there(site: Site) -> None:
    first, second = job_body(7, [3, 4, 5]), job_body(7, [3, 4, 6])
    async with worker(site.environment):
        await site.backend.publish([first])
        await all_succeeded(site, [first])
        site.llm.delay_s = 2.5
        await site.backend.publish([second])
        await site.llm.called(2)
        assert await site.backend.json("latest:recommendation:7") == await site.backend.result(first["jobId"])
        await all_succeeded(site, [second])
    assert await site.backend.json("latest:recommendation:7") == await site.backend.result(second["jobId"])


async def test_a_site_that_wants_no_provisional_results_gets_none(site: Site) -> None:
    site.llm.delay_s = 2.5
    body = job_body(7, [3, 4, 5])
    async with worker({**site.environment, "PROVISIONAL_TTL_S": "0"}):
        await site.backend.publish([body])
        await site.llm.called(1)
        assert not await site.backend.exists("latest:recommendation:7")
        await all_succeeded(site, [body])


# --- the LLM's faults ---


async def test_whatever_the_llm_does_every_job_ends_with_a_usable_result(site: Site) -> None:
    async with worker(site.environment):
        for number, fault in enumerate(Fault):
            site.llm.fail(fault, retry_after_s=30 if fault is Fault.RATE_LIMITED else None)
            bodies = jobs_of(range(4000 + 10 * number, 4004 + 10 * number))
            await site.backend.publish(bodies)
            await all_succeeded(site, bodies, timeout_s=30)
            for body in bodies:
                result = await site.backend.result(body["jobId"])
                assert result["degraded"] or fault in REPAIRABLE, f"{fault} left no trace in the result"
                assert all(song["reason"] for group in result["groups"] for song in group["songs"])
            site.llm.heal()


# --- the worker's own end ---


async def test_a_killed_workers_jobs_all_succeed_with_the_next_worker(site: Site) -> None:
    site.llm.delay_s = 0.2
    bodies = jobs_of(range(500, 600))
    environment = {**site.environment, "CONCURRENCY": "16"}
    first = WorkerProcess(environment, forked=True)
    await first.start()
    try:
        await site.backend.publish(bodies)
        await site.llm.called(30)
    finally:
        await first.kill()
    async with worker(environment):
        await all_succeeded(site, bodies)
        await until(lambda: queues_are_empty(site), within_s=20)


async def test_sigterm_lets_running_jobs_end_and_leaves_the_rest_to_others(site: Site) -> None:
    site.llm.delay_s = 0.5
    bodies = jobs_of(range(600, 640))
    environment = {**site.environment, "CONCURRENCY": "8"}
    async with worker(environment) as process:
        await site.backend.publish(bodies)
        await site.llm.called(8)
        assert await process.terminate() == 0
        statuses = await site.backend.statuses([body["jobId"] for body in bodies])
        assert {fields["status"] for fields in statuses.values()} == {"succeeded", "queued"}
        n_calls = site.llm.n_calls
    async with worker(environment):
        await all_succeeded(site, bodies)
    assert site.llm.n_calls == n_calls + sum(fields["status"] == "queued" for fields in statuses.values())


async def test_a_worker_that_drains_is_alive_but_not_ready(site: Site) -> None:
    site.llm.delay_s = 5
    bodies = jobs_of(range(650, 652))
    async with worker(site.environment) as process, process.client() as client:
        await site.backend.publish(bodies)
        await site.llm.called(2)
        process.send(signal.SIGTERM)

        async def says_that_it_ends() -> bool:
            health = await client.get("/health/ready")
            return (health.status_code, health.json()["reason"]) == (503, ENDING)

        await until(says_that_it_ends, within_s=4.5)
        assert (await client.get("/health/live")).status_code == 200
        statuses = await site.backend.statuses([body["jobId"] for body in bodies])
        assert {fields["status"] for fields in statuses.values()} == {"running"}
        await all_succeeded(site, bodies)
        assert await process.ended() == 0
        assert "dependency_check_failed" not in process.log.partition("shutdown_requested")[2]


async def test_sigterm_beyond_the_grace_gives_running_jobs_back(site: Site) -> None:
    site.llm.delay_s = 2.5
    bodies = jobs_of(range(640, 644))
    async with worker({**site.environment, "SHUTDOWN_GRACE_S": "0.2"}) as process:
        await site.backend.publish(bodies)
        await site.llm.called(4)
        assert await process.terminate() == 0
    site.llm.delay_s = 0
    async with worker(site.environment):
        await all_succeeded(site, bodies)


async def test_a_worker_that_waits_for_mysql_says_so_and_can_be_stopped(site: Site) -> None:
    away = {**site.environment, "DATABASE_URL": "mysql://root@127.0.0.1:1/songs"}
    process = WorkerProcess(away, forked=True)
    try:
        await process.launch()
        health = await process.first_health(within_s=30)
        assert health.status_code == 503
        assert health.json()["checks"]["database"]["status"] == "unavailable"
        assert health.json()["checks"]["index"]["reason"] == "index: not loaded yet"
        assert await process.terminate() == 0
    finally:
        await process.kill()


async def test_a_port_that_is_taken_is_one_line(site: Site) -> None:
    async with worker(site.environment) as process:
        port = {"HTTP_PORT": str(process.http_port)}
        outcome = await run_command("worker", environment={**site.environment, **port, "LOG_LEVEL": "ERROR"})
    assert outcome.code == 2
    [line] = outcome.err.splitlines()
    assert orjson.loads(line)["error"].startswith("ConfigurationError: HTTP_HOST and HTTP_PORT")
    assert "Traceback" not in line


# --- the servers' faults ---


async def test_consumption_goes_on_after_the_broker_restarted(
    private_rabbitmq: BreakableServer, mysql_url: str, redis_url: str, llm_server: LLMServer
) -> None:
    async with open_site(private_rabbitmq.url, mysql_url, redis_url, llm_server) as site:
        site.llm.delay_s = 0.2
        before, after = jobs_of(range(700, 760)), jobs_of(range(760, 770))
        async with worker({**site.environment, "CONCURRENCY": "8"}) as process:
            await site.backend.publish(before)
            await site.llm.called(16)
            await asyncio.to_thread(private_rabbitmq.restart)
            await process.wait_ready(15)
            async with open_backend(private_rabbitmq.url, redis_url, site.prefix) as backend:
                await backend.publish(after)
            await all_succeeded(site, [*before, *after])


async def test_consumption_goes_on_after_the_job_queue_was_deleted(site: Site) -> None:
    site.llm.delay_s = 0.5
    running, later = jobs_of(range(800, 808)), jobs_of(range(808, 816))
    async with worker(site.environment) as process:
        await site.backend.publish(running)
        await site.llm.called(8)
        async with await aio_pika.connect(site.amqp_url) as connection, connection.channel() as channel:
            await channel.queue_delete(f"{site.prefix}.recommendation.q")
        await declare(site.amqp_url, site.prefix)
        await process.wait_ready(15)
        await site.backend.publish(later)
        await all_succeeded(site, [*running, *later])


async def test_a_result_that_is_ready_while_redis_is_away_is_not_lost(
    amqp_url: str, mysql_url: str, private_redis: BreakableServer, llm_server: LLMServer
) -> None:
    async with open_site(amqp_url, mysql_url, private_redis.url, llm_server) as site:
        site.llm.delay_s = 1.0
        bodies = jobs_of(range(900, 906))
        async with worker({**site.environment, "RETRY_DELAYS_S": "0.2,0.5,1", "MAX_ATTEMPTS": "20"}):
            await site.backend.publish(bodies)
            await site.llm.called(6)
            await asyncio.to_thread(private_redis.stop)
            await until(lambda: llm_idle(site), within_s=20)
            await asyncio.to_thread(private_redis.start)
            await all_succeeded(site, bodies)


async def test_jobs_wait_for_mysql_and_then_succeed(
    amqp_url: str, private_mysql: BreakableServer, redis_url: str, llm_server: LLMServer
) -> None:
    async with open_site(amqp_url, private_mysql.url, redis_url, llm_server) as site:
        bodies = jobs_of(range(1000, 1006))
        async with worker({**site.environment, "MAX_ATTEMPTS": "50"}) as process:
            await asyncio.to_thread(private_mysql.kill)
            await site.backend.publish(bodies)
            await until(lambda: retried(process), within_s=20)
            await asyncio.to_thread(private_mysql.start)
            await all_succeeded(site, bodies)


async def test_a_job_whose_tries_are_used_up_is_dead_lettered_and_failed(
    amqp_url: str, private_mysql: BreakableServer, redis_url: str, llm_server: LLMServer
) -> None:
    async with open_site(amqp_url, private_mysql.url, redis_url, llm_server) as site:
        (body,) = jobs_of([1100])
        async with worker({**site.environment, "MAX_ATTEMPTS": "2"}):
            await asyncio.to_thread(private_mysql.kill)
            await site.backend.publish([body])
            statuses = await site.backend.wait([body["jobId"]], 30)
            (letter,) = await dead_letters(site, 1)
    assert statuses[body["jobId"]]["status"] == "failed"
    assert statuses[body["jobId"]]["error.code"] == "DEPENDENCY_UNAVAILABLE"
    assert letter.headers["x-dead-letter-reason"] == "attempts_used_up"
    assert orjson.loads(letter.body) == {**body, "attempt": 1}


# --- looking ---


async def queues_are_empty(site: Site) -> bool:
    names = [queue.name for queue in build_topology(site.prefix, (0.2, 0.5, 1)).queues]
    async with await aio_pika.connect(site.amqp_url) as connection, connection.channel() as channel:
        declared = [await channel.declare_queue(name, passive=True) for name in names]
    return all(queue.declaration_result.message_count == 0 for queue in declared)


async def dead_letters(site: Site, n: int) -> list[aio_pika.abc.AbstractIncomingMessage]:
    async with await aio_pika.connect(site.amqp_url) as connection, connection.channel() as channel:
        queue = await channel.get_queue(f"{site.prefix}.recommendation.dlq")
        return [await queue.get(no_ack=True, timeout=10, fail=True) for _ in range(n) if await arrived(queue)]


async def arrived(queue: aio_pika.abc.AbstractQueue) -> bool:
    async def has_message() -> bool:
        return bool((await queue.declare()).message_count)

    await until(has_message, within_s=10)
    return True


async def has_view(site: Site, member_id: int) -> bool:
    return await site.backend.exists(f"recommend:{member_id}")


async def llm_idle(site: Site) -> bool:
    return site.llm.stats.in_flight == 0


async def retried(process: WorkerProcess) -> bool:
    return "job_retried" in process.log
