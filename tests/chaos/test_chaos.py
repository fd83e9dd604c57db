"""A short round of chaos with a new seed each time; a failing one says its seed, and CHAOS_SEED plays it again."""

import os
import secrets
from pathlib import Path
from random import Random

import pytest

from tests.chaos.chaos_round import Plan, play
from tests.chaos.faults import FAULTS, SLOW, draw
from tests.chaos.site import ChaosServers, open_site

N_FAULTS = 5
N_TIMES = 5


@pytest.mark.timeout(300)
async def test_a_short_round_of_chaos_loses_nothing(chaos_servers: ChaosServers, tmp_path: Path) -> None:
    seed = int(os.environ.get("CHAOS_SEED") or secrets.randbelow(10**6))
    quick = sorted(FAULTS.keys() - SLOW)
    names = os.environ.get("CHAOS_FAULTS", "").split() or Random(seed).sample(quick, N_FAULTS)
    async with open_site(chaos_servers, tmp_path, n_workers=2) as site:
        await play(site, Plan(seed=seed, n_jobs=200, faults=names, n_outstanding=40), print)


def test_a_long_round_draws_every_fault_as_often_in_an_order_of_its_seed() -> None:
    drawn = draw(1, N_TIMES)
    assert {name: drawn.count(name) for name in FAULTS} == dict.fromkeys(FAULTS, N_TIMES)
    assert drawn == draw(1, N_TIMES) != draw(2, N_TIMES)
