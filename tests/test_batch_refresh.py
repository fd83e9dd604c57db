"""A refresh through the Batch API: saved as jobs are, paid once whatever happens, and never newer than it is."""

import asyncio
import contextlib
import json
import re
import signal
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import aio_pika
import orjson
import pytest
from redis.asyncio import Redis

from commands.listing import LISTED
from config.llm_strategies import DEFAULT_STRATEGIES
from config.settings import Settings
from core.errors import ConfigurationError, DependencyUnavailable, PublishRefused
from core.ports.batches import BatchQuestion
from core.refresh_job import refresh_job
from models.job import Job
from services.answer_cache import ANSWER_PREFIX, FLIGHT_PREFIX, RedisAnswerCache
from services.batch_purse import RedisBatchPurse
from services.call_budgets import SPEND_PREFIX
from tests.support.batch_site import MODEL, PRICE, BatchSite, embed, fill, open_batch_site
from tests.support.catalogue import insert_songs, like
from tests.support.command import Outcome, run_command
from tests.support.llm_batches import BatchPlan, Hold
from tests.support.llm_server import LLMServer, read_prompt
from tests.support.messaging import delete_topology
from tests.support.notice_servers import hook_server
from tests.support.program_forks import fork_program
from tests.support.waiting import until
from tests.support.worker_process import WorkerProcess
from training.online_refresh import submit_refreshes
from workers.runtime.parts import embedded, open_parts
from workers.topology import build_topology

N_MEMBERS = 6
A_DEGRADED_ANSWER_LIVES_S = 600
TODAY = datetime(2026, 1, 1, tzinfo=ZoneInfo("Asia/Seoul"))


def settings_of(llm: LLMServer, directory: Path, **more: Any) -> Settings:
    given = Settings(_env_file=None, openai_base_url=llm.base_url, default_locale="en", **more)
    return embedded(given, directory)


@pytest.fixture
async def site(llm_server: LLMServer, tmp_path: Path) -> AsyncIterator[BatchSite]:
    settings = settings_of(llm_server, tmp_path)
    url = settings.database_url.get_secret_value()
    async with open_batch_site(settings, llm_server, url, n_members=N_MEMBERS) as site:
        yield site


def paid(site: BatchSite) -> list[int]:
    """How often each question was answered."""
    return list(site.llm.batches.paid.values())


async def nothing(_: int) -> None:
    """A progress report that goes nowhere."""


# --- what a run does ---


async def test_every_active_member_is_asked_about_once_and_answered_as_by_a_job(site: BatchSite) -> None:
    report = await site.run()
    assert (report.n_sent, report.outcomes["merged"], dict(report.statuses)) == (1, N_MEMBERS, {"completed": 1})
    assert paid(site) == [1] * N_MEMBERS
    for member in range(1, N_MEMBERS + 1):
        result = await site.latest(member)
        assert result is not None
        assert (result["degraded"], result["usage"]["llm_calls"], result["model"]) == (False, 1, MODEL)
        assert await site.parts.results.cached_view(member) is not None
        today = site.clock.now().astimezone(TODAY.tzinfo).date()
        job = await site.parts.results.job(refresh_job(member, today, requested_at_ns=0).job_id)
        assert job is not None
        assert (job.status, job.result) == ("succeeded", orjson.dumps(result))


async def test_the_answer_is_the_one_that_an_online_call_gives(site: BatchSite) -> None:
    await site.run()
    by_batch = await site.latest(2)
    assert by_batch is not None
    await site.parts.redis.delete(ANSWER_PREFIX + by_batch["fingerprint"])
    job = Job(job_id="online", member_id=2, locale="en")
    online = orjson.loads((await site.parts.pipeline.recommend(job, nothing)).result)
    assert by_batch.pop("usage")["prompt_tokens"] == online.pop("usage")["prompt_tokens"]
    assert by_batch == online


async def test_a_request_of_a_batch_is_the_request_of_an_online_call(site: BatchSite) -> None:
    await site.parts.pipeline.recommend(Job(job_id="online", member_id=2, locale="en"), nothing)
    await site.parts.redis.flushdb()
    await site.run()
    (online,) = site.llm.requests
    assert {name: value for name, value in online.items() if name != "stream"} in [
        line["body"] for line in site.lines()
    ]


async def test_who_asks_after_the_refresh_is_answered_from_the_cache(site: BatchSite) -> None:
    await site.run()
    await site.parts.pipeline.recommend(Job(job_id="online", member_id=2, locale="en"), nothing)
    assert site.llm.n_calls == 0


