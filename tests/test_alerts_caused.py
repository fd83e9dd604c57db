"""Every alert, caused: real servers break, real workers tell, Prometheus and Alertmanager pass it on, and it arrives.

What takes minutes at a site takes a second here: the rules are a copy with other waits and windows and, where nothing
can be made that bad in seconds, other thresholds (docs/runbook.md, "What was run").
"""

import asyncio
import json
import re
import resource
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aio_pika
import pytest
import sqlalchemy as sa
from redis.asyncio import Redis

from core.schedule import TaskOutcome
from services.database import Database
from services.task_runs import SqlTaskRuns
from tests.support.alert_files import alerts, hurried
from tests.support.alertmanager import StartAlertmanager
from tests.support.backend import open_backend
from tests.support.catalogue import connection
from tests.support.faulty_wire import faulty_wire
from tests.support.llm_faults import Fault
from tests.support.llm_server import LLMServer
from tests.support.on_call import OnCall, on_call
from tests.support.prometheus import PrivatePrometheus, Scraping, StartPrometheus
from tests.support.servers import BreakableServer
from tests.support.waiting import until
from tests.support.worker_process import WorkerProcess
from tests.test_end_to_end import Site, jobs_of, open_site
from workers.topology import build_topology

pytestmark = pytest.mark.timeout(240)

PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Tools:
    """What a watch is made of."""

    prometheus: StartPrometheus
    alertmanager: StartAlertmanager
    people: OnCall
    directory: Path


@dataclass(frozen=True, slots=True)
class Watch:
    """A site whose workers are watched, and the people who are told."""

    site: Site
    people: OnCall
    prometheus: PrivatePrometheus
    workers: Sequence[WorkerProcess]

    async def quiet(self, *names: str) -> None:
        """Return once none of these is pending or firing, as while workers start; what came so far is forgotten."""

        async def none_is_active() -> bool:
            known = await asyncio.to_thread(self.prometheus.alerts)
            return not {each["labels"]["alertname"] for each in known} & set(names)

        await until(none_is_active, within_s=PATIENCE_S)
        self.people.forget()

    async def tells(self, name: str, **labels: str) -> None:
        """Return once people were told of the alert, whose summary names these labels."""
        rule = alerts()[name]
        summary = re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda found: labels[found[1]], rule["annotations"]["summary"])
        try:
            await self.people.told(f"[{rule['labels']['severity']}] {summary}", within_s=PATIENCE_S)
        except TimeoutError as error:
            known = await asyncio.to_thread(self.prometheus.alerts)
            raise TimeoutError(f"{error}; known: {[each['labels'] for each in known]}") from error


@asynccontextmanager
async def watching(
    tools: Tools,
    site: Site,
    *,
    differing: Sequence[Mapping[str, str]] = ({},),
    thresholds: Mapping[str, str] | None = None,
    settings: Mapping[str, str] | None = None,
) -> AsyncIterator[Watch]:
    """Workers of the site with these settings, one for each of ``differing``, and who watches them.

    That is a Prometheus that scrapes them, and an Alertmanager that it tells.
    """
    workers = [WorkerProcess({**site.environment, **(settings or {}), **each}, forked=True) for each in differing]
    async with AsyncExitStack() as stack:
        for each in workers:
            stack.push_async_callback(_ended, each)
        await asyncio.gather(*(each.start() for each in workers))
        alertmanager = await asyncio.to_thread(tools.alertmanager, tools.people.routes)
        scraping = Scraping(
            targets={"songs-ai": [address(each) for each in workers]},
            rules=[hurried(tools.directory, thresholds or {})],
            alertmanagers=[f"127.0.0.1:{alertmanager.port}"],
            # a scrape is given as long, and runs all health checks
            interval="2s",
        )
        prometheus = await asyncio.to_thread(tools.prometheus, scraping)
        all_up = f'sum(up{{job="songs-ai"}}) == {len(workers)}'
        await asyncio.to_thread(prometheus.wait_for, all_up)
        yield Watch(site, tools.people, prometheus, workers)


async def _ended(worker: WorkerProcess) -> None:
    if worker.is_running:
        worker.send(signal.SIGCONT)
        await worker.kill()


def address(worker: WorkerProcess) -> str:
    return f"127.0.0.1:{worker.http_port}"


@pytest.fixture
async def tools(
    prometheus_server: StartPrometheus, alertmanager_server: StartAlertmanager, tmp_path: Path
) -> AsyncIterator[Tools]:
    async with on_call(tmp_path) as people:
        yield Tools(prometheus_server, alertmanager_server, people, tmp_path)


