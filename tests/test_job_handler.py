"""One delivery in, one disposition out."""

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from structlog.contextvars import bind_contextvars, get_contextvars, merge_contextvars
from structlog.testing import capture_logs

from config.settings import Settings
from core.errors import DependencyUnavailable
from core.ports.clock import Clock
from core.ports.recommending import ProgressReporter, RankedReporter
from core.ports.results import Claim, JobView, ProvisionalDocuments, ResultDocuments
from models.job import Job, JobStatus
from services.clock import SystemClock
from tests.support import hand_clock
from tests.support.messaging import eventually
from workers.broker import JSON_MESSAGE, Delivery
from workers.disposition import (
    Ack,
    AckReason,
    DeadLetter,
    DeadLetterReason,
    Disposition,
    RetryLater,
    RetryReason,
)
from workers.handler import SAVE_PAUSES_S, JobHandler
from workers.lease_keeper import LeaseKeeper
from workers.observer import SilentObserver
from workers.provisional import ProvisionalWriter

DOCUMENTS = ResultDocuments(result=b"{}", cached_view=b"{}", preference=b"{}")
PROVISIONAL = ProvisionalDocuments(result=b"provisional", cached_view=b"provisional view")
DELAYS_S = (5.0, 30.0, 120.0)
REDIS_AWAY = DependencyUnavailable("redis", "connection refused")

Recommend = Callable[[Job, ProgressReporter], Awaitable[ResultDocuments]]


class InMemoryResults:
    """A ``ResultCache`` whose methods can be made to fail: ``failures`` counts how often each still will.

    And the ``ProvisionalResults``: one is wanted from the start, and ``is_wanted`` says so.
    """

    def __init__(self) -> None:
        self.status: dict[str, JobStatus] = {}
        self.progress: dict[str, int] = {}
        self.errors: dict[str, tuple[str, str]] = {}
        self.replays: Counter[str] = Counter()
        self.due: set[str] = set()
        self.leases: dict[str, str] = {}
        self.renewed: list[Mapping[str, str]] = []
        self.failures: Counter[str] = Counter()
        self.bugs: dict[str, Exception] = {}
        self.on_claim: Callable[[], None] = lambda: None
        self.is_wanted = True
        self.shown: list[tuple[str, str, ProvisionalDocuments]] = []

    def _ask(self, method: str) -> None:
        if method in self.bugs:
            raise self.bugs[method]
        if self.failures[method] > 0:
            self.failures[method] -= 1
            raise REDIS_AWAY

    async def mark_queued(self, job: Job) -> None:
        self.status.setdefault(job.job_id, JobStatus.QUEUED)

    async def claim(self, job: Job, *, token: str, replay: int = 0) -> Claim:
        self._ask("claim")
        self.on_claim()
        status = self.status.get(job.job_id)
        if status is JobStatus.SUCCEEDED:
            return Claim.SUCCEEDED_BEFORE
        if status is JobStatus.FAILED and replay <= self.replays[job.job_id]:
            if job.job_id not in self.due:
                return Claim.FAILED_BEFORE
            return Claim.RUNNING_ELSEWHERE if job.job_id in self.leases else Claim.DEAD_LETTER_DUE
        if self.leases.get(job.job_id, token) != token:
            return Claim.RUNNING_ELSEWHERE
        self.status[job.job_id], self.leases[job.job_id] = JobStatus.RUNNING, token
        self.replays[job.job_id] = max(replay, self.replays[job.job_id])
        self.due.discard(job.job_id)
        return Claim.GRANTED

    async def renew(self, tokens: Mapping[str, str]) -> None:
        self._ask("renew")
        self.renewed.append(dict(tokens))

    async def release(self, job: Job, *, token: str) -> None:
        self._ask("release")
        if self.leases.get(job.job_id) == token:
            del self.leases[job.job_id]

    async def report_progress(self, job: Job, progress: int) -> None:
        self._ask("report_progress")
        self.progress[job.job_id] = progress

    async def wants_provisional(self, job: Job, *, token: str) -> bool:
        self._ask("wants_provisional")
        return self.is_wanted and self.leases.get(job.job_id) == token

    async def show_provisional(self, job: Job, documents: ProvisionalDocuments, *, token: str) -> bool:
        self._ask("show_provisional")
        if self.is_wanted:
            self.shown.append((job.job_id, self.status[job.job_id], documents))
        return self.is_wanted

    async def succeed(self, job: Job, documents: ResultDocuments, *, token: str) -> bool:
        self._ask("succeed")
        if self.status.get(job.job_id) is JobStatus.FAILED:
            return False
        self.status[job.job_id] = JobStatus.SUCCEEDED
        self.leases.pop(job.job_id, None)
        return True

    async def fail(
        self, job_id: str, *, code: str, message: str, token: str | None = None, dead_letter: bool = False
    ) -> bool:
        self._ask("fail")
        if (
            self.status.get(job_id) in {JobStatus.SUCCEEDED, JobStatus.FAILED}
            or self.leases.get(job_id, token) != token
        ):
            return False
        self.status[job_id], self.errors[job_id] = JobStatus.FAILED, (code, message)
        self.leases.pop(job_id, None)
        if dead_letter and token:
            self.due.add(job_id)
            self.leases[job_id] = token
        return True

    async def dead_lettered(self, job_id: str, *, token: str) -> None:
        self._ask("dead_lettered")
        self.due.discard(job_id)
        self.leases.pop(job_id, None)

    async def job(self, job_id: str) -> JobView | None:
        if job_id not in self.status:
            return None
        told = dict(zip(("error.code", "error.message"), self.errors.get(job_id, ()), strict=False))
        return JobView(status=self.status[job_id], progress=0, fields=told, result=None)

    async def cached_view(self, member_id: int) -> bytes | None:
        return None


