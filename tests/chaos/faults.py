"""What may break in a chaos round: each fault does its harm, mends it, and returns when the site should work again."""

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random

import aio_pika

from tests.chaos.dead_letters import browse
from tests.chaos.frame_wire import Frame
from tests.chaos.load import Letter, Load
from tests.chaos.site import FROZEN_S, ChaosSite

_CUT_WITHIN_S = 15.0
_READY_WITHIN_S = 90.0
_SOFT_ERROR = '{amqp_error, precondition_failed, "closed by chaos", none}'


@dataclass(frozen=True, slots=True)
class Scene:
    """What a fault may touch, and the chance that it draws from."""

    site: ChaosSite
    load: Load
    chance: Random

    def victim(self) -> int:
        """The place of a worker."""
        return self.chance.randrange(len(self.site.workers))

    async def a_while(self, least_s: float, most_s: float) -> None:
        """As long as a fault holds on."""
        await asyncio.sleep(self.chance.uniform(least_s, most_s))


Fault = Callable[[Scene], Awaitable[None]]


# --- workers ---


async def worker_killed(scene: Scene) -> None:
    """SIGKILL, and another in its place."""
    place = scene.victim()
    await scene.site.workers[place].kill()
    await scene.site.replace(place)


async def workers_rolled(scene: Scene) -> None:
    """SIGTERM to one after the other, each replaced before the next: a rolling restart."""
    for place in range(len(scene.site.workers)):
        code = await scene.site.workers[place].terminate()
        assert code == 0, f"exit code {code} after SIGTERM:\n{scene.site.workers[place].log[-2000:]}"
        await scene.site.replace(place)


async def worker_frozen(scene: Scene) -> None:
    """SIGSTOP for longer than heartbeat and lease: the broker gives its jobs to others, and then it goes on."""
    worker = scene.site.workers[scene.victim()]
    worker.send(signal.SIGSTOP)
    try:
        await scene.a_while(FROZEN_S, FROZEN_S + 1)
    finally:
        worker.send(signal.SIGCONT)


async def clock_jumped(scene: Scene) -> None:
    """The wall clock of all workers jumps by up to two hours, and back."""
    scene.site.clock.write_text(f"{scene.chance.uniform(-7200, 7200):.3f}")
    await scene.a_while(1, 3)
    scene.site.clock.write_text("0")


# --- the broker ---


async def broker_restarted(scene: Scene) -> None:
    await asyncio.to_thread(scene.site.servers.broker.restart)


async def broker_killed(scene: Scene) -> None:
    await asyncio.to_thread(scene.site.servers.broker.kill)
    await asyncio.to_thread(scene.site.servers.broker.start)


async def connections_closed(scene: Scene) -> None:
    """The broker closes every connection, the publisher's too; side by side, for some clients are slow to answer."""
    close = 'rabbit_networking:close_connection(Each, "closed by chaos")'
    await scene.site.control("eval", f"[spawn(fun() -> {close} end) || Each <- rabbit_networking:connections()].")


async def channels_closed(scene: Scene) -> None:
    """The broker closes every channel by a soft error, as it does for a wrong tag, and no connection."""
    await scene.site.control("eval", f"[exit(Channel, {_SOFT_ERROR}) || Channel <- rabbit_channel:list()].")


async def queue_deleted(scene: Scene) -> None:
    """The job queue is deleted and made again, and what was in it published once more: by the operator's hand."""
    async with await aio_pika.connect(scene.site.servers.broker.url) as connection, connection.channel() as channel:
        await channel.queue_delete(scene.site.topology.main.queue)
    await scene.a_while(0, 0.5)
    await scene.site.declare()
    dead = {letter.key for letter in await browse(scene.site)}
    scene.site.trace.read()
    gone = [each for each in scene.load.ledger.poison if each.key not in dead]
    await scene.load.publisher_of_operator.publish_again([*scene.load.unfinished, *gone])


# --- what a proxy cuts ---


async def cut_between_save_and_ack(scene: Scene) -> None:
    """A connection is cut in the middle of an ack: the result is saved, and the broker will deliver again."""
    await scene.site.broker_wire.cut_in_mid_frame(Frame.ACK, within_s=_CUT_WITHIN_S)


async def cut_between_confirm_and_ack(scene: Scene) -> None:
    """A retry or dead letter is confirmed, and then its connection is cut in the middle of an ack."""
    cut = asyncio.create_task(
        scene.site.broker_wire.cut_in_mid_frame(Frame.ACK, after=Frame.CONFIRM, within_s=_CUT_WITHIN_S)
    )
    await asyncio.sleep(0)
    while not cut.done():
        await scene.load.publisher_of_operator.publish_again(_some(scene, scene.load.ledger.poison, 2))
        await asyncio.wait({cut}, timeout=0.5)
    await cut


