"""How ``commands.site`` is called: what can be typed, and the help on it."""

from typing import TYPE_CHECKING, Annotated

import typer

from commands.usage.later import later

if TYPE_CHECKING:
    from commands import site as steps
else:
    steps = later("commands.site")


AsJson = Annotated[bool, typer.Option("--json", help="As JSON.")]


def schedule(*, as_json: AsJson = False) -> None:
    """Say when each scheduled task runs, and how it last ended; a worker that leads starts them."""
    steps.schedule(as_json=as_json)


def clean_up(*, as_json: AsJson = False) -> None:
    """Delete what is kept no longer: old events, and versions of models beyond those that are kept."""
    steps.clean_up(as_json=as_json)


def digest(
    *,
    as_json: AsJson = False,
    tell: Annotated[bool, typer.Option("--tell", help="Tell those too whom NOTICE_... names.")] = False,
) -> None:
    """Say in a few lines how the site is: queues, dead letters, model, spend, and tasks that failed."""
    steps.digest(as_json=as_json, tell=tell)