class ScriptedRecommender:
    """Does what the test says, and counts how often it was asked."""

    def __init__(self, recommend: Recommend | None = None) -> None:
        self._recommend = recommend
        self.n_calls = 0
        self.n_made = 0
        self.while_made: Callable[[], Awaitable[None]] = _nothing

    async def recommend(
        self, job: Job, report: ProgressReporter, on_ranked: RankedReporter | None = None
    ) -> ResultDocuments:
        self.n_calls += 1
        if on_ranked:
            await on_ranked(self._provisional)
        await report(50)
        return DOCUMENTS if self._recommend is None else await self._recommend(job, report)

    def script(self, recommend: Recommend) -> None:
        self._recommend = recommend

    async def _provisional(self) -> ProvisionalDocuments:
        self.n_made += 1
        await self.while_made()
        return PROVISIONAL


async def _nothing() -> None:
    pass


class CountingObserver(SilentObserver):
    def __init__(self) -> None:
        self.provisional: list[tuple[str, float]] = []
        self.waits: list[tuple[str, float]] = []
        self.started: list[str] = []
        self.finished: list[tuple[str, str]] = []
        self.seconds: list[float] = []
        self.stages: list[str] = []

    def job_waited(self, *, route: str, seconds: float) -> None:
        self.waits.append((route, seconds))

    def job_started(self, *, source: str) -> None:
        self.started.append(source)

    def job_finished(self, *, outcome: str, source: str, seconds: float) -> None:
        assert seconds >= 0
        self.finished.append((outcome, source))
        self.seconds.append(seconds)

    def provisional_result(self, *, outcome: str, seconds: float) -> None:
        self.provisional.append((outcome, seconds))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        try:
            yield
        finally:
            self.stages.append(name)


class HandClock(SystemClock):
    """Goes on by hand alone."""

    def __init__(self) -> None:
        self.at_s = 100.0

    def monotonic_s(self) -> float:
        return self.at_s


class Desk:
    """A handler with everything around it."""

    def __init__(
        self,
        recommend: Recommend | None = None,
        *,
        job_timeout_s: float = 5.0,
        clock: Clock | None = None,
        save_pauses_s: Sequence[float] = (0.001, 0.001),
        patience_s: float | None = 5.0,
        max_age_s: float = 0.0,
    ) -> None:
        clock = clock or SystemClock()
        self.results = InMemoryResults()
        self.recommender = ScriptedRecommender(recommend)
        self.observer = CountingObserver()
        self.leases = LeaseKeeper(self.results, lease_s=0.03)
        self.handler = JobHandler(
            self.recommender,
            self.results,
            self.leases,
            max_attempts=4,
            delays_s=DELAYS_S,
            job_timeout_s=job_timeout_s,
            clock=clock,
            observer=self.observer,
            provisional=ProvisionalWriter(self.results, clock=clock, observer=self.observer, patience_s=patience_s)
            if patience_s
            else None,
            save_pauses_s=save_pauses_s,
            max_age_s=max_age_s,
        )

    async def handle(
        self, *, headers: Mapping[str, object] | None = None, raw: bytes | None = None, **fields: object
    ) -> Disposition:
        return await self.handler.handle(delivery(headers=headers, raw=raw, **fields))


