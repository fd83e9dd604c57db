"""A soak of seconds: that the load flows, that everything is measured, and that nothing goes wrong on the way."""

import asyncio
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.chaos.record import DOCUMENT, with_row
from tests.chaos.site import ChaosServers
from tests.soak.report import ROWS_END, row, write_pictures
from tests.soak.site import open_site
from tests.soak.soak import Plan, soak


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_a_short_soak_finds_nothing_and_draws_its_curves(chaos_servers: ChaosServers, tmp_path: Path) -> None:
    plan = Plan(measured_s=60, warm_up_s=30, sample_every_s=2, seed=3)
    async with open_site(chaos_servers, n_workers=2) as site:
        report = await soak(site, plan, asyncio.Event(), print)
    assert report.tally.wrong == []
    # A minute is too short to tell growth from noise.
    assert [fault for fault in report.faults if " grew " not in fault and " grows " not in fault] == []
    assert len(report.tally.ended) > 60 * 4
    assert any(job.is_batch for job in report.tally.ended)
    assert len(report.samples) > 5
    assert "| 1 | 3 |" in with_row(DOCUMENT.read_text(encoding="utf-8"), ROWS_END, row(report, seed=3))
    for path in write_pictures(report, tmp_path):
        ElementTree.fromstring(path.read_text(encoding="utf-8"))  # noqa: S314 - our own