@pytest.fixture
async def site(amqp_url: str, mysql_url: str, redis_url: str, llm_server: LLMServer) -> AsyncIterator[Site]:
    async with open_site(amqp_url, mysql_url, redis_url, llm_server, LEADER_LEASE_S="2", INDEX_REFRESH_S="0.5") as site:
        yield site


@contextmanager
def table_away(site: Site, name: str) -> Iterator[None]:
    """Without a table, as after a migration that went wrong: MySQL itself answers."""
    url = site.environment["DATABASE_URL"]
    _execute(url, f"RENAME TABLE {name} TO {name}_away")
    try:
        yield
    finally:
        _execute(url, f"RENAME TABLE {name}_away TO {name}")


def _execute(url: str, statement: str) -> None:
    with connection(url) as opened:
        opened.execute(sa.text(statement))


@asynccontextmanager
async def again_and_again(act: Callable[[], Awaitable[object]], every_s: float = 0.2) -> AsyncIterator[None]:
    """While the block runs."""

    async def repeat() -> None:
        while True:
            await act()
            await asyncio.sleep(every_s)

    repeating = asyncio.create_task(repeat())
    try:
        yield
    finally:
        repeating.cancel()
        with suppress(asyncio.CancelledError):
            await repeating


def new_jobs(site: Site, n: int = 2, **fields: object) -> Callable[[], Awaitable[object]]:
    """Publishes as many jobs of new members at every call."""
    members = iter(range(1000, 1_000_000, n))

    async def publish() -> None:
        first = next(members)
        await site.backend.publish(jobs_of(range(first, first + n), **fields))

    return publish


# --- workers ---


async def test_a_killed_worker_is_told_of_by_slack_mail_and_webhook_and_so_is_the_last_one(
    site: Site, tools: Tools
) -> None:
    async with watching(tools, site, differing=({}, {})) as watch:
        await watch.tells("SongsAiApiDown")
        one, other = watch.workers
        await one.kill()
        await watch.tells("SongsAiFewerWorkers")
        await watch.tells("SongsAiWorkerDown", instance=address(one))
        title = f"[critical] Worker {address(one)} is down"
        await until(lambda: heard_everywhere(watch.people, title), within_s=20)
        posted = [alert["labels"] for body in watch.people.posted("webhook") for alert in body["alerts"]]
        assert [each["instance"] for each in posted if each["alertname"] == "SongsAiWorkerDown"] == [address(one)]
        assert watch.people.posted("heartbeat")[0]["alerts"][0]["labels"]["alertname"] == "SongsAiWatchdog"
        await watch.quiet("SongsAiNoWorker")
        await other.kill()
        await watch.tells("SongsAiNoWorker")


async def heard_everywhere(people: OnCall, title: str) -> bool:
    slack = {body["attachments"][0]["title"] for body in people.posted("slack")}
    mails = {subject for subject, _ in people.mails()}
    return title in slack & mails and bool(people.posted("webhook")) and bool(people.posted("heartbeat"))


@pytest.mark.long
async def test_a_worker_that_is_in_trouble_itself(site: Site, tools: Tools) -> None:
    """Memory by the threshold; its limit of files is lowered, it is stopped again and again, and it is restarted."""
    thresholds = {"> 0.85": "> 0.0001", "[15m]) > 2": "[15m]) > 0"}
    async with watching(tools, site, thresholds=thresholds) as watch:
        (worker,) = watch.workers
        instance = address(worker)
        await watch.tells("SongsAiMemoryHigh", instance=instance)
        (n_open,) = await asyncio.to_thread(watch.prometheus.query, "process_open_fds")
        _, hard = resource.prlimit(worker.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (round(n_open.value) + 4, hard))
        await watch.tells("SongsAiFilesRunOut", instance=instance)
        resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (hard, hard))

        async def hog() -> None:
            worker.send(signal.SIGSTOP)
            await asyncio.sleep(0.4)
            worker.send(signal.SIGCONT)

        async with again_and_again(hog, every_s=0.3):
            await watch.tells("SongsAiEventLoopSlow", instance=instance)
        await worker.kill()
        await worker.start()
        await watch.tells("SongsAiWorkerRestarting", instance=instance)


# --- what the workers depend on ---