def body_of(**fields: object) -> bytes:
    return json.dumps({"jobId": "j", "memberId": 1, **fields}).encode()


def delivery(*, headers: Mapping[str, object] | None = None, raw: bytes | None = None, **fields: object) -> Delivery:
    body = raw if raw is not None else body_of(**fields)
    return Delivery(
        body=body, headers=headers or {}, properties=JSON_MESSAGE, routing_key="k", redelivered=False, handle=None
    )


def raising(error: Exception) -> Recommend:
    async def recommend(job: Job, report: ProgressReporter) -> ResultDocuments:
        raise error

    return recommend


async def forever(job: Job, report: ProgressReporter) -> ResultDocuments:
    await asyncio.Event().wait()
    raise AssertionError


# --- the good way ---


async def test_a_job_is_acked_once_its_result_is_saved() -> None:
    desk = Desk()
    assert await desk.handle(source="login") == Ack(AckReason.SUCCEEDED)
    assert desk.results.status["j"] is JobStatus.SUCCEEDED
    assert desk.results.progress["j"] == 50
    assert (desk.observer.started, desk.observer.finished) == (["login"], [("succeeded", "login")])


async def test_a_redelivered_finished_job_is_only_acked() -> None:
    desk = Desk()
    await desk.handle()
    assert await desk.handle() == Ack(AckReason.SUCCEEDED_BEFORE)
    assert desk.recommender.n_calls == len(desk.observer.started) == 1


async def test_a_failed_job_is_only_acked_unless_it_is_replayed() -> None:
    desk = Desk()
    desk.results.status["j"] = JobStatus.FAILED
    assert await desk.handle() == Ack(AckReason.FAILED_BEFORE)
    assert desk.recommender.n_calls == 0
    assert await desk.handle(headers={"x-replayed": 1}) == Ack(AckReason.SUCCEEDED)


async def test_a_failed_job_whose_dead_letter_may_be_lost_is_dead_lettered_again_until_it_is_safe() -> None:
    desk = Desk(raising(REDIS_AWAY))
    lost = await desk.handle(attempt=3)
    assert isinstance(lost, DeadLetter)
    assert await desk.handle(attempt=3) == RetryLater(RetryReason.RUNNING_ELSEWHERE, 5.0)
    desk.results.leases.clear()
    assert await desk.handle(attempt=3) == lost
    await desk.handler.dead_lettered(delivery(attempt=3))
    assert await desk.handle(attempt=3) == Ack(AckReason.FAILED_BEFORE)
    assert desk.recommender.n_calls == 1


@pytest.mark.parametrize("raw", [b"{not json", b'{"jobId":"j","memberId":1,"topK":0}'])
async def test_the_dead_letter_of_a_wrong_message_needs_no_note(raw: bytes) -> None:
    desk = Desk()
    desk.results.due.add("j")
    await desk.handler.dead_lettered(delivery(raw=raw))
    assert desk.results.due == {"j"}


async def test_a_note_that_redis_does_not_take_costs_nothing() -> None:
    desk = Desk()
    desk.results.failures["dead_lettered"] = 1
    await desk.handler.dead_lettered(delivery())


@pytest.mark.parametrize(("header", "granted"), [(1, False), (True, False), ("yes", False), (-1, False), (2, True)])
async def test_a_replay_runs_once_by_its_number(header: object, granted: bool) -> None:
    desk = Desk()
    desk.results.status["j"], desk.results.replays["j"] = JobStatus.FAILED, 1
    expected = Ack(AckReason.SUCCEEDED if granted else AckReason.FAILED_BEFORE)
    assert await desk.handle(headers={"x-replayed": header}) == expected


# --- stale jobs ---


NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
HOUR_S = 3600.0


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def aged_desk(max_age_s: float = HOUR_S) -> Desk:
    return Desk(clock=hand_clock.HandClock(NOW), max_age_s=max_age_s)


