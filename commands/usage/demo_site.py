"""How ``commands.demo_site`` is called: what can be typed, and the help on it."""

from typing import TYPE_CHECKING, Annotated

import typer

from commands.usage.later import later

if TYPE_CHECKING:
    from commands import demo_site as steps
else:
    steps = later("commands.demo_site")


def demo_catalogue(
    songs: Annotated[int, typer.Option(min=20, max=100_000, help="How many songs.")] = 2000,
    members: Annotated[int, typer.Option(min=1, max=10_000, help="How many listeners like some of them.")] = 40,
    seed: Annotated[int, typer.Option(help="The same seed makes the same catalogue and listeners.")] = 7,
) -> None:
    """Make up songs and listeners where the database has no table of songs, and embed them; else do nothing."""
    steps.demo_catalogue(songs=songs, members=members, seed=seed)


def first_recommendation(
    timeout_s: Annotated[float, typer.Option(min=0, help="Seconds to wait at the most.")] = 120.0,
) -> None:
    """Publish a job of a made-up listener as the backend does, and show what comes back; else do nothing.

    It needs a worker that runs, and the RabbitMQ and Redis that it has: `demo` shows the same without any.
    """
    steps.first_recommendation(timeout_s=timeout_s)
