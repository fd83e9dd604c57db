"""How throughput grows with workers on one queue: as processes, or as containers of docker-compose.yml.

    .venv/bin/python -m benchmarks.scale_out --workers 1 2 4 [--turns 3] [--plot docs/img/scale-out.svg] [--containers]

Twice each: with an LLM of ``--llm-delay-s``, for which a worker waits with 64 jobs in flight, and without one, where
nothing but CPU limits it. Every job is of a member who has nothing, with likes of their own, so no cache answers. A
rate is jobs by the time from before the first publish to the last ``finishedAt``. Servers of processes are found as
for ``benchmarks.main_job``; for ``--containers`` the compose project must be up, with the passwords that it has without
a .env; it stays up.
"""

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.main_job import CLOCK_TICKS, PREFIX, cpu_s, fill, given_servers, likes_of, run, song_ids
from benchmarks.plot import Points, line_chart, write_chart
from tests.support.backend import Backend, job_body, open_backend
from tests.support.llm_process import LLMProcess
from tests.support.worker_process import ROOT, WorkerProcess

IN_FLIGHT = 64
WITH_LLM, WITHOUT = "with an LLM", "without"
N_WARM_UP = 16
POLL_S = 0.25
TIMEOUT_S = 300
console = Console()


@dataclass(frozen=True, slots=True)
class Crew:
    """Workers that are ready: how they are reached, the ids of their processes, and the songs that they know."""

    amqp_url: str
    redis_url: str
    database_url: str
    prefix: str
    pids: tuple[int, ...]
    songs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Turn:
    """One measurement; ``busy_cores`` counts all that the machine did meanwhile."""

    n_jobs: int
    seconds: float
    cpu_s: tuple[float, ...]
    busy_cores: float

    @property
    def jobs_per_s(self) -> float:
        return self.n_jobs / self.seconds

    def __str__(self) -> str:
        cpu = ", ".join(f"{seconds:.1f}" for seconds in self.cpu_s)
        return f"{self.n_jobs} jobs, {self.jobs_per_s:.1f} a second; CPU {cpu} s; {self.busy_cores:.2f} cores busy"


@dataclass
class Figures:
    """All turns, by what limits the workers and by how many there are."""

    turns: dict[tuple[str, int], list[Turn]] = field(default_factory=dict)

    def add(self, kind: str, n_workers: int, turn: Turn) -> None:
        self.turns.setdefault((kind, n_workers), []).append(turn)

    def rate(self, kind: str, n_workers: int) -> float:
        return median(turn.jobs_per_s for turn in self.turns[kind, n_workers])

    def table(self) -> Table:
        table = Table("LLM", "workers", "jobs/s (all turns)", "of the fewest", "CPU a job", "CPU each", "cores busy")
        for (kind, n_workers), turns in sorted(self.turns.items()):
            rates = sorted(turn.jobs_per_s for turn in turns)
            fewest = min(n for each, n in self.turns if each == kind)
            table.add_row(
                kind,
                str(n_workers),
                f"{median(rates):.1f} ({rates[0]:.1f} to {rates[-1]:.1f})",
                f"{median(rates) / self.rate(kind, fewest):.2f}",
                f"{1000 * median(sum(turn.cpu_s) / turn.n_jobs for turn in turns):.1f} ms",
                ", ".join(f"{seconds:.1f}" for seconds in turns[-1].cpu_s) + " s",
                f"{median(turn.busy_cores for turn in turns):.2f}",
            )
        return table

    def chart(self, llm_delay_s: float) -> str:
        series: dict[str, Points] = {
            kind: [(n, self.rate(kind, n)) for each, n in sorted(self.turns) if each == kind]
            for kind in (WITH_LLM, WITHOUT)
        }
        series[f"{IN_FLIGHT} / {llm_delay_s:g} s each"] = [
            (n, n * IN_FLIGHT / llm_delay_s) for each, n in sorted(self.turns) if each == WITH_LLM
        ]
        title = f"Throughput by workers, {os.cpu_count()} cores"
        return line_chart(title, "workers on one queue", "jobs a second", series, from_zero=True)