async def test_nobody_learns_a_members_id(site: BatchSite) -> None:
    fill_one = 7_340_912
    await asyncio.to_thread(like, site.url, fill_one, 1, 2, 3)
    await site.run()
    sent = orjson.dumps([list(site.lines()), [batch.document for batch in site.llm.batches.batches.values()]])
    assert len(paid(site)) == N_MEMBERS + 1
    assert str(fill_one).encode() not in sent


async def test_a_second_run_of_the_day_asks_nothing(site: BatchSite) -> None:
    await site.run()
    report = await site.run()
    assert (report.n_sent, report.n_resumed, len(site.llm.batches.batches)) == (0, 0, 1)


async def test_the_next_day_only_those_are_asked_about_who_changed(site: BatchSite) -> None:
    await site.run()
    await asyncio.to_thread(like, site.url, 3, 17)
    site.clock.later = timedelta(days=1)
    report = await site.run()
    assert (report.outcomes["merged"], report.skipped["kept"]) == (1, N_MEMBERS - 1)
    assert paid(site) == [1] * (N_MEMBERS + 1)


async def test_the_language_of_what_a_member_sees_stays(site: BatchSite) -> None:
    documents = await site.parts.pipeline.recommend(Job(job_id="j", member_id=2, locale="ja"), nothing)
    await site.parts.results.succeed(Job(job_id="j", member_id=2), documents, token="t")
    await asyncio.to_thread(like, site.url, 2, 31)
    await site.run()
    result = await site.latest(2)
    assert result is not None
    assert (result["locale"], 31 in {row["song_id"] for row in result["candidates"]}) == ("ja", False)


async def test_books_of_long_ago_are_thrown_away(site: BatchSite) -> None:
    await site.run()
    site.clock.later = timedelta(days=20)
    await site.run(0)
    today = site.clock.now().date()
    assert await site.ledger.asked_members(today - timedelta(days=20)) == set()


async def test_what_lies_at_the_provider_is_removed_after_merging(site: BatchSite) -> None:
    await site.run()
    assert site.llm.batches.files == {}


# --- files ---


async def test_no_file_holds_more_requests_than_it_may(site: BatchSite) -> None:
    report = await site.run(max_questions=4)
    assert (report.n_sent, report.outcomes["merged"]) == (2, N_MEMBERS)
    assert [len(batch.requests) for batch in site.llm.batches.batches.values()] == [4, 2]


async def test_no_file_is_larger_than_it_may(site: BatchSite) -> None:
    prepared = await site.parts.pipeline.prepare(Job(job_id="j", member_id=1))
    assert prepared.asked is not None
    size = len(site.api.line("c", prepared.asked.prompt))
    uploads: list[int] = []
    upload = site.api.upload

    async def measured(name: str, path: Path) -> str:
        uploads.append(len(await asyncio.to_thread(path.read_bytes)))
        return await upload(name, path)

    site.api.upload = measured  # type: ignore[method-assign]
    report = await site.run(max_bytes=3 * size)
    assert report.outcomes["merged"] == N_MEMBERS
    assert len(uploads) > 1
    assert max(uploads) <= 3 * size


# --- what goes wrong ---


async def test_who_liked_something_meanwhile_keeps_what_they_have(site: BatchSite) -> None:
    site.llm.batches.hold = Hold("poll")
    running = asyncio.create_task(site.run())
    await asyncio.wait_for(site.llm.batches.hold.reached.wait(), 10)
    await asyncio.to_thread(like, site.url, 3, 17)
    site.llm.batches.hold.released.set()
    report = await running
    assert report.outcomes == {"merged": N_MEMBERS - 1, "stale": 1}
    assert await site.latest(3) is None
    site.llm.batches.hold = None
    site.clock.later = timedelta(days=1)
    assert (await site.run()).outcomes == {"merged": 1}
    assert await site.latest(3) is not None


async def test_what_a_member_asked_for_meanwhile_is_not_overwritten(site: BatchSite) -> None:
    site.llm.batches.hold = Hold("poll")
    running = asyncio.create_task(site.run())
    await asyncio.wait_for(site.llm.batches.hold.reached.wait(), 10)
    now_ns = int(site.clock.now().timestamp() * 1e6) * 1000
    newer = Job(job_id="online", member_id=3, locale="ko", requested_at_ns=now_ns)
    documents = await site.parts.pipeline.recommend(newer, nothing)
    await site.parts.results.succeed(newer, documents, token="t")
    site.llm.batches.hold.released.set()
    assert (await running).outcomes == {"merged": N_MEMBERS}
    latest = await site.latest(3)
    assert latest is not None
    assert latest["locale"] == "ko"


