"""Three RabbitMQ nodes that are one cluster, on loopback, with the load balancer before them that a site would have."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence

from tests.support.messaging import Wire
from tests.support.private_servers import PrivateRabbitMQ

N_NODES = 3


class Cluster:
    """Private nodes; the first is started before the others, which join it."""

    def __init__(self) -> None:
        first = PrivateRabbitMQ()
        self.nodes = [first, *(PrivateRabbitMQ(first=first) for _ in range(N_NODES - 1))]

    def start(self) -> None:
        """Return when all nodes run, as one cluster; raises ``RuntimeError`` where they do not find each other."""
        for node in self.nodes:
            node.start()
        running = json.loads(self.nodes[0].control("cluster_status", "--formatter", "json"))["running_nodes"]
        if sorted(running) != sorted(node.node for node in self.nodes):
            raise RuntimeError(f"the cluster consists of {running} alone")

    def leader_of(self, queue: str) -> PrivateRabbitMQ:
        """The node that leads a quorum queue at this moment."""
        asked = next(node for node in self.nodes if node.running)
        rows = json.loads(asked.control("list_queues", "name", "leader", "--formatter", "json"))
        leader = next(row["leader"] for row in rows if row["name"] == queue)
        return next(node for node in self.nodes if node.node == leader)

    def online_members_of(self, queue: str) -> list[str]:
        """The nodes whose copy of the queue takes part."""
        asked = next(node for node in self.nodes if node.running)
        rows = json.loads(asked.control("list_queues", "name", "online", "--formatter", "json"))
        return list(next(row["online"] for row in rows if row["name"] == queue))

    def close(self) -> None:
        """Kill all nodes and remove what they wrote; the first, whose port mapper all use, last."""
        for node in reversed(self.nodes):
            node.close()


class Balancer(Wire):
    """Hands every new connection to the next node that accepts one; ends those of a node that dies."""

    def __init__(self, nodes: Sequence[PrivateRabbitMQ]) -> None:
        super().__init__(nodes[0].url)
        self._nodes = list(nodes)

    async def _open_far(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        for _ in self._nodes:
            self._nodes.append(self._nodes.pop(0))
            with contextlib.suppress(OSError):
                return await asyncio.open_connection("127.0.0.1", self._nodes[0].port)
        raise ConnectionRefusedError("no node accepts connections")


@contextlib.asynccontextmanager
async def open_cluster() -> AsyncIterator[tuple[Cluster, str]]:
    """A running cluster, and the URL that leads to any of its living nodes."""
    cluster = Cluster()
    balancer = Balancer(cluster.nodes)
    try:
        await asyncio.to_thread(cluster.start)
        await balancer.open()
        yield cluster, balancer.url
        await balancer.close()
    finally:
        await asyncio.to_thread(cluster.close)