def busy_ticks() -> int:
    """What all cores together have worked since the machine started."""
    fields = [int(each) for each in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    idle, waiting = fields[3], fields[4]
    return sum(fields[:8]) - idle - waiting


def seconds_until_last(finished_at: Sequence[str], started_s: float) -> float:
    """From ``started_s`` (since the epoch) to the last of these instants."""
    return max(datetime.fromisoformat(each).timestamp() for each in finished_at) - started_s


async def measure(crew: Crew, n_jobs: int, first_member: int, poll_s: float = POLL_S) -> Turn:
    """Publish all at once, wait for all. Raises ``RuntimeError`` where one did not succeed."""
    likes = likes_of(range(first_member, first_member + n_jobs + N_WARM_UP * len(crew.pids)), crew.songs, first_member)
    bodies = [job_body(*pair) for pair in likes.items()]
    async with open_backend(crew.amqp_url, crew.redis_url, crew.prefix) as backend:
        await _ended(backend, await backend.publish(bodies[n_jobs:]), poll_s)
        cpu_before_s, ticks_before, started_s = [cpu_s(pid) for pid in crew.pids], busy_ticks(), time.time()
        statuses = await _ended(backend, await backend.publish(bodies[:n_jobs]), poll_s)
        passed_s = time.time() - started_s
        busy_cores = (busy_ticks() - ticks_before) / CLOCK_TICKS / passed_s
    return Turn(
        n_jobs=n_jobs,
        seconds=seconds_until_last([each["finishedAt"] for each in statuses], started_s),
        cpu_s=tuple(cpu_s(pid) - before_s for pid, before_s in zip(crew.pids, cpu_before_s, strict=True)),
        busy_cores=busy_cores,
    )


async def _ended(backend: Backend, job_ids: Sequence[str], poll_s: float) -> list[dict[str, str]]:
    """Asks seldom, and only for those that have not ended: the machine is the workers'."""
    waiting, ended = list(job_ids), []
    async with asyncio.timeout(TIMEOUT_S):
        while waiting:
            statuses = await backend.statuses(waiting)
            waiting = [each for each in waiting if "finishedAt" not in statuses[each]]
            ended += [fields for fields in statuses.values() if "finishedAt" in fields]
            await asyncio.sleep(poll_s)
    if wrong := [fields for fields in ended if fields["status"] != "succeeded"]:
        raise RuntimeError(f"{len(wrong)} of {len(job_ids)} jobs failed, such as {wrong[0]}")
    return ended


# --- workers as processes ---


@contextlib.asynccontextmanager
async def processes(environment: Mapping[str, str], n_workers: int) -> AsyncIterator[Crew]:
    """So many ``main.py worker``, started afresh."""
    async with contextlib.AsyncExitStack() as stack:
        running = [WorkerProcess(environment) for _ in range(n_workers)]
        for each in running:
            stack.push_async_callback(each.kill)
            await each.launch()
        await asyncio.gather(*(each.wait_ready(TIMEOUT_S) for each in running))
        yield Crew(
            amqp_url=environment["BROKER_URL"],
            redis_url=environment["REDIS_URL"],
            database_url=environment["DATABASE_URL"],
            prefix=PREFIX,
            pids=tuple(each.pid for each in running),
            songs=tuple(song_ids(environment["DATABASE_URL"])),
        )


@contextlib.contextmanager
def filled_servers(tracks: Path | None) -> Iterator[dict[str, str]]:
    """The environment of workers whose catalogue is ``tracks``, or made up."""
    with given_servers() as (amqp_url, database_url, redis_url):
        environment = {
            "BROKER_URL": amqp_url,
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "NAME_PREFIX": PREFIX,
            "LOG_LEVEL": "WARNING",
        }
        if tracks:
            fill(environment, tracks)
        else:
            for command in ("migrate", "demo-catalogue"):
                run(environment, command)
        yield environment


# --- workers as containers ---


@contextlib.asynccontextmanager
async def containers(environment: Mapping[str, str], n_workers: int) -> AsyncIterator[Crew]:
    """The compose project with so many workers, made anew where ``environment`` is another than theirs."""
    await asyncio.to_thread(
        _compose, environment, "up", "--detach", "--no-build", "--no-deps", f"--scale=worker={n_workers}", "worker"
    )
    ids = _compose(environment, "ps", "--quiet", "worker").split()
    async with asyncio.timeout(TIMEOUT_S):
        while not all(_is_healthy(state) for state in _inspect(ids, "State")):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(POLL_S)
    address = {name: _address(environment, name) for name in ("mysql", "redis", "rabbitmq")}
    database_url = f"mysql://songs:songs@{address['mysql']}:3306/songs"
    yield Crew(
        amqp_url=f"amqp://songs:songs@{address['rabbitmq']}:5672/",
        redis_url=f"redis://:songs@{address['redis']}:6379/0",
        database_url=database_url,
        prefix="rec",
        # of the machine's own view of them
        pids=tuple(state["Pid"] for state in _inspect(ids, "State")),
        songs=tuple(song_ids(database_url)),
    )


def _compose(environment: Mapping[str, str], *command: str) -> str:
    return _docker("compose", *command, environment=environment)


def _inspect(ids: Sequence[str], what: str) -> list[Any]:
    return [json.loads(line) for line in _docker("inspect", "-f", f"{{{{json .{what}}}}}", *ids).splitlines()]


def _is_healthy(state: Mapping[str, Any]) -> bool:
    return bool(state["Health"]["Status"] == "healthy")


def _address(environment: Mapping[str, str], service: str) -> str:
    [networks] = _inspect(_compose(environment, "ps", "--quiet", service).split(), "NetworkSettings.Networks")
    return str(next(iter(networks.values()))["IPAddress"])


def gateway() -> str:
    """Where containers of the project reach this machine."""
    return _docker("network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "songs-ai_default").strip()


def _docker(*command: str, environment: Mapping[str, str] | None = None) -> str:
    known = {**os.environ, **(environment or {})}
    done = subprocess.run(["docker", *command], cwd=ROOT, env=known, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"docker {' '.join(command)}: {done.stderr[-2000:]}")
    return done.stdout


# --- the whole ---


async def measure_all(arguments: argparse.Namespace, environment: Mapping[str, str], model: LLMProcess) -> Figures:
    """Every turn begins at the other end, so that what changes with time falls on all alike."""
    figures, first_member = Figures(), 1_000_000
    crew_of = containers if arguments.containers else processes
    host = gateway() if arguments.containers else "127.0.0.1"
    kinds: Sequence[tuple[str, dict[str, str]]] = (
        (WITH_LLM, {"OPENAI_BASE_URL": f"http://{host}:{model.port}/v1", "OPENAI_API_KEY": "none"}),
        (WITHOUT, {"OPENAI_BASE_URL": "", "OPENAI_API_KEY": ""}),
    )
    for turn in range(arguments.turns):
        for kind, settings in kinds:
            for n_workers in arguments.workers[:: -1 if turn % 2 else 1]:
                n_jobs = IN_FLIGHT * arguments.waves * n_workers if kind == WITH_LLM else arguments.jobs
                async with crew_of({**environment, **settings}, n_workers) as crew:
                    found = await measure(crew, n_jobs, first_member)
                first_member += 10 * n_jobs
                figures.add(kind, n_workers, found)
                console.print(f"turn {turn + 1}: {kind}, {n_workers}: {found}", highlight=False)
    return figures


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=800, help="without an LLM")
    parser.add_argument("--waves", type=int, default=2, help="with an LLM: how often all that are in flight")
    parser.add_argument("--llm-delay-s", type=float, default=8.0)
    parser.add_argument("--tracks", type=Path, help="the catalogue of processes; else one is made up")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--containers", action="store_true")
    arguments = parser.parse_args()
    bare: contextlib.AbstractContextManager[dict[str, str]] = contextlib.nullcontext({})
    # containers ask the LLM too
    async with LLMProcess(delay_s=arguments.llm_delay_s, host="0.0.0.0") as model:  # noqa: S104
        with bare if arguments.containers else filled_servers(arguments.tracks) as environment:
            figures = await measure_all(arguments, environment, model)
    console.print(figures.table())
    if arguments.plot:
        write_chart(arguments.plot, figures.chart(arguments.llm_delay_s))


if __name__ == "__main__":
    asyncio.run(main())