def picked_titles(site: BatchSite, custom_id: str) -> set[str]:
    """What the model picked, by the lines that it was shown."""
    (body,) = (line["body"] for line in site.lines() if line["custom_id"] == custom_id)
    shown = read_prompt(body).lines
    content = site.llm.batches.answer(body)["choices"][0]["message"]["content"]  # type: ignore[index]
    picks = [pick for group in json.loads(content)["groups"] for pick in group["picks"]]
    return {shown[pick["h"]].split(" | ")[0] for pick in picks}


async def test_a_song_added_meanwhile_costs_no_answer_but_it_is_not_kept_as_one_to_the_new_catalogue(
    site: BatchSite,
) -> None:
    asked = await site.parts.pipeline.prepare(Job(job_id="j", member_id=2))
    site.llm.batches.hold = Hold("poll")
    running = asyncio.create_task(site.run())
    await asyncio.wait_for(site.llm.batches.hold.reached.wait(), 10)
    await asyncio.to_thread(insert_songs, site.url, {"song_id": 900, "title_en": "New", "artist": "A", "genre": "rock"})
    await embed(site.parts)
    await site.parts.index.load()
    site.llm.batches.hold.released.set()
    assert (await running).outcomes == {"merged": N_MEMBERS}
    result = await site.latest(2)
    assert result is not None
    assert result["degraded"] is False
    # The new catalogue is shown in another order: what the model named must be what it was shown then.
    assert (await site.parts.pipeline.prepare(Job(job_id="j", member_id=2))).shown_ids != asked.shown_ids
    shown = {row["title_en"] for group in result["groups"] for row in group["songs"]}
    assert shown == picked_titles(site, asked.fingerprint)
    assert not await site.parts.pipeline.is_answered(Job(job_id="j", member_id=2))


class HeldPurse(RedisBatchPurse):
    """Reserves, and says so only when it is ``released``: a run that stands still before its upload."""

    def __init__(self, site: BatchSite) -> None:
        super().__init__(site.parts.redis, site.clock, daily_usd=0.0, time_zone="Asia/Seoul")
        self.reached, self.released = asyncio.Event(), asyncio.Event()

    async def reserve(self, key: str, max_usd: float) -> bool:
        is_reserved = await super().reserve(key, max_usd)
        self.reached.set()
        await self.released.wait()
        return is_reserved


async def lose_lock(site: BatchSite) -> None:
    """The lock of the run under way ends, as where Redis hears nothing for 5 s; the next run is another process."""
    locks = [key async for key in site.parts.redis.scan_iter(match=f"{FLIGHT_PREFIX}*")]
    assert await site.parts.redis.delete(*locks) == 1
    site.answers = RedisAnswerCache(site.parts.redis, ttl_s=3600, degraded_ttl_s=600)


async def test_a_run_that_lost_its_lock_before_its_upload_leaves_its_members_to_who_took_it(site: BatchSite) -> None:
    purse = site.purse
    site.purse = held = HeldPurse(site)
    running = asyncio.create_task(site.run())
    await asyncio.wait_for(held.reached.wait(), 10)
    await lose_lock(site)
    site.purse = purse
    assert (await site.run()).outcomes == {"merged": N_MEMBERS}
    held.released.set()
    first = await running
    assert (first.n_sent, first.skipped["taken_over"]) == (0, N_MEMBERS)
    assert paid(site) == [1] * N_MEMBERS
    assert len(site.llm.batches.batches) == 1
    assert not site.llm.batches.files


async def test_a_run_that_lost_its_lock_while_it_uploaded_leaves_its_members_to_who_took_it(site: BatchSite) -> None:
    site.llm.batches.hold = hold = Hold("upload")
    running = asyncio.create_task(site.run())
    await asyncio.wait_for(hold.reached.wait(), 10)
    await lose_lock(site)
    site.llm.batches.hold = None
    second = await site.run()
    assert (second.n_resumed, second.outcomes) == (1, {"merged": N_MEMBERS})
    hold.released.set()
    assert (await running).skipped["taken_over"] == N_MEMBERS
    assert paid(site) == [1] * N_MEMBERS
    assert len(site.llm.batches.batches) == 1


async def test_single_failures_are_left_to_the_next_run(site: BatchSite) -> None:
    site.llm.batches.plan = BatchPlan(failing_every=3)
    assert (await site.run()).outcomes == {"merged": 4, "failed": 2}
    site.llm.batches.plan = BatchPlan()
    assert (await site.run()).outcomes == {}
    site.clock.later = timedelta(days=1)
    assert (await site.run()).outcomes == {"merged": 2}
    assert paid(site) == [1] * N_MEMBERS


