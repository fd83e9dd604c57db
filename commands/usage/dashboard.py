"""How ``commands.dashboard`` is called: what can be typed, and the help on it."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from commands.usage.later import later

if TYPE_CHECKING:
    from commands import dashboard as steps
else:
    steps = later("commands.dashboard")


def dashboard(
    songs: Annotated[int, typer.Option(min=20, max=100_000, help="How many songs are made up.")] = 2000,
    members: Annotated[int, typer.Option(min=1, max=10_000, help="How many listeners like some of them.")] = 40,
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Port of the page, on this machine alone.")] = 8501,
    seed: Annotated[int, typer.Option(help="The same seed makes the same catalogue and listeners.")] = 7,
    python: Annotated[
        Path, typer.Option(exists=True, dir_okay=False, help="The Python that Streamlit is installed for.")
    ] = Path(sys.executable),
) -> None:
    """Serve the dashboard, and a whole worker in this process for it to show: no server, no key; until Ctrl-C."""
    steps.dashboard(songs=songs, members=members, port=port, seed=seed, python=python)