@pytest.mark.parametrize(
    ("fields", "sent_at", "headers", "is_stale"),
    [
        ({"requestedAt": ago(3599).timestamp()}, None, {}, False),
        ({"requestedAt": ago(3601).timestamp()}, None, {}, True),
        ({"requestedAt": ago(3601).timestamp()}, NOW, {}, True),
        ({"requestedAt": ago(10).timestamp()}, ago(9999), {}, False),
        ({"requestedAt": ago(-9999).timestamp()}, None, {}, False),
        ({"requestedAt": "0001-01-01T00:00:00Z"}, None, {}, True),
        ({"requestedAt": "9999-12-31T23:59:59.999999999Z"}, None, {}, False),
        ({}, ago(3601), {}, True),
        ({}, ago(3599), {}, False),
        ({}, ago(-9999), {}, False),
        ({}, None, {}, False),
        ({"requestedAt": ago(99_999).timestamp()}, ago(60), {"x-replayed": 1}, False),
        ({"requestedAt": ago(99_999).timestamp()}, ago(3601), {"x-replayed": 1}, True),
        ({"requestedAt": ago(99_999).timestamp()}, None, {"x-replayed": 1}, False),
    ],
)
async def test_a_job_is_stale_by_its_request_or_else_its_message_and_a_replay_makes_it_new(
    fields: dict[str, object], sent_at: datetime | None, headers: dict[str, object], is_stale: bool
) -> None:
    desk = aged_desk()
    sent = replace(
        delivery(headers=headers, raw=body_of(**fields)), properties=replace(JSON_MESSAGE, timestamp=sent_at)
    )
    assert await desk.handler.handle(sent) == Ack(AckReason.STALE if is_stale else AckReason.SUCCEEDED)
    assert desk.recommender.n_calls == len(desk.observer.finished) == (0 if is_stale else 1)


async def test_of_a_stale_job_its_poller_is_told_and_no_dead_letter_is_owed() -> None:
    desk = aged_desk()
    assert await desk.handle(requestedAt=ago(7200).timestamp()) == Ack(AckReason.STALE)
    assert desk.results.status["j"] is JobStatus.FAILED
    code, message = desk.results.errors["j"]
    assert (code, "7200 s old" in message, desk.results.due, desk.results.leases) == ("STALE", True, set(), {})
    assert await desk.handle(requestedAt=ago(7200).timestamp()) == Ack(AckReason.FAILED_BEFORE)


async def test_a_stale_job_waits_until_its_poller_can_be_told() -> None:
    desk = aged_desk()
    desk.results.failures["fail"] = 1
    outcome = await desk.handle(requestedAt=ago(7200).timestamp())
    assert outcome == RetryLater(RetryReason.OUTCOME_NOT_RECORDED, 120.0, None)


async def test_a_stale_delivery_of_a_job_that_runs_elsewhere_is_not_acked() -> None:
    desk = aged_desk()
    desk.results.leases["j"] = "another worker's"
    outcome = await desk.handle(requestedAt=ago(7200).timestamp())
    assert outcome == RetryLater(RetryReason.RUNNING_ELSEWHERE, 5.0, None)


async def test_a_stale_job_that_succeeded_before_stays_so() -> None:
    desk = aged_desk()
    desk.results.status["j"] = JobStatus.SUCCEEDED
    assert await desk.handle(requestedAt=ago(7200).timestamp()) == Ack(AckReason.SUCCEEDED_BEFORE)


async def test_where_no_age_is_too_old_every_job_is_run() -> None:
    desk = aged_desk(max_age_s=0)
    assert await desk.handle(requestedAt="0001-01-01T00:00:00Z") == Ack(AckReason.SUCCEEDED)


async def test_a_job_that_runs_elsewhere_is_never_acked_as_a_duplicate() -> None:
    desk = Desk()
    desk.results.leases["j"] = "another worker's"
    outcome = await desk.handle(attempt=2)
    assert outcome == RetryLater(RetryReason.RUNNING_ELSEWHERE, 5.0, None)
    assert desk.results.leases["j"] == "another worker's"
    assert desk.recommender.n_calls == 0


async def test_a_member_sees_their_source_counted_only_where_it_is_a_known_one() -> None:
    desk = Desk()
    await desk.handle(source="member 12345")
    assert desk.observer.started == ["other"]


# --- provisional results ---


async def test_a_member_who_has_nothing_is_shown_the_ranked_list_while_the_job_runs() -> None:
    clock = HandClock()
    desk = Desk(clock=clock)

    async def while_made() -> None:
        clock.at_s += 0.25

    desk.recommender.while_made = while_made
    assert await desk.handle() == Ack(AckReason.SUCCEEDED)
    assert desk.results.shown == [("j", JobStatus.RUNNING, PROVISIONAL)]
    assert desk.observer.provisional == [("written", 0.25)]


