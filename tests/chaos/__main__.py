"""The long run, in pieces: ``python -m tests.chaos rounds --seed 7`` and ``python -m tests.chaos kills``.

A long round of one seed is a number of rounds, each of which draws the next faults of that seed's order. Each appends a
row to docs/reliability.md as it ends, and a run that was stopped goes on, given its seed, where its rows end.
"""

import argparse
import asyncio
import logging
import re
import secrets
import signal
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from random import Random

from rich.console import Console

from tests.chaos.chaos_round import ChaosFailure, Plan, Report, play
from tests.chaos.faults import draw
from tests.chaos.killed_before_ack import kill_before_acks
from tests.chaos.record import DOCUMENT, append
from tests.chaos.site import PATIENT, SETTINGS, open_site, private_servers

ROUNDS_BEGIN, KILLS_BEGIN = "<!-- chaos rounds -->", "<!-- chaos kills -->"
console = Console(markup=False, highlight=False, soft_wrap=True)


def rows_of(document: str, seed: int) -> int:
    """How many rounds of ``seed`` are in the table."""
    return len(re.findall(rf"^\| {seed} \| \d+ \|", document, re.MULTILINE))


def share(names: Sequence[str], number: int, n_rounds: int) -> Sequence[str]:
    """The faults of round ``number`` (from 0) of ``n_rounds``: all rounds together have all of them."""
    return names[len(names) * number // n_rounds : len(names) * (number + 1) // n_rounds]


def round_row(plan: Plan, report: Report) -> str:
    """A round's figures; it is written only where every invariant held."""
    found, drawn = report.findings, Counter(plan.faults)
    told = ", ".join(name + (f" ×{count}" if count > 1 else "") for name, count in sorted(drawn.items()))
    rss = " to ".join(f"{max(each.rss_mb for each in vitals):.0f}" for vitals in (report.before, report.after))
    sockets = " to ".join(str(max(each.n_sockets for each in vitals)) for vitals in (report.before, report.after))
    cells = (
        plan.seed,
        plan.part + 1,
        f"{datetime.now(UTC):%Y-%m-%d}",
        f"{found.n_jobs:,}",
        f"{found.n_succeeded:,}",
        f"{found.n_failed:,}",
        found.n_poison,
        f"{found.n_dead_letters:,} ({found.n_repeated_dead_letters})",
        f"{report.n_publishes:,}",
        rss,
        sockets,
        f"{report.took_s:.0f}",
        told,
    )
    return "| " + " | ".join(map(str, cells)) + " |"


async def run_rounds(arguments: argparse.Namespace) -> None:
    """Those rounds of the seed that are not in the table yet, each on emptied servers with new workers."""
    names = draw(arguments.seed, arguments.times)
    done = rows_of(DOCUMENT.read_text(encoding="utf-8"), arguments.seed)
    for number in range(done, arguments.rounds):
        plan = Plan(
            seed=arguments.seed,
            n_jobs=arguments.jobs // arguments.rounds,
            faults=share(names, number, arguments.rounds),
            part=number,
        )
        console.print(f"seed {plan.seed}, round {number + 1} of {arguments.rounds}: {len(plan.faults)} faults")
        await _in_a_directory(partial(_play, plan, arguments.workers))


async def _play(plan: Plan, n_workers: int, directory: Path) -> None:
    with private_servers(console.print) as servers:
        async with open_site(servers, directory, n_workers=n_workers) as site:
            report = await play(site, plan, console.print)
    _append(ROUNDS_BEGIN, round_row(plan, report))


async def run_kills(arguments: argparse.Namespace) -> None:
    """``jobs`` jobs, ``per_kill`` at a time, whose worker is killed between save and ack."""

    async def kill(directory: Path) -> None:
        settings = {**SETTINGS, **PATIENT, "CONCURRENCY": str(arguments.per_kill)}
        n_kills = -(-arguments.jobs // arguments.per_kill)
        with private_servers(console.print) as servers:
            async with open_site(servers, directory, n_workers=1, settings=settings) as site:
                found = await kill_before_acks(site, Random(arguments.seed), n_kills=n_kills, n_jobs=arguments.per_kill)
                if faults := site.trace.faults:
                    raise ChaosFailure(f"seed {arguments.seed}: {faults}")
        _append(
            KILLS_BEGIN,
            f"| {arguments.seed} | {datetime.now(UTC):%Y-%m-%d} | {n_kills} | {found.n_jobs:,} "
            f"| {found.n_killed_before_ack:,} | {found.n_runs_again} | {found.n_acked_as_known:,} |",
        )

    await _in_a_directory(kill)


async def _in_a_directory(step: Callable[[Path], Awaitable[None]]) -> None:
    with tempfile.TemporaryDirectory(prefix="songs-ai-chaos-") as directory:
        await step(Path(directory))


def _append(mark: str, row: str) -> None:
    console.print(row)
    append(mark, row)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    steps = parser.add_subparsers(required=True)
    rounds = steps.add_parser("rounds", help="faults in random order under load")
    rounds.add_argument("--jobs", type=int, default=10_000, help="jobs of all rounds together, at least")
    rounds.add_argument("--times", type=int, default=5, help="how often each fault is drawn in all rounds together")
    rounds.add_argument("--rounds", type=int, default=10)
    rounds.add_argument("--workers", type=int, default=3)
    rounds.set_defaults(run=run_rounds)
    kills = steps.add_parser("kills", help="SIGKILL between save and ack")
    kills.add_argument("--jobs", type=int, default=1_000)
    kills.add_argument("--per-kill", type=int, default=100)
    kills.set_defaults(run=run_kills)
    for step in (rounds, kills):
        step.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever stops it leaves no server behind
    signal.signal(signal.SIGINT, signal.default_int_handler)
    logging.disable(logging.ERROR)  # the libraries tell of every connection that is lost
    arguments = parser.parse_args()
    console.print(f"seed {arguments.seed}")
    asyncio.run(arguments.run(arguments))


if __name__ == "__main__":
    main()
