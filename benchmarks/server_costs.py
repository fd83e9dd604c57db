"""What one job costs the servers: CPU, requests, bytes and memory, on the compose project.

    .venv/bin/python -m benchmarks.server_costs [--jobs 600] [--workers 2] [--llm-delay-s 2]

Differences of what Docker and the servers themselves count before and after the jobs, divided by their number; what
else goes on meanwhile, such as healthchecks, is measured without a job, and taken off. The project must be up, with the
passwords that it has without a .env; it stays up.
"""

import argparse
import asyncio
import contextlib
import time
from collections.abc import Mapping

import docker
import pymysql
from redis import Redis
from rich.console import Console
from rich.table import Table
from sqlalchemy.engine import make_url

from benchmarks.scale_out import N_WARM_UP, Crew, containers, gateway, measure
from tests.support.llm_process import LLMProcess

Counts = Mapping[str, float]
SERVICES = ("worker", "mysql", "redis", "rabbitmq")
# what asks for statuses is counted too
SELDOM_S = 3.0
console = Console()


def counts(crew: Crew, database_url: str) -> Counts:
    """What has been counted so far."""
    return {**_cpu_ms(), **_of_redis(crew.redis_url), **_of_mysql(database_url)}


def per_job(before: Counts, after: Counts, idle_per_s: Counts, seconds: float, n_jobs: int) -> dict[str, float]:
    """The differences of one job, without what passes by itself."""
    return {name: (after[name] - before[name] - idle_per_s[name] * seconds) / n_jobs for name in before}


def _cpu_ms() -> dict[str, float]:
    client = docker.from_env()
    found = dict.fromkeys((f"CPU of {name}, ms" for name in SERVICES), 0.0)
    for container in client.containers.list(filters={"label": "com.docker.compose.project=songs-ai"}):
        name = f"CPU of {container.labels['com.docker.compose.service']}, ms"
        if name in found:
            found[name] += container.stats(stream=False, one_shot=True)["cpu_stats"]["cpu_usage"]["total_usage"] / 1e6
    return found


def _of_redis(url: str) -> dict[str, float]:
    with contextlib.closing(Redis.from_url(url)) as redis:
        told = redis.info()
        return {
            "Redis: commands": told["total_commands_processed"],
            "Redis: bytes in": told["total_net_input_bytes"],
            "Redis: bytes out": told["total_net_output_bytes"],
            "Redis: bytes kept": told["used_memory"],
        }


def _of_mysql(database_url: str) -> dict[str, float]:
    url = make_url(database_url)
    connection = pymysql.connect(
        host=url.host, user=url.username, password=url.password or "", database=url.database, autocommit=True
    )
    with contextlib.closing(connection), connection.cursor() as cursor:
        cursor.execute("SHOW GLOBAL STATUS WHERE Variable_name IN ('Questions', 'Bytes_sent', 'Innodb_rows_read')")
        told = {name: float(value) for name, value in cursor.fetchall()}
    return {
        "MySQL: statements": told["Questions"],
        "MySQL: bytes out": told["Bytes_sent"],
        "MySQL: rows read": told["Innodb_rows_read"],
    }


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=600)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--llm-delay-s", type=float, default=2.0)
    parser.add_argument("--idle-s", type=float, default=20.0)
    arguments = parser.parse_args()
    async with LLMProcess(delay_s=arguments.llm_delay_s, host="0.0.0.0") as model:  # noqa: S104 - containers ask it
        llm = {"OPENAI_BASE_URL": f"http://{gateway()}:{model.port}/v1", "OPENAI_API_KEY": "none"}
        async with containers(llm, arguments.workers) as crew:
            await measure(crew, 64, 10_000_000)  # what is done once is done
            idle_from = counts(crew, crew.database_url)
            await asyncio.sleep(arguments.idle_s)
            idle = per_job(idle_from, counts(crew, crew.database_url), dict.fromkeys(idle_from, 0.0), 0, 1)
            before, began_s = counts(crew, crew.database_url), time.monotonic()
            await measure(crew, arguments.jobs, 20_000_000, poll_s=SELDOM_S)
            after, took_s = counts(crew, crew.database_url), time.monotonic() - began_s
            tokens = await model.mean_usage()
    n_jobs = arguments.jobs + N_WARM_UP * arguments.workers
    table = Table("a job", "figure")
    idle_per_s = {name: value / arguments.idle_s for name, value in idle.items()}
    for name, value in per_job(before, after, idle_per_s, took_s, n_jobs).items():
        table.add_row(name, f"{value:,.1f}")
    table.add_row("LLM: prompt / completion tokens", tokens)
    console.print(table)


if __name__ == "__main__":
    asyncio.run(main())