async def test_for_a_member_who_has_a_result_no_provisional_one_is_even_made() -> None:
    desk = Desk()
    desk.results.is_wanted = False
    assert await desk.handle() == Ack(AckReason.SUCCEEDED)
    assert (desk.recommender.n_made, desk.results.shown) == (0, [])
    assert [outcome for outcome, _ in desk.observer.provisional] == ["skipped"]


async def test_a_result_that_comes_while_the_provisional_one_is_made_is_left_alone() -> None:
    desk = Desk()

    async def while_made() -> None:
        desk.results.is_wanted = False

    desk.recommender.while_made = while_made
    await desk.handle()
    assert (desk.recommender.n_made, desk.results.shown) == (1, [])
    assert [outcome for outcome, _ in desk.observer.provisional] == ["skipped"]


@pytest.mark.parametrize("method", ["wants_provisional", "show_provisional"])
async def test_where_redis_does_not_take_the_provisional_result_the_job_goes_on(method: str) -> None:
    desk = Desk()
    desk.results.failures[method] = 1
    with capture_logs() as logs:
        assert await desk.handle() == Ack(AckReason.SUCCEEDED)
    assert desk.results.shown == []
    assert [outcome for outcome, _ in desk.observer.provisional] == ["failed"]
    [told] = [line for line in logs if line["event"] == "provisional_not_shown"]
    assert (told["log_level"], told["error"]) == ("warning", "redis: connection refused")


async def test_a_provisional_result_is_not_waited_for_longer_than_it_is_worth() -> None:
    desk = Desk(patience_s=0.01)

    async def while_made() -> None:
        await asyncio.Event().wait()

    desk.recommender.while_made = while_made
    assert await desk.handle() == Ack(AckReason.SUCCEEDED)
    assert desk.results.shown == []
    assert [outcome for outcome, _ in desk.observer.provisional] == ["failed"]


async def test_the_jobs_own_time_limit_still_ends_it_while_a_provisional_result_is_made() -> None:
    desk = Desk(job_timeout_s=0.01)

    async def while_made() -> None:
        await asyncio.Event().wait()

    desk.recommender.while_made = while_made
    outcome = await desk.handle()
    assert isinstance(outcome, RetryLater)
    assert outcome.reason is RetryReason.TIMED_OUT
    assert desk.observer.provisional == []


async def test_a_bug_in_making_the_provisional_result_is_no_secret() -> None:
    desk = Desk()

    async def while_made() -> None:
        raise ZeroDivisionError

    desk.recommender.while_made = while_made
    outcome = await desk.handle()
    assert isinstance(outcome, DeadLetter)
    assert outcome.reason is DeadLetterReason.UNEXPECTED


async def test_where_they_are_switched_off_nobody_asks_for_a_provisional_result() -> None:
    desk = Desk(patience_s=None)
    assert await desk.handle() == Ack(AckReason.SUCCEEDED)
    assert (desk.recommender.n_made, desk.observer.provisional) == (0, [])


# --- failures ---


async def test_a_dependency_that_is_away_sends_the_job_round_again_and_lets_its_lease_go() -> None:
    desk = Desk(raising(DependencyUnavailable("mysql", "gone away")))
    outcome = await desk.handle(attempt=1)
    assert isinstance(outcome, RetryLater)
    assert (outcome.reason, outcome.delay_s, outcome.attempt) == (RetryReason.DEPENDENCY_UNAVAILABLE, 30.0, 2)
    assert desk.results.status["j"] is JobStatus.RUNNING
    assert desk.results.leases == {}


async def test_redis_away_at_the_claim_sends_the_job_round_again() -> None:
    desk = Desk()
    desk.results.failures["claim"] = desk.results.failures["release"] = 1
    outcome = await desk.handle()
    assert isinstance(outcome, RetryLater)
    assert outcome.attempt == 1
    assert desk.observer.finished == []


async def test_a_job_whose_attempts_are_used_up_fails_where_its_poller_looks() -> None:
    desk = Desk(raising(DependencyUnavailable("mysql", "gone away")))
    outcome = await desk.handle(attempt=3)
    assert isinstance(outcome, DeadLetter)
    assert outcome.reason is DeadLetterReason.ATTEMPTS_USED_UP
    assert desk.results.status["j"] is JobStatus.FAILED
    assert desk.results.errors["j"] == ("DEPENDENCY_UNAVAILABLE", "mysql: gone away")


