"""The group of all commands: each is imported once it is asked for, and what goes wrong in it is told to a person."""

import errno
import re
import signal
import traceback
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException
from typer.main import get_group

from commands.listing import LISTED, PANEL_OF, PANELS, PROGRAM, examples
from commands.screen import FAILED, MISCONFIGURED, complain, stop
from core.errors import ConfigurationError, DependencyUnavailable, SettingsRefused, SongsAIError

INTERRUPTED = 128 + signal.SIGINT

_SERVERS = {"mysql": "DATABASE_URL", "redis": "REDIS_URL", "broker": "BROKER_URL", "--from": "--from"}

_IS_LOCKED = re.compile("locked|no answer in time")
_LOCKED = "Another process writes to the file that DATABASE_URL names: wait until it has ended, then try again."
_NO_FILE = (
    "DATABASE_URL names a file that cannot be used: is its folder there, with room, and may you write to both? "
    "sqlite:///FILE is sought from where you are, sqlite:////FILE from the root."
)
_NO_PLACE = "Is that folder there, with room, and may you write in it? Then try again."
# What a person can mend who asked for a file.
_PLACES = {errno.EACCES, errno.EISDIR, errno.ENOENT, errno.ENOSPC, errno.ENOTDIR, errno.EPERM, errno.EROFS}


class CommandGroup(TyperGroup):
    """All that is listed. Its help shows the listing alone."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - what Typer gives
        super().__init__(**options)
        commands: Any = LoadedCommands()
        self.commands = commands

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401 - Typer brings a Click of its own, whose classes are private
        """In the order of the listing."""
        return list(self.commands)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401
        """As much of it as a list shows."""
        if not (found := LISTED.get(cmd_name)):
            return None
        return TyperCommand(cmd_name, help=found.line, rich_help_panel=PANEL_OF[cmd_name])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:  # noqa: ANN401
        """The command itself; what is misspelt is told with what was perhaps meant."""
        name, _, rest = super().resolve_command(ctx, args)
        return name, self.commands[name] if name else None, rest

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401
        """Run what was asked for. What goes wrong is one sentence and an exit code; its traceback is for --debug."""
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, TyperException, BrokenPipeError):
            raise  # Typer knows what they are
        except KeyboardInterrupt:
            # None while the command itself is still being imported: nothing was begun.
            begun = LISTED.get(ctx.invoked_subcommand or "")
            stop(f"Interrupted. {begun.interrupted if begun else 'Nothing was begun.'}", INTERRUPTED)
        except Exception as error:
            code = MISCONFIGURED if isinstance(error, ConfigurationError) else FAILED
            if not (ctx.invoked_subcommand in PANELS["Serve"] and _is_logged(error, ctx, code)):
                _tell(error, ctx)
            raise typer.Exit(code) from error


class LoadedCommands(Mapping[str, Any]):
    """The commands themselves by name; each is imported when it is taken."""

    def __init__(self) -> None:
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401
        if name not in self._loaded:
            self._loaded[name] = _loaded(name)
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(LISTED)

    def __len__(self) -> int:
        return len(LISTED)


def _loaded(name: str) -> Any:  # noqa: ANN401
    listed = LISTED[name]
    module, _, attribute = listed.place.partition(":")
    found = getattr(import_module(f"commands.usage.{module}"), attribute)
    about: Any = {"rich_help_panel": PANEL_OF[name], "short_help": listed.line, "epilog": examples(*listed.examples)}
    holder = typer.Typer()
    if isinstance(found, typer.Typer):
        holder.add_typer(found, name=name, **about)
    else:
        holder.command(name, **about)(found)
    holder.callback()(lambda: None)  # a group, though it is of one
    return get_group(holder).commands[name]


def _is_logged(error: Exception, ctx: Any, code: int) -> bool:  # noqa: ANN401
    from commands.last_words import logged  # noqa: PLC0415 - slow to import, and seldom needed

    is_expected = isinstance(error, SongsAIError) and not ctx.params["debug"]
    return logged(error, " ".join(_what_next(error, ctx)), code=code, traceback=not is_expected)


def _tell(error: Exception, ctx: Any) -> None:  # noqa: ANN401
    from services.logs import mask_secrets  # noqa: PLC0415 - slow to import, and seldom needed

    if ctx.params["debug"]:
        complain(mask_secrets("".join(traceback.format_exception(error))).rstrip())
    if isinstance(error, SettingsRefused):
        complain(str(error))
    else:
        complain(mask_secrets(_sentence(error, with_class=ctx.params["debug"])))
    for sentence in _what_next(error, ctx):
        complain(sentence)


def _sentence(error: Exception, *, with_class: bool) -> str:
    """The name of a class is for who looks for where it went wrong."""
    if isinstance(error, SongsAIError) and not with_class:
        return str(error)
    return f"{type(error).__name__}: {error}"


def _what_next(error: Exception, ctx: Any) -> Iterator[str]:  # noqa: ANN401
    """A ``ConfigurationError`` says by itself what to mend."""
    if isinstance(error, DependencyUnavailable) and error.dependency == "sqlite":
        yield _LOCKED if _IS_LOCKED.search(str(error)) else _NO_FILE
    elif isinstance(error, DependencyUnavailable) and (setting := _SERVERS.get(error.dependency)):
        yield f"Is it running, and is it the one that {setting} names? Then try again."
    elif isinstance(error, OSError) and error.errno in _PLACES:
        yield _NO_PLACE
    elif not isinstance(error, SongsAIError) and not ctx.params["debug"]:
        yield f"This should not have happened: `{PROGRAM} --debug {ctx.invoked_subcommand} ...` shows where it did."
