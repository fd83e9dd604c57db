"""How ``commands.refresh`` is called: what can be typed, and the help on it."""

from typing import TYPE_CHECKING, Annotated

import typer

from commands.usage.later import later

if TYPE_CHECKING:
    from commands import refresh as steps
else:
    steps = later("commands.refresh")


def refresh(
    members: Annotated[int, typer.Option(min=1, help="How many members at the most, the most active first.")] = 1000,
    batch: Annotated[
        bool | None, typer.Option("--batch/--queue", help="Through the provider's Batch API, or by jobs for workers.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be asked and what it costs.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="What became of it as JSON, on standard output alone.")
    ] = False,
) -> None:
    """Bring the results of active members up to date; a run that was cut off goes on where it was."""
    steps.refresh(members=members, batch=batch, dry_run=dry_run, as_json=as_json)