async def test_single_failures_are_asked_online_where_that_is_set(site: BatchSite) -> None:
    site.llm.batches.plan = BatchPlan(failing_every=3)
    site.rest = "online"
    assert (await site.run()).outcomes == {"merged": 4, "online": 2}
    today = site.clock.now().astimezone(TODAY.tzinfo).date()
    jobs = {job.member_id: job for job in site.published}
    assert len(jobs) == 2
    for member, job in jobs.items():
        assert job.job_id == refresh_job(member, today, requested_at_ns=0).job_id
        assert await site.latest(member) is None


async def test_of_a_batch_that_expired_what_is_there_is_merged(site: BatchSite) -> None:
    site.llm.batches.plan = BatchPlan(end="expired")
    report = await site.run()
    assert (dict(report.statuses), report.outcomes) == ({"expired": 1}, {"merged": 3, "failed": 3})


async def test_a_batch_that_was_refused_as_a_whole_costs_nothing_and_is_left_to_the_next_run(site: BatchSite) -> None:
    site.llm.batches.plan = BatchPlan(end="failed")
    report = await site.run()
    assert (dict(report.statuses), report.outcomes) == ({"failed": 1}, {"unanswered": N_MEMBERS})
    assert (report.usage.cost_usd, await site.spend_usd(), await site.latest(1)) == (0, 0, None)
    site.llm.batches.plan = BatchPlan()
    site.clock.later = timedelta(days=1)
    assert (await site.run()).outcomes == {"merged": N_MEMBERS}


async def test_a_batch_that_takes_too_long_is_cancelled_and_merged_in_part(site: BatchSite) -> None:
    site.llm.batches.plan = BatchPlan(n_polls=10**9)
    report = await site.run(deadline_s=0.2)
    assert (dict(report.statuses), report.outcomes) == ({"cancelled": 1}, {"merged": 3, "failed": 3})


async def test_a_batch_that_the_provider_has_forgotten_does_not_stop_the_next_run(site: BatchSite) -> None:
    site.llm.batches.plan = BatchPlan(n_polls=10**9)
    running = asyncio.create_task(site.run())
    await until(lambda: _is_asked(site))
    running.cancel()
    await asyncio.wait([running])
    reserved = await site.spend_usd()
    site.llm.batches.batches.clear()
    site.clock.later = timedelta(days=1)
    site.llm.batches.plan = BatchPlan()
    report = await site.run()
    assert (report.n_resumed, dict(report.statuses)) == (1, {"lost": 1})
    # Nobody knows what it cost, so the most that it can have stays spent.
    assert await site.spend_usd() == reserved > 0


async def _is_asked(site: BatchSite) -> bool:
    return any(part.batch_id for part in await site.ledger.open_parts())


async def test_answers_of_no_use_are_not_shown(site: BatchSite) -> None:
    site.llm.scripted = "Sure! Here are some lovely songs."
    assert (await site.run()).outcomes == {"unusable": N_MEMBERS}
    assert await site.latest(1) is None
    assert await site.spend_usd() > 0


def cut_after(site: BatchSite, n_picks: int, *, finish_reason: str = "length") -> None:
    """From here on every answer ends in the middle of the pick after so many whole ones."""
    whole = site.llm.batches.answer

    def cut(body: Any) -> Any:
        answer: Any = whole(body)
        (choice,) = answer["choices"]
        content = choice["message"]["content"]
        end = [pick.end() for pick in re.finditer(r'\{"h":', content)][n_picks]
        choice["message"]["content"], choice["finish_reason"] = content[:end], finish_reason
        return answer

    site.llm.batches.answer = cut


N_ASKED = 20


async def n_asked(site: BatchSite) -> int:
    """How many picks the model is asked for."""
    prepared = await site.parts.pipeline.prepare(Job(job_id="j", member_id=1))
    assert prepared.asked is not None
    return prepared.asked.n_asked


