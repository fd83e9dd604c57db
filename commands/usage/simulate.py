"""How ``commands.simulate`` is called: what can be typed, and the help on it."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from commands.usage.later import later

if TYPE_CHECKING:
    from commands import simulate as steps
else:
    steps = later("commands.simulate")


def simulate(
    members: Annotated[int, typer.Option(min=1, max=10_000_000, help="How many listeners.")] = 10_000,
    days: Annotated[int, typer.Option(min=1, max=400, help="Over how many days they listen by themselves.")] = 60,
    seed: Annotated[int, typer.Option(min=0, help="The same seed and catalogue give the same listeners.")] = 7,
    first_member: Annotated[int, typer.Option(min=1, help="The id of the first one.")] = 1,
    start: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d"], help="The first day; else the last one is yesterday (in files: 2026-01-01)."
        ),
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take all simulated events away again.")] = False,
    out: Annotated[
        Path | None, typer.Option(file_okay=False, help="Write a data set for `evaluate` and `rank`; needs no server.")
    ] = None,
    judge: Annotated[
        bool, typer.Option("--judge", help="With --out: fit on it, and say how well its lists meet the true tastes.")
    ] = False,
    live: Annotated[bool, typer.Option("--live", help="Publish it as events and jobs, in order of time.")] = False,
    rate: Annotated[float, typer.Option(min=0.1, help="With --live: events a second.")] = 100.0,
    max_events: Annotated[int | None, typer.Option(min=1, help="With --live: end after so many.")] = None,
    jobs: Annotated[bool, typer.Option("--jobs/--no-jobs", help="With --live: a job where a session begins.")] = True,
    loop: Annotated[
        bool, typer.Option("--loop", help="Recommend, react, learn, and again; beside it the same without learning.")
    ] = False,
    rounds: Annotated[int, typer.Option(min=2, max=100, help="With --loop: how often.")] = 8,
    json_out: Annotated[
        Path | None,
        typer.Option(
            "--json", dir_okay=False, help="Write what came of it, with --loop the curves; -: on standard output alone."
        ),
    ] = None,
    file: Annotated[
        list[Path] | None,
        typer.Option(exists=True, dir_okay=False, help="With --out and --loop: the catalogue, as `ingest` takes it."),
    ] = None,
    items: Annotated[int, typer.Option(min=20, help="With --out and --loop: how many items are made up else.")] = 2000,
) -> None:
    """Simulate listeners whose tastes are known, over the catalogue that there is, into the worker's table of events.

    With --out or --loop over a catalogue of their own, in this process: no server is needed.
    """
    steps.simulate(
        members=members,
        days=days,
        seed=seed,
        first_member=first_member,
        start=start,
        remove=remove,
        out=out,
        judge=judge,
        live=live,
        rate=rate,
        max_events=max_events,
        jobs=jobs,
        loop=loop,
        rounds=rounds,
        json_out=json_out,
        file=file,
        items=items,
    )
