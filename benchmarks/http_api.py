"""How long a running worker takes to answer people, one request after another over one connection.

    .venv/bin/python main.py demo-catalogue --songs 100000 && .venv/bin/python main.py worker &
    .venv/bin/python -m benchmarks.http_api [--url http://127.0.0.1:8000] [--pid PID] [--requests 200]

``--pid`` is the worker's: its CPU time a request, which others' work hardly changes, is told too (of all its threads).
"""

import argparse
import random
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
from rich.console import Console
from rich.table import Table

N_SEEDS, N_KNOWN = 5, 200
console = Console(width=120)


def _cpu_s(pid: int) -> float:
    """User and system time of a process so far (proc_pid_stat(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def _measured(ask: Callable[[], httpx.Response], n: int, pid: int | None) -> list[str]:
    times = []
    before_s = _cpu_s(pid) if pid else 0.0
    for _ in range(n):
        began_s = time.perf_counter()
        ask().raise_for_status()
        times.append(1000 * (time.perf_counter() - began_s))
    shown = [f"{each:.1f}" for each in np.percentile(times, [50, 95, 99]).tolist()]
    return [*shown, f"{1000 * (_cpu_s(pid) - before_s) / n:.1f}" if pid else ""]


def main() -> None:
    """Tell all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--pid", type=int)
    parser.add_argument("--requests", type=int, default=200)
    given = parser.parse_args()
    rng = random.Random(4)
    with httpx.Client(base_url=given.url, timeout=60) as client:
        client.get("/search", params={"q": "golden"}).raise_for_status()  # reads the names
        ids = rng.sample(range(1, N_KNOWN * 10), N_KNOWN)
        items = [
            answer.json() for each in ids if (answer := client.get(f"/items/{each}")).status_code == httpx.codes.OK
        ]
        titles = [title for item in items for title in item["titles"].values()]

        def seeds() -> httpx.Response:
            chosen = [item["itemId"] for item in rng.sample(items, N_SEEDS)]
            return client.post("/recommend/seeds", json={"itemIds": chosen, "limit": 20, "locale": "ko"})

        table = Table("request", "p50 ms", "p95 ms", "p99 ms", "CPU ms a request")
        asked: dict[str, Callable[[], httpx.Response]] = {
            "POST /recommend/seeds, 5 items, 20 answers": seeds,
            "GET /search, a title, 20 answers": lambda: client.get("/search", params={"q": rng.choice(titles)}),
            "GET /items/{id}/similar, 20 answers": lambda: client.get(f"/items/{rng.choice(items)['itemId']}/similar"),
            "GET /items/{id}": lambda: client.get(f"/items/{rng.choice(items)['itemId']}"),
        }
        for name, ask in asked.items():
            _measured(ask, 10, None)
            table.add_row(name, *_measured(ask, given.requests, given.pid))
    console.print(table)


if __name__ == "__main__":
    main()
