"""How ``commands.check`` is called: what can be typed, and the help on it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from commands.usage.later import later

if TYPE_CHECKING:
    from commands import check as steps
else:
    steps = later("commands.check")


def check(
    file: Annotated[
        Path | None,
        typer.Argument(exists=True, dir_okay=False, help="A file that ingest takes; none: what the database holds."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, with all figures.")] = False,
) -> None:
    """Check a file before it is ingested, or a site's data before they are fitted on; exit code 1 where a check fails.

    Drift is measured against the data of the version in force.
    """
    steps.check(file=file, as_json=as_json)
