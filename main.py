#!/usr/bin/env python
"""The command line: ``python main.py COMMAND --help`` explains each command."""

from typing import Annotated

import typer

from commands.command_group import CommandGroup

app = typer.Typer(name="songs-ai", cls=CommandGroup, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback(epilog="Examples:\n\npython main.py demo\n\npython main.py embed --help\n\npython main.py digest --json")
def _about(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of what goes wrong.")] = False,
) -> None:
    """Songs AI: a queue-driven recommendation worker. COMMAND --help explains each command, with examples."""


if __name__ == "__main__":
    app()