@pytest.mark.parametrize("finish_reason", ["length", "stop"])
async def test_an_answer_that_was_cut_but_holds_half_of_its_picks_is_as_good_as_a_whole_one(
    site: BatchSite, finish_reason: str
) -> None:
    assert await n_asked(site) == N_ASKED
    cut_after(site, N_ASKED // 2, finish_reason=finish_reason)
    assert (await site.run()).outcomes == {"merged": N_MEMBERS}
    result = await site.latest(2)
    assert result is not None
    assert (result["degraded"], result["model"]) == (False, MODEL)
    shown = [row["title_en"] for group in result["groups"] for row in group["songs"]]
    assert (len(shown), len(set(shown))) == (N_ASKED, N_ASKED)
    assert await site.parts.redis.ttl(ANSWER_PREFIX + result["fingerprint"]) > A_DEGRADED_ANSWER_LIVES_S
    await site.parts.pipeline.recommend(Job(job_id="online", member_id=2, locale="en"), nothing)
    assert site.llm.n_calls == 0


async def test_of_an_answer_that_was_cut_before_half_of_its_picks_nothing_is_shown(site: BatchSite) -> None:
    await site.run()
    last_night = await site.latest(3)
    await asyncio.to_thread(like, site.url, 3, 17)
    site.clock.later = timedelta(days=1)
    cut_after(site, N_ASKED // 2 - 1)
    assert (await site.run()).outcomes == {"unusable": 1}
    assert await site.latest(3) == last_night
    site.clock.later = timedelta(days=2)
    assert (await site.run()).n_sent == 1


@pytest.mark.parametrize("plan", [BatchPlan(n_lost_creations=1), BatchPlan(n_creations_refused=2)])
async def test_a_creation_without_an_answer_is_looked_for_before_another(site: BatchSite, plan: BatchPlan) -> None:
    site.llm.batches.plan = plan
    assert (await site.run()).outcomes == {"merged": N_MEMBERS}
    assert (site.llm.batches.n_uploads, site.llm.batches.n_creations) == (1, 1)


async def test_an_upload_that_is_refused_is_tried_again(site: BatchSite) -> None:
    site.llm.batches.plan = BatchPlan(n_uploads_refused=2)
    assert (await site.run()).outcomes == {"merged": N_MEMBERS}


async def test_a_provider_that_refuses_for_good_ends_the_run_and_the_next_goes_on(site: BatchSite) -> None:
    site.llm.batches.plan = BatchPlan(n_creations_refused=100)
    with pytest.raises(DependencyUnavailable, match="500"):
        await site.run()
    site.llm.batches.plan = BatchPlan()
    report = await site.run()
    assert (report.n_resumed, report.n_sent, report.outcomes) == (1, 0, {"merged": N_MEMBERS})
    assert site.llm.batches.n_uploads == 1


async def test_looks_that_fail_are_repeated(site: BatchSite) -> None:
    look, n_failures = site.api.look, 0

    async def flaky(batch_id: str) -> Any:
        nonlocal n_failures
        n_failures += 1
        if n_failures < 5:
            raise DependencyUnavailable("batches", "away")
        return await look(batch_id)

    site.api.look = flaky  # type: ignore[method-assign]
    assert (await site.run()).outcomes == {"merged": N_MEMBERS}


async def test_a_provider_that_stays_away_ends_the_run(site: BatchSite) -> None:
    async def away(_: str) -> Any:
        raise DependencyUnavailable("batches", "away")

    site.api.look = away  # type: ignore[method-assign,assignment]
    with pytest.raises(DependencyUnavailable, match="away"):
        await site.run()


async def test_an_endpoint_without_a_batch_api_is_told_of_before_anything_is_done(site: BatchSite) -> None:
    site.llm.batches.is_there = False
    with pytest.raises(ConfigurationError, match="OPENAI_BASE_URL: the server has no Batch API"):
        await site.run()
    assert await site.ledger.open_parts() == []


async def test_of_two_runs_at_once_only_one_asks(site: BatchSite) -> None:
    reports = await asyncio.gather(site.run(), site.run())
    assert sorted(report.n_sent for report in reports) == [0, 1]
    assert paid(site) == [1] * N_MEMBERS


# --- money ---


async def test_the_days_spend_is_what_the_answers_cost_at_the_price_of_batches(site: BatchSite) -> None:
    report = await site.run()
    usage = report.usage
    assert usage.prompt_tokens > 0 < usage.completion_tokens
    whole = PRICE.cost_usd(prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens)
    assert usage.cost_usd == pytest.approx(whole / 2)
    assert await site.spend_usd() == pytest.approx(whole / 2, abs=1e-8)
    totals = await site.ledger.totals()
    assert (totals.usage.prompt_tokens, totals.outcomes["merged"]) == (usage.prompt_tokens, N_MEMBERS)
    assert totals.usage.cost_usd == pytest.approx(usage.cost_usd, abs=1e-9)


async def test_a_ceiling_lets_as_many_be_asked_as_it_can_pay_for(site: BatchSite) -> None:
    prepared = await site.parts.pipeline.prepare(Job(job_id="j", member_id=1))
    assert prepared.asked is not None
    n_bytes = len(prepared.asked.prompt.system + prepared.asked.prompt.user) + 1200
    each_usd = site.api.max_cost_usd(n_bytes, prepared.asked.prompt.max_output_tokens)
    ceiling = 2.5 * each_usd
    site.purse = RedisBatchPurse(site.parts.redis, site.clock, daily_usd=ceiling, time_zone="Asia/Seoul")
    report = await site.run()
    n_asked = report.outcomes["merged"]
    assert 1 <= n_asked < N_MEMBERS
    assert report.skipped["over_spend"] == N_MEMBERS - n_asked
    assert 0 < await site.spend_usd() <= ceiling


async def test_what_calls_have_spent_today_is_not_there_for_batches(site: BatchSite) -> None:
    site.purse = RedisBatchPurse(site.parts.redis, site.clock, daily_usd=1.0, time_zone="Asia/Seoul")
    day = site.clock.now().astimezone(TODAY.tzinfo)
    await site.parts.redis.set(f"{SPEND_PREFIX}{day:%Y-%m-%d}", 1_000_000_000)
    report = await site.run()
    assert (report.n_sent, report.skipped["over_spend"]) == (0, N_MEMBERS)
    assert site.llm.batches.n_uploads == 0


# --- killed anywhere ---


class Killed(BaseException):
    """Stands in for SIGKILL: nothing that may run afterwards runs, but for what an interpreter must do."""


class Steps:
    """Counts what goes out of the process, and kills it before or after the ``n``-th of these."""

    def __init__(self, n: int, *, after: bool) -> None:
        self._left, self._after = n, after
        self.killed = False

    def watch(self, port: Any) -> Any:
        return _Watched(port, self)

    async def take(self, step: Callable[[], Awaitable[Any]]) -> Any:
        if self.killed:
            raise Killed
        self._left -= 1
        if self._left == 0 and not self._after:
            self.killed = True
            raise Killed
        outcome = await step()
        if self._left <= 0:
            self.killed = True
            raise Killed
        return outcome


_NOT_STEPS = {"line", "max_cost_usd", "single_flight"}


class _Watched:
    def __init__(self, port: Any, steps: Steps) -> None:
        self._port, self._steps = port, steps

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._port, name)
        if name in _NOT_STEPS:
            return method
        if name == "replies":
            return self._replies

        async def step(*arguments: Any, **named: Any) -> Any:
            return await self._steps.take(lambda: method(*arguments, **named))

        return step

    async def _replies(self, state: Any) -> AsyncIterator[Any]:
        async for reply in self._port.replies(state):
            yield await self._steps.take(lambda reply=reply: asyncio.sleep(0, reply))  # type: ignore[misc]


def watched(site: BatchSite, steps: Steps) -> BatchSite:
    ports = ("api", "ledger", "purse", "answers", "results", "members")
    return replace(site, **{name: steps.watch(getattr(site, name)) for name in ports})


async def killed_and_run_again(site: BatchSite, steps: Steps) -> bool:
    """Whether it was killed at all; a run that was not is whole."""
    with contextlib.suppress(Killed):
        await watched(site, steps).run()
    await site.run()
    return steps.killed


@pytest.mark.timeout(120)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_killed_at_any_step_and_run_again_nothing_is_paid_twice_and_nobody_left_out(
    llm_server: LLMServer, tmp_path: Path, after: bool
) -> None:
    settings = settings_of(llm_server, tmp_path)
    url = settings.database_url.get_secret_value()
    async with open_batch_site(settings, llm_server, url, n_members=2) as site:
        n, site.config, totals = 0, replace(site.config, max_questions=1), await site.ledger.totals()
        while True:
            n += 1
            site.llm.batches.paid.clear()
            site.llm.batches.n_uploads = site.llm.batches.n_creations = 0
            was_killed = await killed_and_run_again(site, Steps(n, after=after))
            assert paid(site) == [1] * 2, f"step {n}"
            assert (site.llm.batches.n_uploads, site.llm.batches.n_creations) == (2, 2), f"step {n}"
            assert await site.ledger.open_parts() == [], f"step {n}"
            answered = [await site.latest(member) for member in (1, 2)]
            assert [result is not None and not result["degraded"] for result in answered] == [True] * 2, f"step {n}"
            usd = sum(result["usage"]["cost_usd"] for result in answered if result)
            assert await site.spend_usd() == pytest.approx(usd, abs=1e-5), f"step {n}"
            totals, before = await site.ledger.totals(), totals
            assert totals.usage.cost_usd - before.usage.cost_usd == pytest.approx(usd, abs=1e-5), f"step {n}"
            assert totals.outcomes["merged"] - before.outcomes["merged"] == 2, f"step {n}"
            assert site.llm.batches.files == {}, f"step {n}"
            if not was_killed:
                break
            await site.parts.redis.flushdb()
            site.clock.later = timedelta(days=n)
        assert n > 40


# --- the command, killed ---


@pytest.fixture
async def environment(mysql_url: str, redis_url: str, llm_server: LLMServer) -> dict[str, str]:
    prices = orjson.dumps({MODEL: PRICE.model_dump()}).decode()
    settings = Settings(_env_file=None, database_url=mysql_url, redis_url=redis_url)
    await asyncio.to_thread(fill, mysql_url, 12)
    async with open_parts(settings) as parts:
        await embed(parts)
    return {
        "DATABASE_URL": mysql_url,
        "REDIS_URL": redis_url,
        "OPENAI_BASE_URL": llm_server.base_url,
        "LLM_PRICES": prices,
        "LLM_BATCH_POLL_S": "0.02",
        "LOG_LEVEL": "WARNING",
    }


async def kill_at(environment: dict[str, str], hold: Hold, llm: LLMServer, meanwhile: Awaitable[None]) -> None:
    """Run the command, SIGKILL it while the provider withholds the answer to a step that is done."""
    llm.batches.hold = hold
    process = WorkerProcess(environment, ("refresh", "--batch"), forked=True)
    await process.launch()
    try:
        await asyncio.wait_for(hold.reached.wait(), 40)
        await meanwhile
    finally:
        await process.kill()
        hold.released.set()
        llm.batches.hold = None


async def n_settled(url: str, n: int) -> None:
    """Return once ``n`` answers are merged."""
    from sqlalchemy import func, select  # noqa: PLC0415

    from services.database import Database  # noqa: PLC0415
    from services.schema import refresh_question  # noqa: PLC0415

    database = Database(url)

    async def enough() -> bool:
        async with database.connect() as connection:
            counted = select(func.count()).where(refresh_question.c.outcome == "merged")
            return int((await connection.execute(counted)).scalar_one()) == n

    try:
        await until(enough, within_s=20)
    finally:
        await database.close()


async def at_once(_: str) -> None:
    """Nothing to wait for."""


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("hold", "n_merged"),
    [(Hold("upload"), 0), (Hold("create"), 0), (Hold("poll"), 0), (Hold("content", n_lines=9), 8)],
    ids=["after-upload", "after-create", "during-poll", "mid-merge"],
)
async def test_sigkilled_and_run_again_the_refresh_ends_with_nothing_uploaded_created_or_paid_twice(
    environment: dict[str, str], llm_server: LLMServer, hold: Hold, n_merged: int
) -> None:
    hold = Hold(hold.step, hold.n_lines)
    meanwhile = n_settled(environment["DATABASE_URL"], n_merged) if n_merged else at_once("")
    await kill_at(environment, hold, llm_server, meanwhile)
    async with Redis.from_url(environment["REDIS_URL"]) as redis:
        # Else the next run waits some seconds until the lease of the dead one ends.
        assert await redis.delete("songs_ai:flight:refresh-batches") == 1
    outcome: Outcome = await run_command("refresh", "--batch", environment=environment)
    assert (outcome.code, outcome.err) == (0, "")
    batches = llm_server.batches
    assert (batches.n_uploads, batches.n_creations, list(batches.paid.values())) == (1, 1, [1] * 12)
    assert "0 sent, 1 resumed; 1 completed" in outcome.out
    assert "questions: 12 merged" in outcome.out
    async with Redis.from_url(environment["REDIS_URL"]) as redis:
        results = [orjson.loads(await redis.get(f"latest:recommendation:{member}") or "{}") for member in range(1, 13)]
        assert not any(result["degraded"] for result in results)
        (day,) = [key async for key in redis.scan_iter(match=f"{SPEND_PREFIX}*")]
        usd = sum(result["usage"]["cost_usd"] for result in results)
        assert int(await redis.get(day) or 0) / 1e9 == pytest.approx(usd, abs=1e-5)