@pytest.mark.long
async def test_redis_mysql_and_rabbitmq_that_are_stopped_in_turn(
    private_rabbitmq: BreakableServer,
    private_mysql: BreakableServer,
    private_redis: BreakableServer,
    llm_server: LLMServer,
    tools: Tools,
) -> None:
    urls = (private_rabbitmq.url, private_mysql.url, private_redis.url)
    async with open_site(*urls, llm_server) as site, watching(tools, site) as watch:
        await watch.quiet("SongsAiRedisFailing", "SongsAiDatabaseFailing", "SongsAiBrokerFailing")
        async with Redis.from_url(private_redis.url) as admin:
            used = (await admin.info("memory"))["used_memory"]
            await admin.config_set("maxmemory", round(used / 0.92))
            await watch.tells("SongsAiRedisFilling")
            await admin.config_set("maxmemory", 1)
            await watch.tells("SongsAiRedisFailing")
            await admin.config_set("maxmemory", 0)
        await watch.quiet("SongsAiRedisFailing")
        await asyncio.to_thread(private_redis.stop)
        await watch.tells("SongsAiRedisFailing")
        await asyncio.to_thread(private_redis.start)
        await asyncio.to_thread(private_mysql.stop)
        await watch.tells("SongsAiDatabaseFailing")
        await asyncio.to_thread(private_mysql.start)
        await asyncio.to_thread(private_rabbitmq.stop)
        await watch.tells("SongsAiBrokerFailing")
        await asyncio.to_thread(private_rabbitmq.start)
        await watch.workers[0].wait_ready(60)


@pytest.mark.long
async def test_a_worker_that_is_cut_off_and_a_queue_that_is_not_ours_any_more(site: Site, tools: Tools) -> None:
    async with (
        faulty_wire(site.environment["REDIS_URL"]) as wire,
        watching(tools, site, differing=({}, {"REDIS_URL": wire.url})) as watch,
    ):
        await watch.quiet("SongsAiCutOff", "SongsAiNotConsuming")
        await wire.cut()
        await watch.tells("SongsAiCutOff", instance=address(watch.workers[1]), dependency="redis")
        await wire.start()
        await watch.quiet("SongsAiCutOff")
        await _replace_queue(site)
        await watch.tells("SongsAiNotConsuming")


async def _replace_queue(site: Site) -> None:
    """By one with other arguments, which no worker consumes from; again where a worker was faster to bring its own."""
    name = build_topology(site.prefix).main.queue
    async with await aio_pika.connect(site.amqp_url) as connection:
        while True:
            with suppress(aio_pika.exceptions.ChannelPreconditionFailed):
                async with connection.channel() as channel:
                    await channel.queue_delete(name)
                    await channel.declare_queue(name, durable=True, arguments={"x-max-length": 5})
                    return


# --- jobs ---


@pytest.mark.long
async def test_jobs_that_fail_and_messages_that_are_given_up(site: Site, tools: Tools) -> None:
    """Tables are away; ten messages are no jobs."""
    async with watching(tools, site) as watch, watch.workers[0].client() as client:
        for _ in range(10):
            await site.backend.publish_raw(b"{no job")
        await watch.tells("SongsAiDeadLettersRising", route="main")
        await watch.tells("SongsAiDeadLettersWait", kind="jobs")
        with table_away(site, "song"):
            async with (
                again_and_again(new_jobs(site)),
                again_and_again(lambda: client.post("/warm/active", params={"limit": 1})),
            ):
                await watch.tells("SongsAiErrorRatio")
        with table_away(site, "song_like"):
            async with again_and_again(lambda: client.post("/warm/active", params={"limit": 1})):
                await watch.tells("SongsAiHttpErrors", route="/warm/active")


@pytest.mark.long
async def test_more_jobs_than_a_worker_can_do(site: Site, tools: Tools) -> None:
    """An LLM that takes two seconds, and one job at a time; the thresholds are seconds."""
    site.llm.delay_s = 2
    thresholds = {"p95_5m > 10": "p95_5m > 1", '"main"}) > 60': '"main"}) > 3', "> 6 * 3600": "> 3"}
    slow = {"CONCURRENCY": "1", "BATCH_CONCURRENCY": "1"}
    async with (
        watching(tools, site, thresholds=thresholds, settings=slow) as watch,
        open_backend(
            site.amqp_url, site.environment["REDIS_URL"], site.prefix, routing_key="recommendation.batch"
        ) as nightly,
    ):
        await nightly.publish(jobs_of(range(100, 140)))
        await site.backend.publish(jobs_of(range(200, 240)))
        await watch.tells("SongsAiJobsSlow")
        await watch.tells("SongsAiOldestJobTooOld")
        await watch.tells("SongsAiBacklog", route="batch")


# --- the LLM ---


