"""The page of all commands, of the command line itself."""

from collections.abc import Iterator
from typing import Any

import typer
from typer.main import get_command

from docs.from_code.tables import code, codes, plain, table

_PROGRAM = "python main.py"
_INTRODUCTION = f"""\
# Commands

`{_PROGRAM} COMMAND --help` says the same on the terminal. Settings come from the environment ([Settings](settings.md)).
This page is made of the command line itself.
"""


def page(app: typer.Typer) -> str:
    """The page of all that ``app`` can do, under the headings of its own help."""
    panels = dict[str, list[str]]()
    for path, command, panel in _commands(get_command(app), ()):
        panels.setdefault(panel, []).append(_section(path, command))
    parts = [f"## {panel}\n\n" + "\n".join(sections) for panel, sections in panels.items()]
    return "\n".join([_INTRODUCTION, *parts])


def _commands(group: Any, path: tuple[str, ...], panel: str = "") -> Iterator[tuple[tuple[str, ...], Any, str]]:  # noqa: ANN401
    # Typer brings a Click of its own, whose classes are private to it.
    for name, command in group.commands.items():
        if command.hidden:
            continue
        under = panel or str(command.rich_help_panel or "Others")
        if hasattr(command, "commands"):
            yield from _commands(command, (*path, name), under)
        else:
            yield (*path, name), command, under


def _section(path: tuple[str, ...], command: Any) -> str:  # noqa: ANN401
    shown = [each for each in command.params if each.param_type_name == "argument" or not each.hidden]
    context = command.context_class(command, info_name=" ".join((_PROGRAM, *path)))
    usage = " ".join(command.get_usage(context).removeprefix("Usage: ").split())
    found = [f"### {' '.join(path)}\n", f"```\n{usage}\n```\n", _text(command.help or "")]
    if shown:
        found.append(table(["", "takes", "default", "meaning"], [_row(context, each) for each in shown]) + "\n")
    if examples := [line for line in (command.epilog or "").split("\n\n") if line.startswith(_PROGRAM)]:
        found.append("```\n" + "\n".join(examples) + "\n```\n")
    return "\n".join(found)


def _text(text: str) -> str:
    """A docstring's paragraphs, each on a line."""
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n")) + "\n"


def _row(context: Any, parameter: Any) -> list[str]:  # noqa: ANN401
    names = [parameter.metavar or parameter.name] if parameter.param_type_name == "argument" else parameter.opts
    default = "required" if parameter.required else code(_default(parameter.get_default(context)))
    return [codes(names), plain(_takes(context, parameter)), default, plain(parameter.help or "")]


def _takes(context: Any, parameter: Any) -> str:  # noqa: ANN401
    kind = str(parameter.display_type(context)).strip("<>")
    if not kind.endswith(" range"):
        return {"bool": "", "str": "text"}.get(kind, kind)
    limits = {"from": parameter.min, "to": parameter.max}
    said = [f"{word} {limit:g}" for word, limit in limits.items() if limit is not None]
    return f"{kind.removesuffix(' range')}, {' '.join(said)}"


def _default(value: object) -> str:
    """What stands for it on the command line; nothing for a flag that is off."""
    return "" if value in (None, False, "", []) else str(getattr(value, "value", value))
