"""A short round of chaos with a new seed each time; a failing one says its seed, and CHAOS_SEED plays it again."""

import os
import secrets
from pathlib import Path
from random import Random

import pytest

from tests.chaos.chaos_round import Plan, play
from tests.chaos.faults import FAULTS
from tests.chaos.site import ChaosServers, open_site
from tests.support.private_servers import PrivateMySQL, PrivateRabbitMQ, PrivateRedis
from tests.support.servers import BreakableServer

N_FAULTS = 6


@pytest.fixture
def servers(
    private_rabbitmq: BreakableServer, private_mysql: BreakableServer, private_redis: BreakableServer
) -> ChaosServers:
    if not (
        isinstance(private_rabbitmq, PrivateRabbitMQ)
        and isinstance(private_mysql, PrivateMySQL)
        and isinstance(private_redis, PrivateRedis)
    ):
        pytest.skip("the servers run in containers, where their files and processes are not to be reached")
    return ChaosServers(private_rabbitmq, private_mysql, private_redis)


@pytest.mark.timeout(300)
async def test_a_short_round_of_chaos_loses_nothing(servers: ChaosServers, tmp_path: Path) -> None:
    seed = int(os.environ.get("CHAOS_SEED") or secrets.randbelow(10**6))
    names = os.environ.get("CHAOS_FAULTS", "").split() or Random(seed).sample(sorted(FAULTS), N_FAULTS)
    async with open_site(servers, tmp_path, n_workers=2) as site:
        await play(site, Plan(seed=seed, n_jobs=300, faults=names, n_outstanding=40), print)