@pytest.mark.parametrize("hold", [Hold("create"), Hold("poll")], ids=["after-create", "during-poll"])
async def test_interrupted_the_refresh_says_how_to_go_on_and_leaves_the_lease_to_the_next_run(
    environment: dict[str, str], llm_server: LLMServer, hold: Hold
) -> None:
    llm_server.batches.hold = hold = Hold(hold.step)
    program = await fork_program(("refresh", "--batch"), {"COLUMNS": "160", **environment})
    async with asyncio.timeout(40):
        await hold.reached.wait()
        program.send_signal(signal.SIGINT)
        _, err = await program.communicate()
    hold.released.set()
    llm_server.batches.hold = None
    said = f"Interrupted. {LISTED['refresh'].interrupted}"
    assert (program.returncode, err.decode().splitlines()[-1]) == (130, said)
    outcome = await run_command("refresh", "--batch", environment=environment)
    assert (outcome.code, outcome.err) == (0, "")
    assert "0 sent, 1 resumed; 1 completed" in outcome.out
    batches = llm_server.batches
    assert (batches.n_uploads, batches.n_creations, list(batches.paid.values())) == (1, 1, [1] * 12)


async def test_a_dry_run_says_what_it_would_cost_and_does_nothing(
    environment: dict[str, str], llm_server: LLMServer
) -> None:
    outcome = await run_command("refresh", "--batch", "--members", "10", "--dry-run", environment=environment)
    assert (outcome.code, outcome.err) == (0, "")
    assert "10 active members: 10 would be asked about, 0 have their answer" in outcome.out
    usd = float(outcome.out.split("at most about ")[1].split(" USD")[0])
    assert 0 < usd < 0.05
    assert (llm_server.batches.n_uploads, llm_server.n_calls) == (0, 0)
    online = await run_command("refresh", "--queue", "--members", "10", "--dry-run", environment=environment)
    assert float(online.out.split("at most about ")[1].split(" USD")[0]) == pytest.approx(2 * usd, rel=0.02)


