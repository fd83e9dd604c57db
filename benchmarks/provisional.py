"""How soon a member who has nothing sees the ranked list, while the LLM takes its time.

    .venv/bin/python -m benchmarks.provisional --tracks songs.csv [--members 120] [--in-flight 8] [--llm-delay-s 2]

Each of the clients that keep jobs in flight publishes one of a new member, and the next once that has succeeded: in
one half of a turn all begin at once, and stay together, since every answer takes the LLM as long; in the other they
begin one after the other. One watcher asks Redis for all members that wait, every millisecond or two, so that what is
measured begins before the publisher's confirm and ends with what another program can read. The same in turns with
provisional results switched off tells what they cost. Servers are found as for ``benchmarks.main_job``; it prints a
table.
"""

import argparse
import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles

import orjson
from redis.asyncio import Redis
from rich.console import Console
from rich.table import Table

from benchmarks.main_job import PREFIX, cpu_s, fill, likes_of, open_site, song_ids
from tests.support.backend import Backend, faults_of, job_body, open_backend
from tests.support.worker_process import WorkerProcess, worker

PAUSE_S = 0.001
DURATION = "songs_ai_provisional_result_duration_seconds"
BAR_MS = 150
console = Console()


class Watcher:
    """Sees when ``latest:`` of a member is there, for all who wait, with one question after the other."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._waiting: dict[int, asyncio.Future[tuple[float, bytes]]] = {}

    async def seen(self, member: int) -> tuple[float, bytes]:
        """When it was first there (``time.monotonic``), and what."""
        return await self._waiting.setdefault(member, asyncio.get_running_loop().create_future())

    async def run(self) -> None:
        while True:
            await asyncio.sleep(PAUSE_S)
            members = list(self._waiting)
            if not members:
                continue
            found = await self._redis.mget([f"latest:recommendation:{member}" for member in members])
            now_s = time.monotonic()
            for member, document in zip(members, found, strict=True):
                if isinstance(document, bytes):
                    self._waiting.pop(member).set_result((now_s, document))


@dataclass
class Arm:
    """What was measured with provisional results on, or off; ``songs`` is the catalogue."""

    songs: set[int] = field(default_factory=set)
    together_ms: list[float] = field(default_factory=list)
    apart_ms: list[float] = field(default_factory=list)
    succeeded_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    in_time: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def n_provisional(self) -> int:
        return len(self.together_ms) + len(self.apart_ms)


@contextlib.asynccontextmanager
async def watching(redis_url: str) -> AsyncIterator[Watcher]:
    async with contextlib.aclosing(Redis.from_url(redis_url)) as redis:
        watcher = Watcher(redis)
        task = asyncio.create_task(watcher.run())
        try:
            yield watcher
        finally:
            task.cancel()
            await asyncio.wait([task])


async def closed_loop(
    backend: Backend, watcher: Watcher, likes: Mapping[int, Sequence[int]], arm: Arm, *, in_flight: int, apart_s: float
) -> None:
    """One job after the other in each of ``in_flight`` clients, which begin ``apart_s`` apart.

    The first document of each member is looked at.
    """
    waiting = iter(likes.items())

    async def client(number: int) -> None:
        await asyncio.sleep(number * apart_s)
        for member, favorites in waiting:
            body, started_s = job_body(member, favorites), time.monotonic()
            seen = asyncio.create_task(watcher.seen(member))
            await backend.wait(await backend.publish([body]), timeout_s=60)
            arm.succeeded_ms.append(1000 * (time.monotonic() - started_s))
            seen_s, document = await seen
            first = orjson.loads(document)
            arm.faults += faults_of(first, favorites, arm.songs)
            if first["provisional"]:
                (arm.apart_ms if apart_s else arm.together_ms).append(1000 * (seen_s - started_s))

    await asyncio.gather(*(client(number) for number in range(in_flight)))


async def measure_turn(
    process: WorkerProcess, environment: Mapping[str, str], members: range, arm: Arm, arguments: argparse.Namespace
) -> None:
    songs = song_ids(environment["DATABASE_URL"])
    arm.songs |= set(songs)
    async with (
        open_backend(environment["BROKER_URL"], environment["REDIS_URL"], PREFIX) as backend,
        watching(environment["REDIS_URL"]) as watcher,
    ):
        in_flight, half = arguments.in_flight, members.start + len(members) // 2
        warm_up = likes_of(range(members.stop, members.stop + 8), songs, seed=members.stop)
        await closed_loop(backend, watcher, warm_up, Arm(arm.songs), in_flight=in_flight, apart_s=0)
        before_s = cpu_s(process.pid)
        for part, apart_s in (
            (range(members.start, half), 0.0),
            (range(half, members.stop), arguments.llm_delay_s / in_flight),
        ):
            likes = likes_of(part, songs, seed=part.start)
            await closed_loop(backend, watcher, likes, arm, in_flight=in_flight, apart_s=apart_s)
        arm.cpu_ms.append(1000 * (cpu_s(process.pid) - before_s) / len(members))
        arm.in_time.append(share_in_time(await process.metrics()))


def share_in_time(exposition: str) -> float:
    """How many of the worker's provisional results, the warm-up's included, were written in time by its own clock."""
    samples = [line.rsplit(" ", 1) for line in exposition.splitlines() if line.startswith(DURATION)]
    counts = {name: float(value) for name, value in samples}
    return counts[f'{DURATION}_bucket{{le="{BAR_MS / 1000:g}"}}'] / max(1.0, counts[f"{DURATION}_count"])


def spread(values_ms: Sequence[float]) -> str:
    cuts = quantiles(values_ms, n=100)
    return f"p50 {cuts[49]:.0f} ms, p95 {cuts[94]:.0f} ms, worst {max(values_ms):.0f} ms"


def rows(arms: Mapping[str, Arm], arguments: argparse.Namespace) -> list[tuple[str, str, str]]:
    on, off, llm_ms = arms["on"], arms["off"], 1000 * arguments.llm_delay_s
    n = len(on.succeeded_ms)
    cpu = f"{median(on.cpu_ms):.1f} ms with, {median(off.cpu_ms):.1f} ms without"
    return [
        (f"published to readable, {arguments.in_flight} in flight, apart", spread(on.apart_ms), f"p95 {BAR_MS} ms"),
        (
            f"published to readable, {arguments.in_flight} in flight, together",
            spread(on.together_ms),
            f"p95 {BAR_MS} ms",
        ),
        (f"written within {BAR_MS} ms of delivery, by the worker's clock", f"{min(on.in_time):.1%}", "95 %"),
        ("members who saw a provisional result first", f"{on.n_provisional} of {n}", "all"),
        ("the same where it is switched off", f"{off.n_provisional} of {len(off.succeeded_ms)}", "none"),
        ("liked, repeated or unknown songs in first results", str(len(on.faults) + len(off.faults)), "0"),
        ("published to succeeded, beside the LLM's time: with", spread([ms - llm_ms for ms in on.succeeded_ms]), ""),
        (
            "published to succeeded, beside the LLM's time: without",
            spread([ms - llm_ms for ms in off.succeeded_ms]),
            "",
        ),
        ("worker's CPU per job (median of the turns)", cpu, "at most 1.5 ms more"),
        ("load of the machine (1, 5, 15 minutes)", ", ".join(f"{load:.1f}" for load in os.getloadavg()), ""),
    ]


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tracks", type=Path, required=True)
    parser.add_argument("--members", type=int, default=120, help="in each turn")
    parser.add_argument("--turns", type=int, default=2, help="of each arm")
    parser.add_argument("--in-flight", type=int, default=8)
    parser.add_argument("--llm-delay-s", type=float, default=2.0)
    arguments = parser.parse_args()
    arms = {"on": Arm(), "off": Arm()}
    async with open_site(arguments.llm_delay_s) as (environment, _):
        fill(environment, arguments.tracks)
        for turn in range(arguments.turns):
            # Each arm goes first in every other turn: what comes first finds the database's caches cold.
            for number, (name, arm) in enumerate(sorted(arms.items(), reverse=turn % 2 == 0)):
                switch = {} if name == "on" else {"PROVISIONAL_TTL_S": "0"}
                start = 10_000 * (2 * turn + number + 1)
                async with worker({**environment, **switch}) as process:
                    members = range(start, start + arguments.members)
                    await measure_turn(process, environment, members, arm, arguments)
    table = Table("what", "figure", "bar")
    for row in rows(arms, arguments):
        table.add_row(*row)
    console.print(table)


if __name__ == "__main__":
    asyncio.run(main())
