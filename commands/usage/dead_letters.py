"""How ``commands.dead_letters`` is called: what can be typed, and the help on it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from commands.listing import examples
from commands.usage.later import later

if TYPE_CHECKING:
    from commands import dead_letters as steps
else:
    steps = later("commands.dead_letters")

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
    steps.list_dead_letters(where=where, limit=limit, offset=offset, events=events, as_json=as_json)


@dead_letters.command(epilog=_examples("show 7c9e6679-7425-40de-944b-e07fc1f90ae7", "show body-1f3870be274f"))
def show(
    job_id: Annotated[str, typer.Argument(help="The id, as `list` prints it.")],
    events: OfEvents = False,
    as_json: AsJson = False,
) -> None:
    """Show a dead letter whole: body, headers, last error; secrets are masked, and nothing changes."""
    steps.show(job_id=job_id, events=events, as_json=as_json)


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
    steps.replay(job_ids=job_ids, everything=everything, where=where, dry_run=dry_run, rate=rate, as_json=as_json)


@dead_letters.command(
    epilog=_examples(
        "purge --where reason=invalid --to invalid.jsonl",
        "purge --where reason=invalid --to - > invalid.jsonl",
        "purge body-1f3870be274f --yes",
    )
)
def purge(
    job_ids: JobIds = None,
    everything: All = False,
    where: Where = None,
    events: OfEvents = False,
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            dir_okay=False,
            help="Write each to the end of this file first, as JSON, unmasked; -: to standard output.",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Without a file too: they are gone for good.")] = False,
    as_json: Counted = False,
) -> None:
    """Drop dead letters for good, each once it is written to a file or to standard output, or with --yes."""
    steps.purge(job_ids=job_ids, everything=everything, where=where, events=events, to=to, yes=yes, as_json=as_json)
