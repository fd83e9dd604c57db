"""Many jobs whose worker is killed after it saved their results and before the broker heard of it."""

from pathlib import Path
from random import Random

import pytest

from tests.chaos.dead_letters import browse
from tests.chaos.killed_before_ack import kill_before_acks
from tests.chaos.site import PATIENT, SETTINGS, ChaosServers, open_site

PREFETCH = 100


@pytest.mark.timeout(300)
@pytest.mark.parametrize("n_kills", [1, pytest.param(10, marks=pytest.mark.long)])
async def test_jobs_whose_worker_is_killed_between_save_and_ack_are_done_once(
    chaos_servers: ChaosServers, tmp_path: Path, n_kills: int
) -> None:
    settings = {**SETTINGS, **PATIENT, "CONCURRENCY": str(PREFETCH)}
    async with open_site(chaos_servers, tmp_path, n_workers=1, settings=settings) as site:
        found = await kill_before_acks(site, Random(n_kills), n_kills=n_kills, n_jobs=PREFETCH)
        assert (found.n_jobs, found.n_killed_before_ack) == (n_kills * PREFETCH, n_kills * PREFETCH)
        assert found.n_runs_again == 0
        assert found.n_acked_as_known == n_kills * PREFETCH
        assert site.trace.faults == []
        assert set(map(tuple, site.trace.statuses.values())) == {("queued", "running", "succeeded")}
        assert await browse(site) == []
