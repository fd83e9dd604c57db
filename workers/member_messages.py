"""Messages of one member that wait in the broker's queues."""

import re
from collections.abc import Sequence
from datetime import datetime

from core.feedback import Forgetting, Remains
from workers.broker import Broker
from workers.topology import Topology

MAX_BROWSED = 100_000
"""A queue that holds more is not looked through: its messages would be kept from their consumers for too long."""

# Of dead letters too, which need not be readable.
_MEMBER = re.compile(rb'"memberId"\s*:\s*"?(-?[0-9]{1,19})"?\s*[,}]')


class MemberMessages:
    """Finds and removes them; what else is in a queue is in its place again afterwards."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def remove(self, member_id: int, queues: Sequence[str]) -> dict[str, int]:
        """How many there were, by queue. Raises ``DependencyUnavailable``."""
        return await self._look(member_id, queues, removes=True)

    async def count(self, member_id: int, queues: Sequence[str]) -> dict[str, int]:
        """How many there are, by queue. Raises ``DependencyUnavailable``."""
        return await self._look(member_id, queues, removes=False)

    async def too_long(self, queues: Sequence[str]) -> list[str]:
        """Those that ``remove`` and ``count`` leave out. Raises ``DependencyUnavailable``."""
        return [queue for queue, n in (await self._broker.waiting(queues)).items() if n > MAX_BROWSED]

    async def _look(self, member_id: int, queues: Sequence[str], *, removes: bool) -> dict[str, int]:
        found: dict[str, int] = {}
        for queue, n_waiting in (await self._broker.waiting(queues)).items():
            if n_waiting > MAX_BROWSED:
                continue
            found[queue] = 0
            if n_waiting:
                found[queue] = await self._look_through(member_id, queue, removes=removes)
        return found

    async def _look_through(self, member_id: int, queue: str, *, removes: bool) -> int:
        n_found = 0
        async with self._broker.browse(queue) as deliveries:
            async for delivery in deliveries:
                if member_id in member_ids_of(delivery.body):
                    n_found += 1
                    if removes:
                        await self._broker.ack(delivery)
        return n_found


def member_ids_of(body: bytes) -> frozenset[int]:
    """Whom a message names as its member; more than one where it is malformed."""
    return frozenset(int(found) for found in _MEMBER.findall(body))


def dead_letter_queues(topology: Topology) -> list[str]:
    """Where messages wait for people, and for as long as people let them."""
    return list(dict.fromkeys(route.dead_letter_queue for route in (topology.main, topology.batch, topology.events)))


def all_queues(topology: Topology) -> list[str]:
    """Every queue that messages of members wait in."""
    return [queue.name for queue in topology.queues]


class WholeForgetting:
    """The ``Forgetting`` of the stores, and of the dead letters beside them.

    A job that still waits is not run when its turn comes, for its member was forgotten; a dead letter has no turn.
    """

    def __init__(self, stores: Forgetting, broker: Broker) -> None:
        self._stores = stores
        self._messages = MemberMessages(broker)
        self._queues = dead_letter_queues(broker.topology)

    async def forget(self, member_id: int, at: datetime) -> Remains:
        """See ``Forgetting.forget``."""
        removed = await self._stores.forget(member_id, at)
        return Remains(places={**removed.places, **await self._messages.remove(member_id, self._queues)})

    async def remains(self, member_id: int) -> Remains:
        """See ``Forgetting.remains``."""
        left = await self._stores.remains(member_id)
        return Remains(places={**left.places, **await self._messages.count(member_id, self._queues)})
