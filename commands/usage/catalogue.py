"""How ``commands.catalogue`` is called: what can be typed, and the help on it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from commands.usage.later import later

if TYPE_CHECKING:
    from commands import catalogue as steps
else:
    steps = later("commands.catalogue")


AsJson = Annotated[bool, typer.Option("--json", help="What became of it as JSON, on standard output alone.")]


def migrate(
    revision: Annotated[
        str, typer.Option(help="Where to go, such as 0009; base undoes everything. By default all, or with --down one.")
    ] = "",
    down: Annotated[bool, typer.Option("--down", help="Go back to the revision instead of forward.")] = False,
    lose_data: Annotated[
        bool, typer.Option("--lose-data", help="Go back though older tables have no place for some data.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="As JSON: the revision before and after, null where there are no tables.")
    ] = False,
) -> None:
    """Create or change the worker's own tables; the backend's are never touched."""
    steps.migrate(revision=revision, down=down, lose_data=lose_data, as_json=as_json)


def ingest(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            exists=True,
            dir_okay=False,
            help="CSV or Parquet in a layout of the profile: items first, then likes.",
        ),
    ],
    mapping: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="TOML that says what their columns are, in place of the profile."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fill a catalogue that is ours from files; where a backend owns the table of items it is left alone."""
    steps.ingest(files=files, mapping=mapping, as_json=as_json)


def embed(
    refit: Annotated[
        bool, typer.Option("--refit", help="Fit the statistics of the catalogue anew, and embed all of it by them.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Bring the stored vectors up to date with the catalogue: what is new or changed.

    All of it the first time, and where the catalogue has doubled or halved since its statistics were fitted.
    """
    steps.embed(refit=refit, as_json=as_json)


def retrieval(*, as_json: AsJson = False) -> None:
    """Say where candidates are searched for, how, and why; brings what is searched up to date."""
    steps.retrieval(as_json=as_json)
