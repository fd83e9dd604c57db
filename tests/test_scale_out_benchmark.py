"""What the benchmarks of many workers make of what they measured; the figures themselves are a machine's own."""

from datetime import UTC, datetime
from xml.etree import ElementTree

import pytest

from benchmarks.scale_out import (
    IN_FLIGHT,
    WITH_LLM,
    WITHOUT,
    Figures,
    Turn,
    busy_ticks,
    seconds_until_last,
)
from benchmarks.server_costs import per_job


def turn(jobs_per_s: float, *cpu_s: float) -> Turn:
    return Turn(n_jobs=100, seconds=100 / jobs_per_s, cpu_s=cpu_s or (1.0,), busy_cores=1.5)


@pytest.fixture
def figures() -> Figures:
    found = Figures()
    for rate in (10, 30, 20):
        found.add(WITHOUT, 1, turn(rate))
    found.add(WITHOUT, 2, turn(30, 1.0, 3.0))
    for n_workers in (1, 2):
        found.add(WITH_LLM, n_workers, turn(8 * n_workers))
    return found


def rows_of(figures: Figures) -> dict[tuple[str, str], list[str]]:
    rows = zip(*([str(cell) for cell in column.cells] for column in figures.table().columns), strict=True)
    return {(kind, n_workers): rest for kind, n_workers, *rest in rows}


def test_the_table_shows_medians_their_range_and_what_more_workers_bring(figures: Figures) -> None:
    rows = rows_of(figures)
    assert rows[WITHOUT, "1"][:2] == ["20.0 (10.0 to 30.0)", "1.00"]
    assert rows[WITHOUT, "2"][:2] == ["30.0 (30.0 to 30.0)", "1.50"]
    assert rows[WITH_LLM, "2"][1] == "2.00"


def test_the_cpu_of_a_job_is_that_of_all_workers(figures: Figures) -> None:
    rows = rows_of(figures)
    assert rows[WITHOUT, "2"][2:] == ["40.0 ms", "1.0, 3.0 s", "1.50"]


def test_the_chart_holds_a_line_for_each_kind_and_for_what_the_llm_allows(figures: Figures) -> None:
    root = ElementTree.fromstring(figures.chart(llm_delay_s=8.0))  # noqa: S314 - our own
    texts = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {WITH_LLM, WITHOUT, f"{IN_FLIGHT} / 8 s each"} <= texts
    assert len(list(root.iter("{http://www.w3.org/2000/svg}circle"))) == 6


def test_a_rate_counts_until_the_last_job_ended() -> None:
    started_s = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC).timestamp()
    ended = ["2026-01-01T12:00:09.5Z", "2026-01-01T12:00:12.25Z", "2026-01-01T12:00:03Z"]
    assert seconds_until_last(ended, started_s) == 12.25


def test_what_passes_without_jobs_is_no_jobs_cost() -> None:
    before, after = {"commands": 100.0, "bytes": 0.0}, {"commands": 220.0, "bytes": 500.0}
    found = per_job(before, after, {"commands": 2.0, "bytes": 0.0}, seconds=10, n_jobs=10)
    assert found == {"commands": 10.0, "bytes": 50.0}


def test_the_machines_work_is_counted_up() -> None:
    before = busy_ticks()
    while busy_ticks() == before:  # this loop is work
        pass
    assert busy_ticks() > before > 0