async def cut_in_a_publish(scene: Scene) -> None:
    """A connection is cut in the middle of sending a job on."""
    cut = asyncio.create_task(scene.site.broker_wire.cut_in_mid_frame(Frame.PUBLISH, within_s=_CUT_WITHIN_S))
    await asyncio.sleep(0)
    while not cut.done():
        await scene.load.publisher_of_operator.publish_again(_some(scene, scene.load.ledger.poison, 1))
        await asyncio.wait({cut}, timeout=0.5)
    await cut


async def cut_in_a_delivery(scene: Scene) -> None:
    """A connection is cut in the middle of a delivery."""
    await scene.site.broker_wire.cut_in_mid_frame(Frame.DELIVERY, within_s=_CUT_WITHIN_S)


# --- Redis ---


async def redis_restarted(scene: Scene) -> None:
    await asyncio.to_thread(scene.site.servers.redis.restart)


async def redis_killed(scene: Scene) -> None:
    await asyncio.to_thread(scene.site.servers.redis.kill)
    await asyncio.to_thread(scene.site.servers.redis.start)


async def redis_refused(scene: Scene) -> None:
    """Nobody listens for some seconds."""
    await asyncio.to_thread(scene.site.servers.redis.stop)
    await scene.a_while(1, 4)
    await asyncio.to_thread(scene.site.servers.redis.start)


async def redis_full(scene: Scene) -> None:
    """Every write is refused for some seconds: maxmemory is reached, and nothing may be evicted."""
    await scene.site.redis.config_set("maxmemory-policy", "noeviction")
    await scene.site.redis.config_set("maxmemory", 1)
    try:
        await scene.a_while(1, 4)
    finally:
        await scene.site.redis.config_set("maxmemory", 0)


# --- MySQL ---


async def mysql_restarted(scene: Scene) -> None:
    await asyncio.to_thread(scene.site.servers.mysql.restart)


async def mysql_away(scene: Scene) -> None:
    """Killed, and away for so long that jobs use up their attempts."""
    await asyncio.to_thread(scene.site.servers.mysql.kill)
    await scene.a_while(4, 7)
    await asyncio.to_thread(scene.site.servers.mysql.start)


async def mysql_locked(scene: Scene) -> None:
    """Nobody else can read or write a song or a like for some seconds."""
    with contextlib.closing(await asyncio.to_thread(scene.site.mysql_connection)) as connection:
        with connection.cursor() as cursor:
            await asyncio.to_thread(cursor.execute, "LOCK TABLES song WRITE, song_like WRITE")
        await scene.a_while(2, 5)


async def mysql_slow(scene: Scene) -> None:
    """Every packet takes its time."""
    scene.site.mysql_wire.delay_s = scene.chance.uniform(0.1, 0.4)
    await scene.a_while(2, 4)
    scene.site.mysql_wire.delay_s = 0.0


# --- the LLM ---


async def llm_hanging(scene: Scene) -> None:
    """No call is answered for some seconds."""
    await scene.site.llm.set_faults({"kind": "hang"})
    await scene.a_while(2, 4)
    await scene.site.llm.set_faults()


async def llm_flapping(scene: Scene) -> None:
    """It fails in several ways, and in between it does not."""
    for kind in scene.chance.sample(["server_error", "rate_limited", "connection_reset", "malformed", "cut_body"], 4):
        await scene.site.llm.set_faults({"kind": kind})
        await scene.a_while(0.2, 0.6)
        await scene.site.llm.set_faults()
        await scene.a_while(0.2, 0.6)


# --- the publisher ---


async def duplicates(scene: Scene) -> None:
    """Jobs that run and jobs that are over are published again, several times at once."""
    ledger = scene.load.ledger
    again = [*_some(scene, scene.load.unfinished, 10), *_some(scene, ledger.jobs, 10)]
    await scene.load.publisher_of_operator.publish_again(again * scene.chance.randint(2, 5))


def _some(scene: Scene, letters: list[Letter], n: int) -> list[Letter]:
    return scene.chance.sample(letters, min(n, len(letters)))


FAULTS: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (
        worker_killed,
        workers_rolled,
        worker_frozen,
        clock_jumped,
        broker_restarted,
        broker_killed,
        connections_closed,
        channels_closed,
        queue_deleted,
        cut_between_save_and_ack,
        cut_between_confirm_and_ack,
        cut_in_a_publish,
        cut_in_a_delivery,
        redis_restarted,
        redis_killed,
        redis_refused,
        redis_full,
        mysql_restarted,
        mysql_away,
        mysql_locked,
        mysql_slow,
        llm_hanging,
        llm_flapping,
        duplicates,
    )
}

SLOW = frozenset({"workers_rolled", "worker_frozen", "mysql_away"})
"""Those that take too long for a round of a minute."""


def draw(seed: int, times: int) -> list[str]:
    """Each fault ``times`` times, in the random order of ``seed``."""
    names = sorted(FAULTS) * times
    Random(seed).shuffle(names)
    return names
