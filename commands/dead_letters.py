"""The commands on jobs that were given up: ``dead-letters list``, ``show``, ``replay`` and ``purge``."""

import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from commands.listing import examples
from commands.running import need_a_broker, run, start
from commands.screen import complain, for_machines, progress_bar, say, stop, tell_all, tell_json
from config.settings import Settings
from services.logs import mask_secrets
from workers import dead_letter_text
from workers.dead_letters import DeadLetters, Fate, Letter
from workers.runtime.parts import Parts, open_parts

dead_letters = typer.Typer(
    no_args_is_help=True, help="Look at jobs or events that were given up; send jobs back, or drop them."
)

JobIds = Annotated[list[str] | None, typer.Argument(metavar="JOB_ID", help="Ids, as `list` prints them.")]
Where = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE",
        help="Those of error=CODE, reason=REASON, member=ID, older=2h, newer=30m (since the request); all must hold.",
    ),
]
All = Annotated[bool, typer.Option("--all", help="All of them, as far as --where does not say otherwise.")]
OfEvents = Annotated[bool, typer.Option("--events", help="The dead letters of events, not of jobs.")]
AsJson = Annotated[bool, typer.Option("--json", help="One line of JSON for each.")]
Counted = Annotated[bool, typer.Option("--json", help="How many of each fate, as JSON, on standard output alone.")]

_FATES_TOLD = {
    Fate.REPLAYED: "replayed",
    Fate.REPLAYED_BEFORE: "taken off: replayed before",
    Fate.SUCCEEDED_SINCE: "taken off: succeeded since",
    Fate.NO_JOB: "left: no job message (see `dead-letters show`)",
    Fate.PURGED: "purged",
}


def _examples(*lines: str) -> str:
    return examples(*(f"dead-letters {line}" for line in lines))


@dead_letters.command(
    "list", epilog=_examples("list", "list --where error=DEPENDENCY_UNAVAILABLE --where older=1h", "list --json | jq .")
)
def list_dead_letters(
    where: Where = None,
    limit: Annotated[int, typer.Option(min=1, help="Lines at the most.")] = 50,
    offset: Annotated[int, typer.Option(min=0, help="How many to skip.")] = 0,
    events: OfEvents = False,
    as_json: AsJson = False,
) -> None:
    """List dead letters, the oldest first; nothing changes."""

    async def step(settings: Settings) -> None:
        wanted = dead_letter_text.wanted((), where or ())
        async with _open_dead_letters(settings, of_events=events) as (letters, parts), letters.those(wanted) as found:
            now, shown, n = parts.clock.now(), Table(*dead_letter_text.ROW), 0
            async for letter in found:
                n += 1
                if offset < n <= offset + limit and as_json:
                    typer.echo(mask_secrets(dead_letter_text.document(letter, now, whole=False).decode()), nl=False)
                elif offset < n <= offset + limit:
                    shown.add_row(*(Text(mask_secrets(cell)) for cell in dead_letter_text.row(letter, now)))
            if not as_json:
                tell_all([shown, f"{shown.row_count} of {n} shown"])

    run(step)


@dead_letters.command(epilog=_examples("show 7c9e6679-7425-40de-944b-e07fc1f90ae7", "show body-1f3870be274f"))
def show(
    job_id: Annotated[str, typer.Argument(help="The id, as `list` prints it.")],
    events: OfEvents = False,
    as_json: AsJson = False,
) -> None:
    """Show a dead letter whole: body, headers, last error; secrets are masked, and nothing changes."""

    async def step(settings: Settings) -> None:
        n = 0
        wanted = dead_letter_text.wanted((job_id,), ())
        async with _open_dead_letters(settings, of_events=events) as (letters, parts), letters.those(wanted) as found:
            async for letter in found:
                n += 1
                now = parts.clock.now()
                told = dead_letter_text.document(letter, now, whole=True).decode() if as_json else None
                typer.echo(mask_secrets(told or dead_letter_text.page(letter, now)), nl=not as_json)
        if not n:
            stop(f"no dead letter is called {job_id!r}")

    run(step)