async def test_a_job_that_takes_too_long_is_stopped_and_tried_again() -> None:
    desk = Desk(forever, job_timeout_s=0.01)
    outcome = await desk.handle()
    assert isinstance(outcome, RetryLater)
    assert outcome.reason is RetryReason.TIMED_OUT
    assert outcome.error is not None
    assert outcome.error.code == "GENERATION_TIMEOUT"


async def test_a_timeout_that_nobody_translated_is_a_bug_and_not_the_jobs_time_limit() -> None:
    outcome = await Desk(raising(TimeoutError("inner"))).handle()
    assert isinstance(outcome, DeadLetter)
    assert outcome.reason is DeadLetterReason.UNEXPECTED


async def test_a_bug_is_dead_lettered_with_its_digest_and_logged_with_its_traceback() -> None:
    desk = Desk(raising(ZeroDivisionError("division by zero")))
    with capture_logs() as logs:
        outcome = await desk.handle()
    assert isinstance(outcome, DeadLetter)
    assert outcome.error.digest is not None
    assert desk.results.errors["j"] == ("INTERNAL_ERROR", "ZeroDivisionError: division by zero")
    [caught] = [line for line in logs if line["event"] == "unexpected_error_caught"]
    assert caught["digest"] == outcome.error.digest
    assert isinstance(caught["exc_info"], ZeroDivisionError)
    assert desk.observer.finished == [("dead_lettered", "none")]


async def test_what_another_worker_took_over_is_not_dead_lettered_by_the_one_that_lost_it() -> None:
    desk = Desk()

    async def lose(job: Job, report: ProgressReporter) -> ResultDocuments:
        desk.results.leases[job.job_id] = "its successor's"
        raise ZeroDivisionError

    desk.recommender.script(lose)
    with capture_logs():
        outcome = await desk.handle(attempt=3)
    assert outcome == RetryLater(RetryReason.RUNNING_ELSEWHERE, 5.0, None)
    assert desk.results.status["j"] is JobStatus.RUNNING


@pytest.mark.parametrize("end", [JobStatus.SUCCEEDED, JobStatus.FAILED])
async def test_what_another_delivery_has_ended_is_not_dead_lettered_by_a_slower_one(end: JobStatus) -> None:
    desk = Desk()

    async def too_slow(job: Job, report: ProgressReporter) -> ResultDocuments:
        desk.results.status[job.job_id] = end
        raise REDIS_AWAY

    desk.recommender.script(too_slow)
    assert await desk.handle(attempt=3) == RetryLater(RetryReason.RUNNING_ELSEWHERE, 5.0, None)
    assert desk.results.status["j"] is end


async def test_a_result_that_comes_after_the_job_failed_is_not_a_success() -> None:
    desk = Desk()

    async def too_slow(job: Job, report: ProgressReporter) -> ResultDocuments:
        desk.results.status[job.job_id] = JobStatus.FAILED
        return DOCUMENTS

    desk.recommender.script(too_slow)
    assert await desk.handle() == Ack(AckReason.FAILED_BEFORE)
    assert desk.results.status["j"] is JobStatus.FAILED


async def test_a_failure_that_cannot_be_recorded_waits_until_it_can() -> None:
    desk = Desk(raising(ZeroDivisionError()))
    desk.results.failures["fail"] = 1
    outcome = await desk.handle(attempt=1)
    assert isinstance(outcome, RetryLater)
    assert (outcome.reason, outcome.delay_s, outcome.attempt) == (RetryReason.OUTCOME_NOT_RECORDED, 120.0, None)


async def test_a_finished_result_outlives_a_redis_that_blinks() -> None:
    desk = Desk()
    desk.results.failures["succeed"] = 2
    assert await desk.handle() == Ack(AckReason.SUCCEEDED)
    assert desk.recommender.n_calls == 1


async def test_a_result_that_cannot_be_saved_is_not_acked() -> None:
    desk = Desk()
    desk.results.failures["succeed"] = 99
    outcome = await desk.handle()
    assert isinstance(outcome, RetryLater)
    assert outcome.attempt == 1


def test_a_result_waits_as_long_as_a_redis_that_restarts_and_no_longer_than_a_drain() -> None:
    assert 20 <= sum(SAVE_PAUSES_S) < Settings.model_fields["shutdown_grace_s"].default


async def test_a_result_that_waits_for_redis_keeps_its_lease_and_can_be_cancelled() -> None:
    desk = Desk(save_pauses_s=(600,))
    desk.results.failures["succeed"] = 99
    running = asyncio.create_task(desk.handle())
    await eventually(lambda: desk.results.failures["succeed"] == 98)
    await desk.leases.renew()
    assert [set(tokens) for tokens in desk.results.renewed] == [{"j"}]
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert desk.results.leases == {}
    assert desk.observer.finished == [("cancelled", "none")]


