"""How ``commands.log_level`` is called: what can be typed, and the help on it."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from commands.usage.later import later

if TYPE_CHECKING:
    from commands import log_level as steps
else:
    steps = later("commands.log_level")


def log_level(
    level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR", "own"],
        typer.Argument(case_sensitive=False, help="own: what each one's LOG_LEVEL says"),
    ],
    minutes: Annotated[int, typer.Option(min=1, max=1440, help="after which each logs by its LOG_LEVEL again")] = 15,
    as_json: Annotated[
        bool, typer.Option("--json", help="As JSON: level and minutes, null where it is their own.")
    ] = False,
) -> None:
    """Change what all running workers log, for a while."""
    steps.log_level(level=level, minutes=minutes, as_json=as_json)
