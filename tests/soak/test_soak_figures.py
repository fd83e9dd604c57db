"""What a soak concludes from what it measured: what grows is found, and what only looks like growth is not."""

import asyncio
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import cast
from xml.etree import ElementTree

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.record import DOCUMENT, with_row
from tests.chaos.site import LIKED_BY_MEMBERS
from tests.chaos.vitals import Vitals
from tests.soak import soak
from tests.soak.figures import (
    MAX_GROWTH_MB,
    MAX_MORE,
    AtRest,
    Memory,
    Sample,
    Window,
    cpu_ms_a_job,
    memory_of,
    slope_of,
    thirds,
    verdict,
    windows_of,
)
from tests.soak.load import Ended, JobWriter, Tally
from tests.soak.report import ROWS_END, row, write_pictures
from tests.soak.site import SoakSite
from tests.soak.soak import Report, shown

REST = AtRest(n_tasks=40, n_sockets=42, n_open=64, n_redis_connections=21, n_mysql_connections=8, n_broker_channels=8)
FLAT = [200.0] * 240
DEAR = (25.0, 31.0)


def samples_of(rss_mb: list[float], *, every_s: float = 5.0, cpu_a_second: float = 0.3) -> list[Sample]:
    """Of two workers, the second one always at 210 MB."""
    return [
        Sample(
            at_s=n * every_s,
            workers=[Vitals(mb, 20, 30), Vitals(210.0, 21, 31)],
            n_tasks=[20, 22],
            cpu_s=100 + n * every_s * cpu_a_second,
            load=1.0,
            n_redis_connections=21,
            n_mysql_connections=8,
        )
        for n, mb in enumerate(rss_mb)
    ]


def windows(*p50_ms: float) -> list[Window]:
    return [Window(minute, 400, p50, 3 * p50) for minute, p50 in enumerate(p50_ms)]


def faults(
    rss_mb: list[float] = FLAT,
    *p50_ms: float,
    cpu_ms: tuple[float, float] = (25.0, 25.0),
    after: AtRest = REST,
) -> list[str]:
    return verdict(samples_of(rss_mb), windows(*(p50_ms or (300.0, 300.0, 300.0))), cpu_ms, (REST, after))


def test_what_stays_as_it_is_has_nothing_against_it() -> None:
    assert faults() == []


def test_memory_that_grows_slowly_and_steadily_is_found() -> None:
    leaking = [200 + n * (MAX_GROWTH_MB + 4) / 240 for n in range(240)]
    found = faults(leaking)
    assert [fault.split(" ")[:2] for fault in found] == [["worker", "1"]] * len(found)
    assert len(found) >= 1


def test_memory_that_jumps_once_and_stays_is_found() -> None:
    [fault] = faults([200.0] * 150 + [200 + MAX_GROWTH_MB + 1] * 90)
    assert "grew from 200 to 213 MB" in fault


def test_memory_that_comes_and_goes_is_no_growth() -> None:
    chance = Random(1)
    assert faults([200 + chance.uniform(0, 30) for _ in range(240)]) == []


def test_a_spike_at_the_end_does_not_tilt_the_slope() -> None:
    memory = Memory.of([n * 5.0 for n in range(240)], [200.0] * 239 + [400.0])
    assert memory.slope_mb_h == 0
    assert memory.hours == pytest.approx(239 * 5 / 3600)


@given(st.floats(-100, 100), st.floats(-100, 100), st.integers(2, 40))
def test_the_slope_of_a_line_is_its_own(slope: float, start: float, n: int) -> None:
    assert slope_of([float(x) for x in range(n)], [start + slope * x for x in range(n)]) == pytest.approx(
        slope, abs=1e-6
    )


def test_a_single_sample_has_no_slope() -> None:
    assert slope_of([1.0], [5.0]) == 0
    [first, second] = memory_of(samples_of([200.0]))
    assert (first.faults("worker 1"), second.start_mb, second.end_mb) == ([], 210, 210)


@pytest.mark.parametrize(
    "name",
    ["n_tasks", "n_sockets", "n_open", "n_redis_connections", "n_mysql_connections", "n_broker_channels"],
)
def test_what_is_held_at_rest_may_be_a_handful_more_and_no_more_than_that(name: str) -> None:
    held = getattr(REST, name)
    assert faults(after=replace(REST, **{name: held + MAX_MORE})) == []
    assert faults(after=replace(REST, **{name: 0})) == []
    [fault] = faults(after=replace(REST, **{name: held + MAX_MORE + 1}))
    assert f"{held} before, {held + MAX_MORE + 1} after" in fault


def test_at_rest_the_least_of_each_counts() -> None:
    samples = samples_of([200.0, 201.0])
    samples[1] = replace(samples[1], n_tasks=[19, 21], n_redis_connections=30)
    assert AtRest.least(samples, n_broker_channels=8) == AtRest(
        n_tasks=40, n_sockets=41, n_open=61, n_redis_connections=21, n_mysql_connections=8, n_broker_channels=8
    )


def test_latency_that_grows_with_the_work_of_a_job_is_found() -> None:
    assert faults(FLAT, 300, 400, 460, cpu_ms=DEAR) == ["latency grew from 300 to 460 ms"]


