"""How ``commands.demo`` is called: what can be typed, and the help on it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from commands.completion import offered_locales
from commands.usage.later import later

if TYPE_CHECKING:
    from commands import demo as steps
else:
    steps = later("commands.demo")


def demo(
    files: Annotated[
        list[Path] | None,
        typer.Option(
            "--file", "--tracks", exists=True, dir_okay=False, help="A CSV file as `ingest` takes it; repeat."
        ),
    ] = None,
    members: Annotated[int, typer.Option(min=1, max=10_000, help="How many listeners ask.")] = 40,
    shown: Annotated[int, typer.Option(min=0, help="How many of them are shown.")] = 3,
    locale: Annotated[str, typer.Option(help="ko, ja or en.", autocompletion=offered_locales)] = "en",
    seed: Annotated[int, typer.Option(help="The same seed makes the same catalogue and listeners.")] = 7,
) -> None:
    """Run the whole worker in this process: no server, no key. With OPENAI_API_KEY set, the LLM explains."""
    steps.demo(files=files, members=members, shown=shown, locale=locale, seed=seed)