async def test_a_dry_run_without_a_price_does_not_say_that_it_costs_nothing(environment: dict[str, str]) -> None:
    unpriced = {**environment, "LLM_PRICES": "{}", "LLM_DAILY_USD": "0"}
    outcome = await run_command("refresh", "--batch", "--members", "2", "--dry-run", environment=unpriced)
    assert (outcome.code, outcome.err) == (0, "")
    assert "completion tokens; at a price that LLM_PRICES does not say" in outcome.out
    assert "USD" not in outcome.out


async def test_people_are_told_what_a_refresh_came_to_and_whom_it_could_not_pay_for(
    environment: dict[str, str], llm_server: LLMServer
) -> None:
    async with hook_server() as hooks:
        prices = {model: {"input": 0.4, "output": 1.6} for model in DEFAULT_STRATEGIES.models}
        poor = {"LLM_DAILY_USD": "0.000001", "LLM_PRICES": orjson.dumps(prices).decode()}
        told = {**environment, **poor, "NOTICE_WEBHOOK": hooks.url}
        outcome = await run_command("refresh", "--batch", environment=told)
    assert (outcome.code, outcome.err) == (0, "")
    finished, spent = hooks.bodies
    assert (finished["kind"], spent["kind"]) == ("refresh_finished", "budget_reached")
    assert finished["figures"] == {"sent": 0, "resumed": 0, "USD": 0.0}
    assert spent["text"] == "12 members were left out of a refresh: the money of the day is spent"
    assert llm_server.batches.n_uploads == 0