@dead_letters.command(
    epilog=_examples(
        "replay 7c9e6679-7425-40de-944b-e07fc1f90ae7",
        "replay --where error=DEPENDENCY_UNAVAILABLE --dry-run",
        "replay --all --rate 20",
    )
)
def replay(
    job_ids: JobIds = None,
    everything: All = False,
    where: Where = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    rate: Annotated[float, typer.Option(min=0, help="Jobs a second at the most; 0: as fast as it goes.")] = 0.0,
    as_json: Counted = False,
) -> None:
    """Send dead letters back to work, the oldest first, with their tries counted from nothing.

    Each is taken off the queue once the broker has confirmed its replay. Stopped at any moment nothing is lost, and
    what was sent twice is run once.
    """
    _each_letter(
        job_ids,
        where,
        everything=everything,
        step=lambda letters, wanted, tell: letters.replay(wanted, tell, dry_run=dry_run, rate=rate),
        ending=" (nothing is done: --dry-run)" if dry_run else "",
        as_json=as_json,
    )


@dead_letters.command(
    epilog=_examples("purge --where reason=invalid --to invalid.jsonl", "purge body-1f3870be274f --yes")
)
def purge(
    job_ids: JobIds = None,
    everything: All = False,
    where: Where = None,
    events: OfEvents = False,
    to: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Write each to the end of this file first, as JSON, unmasked.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Without a file too: they are gone for good.")] = False,
    as_json: Counted = False,
) -> None:
    """Drop dead letters for good, each once it is written to a file, or with --yes."""
    if to is None and not yes:
        raise typer.BadParameter("say where to keep them (--to FILE), or that they may be lost (--yes)")
    with _kept_letters(to) as keep:
        _each_letter(
            job_ids,
            where,
            everything=everything,
            step=lambda letters, wanted, tell: letters.purge(wanted, tell, keep),
            of_events=events,
            ending=f"; kept in {to}" if to else "",
            as_json=as_json,
        )


@contextmanager
def _kept_letters(path: Path | None) -> Iterator[Callable[[Letter], None]]:
    """Writes letters to the end of a file that only its owner reads; each is on the disk when the call returns."""
    if path is None:
        yield lambda _: None
        return
    try:
        with open(path, "ab", opener=partial(os.open, mode=0o600)) as file:

            def keep(letter: Letter) -> None:
                file.write(dead_letter_text.document(letter, datetime.now(UTC), whole=True))
                file.flush()
                os.fsync(file.fileno())

            yield keep
    except OSError as error:
        stop(f"--to {path}: {error.strerror}; what was not written is where it was")


def _each_letter(
    job_ids: list[str] | None,
    where: list[str] | None,
    *,
    everything: bool,
    step: Callable[..., Coroutine[Any, Any, Mapping[Fate, int]]],
    ending: str,
    as_json: bool,
    of_events: bool = False,
) -> None:
    if not (job_ids or where or everything):
        raise typer.BadParameter("say which ones: JOB_ID..., --where or --all")
    fates: dict[Fate, int] = {}
    unseen = set(job_ids or ())

    async def deal(settings: Settings) -> None:
        wanted = dead_letter_text.wanted(job_ids or (), where or ())
        async with _open_dead_letters(settings, of_events=of_events) as (letters, _):
            with progress_bar() as progress:
                task = progress.add_task("dead letters", total=await letters.n_waiting() if everything else None)

                def tell(letter: Letter, fate: Fate) -> None:
                    fates[fate] = fates.get(fate, 0) + 1
                    unseen.discard(letter.letter_id)
                    progress.advance(task)
                    if fate is Fate.NO_JOB:
                        complain(f"{letter.letter_id}: {letter.problem}", "yellow")

                await step(letters, wanted, tell)

    with for_machines(as_json):
        try:
            run(deal)
        finally:
            say((", ".join(f"{n} {_FATES_TOLD[fate]}" for fate, n in fates.items()) or "none") + ending)
            if as_json:
                tell_json({**{str(fate): fates.get(fate, 0) for fate in Fate}, "unknown": sorted(unseen)})
    if unseen:
        stop(f"no dead letter is called {', '.join(sorted(unseen))}")


@asynccontextmanager
async def _open_dead_letters(settings: Settings, *, of_events: bool) -> AsyncIterator[tuple[DeadLetters, Parts]]:
    need_a_broker(settings, "dead letters end with the process")
    async with open_parts(settings) as parts:
        await start(parts.broker)
        yield DeadLetters(parts.broker, parts.results, parts.clock, of_events=of_events), parts