def test_latency_that_grows_while_a_job_costs_what_it_did_is_the_machines() -> None:
    assert faults(FLAT, 300, 400, 460) == []
    assert faults(FLAT, 300, 300, 440, cpu_ms=DEAR) == []


def test_windows_hold_interactive_jobs_by_the_minute_of_their_publication() -> None:
    ended = [Ended(1000 + second, 0.1 + 0.1 * (second >= 60), is_batch=False) for second in range(120)]
    ended += [Ended(1010, 60.0, is_batch=True), Ended(900, 60.0, is_batch=False)]
    ended += [Ended(1000 + 125, 60.0, is_batch=False)]  # a minute of one job
    found = windows_of(ended, 1000)
    assert [(each.minute, each.n_jobs) for each in found] == [(0, 60), (1, 60)]
    assert [each.p50_ms for each in found] == pytest.approx([100, 200])


def test_the_first_third_is_compared_with_the_last() -> None:
    assert thirds(windows(1, 2, 3, 50, 50, 50, 7, 8, 9)) == (2, 8)
    assert thirds(windows(5)) == (5, 5)


def test_cpu_time_a_job_is_that_of_the_jobs_published_meanwhile() -> None:
    samples = samples_of(FLAT[:31], every_s=10)
    ended = [Ended(1000 + n / 10, 0.1, is_batch=False) for n in range(1000)]  # ten a second, and then five
    ended += [Ended(1100 + n / 5, 0.1, is_batch=bool(n % 2)) for n in range(1000)]
    ended.append(Ended(10, 0.1, is_batch=False))
    assert cpu_ms_a_job(samples, ended, 1000) == pytest.approx((30, 60))


def test_a_sample_is_told_in_a_line() -> None:
    assert shown(samples_of(FLAT)[12]) == (
        "  1.0 min: 200, 210 MB; 20, 21 sockets; 20, 22 tasks; 21 connections at Redis, 8 at MySQL"
    )


def report(*found: str) -> Report:
    tally = Tally(ended=[Ended(1000, 0.3, is_batch=False), Ended(1001, 0.3, is_batch=True)], n_degraded=1, n_poison=2)
    return Report(samples_of(FLAT), windows(300, 310, 320), (25.0, 25.0), (REST, REST), tally, 1200.0, found)


def test_the_row_fits_the_table_of_the_document() -> None:
    page = DOCUMENT.read_text(encoding="utf-8")
    header = next(line for line in page.splitlines() if "MB of each worker" in line and line.startswith("|"))
    line = row(report("a fault\nwith details"), seed=7)
    assert line.count("|") == header.count("|")
    assert "| 20 | 7 | 2 | 1 | 1 | 2 |" in line
    assert line.endswith("| a fault |")
    assert row(report(), seed=7).endswith("| nothing |")
    assert f"{line}\n{ROWS_END}" in with_row(page, ROWS_END, line)


def test_the_pictures_of_the_document_are_those_that_are_drawn(tmp_path: Path) -> None:
    paths = write_pictures(report(), tmp_path)
    page = DOCUMENT.read_text(encoding="utf-8")
    for path in paths:
        assert f"img/{path.name}" in page
        told = set(ElementTree.fromstring(path.read_text(encoding="utf-8")).itertext())  # noqa: S314 - our own
        assert told & {"worker 1", "sockets", "p50"}


# --- the load ---


def test_a_seed_writes_the_same_jobs_and_some_ask_again() -> None:
    def jobs(seed: int) -> list[dict[str, object]]:
        writer = JobWriter(Random(seed), range(1, 300))
        return [writer.write() for _ in range(300)]

    def questions(seed: int) -> list[str]:
        names = ("memberId", "favoriteSongIds", "strategy", "context")
        return [str([job.get(name) for name in names]) for job in jobs(seed)]

    assert questions(1) == questions(1) != questions(2)
    assert 20 < 300 - len(set(questions(1))) < 120
    written = jobs(3)
    assert len({job["jobId"] for job in written}) == 300
    assert sum("context" in job for job in written) > 10
    assert {job["strategy"] for job in written} == {"default", "fast", "deep", None}
    keys = [job["idempotencyKey"] for job in written if job["idempotencyKey"]]
    assert 5 < len(keys) < 60
    assert any(job["memberId"] in LIKED_BY_MEMBERS for job in written)


async def test_a_worker_that_is_too_busy_to_be_looked_at_costs_a_sample_and_not_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    [sample, *_] = samples_of(FLAT)
    looks: list[Sample | Exception] = [sample, httpx.ReadTimeout("busy"), sample]
    enough = asyncio.Event()

    async def take(_site: object, _at_s: float) -> Sample:
        look = looks.pop(0) if looks else sample
        if not looks:
            enough.set()
        if isinstance(look, Exception):
            raise look
        return look

    monkeypatch.setattr(soak, "take", take)
    samples: list[Sample] = []
    told: list[str] = []
    async with soak.sampling(cast(SoakSite, None), samples, 0.001, told.append), asyncio.timeout(10):
        await enough.wait()
    assert samples[:2] == [sample, sample]
    assert told[0] == "no sample: ReadTimeout('busy')"
