"""How ``commands.members`` is called: what can be typed, and the help on it."""

from typing import TYPE_CHECKING, Annotated

import typer

from commands.usage.later import later

if TYPE_CHECKING:
    from commands import members as steps
else:
    steps = later("commands.members")


def forget(
    member: Annotated[int, typer.Option(help="The member to forget.")],
    look: Annotated[bool, typer.Option("--look", help="Only say what is kept; forget nothing.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="As JSON: how much was removed and is left, by place; what was not seen.")
    ] = False,
) -> None:
    """Remove what is kept of a member, and list what is left by looking: nothing, or the command fails."""
    steps.forget(member=member, look=look, as_json=as_json)
