"""The servers of the chaos suite: those that tests may break, as processes of this machine."""

import pytest

from tests.chaos.site import ChaosServers
from tests.support.private_servers import PrivateMySQL, PrivateRabbitMQ, PrivateRedis
from tests.support.servers import BreakableServer


@pytest.fixture
def chaos_servers(
    private_rabbitmq: BreakableServer, private_mysql: BreakableServer, private_redis: BreakableServer
) -> ChaosServers:
    """All three; their files and processes are looked into, which those in containers do not allow."""
    if not (
        isinstance(private_rabbitmq, PrivateRabbitMQ)
        and isinstance(private_mysql, PrivateMySQL)
        and isinstance(private_redis, PrivateRedis)
    ):
        pytest.skip("the servers that may be broken run in containers: chaos needs them as processes, see make chaos")
    return ChaosServers(private_rabbitmq, private_mysql, private_redis)