async def test_by_the_queue_a_job_for_each_member_who_changed_is_published_once_a_day(
    environment: dict[str, str], amqp_url: str
) -> None:
    prefix = f"refresh.{uuid.uuid4().hex[:8]}"
    environment = {**environment, "BROKER_URL": amqp_url, "NAME_PREFIX": prefix}
    try:
        outcome = await run_command("refresh", "--members", "5", environment=environment)
        assert (outcome.code, outcome.err) == (0, "")
        assert "5 active members: 5 jobs published" in outcome.out
        async with await aio_pika.connect(amqp_url) as connection, connection.channel() as channel:
            queue = await channel.get_queue(f"{prefix}.recommendation.batch.q")
            bodies = [orjson.loads((await queue.get(no_ack=True, timeout=10)).body) for _ in range(5)]
    finally:
        await delete_topology(amqp_url, build_topology(prefix, (5, 30, 120)))
    # Those who liked something last come first.
    assert {body["memberId"] for body in bodies} == set(range(8, 13))
    today = datetime.now(TODAY.tzinfo).date()
    assert {body["jobId"] for body in bodies} == {
        refresh_job(member, today, requested_at_ns=0).job_id for member in range(8, 13)
    }


async def test_one_job_that_is_not_published_does_not_stop_the_others(site: BatchSite) -> None:
    publish = site.publish_job

    async def picky(job: Job, *, batch: bool = False) -> None:
        if job.member_id == 2:
            raise PublishRefused("no queue")
        await publish(job, batch=batch)

    site.publish_job = picky  # type: ignore[method-assign]
    questions = [BatchQuestion(custom_id="c", member_id=n, locale=None, taste_mark="", shown_ids=()) for n in (1, 2, 3)]
    with pytest.raises(PublishRefused):
        await submit_refreshes(questions, TODAY.date(), 1, results=site.results, publisher=site)
    assert [job.member_id for job in site.published] == [1, 3]


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"OPENAI_BASE_URL": ""}, "OPENAI_API_KEY is empty"),
        ({"LLM_BATCH_REST": "online"}, "BROKER_URL is memory://"),
    ],
)
async def test_a_refresh_that_cannot_work_says_why(
    environment: dict[str, str], more: dict[str, str], sentence: str
) -> None:
    outcome = await run_command("refresh", "--batch", environment={**environment, **more})
    assert (outcome.code, outcome.out) == (2, "")
    assert sentence in outcome.err