@pytest.mark.long
async def test_an_llm_that_answers_nonsense_and_then_not_at_all(site: Site, tools: Tools) -> None:
    settings = {"LLM_BREAKER_FAILURES": "3", "LLM_BREAKER_COOL_DOWN_S": "5"}
    async with watching(tools, site, settings=settings) as watch:
        site.llm.fail(Fault.MALFORMED)
        async with again_and_again(new_jobs(site)):
            await watch.tells("SongsAiAnswersDegraded")
            site.llm.heal()
            site.llm.fail(Fault.SERVER_ERROR)
            await watch.tells("SongsAiBreakerOpen", model="gpt-4.1-mini")


@pytest.mark.long
async def test_money_that_runs_out(site: Site, tools: Tools) -> None:
    """A day's money is enough for some sixty calls."""
    price = {"input": 50, "output": 0.01}
    prices = json.dumps({"gpt-4.1-mini": price, "gpt-4.1": price})
    async with watching(tools, site, settings={"LLM_PRICES": prices, "LLM_DAILY_USD": "6"}) as watch:
        first = 100
        while await _spent_usd(watch.workers[0]) < 0.8 * 6:
            await site.backend.wait(await site.backend.publish(jobs_of(range(first, first + 4))), 30)
            first += 4
        await watch.tells("SongsAiLlmBudgetLow")
        async with again_and_again(new_jobs(site)):
            await watch.tells("SongsAiLlmBudgetSpent")


async def _spent_usd(worker: WorkerProcess) -> float:
    (value,) = re.findall(r"^songs_ai_llm_spend_today_usd (\S+)$", await worker.metrics(), re.MULTILINE)
    return float(value)


# --- upkeep ---


@pytest.mark.long
async def test_a_site_that_is_not_kept_up(site: Site, tools: Tools) -> None:
    """Another holds the lease, a task fails, the index cannot be renewed, and then the catalogue is withdrawn.

    Another task is due once a year, and so has not run for days.
    """
    hour = (datetime.now(UTC) - timedelta(hours=2)).hour
    in_half_a_year = f"0 0 1 {(datetime.now(UTC).month + 5) % 12 + 1} *"
    schedule = {"embed": f"0 {hour} * * *", "clean_up": in_half_a_year, "refresh": "", "fit": "", "digest": ""}
    await _missed(site, "embed")
    await _succeeded(site, "clean_up", datetime.now(UTC) - timedelta(days=3))
    thresholds = {"behind_seconds > 900": "behind_seconds > 3"}
    settings = {"SCHEDULE": json.dumps(schedule), "TIME_ZONE": "UTC"}
    async with watching(tools, site, thresholds=thresholds, settings=settings) as watch:
        instance = address(watch.workers[0])
        async with Redis.from_url(site.environment["REDIS_URL"]) as redis:
            await redis.set(f"songs_ai:leader:{site.prefix}", "a stranger", px=15_000)
            await watch.tells("SongsAiNoLeader")
        with table_away(site, "song"):
            await watch.tells("SongsAiIndexStale", instance=instance)
            await watch.tells("SongsAiTaskFailed", task="embed")
            said = await _last_words(site, "embed")
            assert re.search(r"table .*song|song.* doesn't exist", said), said
        _execute(site.environment["DATABASE_URL"], "UPDATE song SET is_active = 0, modified_at = NOW()")
        await watch.tells("SongsAiIndexEmpty")
        await watch.tells("SongsAiTaskOverdue", task="clean_up")


async def _missed(site: Site, task: str) -> None:
    database = Database(site.environment["DATABASE_URL"])
    try:
        await SqlTaskRuns(database).add(task, datetime.now(UTC) - timedelta(days=7))
    finally:
        await database.close()


async def _succeeded(site: Site, task: str, at: datetime) -> None:
    database = Database(site.environment["DATABASE_URL"])
    try:
        runs = SqlTaskRuns(database)
        await runs.add(task, at)
        assert await runs.begin(task, at=at, fence=0, worker="another")
        assert await runs.end(task, at=at, fence=0, outcome=TaskOutcome.SUCCEEDED, detail="")
    finally:
        await database.close()


async def _last_words(site: Site, task: str) -> str:
    """Of the run of it that ended last: why it failed."""
    database = Database(site.environment["DATABASE_URL"])
    try:
        return (await SqlTaskRuns(database).last())[task].detail
    finally:
        await database.close()


# --- all of them ---


def test_every_alert_is_caused_by_a_test_of_this_file() -> None:
    told = set(re.findall(r'(?:watch\.tells\(|"alertname"\] == )"(SongsAi\w+)"', Path(__file__).read_text("utf-8")))
    assert told == set(alerts())
