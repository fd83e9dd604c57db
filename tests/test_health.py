"""Liveness, readiness, and what the checks behind them cost."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime

import pytest
import structlog
from prometheus_client import CollectorRegistry

from api.health import ENDING, N_FAILURES, PATIENCE_S, Health, HealthReporter
from core.errors import DependencyUnavailable
from core.ports.observing import HealthCheck
from models.log_event import LogEvent
from services.clock import SystemClock
from services.metrics import PrometheusMetrics
from tests.support.hand_clock import HandClock
from tests.support.http_app import http_bench, make_metrics

Answer = Callable[[], Awaitable[str | None]]


class Check:
    """A check that answers as told, and counts how often it was asked."""

    def __init__(self, warning: str | None = None, error: Exception | None = None) -> None:
        self.warning = warning
        self.error = error
        self.n_asked = 0

    async def __call__(self) -> str | None:
        self.n_asked += 1
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        return self.warning


AWAY = DependencyUnavailable("mysql", "connection refused")


def reporter_of(checks: Mapping[str, HealthCheck], clock: HandClock | None = None, **options: object) -> HealthReporter:
    clock = clock or HandClock()
    metrics = PrometheusMetrics(CollectorRegistry(), clock=clock)
    return HealthReporter(checks, clock=clock, observer=metrics, **options)  # type: ignore[arg-type]


async def test_all_dependencies_in_order_is_ready() -> None:
    async with http_bench(checks={"mysql": Check(), "redis": Check()}) as bench:
        response = await bench.client.get("/health")
    assert response.status_code == 200
    body = response.json()
    assert (body["status"], body["ready"]) == ("ok", True)
    assert set(body["checks"]) == {"mysql", "redis"}
    mysql = body["checks"]["mysql"]
    assert (mysql["status"], mysql["reason"], mysql["latency_ms"]) == ("ok", None, 0)
    assert datetime.fromisoformat(mysql["checked_at"]) == bench.clock.now()
    assert mysql["checked_at"].endswith("Z")


@pytest.mark.parametrize("path", ["/health", "/health/ready"])
async def test_a_dependency_that_is_away_makes_it_unready_and_is_named_with_the_reason(path: str) -> None:
    async with http_bench(checks={"mysql": Check(error=AWAY), "redis": Check()}) as bench:
        response = await bench.client.get(path)
    assert response.status_code == 503
    body = response.json()
    assert (body["status"], body["ready"]) == ("unavailable", False)
    assert body["checks"]["mysql"]["status"] == "unavailable"
    assert body["checks"]["mysql"]["reason"] == "mysql: connection refused"
    assert body["checks"]["redis"]["status"] == "ok"


async def test_liveness_asks_no_dependency() -> None:
    check = Check(error=AWAY)
    async with http_bench(checks={"mysql": check}) as bench:
        response = await bench.client.get("/health/live")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})
    assert check.n_asked == 0


async def test_a_warning_degrades_but_stays_ready() -> None:
    async with http_bench(checks={"redis": Check(warning="appendonly is off")}) as bench:
        response = await bench.client.get("/health/ready")
    assert response.status_code == 200
    assert response.json()["status"] == "degraded"
    assert response.json()["checks"]["redis"] == {
        **response.json()["checks"]["redis"],
        "status": "degraded",
        "reason": "appendonly is off",
    }


async def test_an_optional_dependency_that_is_away_only_degrades() -> None:
    llm_away = DependencyUnavailable("llm", "circuit is open")
    reporter = reporter_of({"llm": Check(error=llm_away), "mysql": Check()}, optional={"llm"})
    report = await reporter.report()
    assert (report.status, report.ready) == (Health.DEGRADED, True)
    assert report.findings["llm"].status is Health.UNAVAILABLE


async def test_no_checks_at_all_is_ready() -> None:
    assert (await reporter_of({}).report()).status is Health.OK


async def test_a_check_that_hangs_is_cut_off_and_does_not_hide_the_others() -> None:
    async def hangs() -> str | None:
        await asyncio.Event().wait()
        return None

    reporter = reporter_of({"mysql": hangs, "redis": Check()}, timeout_s=0.02)
    report = await asyncio.wait_for(reporter.report(), 5)
    assert report.findings["mysql"].reason == "no answer within 0.02 s"
    assert report.findings["redis"].status is Health.OK


async def test_checks_run_side_by_side() -> None:
    both_run = asyncio.Barrier(2)

    async def meets_the_other() -> str | None:
        await both_run.wait()
        return None

    report = await reporter_of({"a": meets_the_other, "b": meets_the_other}).report()
    assert report.status is Health.OK


async def test_a_broken_check_is_reported_without_its_message() -> None:
    reporter = reporter_of({"mysql": Check(error=ValueError("password is hunter2")), "redis": Check()})
    with structlog.testing.capture_logs() as logs:
        report = await reporter.report()
    assert report.findings["mysql"].reason == "the check itself failed: ValueError"
    assert report.findings["redis"].status is Health.OK
    assert logs[0]["event"] == LogEvent.UNEXPECTED_ERROR_CAUGHT


async def test_probes_within_a_second_share_one_round_of_checks() -> None:
    clock, check = HandClock(), Check()
    reporter = reporter_of({"mysql": check}, clock)
    await asyncio.gather(*(reporter.report() for _ in range(20)))
    clock.move(0.9)
    await reporter.report()
    assert check.n_asked == 1
    clock.move(0.2)
    await reporter.report()
    assert check.n_asked == 2


async def test_a_dependency_that_comes_back_makes_it_ready_again() -> None:
    clock, check = HandClock(), Check(error=AWAY)
    reporter = reporter_of({"mysql": check}, clock)
    assert not (await reporter.report()).ready
    check.error = None
    clock.move(2)
    assert (await reporter.report()).ready


async def test_an_outage_is_logged_once_and_not_at_every_probe() -> None:
    clock = HandClock()
    reporter = reporter_of({"mysql": Check(error=AWAY)}, clock)
    with structlog.testing.capture_logs() as logs:
        for _ in range(5):
            await reporter.report()
            clock.move(2)
    assert [(entry["event"], entry["dependency"]) for entry in logs] == [(LogEvent.DEPENDENCY_CHECK_FAILED, "mysql")]


async def test_a_probe_that_gives_up_does_not_block_the_next() -> None:
    entered, release = asyncio.Event(), asyncio.Event()

    async def slow() -> str | None:
        entered.set()
        await release.wait()
        return None

    reporter = reporter_of({"mysql": slow}, timeout_s=30)
    first = asyncio.create_task(reporter.report())
    await asyncio.wait_for(entered.wait(), 5)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    release.set()
    assert (await asyncio.wait_for(reporter.report(), 5)).ready


async def test_the_gauges_follow_the_checks_even_if_only_metrics_are_scraped() -> None:
    checks = {"mysql": Check(error=AWAY), "redis": Check()}
    async with http_bench(checks=checks) as bench:
        exposition = (await bench.client.get("/metrics")).text
    assert 'songs_ai_dependency_up{dependency="mysql"} 0.0' in exposition
    assert 'songs_ai_dependency_up{dependency="redis"} 1.0' in exposition


async def test_latency_is_measured_on_the_real_clock() -> None:
    async def some_time() -> str | None:
        await asyncio.sleep(0.01)
        return None

    clock = SystemClock()
    metrics = PrometheusMetrics(CollectorRegistry(), clock=clock)
    report = await HealthReporter({"mysql": some_time}, clock=clock, observer=metrics).report()
    assert 5 < report.findings["mysql"].latency_ms < 1000


# --- one answer decides nothing ---


async def statuses(reporter: HealthReporter, clock: HandClock, *, n: int, every_s: float) -> list[Health]:
    found = []
    for _ in range(n):
        clock.move(every_s)
        found.append((await reporter.report()).status)
    return found


async def test_one_failed_look_only_degrades_what_was_well() -> None:
    clock, check = HandClock(), Check()
    reporter = reporter_of({"mysql": check}, clock)
    assert (await reporter.report()).status is Health.OK
    check.error = AWAY
    clock.move(60)
    report = await reporter.report()
    assert (report.status, report.ready) == (Health.DEGRADED, True)
    assert report.findings["mysql"].reason == "mysql: connection refused"
    check.error = None
    assert await statuses(reporter, clock, n=2, every_s=2) == [Health.OK, Health.OK]


@pytest.mark.parametrize(
    ("every_s", "n_looks"),
    [(1.0, 1 + round(PATIENCE_S)), (60.0, N_FAILURES)],
    ids=["often asked: as long as the patience lasts", "seldom asked: so many looks"],
)
async def test_what_stays_away_is_unavailable_after_some_looks_and_some_time(every_s: float, n_looks: int) -> None:
    clock, check = HandClock(), Check()
    reporter = reporter_of({"mysql": check}, clock)
    await reporter.report()
    check.error = AWAY
    found = await statuses(reporter, clock, n=n_looks, every_s=every_s)
    assert found == [Health.DEGRADED] * (n_looks - 1) + [Health.UNAVAILABLE]


async def test_failures_with_successes_between_never_add_up() -> None:
    clock, check = HandClock(), Check()
    reporter = reporter_of({"mysql": check}, clock)
    for number in range(30):
        check.error = AWAY if number % N_FAILURES else None
        clock.move(5)
        assert (await reporter.report()).ready, number


async def test_what_was_away_is_well_at_its_second_answer_and_its_return_is_logged() -> None:
    clock, check = HandClock(), Check()
    reporter = reporter_of({"mysql": check}, clock)
    await reporter.report()
    check.error = AWAY
    assert (await statuses(reporter, clock, n=4, every_s=2))[-1] is Health.UNAVAILABLE
    check.error = None
    with structlog.testing.capture_logs() as logs:
        found = await statuses(reporter, clock, n=3, every_s=2)
    assert found == [Health.UNAVAILABLE, Health.OK, Health.OK]
    assert [(entry["event"], entry["dependency"]) for entry in logs] == [(LogEvent.DEPENDENCY_RECOVERED, "mysql")]


async def test_an_answer_between_two_failures_does_not_bring_back_what_was_away() -> None:
    clock, check = HandClock(), Check()
    reporter = reporter_of({"mysql": check}, clock)
    await reporter.report()
    check.error = AWAY
    await statuses(reporter, clock, n=4, every_s=2)
    for _ in range(5):
        check.error = None
        assert await statuses(reporter, clock, n=1, every_s=2) == [Health.UNAVAILABLE]
        check.error = AWAY
        assert await statuses(reporter, clock, n=1, every_s=2) == [Health.UNAVAILABLE]


async def test_the_gauge_shows_what_each_look_found_before_readiness_falls() -> None:
    clock, check = HandClock(), Check()
    metrics = PrometheusMetrics(CollectorRegistry(), clock=clock)
    reporter = HealthReporter({"mysql": check}, clock=clock, observer=metrics)
    await reporter.report()
    check.error = AWAY
    clock.move(2)
    assert (await reporter.report()).ready
    assert b'songs_ai_dependency_up{dependency="mysql"} 0.0' in metrics.expose("")[0]


# --- the start ---


async def test_it_has_not_started_until_it_was_ready_once_and_has_from_then_on() -> None:
    check = Check(error=AWAY)
    async with http_bench(checks={"mysql": check}) as bench:

        async def started() -> tuple[int, object]:
            bench.clock.move(2)
            response = await bench.client.get("/health/started")
            return response.status_code, response.json()

        assert await started() == (503, {"started": False})
        check.error = None
        assert await started() == (200, {"started": True})
        check.error = AWAY
        for _ in range(5):
            assert await started() == (200, {"started": True})
            await bench.client.get("/health/ready")
        assert (await bench.client.get("/health/ready")).status_code == 503


async def test_it_looks_by_itself_where_nobody_asks() -> None:
    looked = asyncio.Event()

    async def look() -> None:
        looked.set()

    reporter = HealthReporter({"mysql": look}, clock=SystemClock(), observer=make_metrics())
    running = asyncio.create_task(reporter.run())
    await asyncio.wait_for(looked.wait(), 5)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


# --- the end ---


async def test_a_process_that_ends_is_alive_but_not_ready_and_says_why_at_once() -> None:
    check = Check()
    async with http_bench(checks={"mysql": check}) as bench:
        assert (await bench.client.get("/health/ready")).json()["reason"] is None
        bench.health.end()
        response = await bench.client.get("/health/ready")
        assert response.status_code == 503
        body = response.json()
        assert (body["status"], body["ready"], body["reason"]) == ("unavailable", False, ENDING)
        assert body["checks"]["mysql"]["status"] == "ok"
        for path in ("/health/live", "/health/started"):
            assert (await bench.client.get(path)).status_code == 200


async def test_what_a_process_closes_at_its_end_is_no_outage() -> None:
    clock, check = HandClock(), Check()
    metrics = make_metrics(clock)
    reporter = HealthReporter({"broker": check}, clock=clock, observer=metrics)
    await reporter.report()
    check.error = DependencyUnavailable("broker", "not consuming")
    reporter.end()
    with structlog.testing.capture_logs() as logs:
        for _ in range(2 * N_FAILURES):
            clock.move(PATIENCE_S)
            assert not (await reporter.report()).ready
    assert (check.n_asked, logs) == (1, [])
    assert b'songs_ai_dependency_up{dependency="broker"} 1.0' in metrics.expose("")[0]