async def test_a_job_is_timed_from_its_delivery_and_the_wait_for_its_claim_counts() -> None:
    clock = HandClock()
    desk = Desk(clock=clock)

    def slow_claim() -> None:
        clock.at_s += 3

    desk.results.on_claim = slow_claim
    await desk.handle()
    assert desk.observer.seconds == [3]


@pytest.mark.parametrize("n_failures", [0, 99])
async def test_saving_is_timed_as_a_stage_also_where_it_fails(n_failures: int) -> None:
    desk = Desk()
    desk.results.failures["succeed"] = n_failures
    await desk.handle()
    assert desk.observer.stages == ["save"]


async def test_a_job_that_never_comes_to_saving_times_none() -> None:
    desk = Desk(raising(ZeroDivisionError()))
    await desk.handle()
    assert desk.observer.stages == []


async def test_progress_that_cannot_be_reported_costs_nothing() -> None:
    desk = Desk()
    desk.results.failures["report_progress"] = 1
    assert await desk.handle() == Ack(AckReason.SUCCEEDED)


# --- messages that are wrong ---


async def test_a_wrong_message_is_dead_lettered_and_its_job_failed_where_the_id_can_be_read() -> None:
    desk = Desk()
    outcome = await desk.handle(topK=0)
    assert isinstance(outcome, DeadLetter)
    assert outcome.reason is DeadLetterReason.INVALID
    assert desk.results.status["j"] is JobStatus.FAILED
    code, message = desk.results.errors["j"]
    assert code == "INVALID_JOB"
    assert "topK" in message


async def test_garbage_is_dead_lettered_without_asking_redis() -> None:
    desk = Desk()
    desk.results.failures["fail"] = 1
    outcome = await desk.handle(raw=b"\x00garbage")
    assert isinstance(outcome, DeadLetter)
    assert desk.results.status == {}


async def test_a_wrong_message_waits_as_it_is_while_its_failure_cannot_be_recorded() -> None:
    desk = Desk()
    desk.results.failures["fail"] = 1
    outcome = await desk.handle(attempt="many")
    assert isinstance(outcome, RetryLater)
    assert outcome.attempt is None


# --- a decision in any case ---


async def test_no_depth_of_a_value_keeps_a_wrong_message_from_the_dead_letters() -> None:
    desk = Desk()
    # Just below Python's recursion limit, JSON can be read that cannot be shown; where, depends on the caller's depth.
    for depth in range(800, 1000):
        outcome = await desk.handle(raw=b'{"jobId":"p","memberId":' + b"[" * depth + b"]" * depth + b"}")
        assert isinstance(outcome, DeadLetter)
        assert outcome.reason is DeadLetterReason.INVALID


@pytest.mark.parametrize("raw", [b'{"jobId":"p","memberId":"\\ud800"}', b'{"jobId":"p","strategy":"\\udfff"}'])
async def test_whatever_a_wrong_message_holds_its_failure_can_be_written(raw: bytes) -> None:
    desk = Desk()
    outcome = await desk.handle(raw=raw)
    assert isinstance(outcome, DeadLetter)
    assert outcome.reason is DeadLetterReason.INVALID
    assert outcome.error.message.encode()


async def test_a_name_that_is_half_of_a_surrogate_pair_poisons_nothing() -> None:
    desk = Desk()
    raw = b'{"jobId":"p","memberId":1,"\\ud800":1,"\\ud800":2}'
    assert await desk.handle(raw=raw) == Ack(AckReason.SUCCEEDED)


