"""``make soak``: SOAK_MINUTES (20) of mixed load on real servers and workers, and whether anything grows.

Ctrl-C ends it early; what was measured until then is judged and written all the same.
"""

import asyncio
import logging
import os
import secrets
import signal
import sys

from rich.console import Console

from tests.chaos.record import DOCUMENT, append
from tests.chaos.site import private_servers
from tests.soak.report import ROWS_END, row, write_pictures
from tests.soak.site import open_site
from tests.soak.soak import Plan, Report, soak

N_WORKERS = 2
WARM_UP_S, SAMPLE_EVERY_S = 180.0, 5.0
console = Console(markup=False, highlight=False, soft_wrap=True)


async def run(plan: Plan) -> Report:
    """A soak on servers of its own; the first SIGINT or SIGTERM ends it early."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    with private_servers(console.print) as servers:
        async with open_site(servers, n_workers=N_WORKERS) as site:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, stopping.set)
            return await soak(site, plan, stopping, console.print)


def main() -> int:
    """The exit code: 1 where something grew or was wrong."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever stops it leaves no server behind
    logging.disable(logging.ERROR)
    minutes = float(os.environ.get("SOAK_MINUTES") or 20)
    seed = int(os.environ.get("SOAK_SEED") or secrets.randbelow(10**6))
    console.print(f"a soak of {minutes:g} minutes with SOAK_SEED={seed}")
    plan = Plan(measured_s=60 * minutes, warm_up_s=WARM_UP_S, sample_every_s=SAMPLE_EVERY_S, seed=seed)
    report = asyncio.run(run(plan))
    figures = row(report, seed=seed)
    console.print(figures)
    append(ROWS_END, figures)
    for path in write_pictures(report, DOCUMENT.parent / "img"):
        console.print(f"wrote {path}")
    for fault in report.faults:
        console.print(fault)
    return int(bool(report.faults))


if __name__ == "__main__":
    sys.exit(main())
