"""One leader among many workers starts what is due, each run once, whoever dies."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio
from apscheduler.triggers.interval import IntervalTrigger
from redis.asyncio import Redis

from core.schedule import MAX_TRIES, TaskOutcome
from services.clock import SystemClock
from services.database import Database
from services.leader_lease import FENCE_KEY, LEASE_KEY, RedisLeaderLease
from services.redis_client import open_redis
from services.task_runs import SqlTaskRuns
from tests.support.catalogue import OnMySql, WithTables
from tests.support.messaging import eventually
from workers.scheduler import Ended, Scheduler

LEASE_S = 0.6
NEVER = "0 0 29 2 *"
YESTERDAY = datetime.now(UTC) - timedelta(days=1)
DONE = Ended(TaskOutcome.SUCCEEDED, "done")


class Watched:
    """A ``SchedulerObserver`` that remembers."""

    def __init__(self) -> None:
        self.leads = False
        self.ended: list[tuple[str, str]] = []
        self.succeeded: list[str] = []

    def leading(self, *, leads: bool) -> None:
        self.leads = leads

    def task_ended(self, task: str, *, outcome: str, seconds: float) -> None:
        assert seconds >= 0
        self.ended.append((task, outcome))

    def task_succeeded(self, task: str, at: datetime) -> None:
        self.succeeded.append(task)


class Worker:
    """One of the workers of a site; ``dies`` as by SIGKILL: its lease is not let go, its runs stay open."""

    def __init__(self, site: "Site", name: str, expressions: dict[str, str], *, lease: RedisLeaderLease) -> None:
        self.name, self.lease = name, lease
        self.observer = Watched()
        self.started: list[str] = []
        self.release = asyncio.Event()
        self.release.set()
        self.ends: Ended | Exception = DONE
        self.site = site
        self._scheduler = Scheduler(
            lease,
            SqlTaskRuns(site.database),
            self._start,
            expressions=expressions,
            time_zone="UTC",
            lease_s=LEASE_S,
            worker=name,
            clock=SystemClock(),
            observer=self.observer,
        )
        self._running: asyncio.Task[None] | None = None

    async def _start(self, task: str) -> Ended:
        self.started.append(task)
        self.site.started.append(task)
        await self.release.wait()
        if isinstance(self.ends, Exception):
            raise self.ends
        return self.ends

    def run(self) -> None:
        assert self._running is None
        self._running = asyncio.create_task(self._scheduler.run())

    async def stop(self) -> None:
        if self._running is not None:
            self._running.cancel()
            with suppress(asyncio.CancelledError):
                await self._running

    async def die(self) -> None:
        async def nothing() -> None: ...

        self.lease.let_go = nothing  # type: ignore[method-assign] # the dead say nothing
        await self.stop()


class Site:
    """Workers on one database and one Redis."""

    def __init__(self, database: Database, redis: Redis, redis_url: str) -> None:
        self.database, self.redis, self.redis_url = database, redis, redis_url
        self.runs = SqlTaskRuns(database)
        self.started: list[str] = []
        self._workers: list[Worker] = []

    def worker(self, name: str, expressions: dict[str, str]) -> Worker:
        lease = RedisLeaderLease(self.redis, lease_s=LEASE_S, group="site")
        self._workers.append(Worker(self, name, expressions, lease=lease))
        return self._workers[-1]

    async def stop(self) -> None:
        for each in self._workers:
            await each.stop()


def passed(hours: int = 2) -> str:
    """A daily expression whose last time was so long ago."""
    return f"0 {(datetime.now(UTC) - timedelta(hours=hours)).hour} * * *"


@asynccontextmanager
async def site_on(database: Database, redis_url: str) -> AsyncIterator[Site]:
    async with open_redis(redis_url, max_connections=20, timeout_s=5) as redis, AsyncExitStack() as stack:
        site = Site(database, redis, redis_url)
        stack.push_async_callback(site.stop)
        yield site


class TestScheduler(OnMySql, WithTables):
    @pytest_asyncio.fixture
    async def site(self, database: Database, redis_url: str) -> AsyncIterator[Site]:
        async with site_on(database, redis_url) as site:
            yield site

    async def test_of_three_workers_one_leads(self, site: Site) -> None:
        workers = [site.worker(name, {"refresh": NEVER}) for name in "abc"]
        for each in workers:
            each.run()
        await eventually(lambda: any(each.observer.leads for each in workers))
        for _ in range(20):
            assert sum(each.observer.leads for each in workers) == 1
            await asyncio.sleep(LEASE_S / 10)

    async def test_what_was_missed_is_caught_up_once_by_the_leader_alone(self, site: Site) -> None:
        await site.runs.add("refresh", YESTERDAY - timedelta(days=9))
        workers = [site.worker(name, {"refresh": passed()}) for name in "abc"]
        for each in workers:
            each.run()
        await eventually(lambda: any(each.observer.ended for each in workers))
        leader = next(each for each in workers if each.observer.leads)
        await leader.stop()
        await eventually(lambda: any(each.observer.leads for each in workers if each is not leader))
        assert site.started == ["refresh"]
        run = (await site.runs.last())["refresh"]
        assert (run.outcome, run.detail, run.worker) == (TaskOutcome.SUCCEEDED, "done", leader.name)
        assert leader.observer.succeeded == ["refresh"]

    async def test_a_task_that_is_new_waits_for_its_first_time(self, site: Site) -> None:
        worker = site.worker("a", {"refresh": passed()})
        worker.run()
        await eventually(lambda: worker.observer.leads)
        async with asyncio.timeout(5):
            while not await site.runs.last():  # noqa: ASYNC110 - a row of a database
                await asyncio.sleep(0.01)
        assert site.started == []

    async def test_two_leaders_killed_in_turn_and_the_run_is_brought_to_its_end_once(self, site: Site) -> None:
        await site.runs.add("refresh", YESTERDAY - timedelta(days=1))
        a, b, c = (site.worker(name, {"refresh": passed()}) for name in "abc")
        a.release.clear()
        a.run()
        for victim, heir in ((a, b), (b, c)):
            await eventually(lambda victim=victim: bool(victim.started))  # type: ignore[misc] # bound on purpose
            heir.release.clear()
            before = asyncio.get_running_loop().time()
            await victim.die()
            heir.run()
            await eventually(lambda heir=heir: heir.observer.leads)  # type: ignore[misc]
            assert asyncio.get_running_loop().time() - before < 3 * LEASE_S
        await eventually(lambda: bool(c.started))
        c.release.set()
        await eventually(lambda: bool(c.observer.ended))
        run = (await site.runs.last())["refresh"]
        assert (run.n_tries, run.fence, run.worker, run.outcome) == (3, 3, "c", TaskOutcome.SUCCEEDED)
        assert site.started == ["refresh"] * 3
        assert not a.observer.ended
        assert not b.observer.ended

    async def test_a_run_that_kills_every_leader_is_given_up_until_its_next_time(self, site: Site) -> None:
        await site.runs.add("fit", datetime.now(UTC))
        for fence in range(1, MAX_TRIES + 1):
            await site.runs.begin("fit", at=datetime.now(UTC), fence=fence, worker="dead")
        worker = site.worker("a", {"fit": NEVER, "refresh": passed()})
        await site.runs.add("refresh", YESTERDAY - timedelta(days=1))
        worker.run()
        await eventually(lambda: bool(worker.observer.ended))
        assert site.started == ["refresh"]

    async def test_a_leader_that_was_paused_for_too_long_stops_its_tasks_and_writes_nothing(self, site: Site) -> None:
        await site.runs.add("refresh", YESTERDAY - timedelta(days=1))
        paused, heir = site.worker("a", {"refresh": passed()}), site.worker("b", {"refresh": passed()})
        paused.release.clear()
        paused.run()
        await eventually(lambda: bool(paused.started))
        # As if it had been stopped for longer than its lease, and another had come since.
        await site.redis.set(f"{LEASE_KEY}:site", "another's token", px=200)
        heir.run()
        await eventually(lambda: heir.observer.leads)
        await eventually(lambda: not paused.observer.leads)
        await eventually(lambda: bool(heir.observer.ended))
        run = (await site.runs.last())["refresh"]
        assert (run.worker, run.fence, run.n_tries) == ("b", 2, 2)
        assert not paused.observer.ended

    async def test_from_its_election_on_a_leader_alone_may_begin_what_nobody_has_begun_yet(self, site: Site) -> None:
        old, new = site.worker("a", {"refresh": NEVER}), site.worker("b", {"refresh": NEVER})
        old.run()
        await eventually(lambda: old.observer.leads)
        await old.die()
        new.run()
        async with asyncio.timeout(5):
            while [run.fence for run in (await site.runs.last()).values()] != [2]:  # noqa: ASYNC110 - a row of a database
                await asyncio.sleep(0.01)
        # As the old one would at the task's time, had it only been paused.
        assert not await site.runs.begin("refresh", at=datetime.now(UTC), fence=1, worker="a")

    async def test_a_leader_whose_redis_says_nothing_stops_its_tasks_when_its_lease_ends(self, site: Site) -> None:
        await site.runs.add("refresh", YESTERDAY - timedelta(days=1))
        worker = site.worker("a", {"refresh": passed()})
        worker.release.clear()
        worker.run()
        await eventually(lambda: bool(worker.started))
        asked = asyncio.Event()

        async def no_answer(*, above: int) -> int:
            asked.set()
            await asyncio.sleep(3600)
            return above

        worker.lease.hold = no_answer  # type: ignore[method-assign]
        await asyncio.wait_for(asked.wait(), 5)
        await eventually(lambda: not worker.observer.leads, within_s=3 * LEASE_S)
        assert not worker.observer.ended

    async def test_a_redis_that_forgot_everything_does_not_take_fences_back(self, site: Site) -> None:
        await site.runs.add("refresh", datetime.now(UTC))
        await site.runs.begin("refresh", at=YESTERDAY, fence=41, worker="long ago")
        assert await site.redis.get(f"{FENCE_KEY}:site") is None
        worker = site.worker("a", {"refresh": passed()})
        worker.run()
        await eventually(lambda: bool(worker.observer.ended))
        assert (await site.runs.last())["refresh"].fence == 42

    async def test_a_task_that_fails_or_raises_is_written_down_and_the_others_go_on(self, site: Site) -> None:
        for task in ("embed", "refresh"):
            await site.runs.add(task, YESTERDAY - timedelta(days=1))
        worker = site.worker("a", {"embed": passed(), "refresh": passed()})
        worker.ends = RuntimeError("no space left")
        worker.run()
        await eventually(lambda: len(worker.observer.ended) == 2)
        last = await site.runs.last()
        assert {run.outcome for run in last.values()} == {TaskOutcome.FAILED}
        assert last["embed"].detail == "RuntimeError: no space left"
        assert worker.observer.succeeded == []

    async def test_a_leader_that_stops_lets_go_at_once(self, site: Site) -> None:
        worker = site.worker("a", {"refresh": NEVER})
        worker.run()
        await eventually(lambda: worker.observer.leads)
        await worker.stop()
        assert await site.redis.get(f"{LEASE_KEY}:site") is None
        assert not worker.observer.leads

    async def test_times_come_round(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        """The library fires at a time of its trigger: the next whole minute is brought near."""

        def every_second(expression: str, zone: object) -> object:
            assert expression == "* * * * *"
            return IntervalTrigger(seconds=1, timezone="UTC")

        monkeypatch.setattr("workers.scheduler.CronTrigger.from_crontab", every_second)
        worker = site.worker("a", {"digest": "* * * * *"})
        worker.run()
        await eventually(lambda: len(worker.observer.ended) >= 2)
        assert set(worker.observer.ended) == {("digest", "succeeded")}


async def test_two_sites_of_one_redis_have_a_leader_each(redis_url: str) -> None:
    async with open_redis(redis_url, max_connections=5, timeout_s=5) as redis:
        one, other = (RedisLeaderLease(redis, lease_s=5, group=group) for group in ("one", "other"))
        assert await one.hold(above=0) == 1
        assert await other.hold(above=0) == 1
        assert await RedisLeaderLease(redis, lease_s=5, group="one").hold(above=0) is None


async def test_a_fence_stays_through_a_term_and_rises_with_the_next(redis_url: str) -> None:
    async with open_redis(redis_url, max_connections=5, timeout_s=5) as redis:
        one, other = (RedisLeaderLease(redis, lease_s=5, group="site") for _ in range(2))
        assert [await one.hold(above=7) for _ in range(3)] == [8, 8, 8]
        await other.let_go()
        assert await other.hold(above=8) is None
        await one.let_go()
        assert await other.hold(above=8) == 9