@pytest.mark.parametrize("error", [RecursionError("too deep"), UnicodeEncodeError("utf-8", "\ud800", 0, 1, "half")])
async def test_a_bug_in_decoding_is_dead_lettered(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(body: bytes) -> Job:
        raise error

    monkeypatch.setattr("workers.handler.decode_job", decode)
    outcome = await Desk().handle()
    assert isinstance(outcome, DeadLetter)
    assert outcome.reason is DeadLetterReason.UNEXPECTED
    assert outcome.error.digest is not None


@pytest.mark.parametrize("top_k", [0, 1])
async def test_a_failure_that_a_bug_keeps_from_being_recorded_is_dead_lettered(top_k: int) -> None:
    desk = Desk(raising(ZeroDivisionError()))
    desk.results.bugs["fail"] = ValueError("WRONGTYPE")
    with capture_logs() as logs:
        outcome = await desk.handle(topK=top_k)
    assert isinstance(outcome, DeadLetter)
    assert outcome.reason is DeadLetterReason.UNEXPECTED
    assert any(isinstance(line.get("exc_info"), ValueError) for line in logs)


# --- being cancelled ---


async def test_a_cancelled_job_decides_nothing_and_lets_its_lease_go() -> None:
    desk = Desk(forever)
    running = asyncio.create_task(desk.handle())
    await eventually(lambda: desk.recommender.n_calls == 1)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert desk.results.status["j"] is JobStatus.RUNNING
    assert desk.results.leases == {}
    assert desk.observer.finished == [("cancelled", "none")]


async def test_a_cancelled_job_stays_cancelled_though_its_lease_cannot_be_let_go() -> None:
    desk = Desk(forever)
    desk.results.failures["release"] = 1
    running = asyncio.create_task(desk.handle())
    await eventually(lambda: desk.recommender.n_calls == 1)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


# --- leases ---


async def test_a_lease_that_could_not_be_given_up_does_not_keep_its_own_worker_out() -> None:
    desk = Desk()
    desk.results.failures["succeed"] = 3
    desk.results.failures["release"] = 1
    assert isinstance(await desk.handle(), RetryLater)
    assert "j" in desk.results.leases
    assert await desk.handle(attempt=1) == Ack(AckReason.SUCCEEDED)


async def test_two_workers_do_not_share_a_lease() -> None:
    desk, other = Desk(), Desk()
    other.results.leases = desk.results.leases
    desk.results.failures["succeed"] = 3
    desk.results.failures["release"] = 1
    await desk.handle()
    outcome = await other.handle(attempt=1)
    assert isinstance(outcome, RetryLater)
    assert outcome.reason is RetryReason.RUNNING_ELSEWHERE


async def test_of_two_deliveries_of_one_job_in_one_worker_one_waits() -> None:
    gate = asyncio.Event()

    async def gated(job: Job, report: ProgressReporter) -> ResultDocuments:
        await gate.wait()
        return DOCUMENTS

    desk = Desk(gated)
    first = asyncio.create_task(desk.handle())
    await eventually(lambda: desk.recommender.n_calls == 1)
    assert await desk.handle() == RetryLater(RetryReason.RUNNING_ELSEWHERE, 5.0, None)
    gate.set()
    assert await first == Ack(AckReason.SUCCEEDED)
    assert await desk.handle() == Ack(AckReason.SUCCEEDED_BEFORE)
    assert desk.recommender.n_calls == 1


async def test_the_leases_of_running_jobs_are_renewed_together_and_no_longer_than_they_run() -> None:
    desk = Desk(forever)
    keeper = asyncio.create_task(desk.leases.run())
    running = [asyncio.create_task(desk.handle(jobId=name)) for name in ("a", "b")]
    await eventually(lambda: any(set(tokens) == {"a", "b"} for tokens in desk.results.renewed))
    assert desk.results.renewed[-1] == desk.results.leases
    for task in running:
        task.cancel()
    await asyncio.wait(running)
    desk.results.renewed.clear()
    await desk.leases.renew()
    assert desk.results.renewed == []
    keeper.cancel()


async def test_a_renewal_that_fails_is_tried_again() -> None:
    results = InMemoryResults()
    results.failures["renew"] = 1
    leases = LeaseKeeper(results, lease_s=15)
    with leases.held("j", "token"), capture_logs() as logs:
        await leases.renew()
        await leases.renew()
    assert [line["event"] for line in logs] == ["lease_renewal_failed"]
    assert results.renewed == [{"j": "token"}]


# --- the arm ---


async def test_the_arm_that_the_recommender_says_is_in_the_lines_of_its_job_and_of_no_other() -> None:
    async def of_an_arm(job: Job, report: ProgressReporter) -> ResultDocuments:
        bind_contextvars(arm="ranking")
        return DOCUMENTS

    desk = Desk(of_an_arm)
    with capture_logs(processors=[merge_contextvars]) as lines:
        await desk.handle(jobId="a")
        await desk.handle(raw=b"no job")
    arms = {line["event"]: line.get("arm") for line in lines}
    assert arms == {"job_received": None, "job_succeeded": "ranking", "job_dead_lettered": None}
    assert "arm" not in get_contextvars()
