"""How ``commands.jobs`` is called: what can be typed, and the help on it."""

from typing import TYPE_CHECKING, Annotated

import typer

from commands.completion import offered_locales
from commands.usage.later import later
from models.job import Strategy

if TYPE_CHECKING:
    from commands import jobs as steps
else:
    steps = later("commands.jobs")


AsJson = Annotated[
    bool, typer.Option("--json", help="As JSON: job_id and status, and of a job that has ended result or error.")
]


def publish(
    member: Annotated[int, typer.Option(help="The member to recommend to.")],
    favorites: Annotated[str, typer.Option(help="Liked items' ids, comma-separated; none: looked up in MySQL.")] = "",
    strategy: Annotated[Strategy, typer.Option(help="How much LLM to spend.")] = Strategy.DEFAULT,
    top_k: Annotated[int | None, typer.Option(min=1, help="Candidates in the result.")] = None,
    locale: Annotated[str | None, typer.Option(help="ko, ja or en.", autocompletion=offered_locales)] = None,
    wish: Annotated[str, typer.Option(help="What the listener asks for at this moment, in their own words.")] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the result and print it.")] = False,
    timeout_s: Annotated[float, typer.Option(min=0, help="Seconds to wait at the most.")] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Publish a job as the backend does; print its id, or with --wait its result."""
    steps.publish(
        member=member,
        favorites=favorites,
        strategy=strategy,
        top_k=top_k,
        locale=locale,
        wish=wish,
        wait=wait,
        timeout_s=timeout_s,
        as_json=as_json,
    )


def result(
    job_id: Annotated[str, typer.Argument(help="The id that publish printed.")],
    timeout_s: Annotated[float, typer.Option(min=0, help="Seconds to wait at the most.")] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Print a job's result as the backend reads it."""
    steps.result(job_id=job_id, timeout_s=timeout_s, as_json=as_json)
